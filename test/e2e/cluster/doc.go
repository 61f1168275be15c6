// Package cluster proves all that is about Kubernetes in a real one, which KUBECONFIG
// names with the rights of an administrator:
//
//   - the files bare_*: the manifests, while no agent runs: the API server takes them as
//     they are, what they make is bounded as docs/security.md says, and nothing stays when
//     they are taken away;
//   - the files client_*: internal/kube: what it reads, what it says when it may not or
//     cannot, and how little it asks;
//   - the others: the image, in a DaemonSet on two nodes that become nodes of GKE while
//     a test asks for that (see the program in the folder node).
//
// It is for kind and the like, with Kubernetes 1.32 or later, and refuses a cluster of
// Google's.
package cluster
