// Package scrape proves that what is shipped can be scraped and pages: every overlay
// of Kustomize, and the chart with every kind of monitoring, in a real Kubernetes,
// by a real Prometheus in it, with the scrape configuration that comes with it or that
// docs/install.md prints. All series must have the label node, and a node that is
// broken must be paged by its name.
//
// It takes the cluster of KUBECONFIG for itself, as the suite in the folder cluster
// does, whose simulated nodes it uses.
package scrape
