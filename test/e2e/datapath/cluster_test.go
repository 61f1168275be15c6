package datapath

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// Addresses of the cluster. Each test has one of its own, so they never clash.
const (
	linkLocal   = "169.254.169.254"
	gkeAddress  = "169.254.169.252"
	gkePort     = 988
	uplink      = "eth0"
	serverLink  = "eth1"
	nodeAddress = "10.0.0.2"
	outAddress  = "10.0.0.1"
	podNetwork  = "10.1.0.0/16"
)

// Identities that the two metadata servers hand out.
const (
	appEmail   = "app@demo-project.iam.gserviceaccount.com"
	otherEmail = "other@demo-project.iam.gserviceaccount.com"
	nodeEmail  = "nodes@demo-project.iam.gserviceaccount.com" // not Compute Engine's default
)

// cluster is a node with two Pods, GKE's metadata server on the node and the
// VM's outside.
type cluster struct {
	t             *testing.T
	outside, node *host
	pods          [2]*host // the exporter's, and another
	rules         *rules
	gke, vm       *simulator.Simulator
}

// setup is in what a cluster differs from one as GKE sets it up.
type setup struct {
	// asNode: GKE's server takes the node's address for a Pod with the node's
	// identity. What it really does is not documented; by default it is an error.
	asNode bool
	// forwarded: the server is not on the node itself, so that packets for it pass
	// the node's postrouting rules.
	forwarded bool
}

func newCluster(t *testing.T, s setup) *cluster {
	t.Helper()
	c := &cluster{t: t, outside: newHost(t, "outside"), node: newHost(t, "node")}
	server, address := c.node, gkeAddress
	connect(t, c.node, uplink, c.outside, "node")
	c.outside.address(t, "node", outAddress+"/24")
	c.outside.address(t, "lo", linkLocal+"/32")
	c.node.address(t, uplink, nodeAddress+"/24")
	c.node.address(t, "lo", gkeAddress+"/32")
	c.node.sysctl(t, "ipv4/ip_forward", "1")
	c.node.route(t, linkLocal+"/32", outAddress)
	c.outside.route(t, podNetwork, nodeAddress)

	pods := map[netip.Addr]simulator.Pod{}
	for i, email := range []string{appEmail, otherEmail} {
		network := []string{"10.1.0.", "10.1.1."}[i]
		pod, device := newHost(t, []string{"the exporter's Pod", "another Pod"}[i]), []string{"pod0", "pod1"}[i]
		connect(t, c.node, device, pod, "eth0")
		c.node.address(t, device, network+"1/24")
		pod.address(t, "eth0", network+"2/24")
		pod.route(t, "0.0.0.0/0", network+"1")
		pods[netip.MustParseAddr(network+"2")] = simulator.Pod{Namespace: "demo", ServiceAccount: []string{"app", "other"}[i], GSA: email}
		c.pods[i] = pod
	}
	if s.forwarded {
		server, address = newHost(t, "server"), "10.2.0.2"
		connect(t, c.node, serverLink, server, "eth0")
		c.node.address(t, serverLink, "10.2.0.1/24")
		server.address(t, "eth0", address+"/24")
		server.route(t, podNetwork, "10.2.0.1")
	}
	if s.asNode {
		pods[netip.MustParseAddr(nodeAddress)] = simulator.Pod{Namespace: "kube-system", ServiceAccount: "node", GSA: nodeEmail}
	}
	c.rules = newRules(t, c.node, address)
	c.rules.redirect()

	node := simulator.DefaultNode("demo-project")
	node.ServiceAccount = nodeEmail
	c.gke = c.serve(server, simulator.Options{Node: node, Serve: simulator.ServeGKE, MetadataAddress: address + ":988", Pods: pods})
	c.vm = c.serve(c.outside, simulator.Options{Node: node, Serve: simulator.ServeVM, MetadataAddress: linkLocal + ":80"})
	return c
}

// serve runs a metadata server in the namespace until the test ends.
func (c *cluster) serve(h *host, o simulator.Options) *simulator.Simulator {
	c.t.Helper()
	var s *simulator.Simulator
	err := h.do(func() (err error) { s, err = simulator.New(o); return err })
	if err != nil {
		c.t.Fatalf("serve metadata on %s: %v", h.name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	return s
}

// set switches a fault of GKE's metadata server, whose listener may be opened
// again for it and must stay in its namespace.
func (c *cluster) set(fault string) {
	c.t.Helper()
	err := c.node.do(func() error {
		f, err := simulator.ParseFault(fault, nil)
		if err == nil {
			err = c.gke.SetFault(f)
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

func exporterPath() string { return os.Getenv(inside) }
