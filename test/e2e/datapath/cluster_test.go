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
	nodeAddress = "10.0.0.2"
	outAddress  = "10.0.0.1"
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
	nodeSettings  simulator.Node
}

// newCluster is a cluster as GKE sets it up. What GKE's server answers to the
// node's own address is not documented: an error by default, or the node's
// identity if asNode is set.
func newCluster(t *testing.T, asNode bool) *cluster {
	t.Helper()
	c := &cluster{t: t, outside: newHost(t, "outside"), node: newHost(t, "node")}
	connect(t, c.node, uplink, c.outside, "node")
	c.outside.address(t, "node", outAddress+"/24")
	c.outside.address(t, "lo", linkLocal+"/32")
	c.node.address(t, uplink, nodeAddress+"/24")
	c.node.address(t, "lo", gkeAddress+"/32")
	c.node.sysctl(t, "ipv4/ip_forward", "1")
	c.node.route(t, linkLocal+"/32", outAddress)
	c.outside.route(t, "10.1.0.0/16", nodeAddress)

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
	if asNode {
		pods[netip.MustParseAddr(nodeAddress)] = simulator.Pod{Namespace: "kube-system", ServiceAccount: "node", GSA: nodeEmail}
	}
	c.rules = newRules(t, c.node)
	c.rules.redirect()

	c.nodeSettings = simulator.DefaultNode("demo-project")
	c.nodeSettings.ServiceAccount = nodeEmail
	c.gke = c.serve(t, c.node, simulator.Options{Serve: simulator.ServeGKE, MetadataAddress: gkeAddress + ":988", Pods: pods})
	c.vm = c.serve(t, c.outside, simulator.Options{Serve: simulator.ServeVM, MetadataAddress: linkLocal + ":80"})
	return c
}

// serve runs a metadata server in the namespace for the test.
func (c *cluster) serve(t *testing.T, h *host, o simulator.Options) *simulator.Simulator {
	t.Helper()
	o.Node = c.nodeSettings
	var s *simulator.Simulator
	err := h.do(func() (err error) { s, err = simulator.New(o); return err })
	if err != nil {
		t.Fatalf("serve metadata on %s: %v", h.name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
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
