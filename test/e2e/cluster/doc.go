// Package cluster proves the exporter in a real Kubernetes: its image, in a
// DaemonSet, found by KUBECONFIG. Two nodes of it become nodes of GKE while the
// suite runs (see the program in the folder node); it is for kind and the like,
// and refuses a cluster of Google's.
package cluster
