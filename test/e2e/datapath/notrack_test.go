package datapath

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/rule"
)

// rawTable is where connection tracking is switched off, before it begins.
func rawTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "raw"}
}

// noTrack does what Cilium does with install-no-conntrack-iptables-rules and
// ipv4-native-routing-cidr podNetwork, bit for bit as iptables writes it (cilium
// pkg/datapath/iptables, addNoTrackPodTrafficRules, the same from 1.11 to 1.20). Here
// the node's own masquerade is skipped with the rest of NAT, so that the VM's server
// sees the Pod's address; under Cilium its BPF masquerade hides that. The returned
// function takes the rules away.
func (c *cluster) noTrack() (remove func()) {
	c.t.Helper()
	_, pods, err := net.ParseCIDR(podNetwork)
	if err != nil {
		c.t.Fatal(err)
	}
	table, write := rawTable(), c.node.rules
	write.AddTable(table)
	for _, hook := range []struct {
		name, chain string
		hook        *nftables.ChainHook
	}{
		{"PREROUTING", "CILIUM_PRE_raw", nftables.ChainHookPrerouting},
		{"OUTPUT", "CILIUM_OUTPUT_raw", nftables.ChainHookOutput},
	} {
		chain := write.AddChain(&nftables.Chain{Name: hook.chain, Table: table})
		// Cilium inserts the second one before the first.
		for _, match := range [][]expr.Any{rule.ToNetwork(pods), rule.FromNetwork(pods)} {
			write.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule.Of(
				match, rule.Comment("cilium: NOTRACK for pod traffic"), rule.Count(), rule.NoTrack())})
		}
		feeder := write.AddChain(&nftables.Chain{
			Name: hook.name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook.hook, Priority: nftables.ChainPriorityRaw,
		})
		write.AddRule(&nftables.Rule{Table: table, Chain: feeder, Exprs: rule.Of(
			rule.Comment("cilium-feeder: "+hook.chain), rule.Count(), rule.Jump(hook.chain))})
	}
	c.rules.flush()
	return func() {
		c.t.Helper()
		write.DelTable(table)
		c.rules.flush()
	}
}

// With legacy host routing packets of Pods do pass netfilter, and miss GKE's rule
// there: what is not tracked is not translated.
func TestUntrackedPacketsMissTheRuleThatStands(t *testing.T) {
	t.Parallel()
	c := newCluster(t, setup{})
	e := start(t, c.pods[0])
	e.awaits(t, "match", time.Now())
	if c.rules.hits() == 0 {
		t.Fatal("the rule counts no packets while they are tracked")
	}

	began := time.Now()
	remove := c.noTrack()
	hits := c.rules.hits()
	detected := c.missesRule(t, e, began, hits)
	if c.rules.counted(rawTable(), "CILIUM_PRE_raw") == 0 {
		t.Error("Cilium's rules count no packets: something else skipped GKE's")
	}

	began = time.Now()
	remove()
	recovered := e.awaits(t, "match", began)
	if recovered > atMost {
		t.Errorf("match again after %s, want at most %s", recovered, atMost)
	}
	if c.rules.hits() == hits {
		t.Error("the rule counts no packets after the repair")
	}
	e.stated(t, "match", "node_fallback", "match")
	t.Logf("node_fallback after %s, match again after %s", detected, recovered)
}

// Unlike the NAT decision of a connection, that it is not tracked is decided for each
// packet: a connection that is kept alive breaks at once in both directions, and its
// client is what every other one is.
func TestAKeptAliveConnectionFollowsNoTrack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, setup{})
	transport := &http.Transport{DialContext: c.pods[0].dial}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	sees(t, client, appEmail)
	remove := c.noTrack()
	sees(t, client, nodeEmail)
	remove()
	sees(t, client, appEmail)
}
