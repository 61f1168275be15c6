// Package datapath proves the exporter where its failure lives: in the kernel's
// NAT. It builds a node, Pods and the world outside of network namespaces, runs
// the real exporter with its default settings in a Pod, and changes the rules.
//
// It needs Linux with network and user namespaces and nftables, and no root: it
// executes itself again in namespaces of its own.
package datapath
