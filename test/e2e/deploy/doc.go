// Package deploy proves the manifests against a real API server, the one that
// KUBECONFIG names with the rights of an administrator: that it takes them as they
// are, that what they make is bounded as docs/security.md says, and that nothing
// stays when they are taken away.
//
// It needs no node and no controller, only kube-apiserver 1.32 or later. What it
// reads is rendered by `make e2e-deploy` into bin/deploy.
package deploy
