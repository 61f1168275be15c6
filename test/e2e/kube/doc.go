// Package kube proves internal/kube against a real API server, the one that
// KUBECONFIG names with the rights of an administrator: what it reads, what it
// says when it may not or cannot, and how little it asks.
//
// It needs no node and no controller, only kube-apiserver 1.29 or later, and
// leaves nothing behind but what the namespace controller has to delete.
package kube
