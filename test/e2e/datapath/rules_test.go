package datapath

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/rule"
)

// rules are those of a node that a test switches. Each has a chain of its own,
// which is there as long as the rule is.
type rules struct {
	t     *testing.T
	node  *host
	table *nftables.Table
	// server is the address of the metadata server that Pods are redirected to.
	server string
}

func newRules(t *testing.T, node *host, server string) *rules {
	t.Helper()
	r := &rules{t: t, node: node, server: server, table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "node"}}
	node.rules.AddTable(r.table)
	// What leaves the node has its address, as on every node. It also keeps
	// conntrack in the namespace, without which the kernel would stop translating
	// connections that exist when the last other rule goes.
	r.add("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		rule.LeavingBy(uplink), rule.Masquerade())
	return r
}

func (r *rules) flush() {
	r.t.Helper()
	if err := r.node.rules.Flush(); err != nil {
		r.t.Fatalf("change the rules of %s: %v", r.node.name, err)
	}
}

// add puts a rule into a new chain at the hook.
func (r *rules) add(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, parts ...[]expr.Any) {
	r.t.Helper()
	chain := r.node.rules.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: priority})
	r.node.rules.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: rule.Of(parts...)})
	r.flush()
}

// remove takes the chain and its rule away.
func (r *rules) remove(name string) {
	r.t.Helper()
	chain := &nftables.Chain{Name: name, Table: r.table}
	r.node.rules.FlushChain(chain)
	r.node.rules.DelChain(chain)
	r.flush()
}

// redirect is GKE's rule: requests of Pods for the link-local address go to the
// metadata server of the node (kubernetes, cluster/gce/gci/configure-helper.sh:
// -p tcp ! -i eth0 -d 169.254.169.254 --dport 80 -j DNAT --to 169.254.169.252:988).
func (r *rules) redirect() {
	r.t.Helper()
	r.add("redirect", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest,
		rule.NotFrom(uplink), rule.To(linkLocal, 80), rule.Count(), rule.DNAT(r.server, gkePort))
}

// hits is how many connections the redirection has met.
func (r *rules) hits() uint64 {
	r.t.Helper()
	return r.counted(r.table, "redirect")
}

// counted is how many packets the rules of the chain have met, one added to the other.
func (r *rules) counted(table *nftables.Table, chain string) uint64 {
	r.t.Helper()
	found, err := r.node.rules.GetRules(table, &nftables.Chain{Name: chain, Table: table})
	if err != nil {
		r.t.Fatal(err)
	}
	var packets uint64
	for _, f := range found {
		for _, e := range f.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				packets += counter.Packets
			}
		}
	}
	return packets
}

// hideSource replaces the source of what arrives at the node's metadata server
// by the node's address.
func (r *rules) hideSource() {
	r.t.Helper()
	r.add("hide", nftables.ChainTypeNAT, nftables.ChainHookInput, nftables.ChainPriorityNATSource,
		rule.To(gkeAddress, gkePort), rule.SNAT(nodeAddress))
}

// masquerade gives the node's address to what it forwards to the metadata server.
// It changes nothing while the server is on the node: packets that are delivered
// there never pass postrouting.
func (r *rules) masquerade() {
	r.t.Helper()
	r.add("hide", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		rule.To(r.server, gkePort), rule.Masquerade())
}

// drop discards packets for the node's metadata server.
func (r *rules) drop() {
	r.t.Helper()
	r.add("drop", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter,
		rule.To(gkeAddress, gkePort), rule.Drop())
}

// reject answers them with a reset.
func (r *rules) reject() {
	r.t.Helper()
	r.add("reject", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter,
		rule.To(gkeAddress, gkePort), rule.Reject())
}

// dropAnswers discards what the node's metadata server sends in packets of more
// than 120 bytes: handshakes pass, answers do not, as where an MTU is wrong.
func (r *rules) dropAnswers() {
	r.t.Helper()
	r.add("answers", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter,
		rule.From(gkeAddress), rule.Longer(120), rule.Drop())
}

// lose discards this share, in percent, of the packets for the node's metadata
// server and of those from it, at random.
func (r *rules) lose(percent uint32) {
	r.t.Helper()
	r.add("loss-in", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, rule.To(gkeAddress, gkePort), rule.Unlucky(percent), rule.Drop())
	r.add("loss-out", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter, rule.From(gkeAddress), rule.Unlucky(percent), rule.Drop())
}
