package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/rule"
)

// takeAddresses gives them to lo, and returns what takes them away again.
func takeAddresses(addresses ...string) (release func(), err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	var taken []*netlink.Addr
	release = func() {
		for _, a := range taken {
			_ = netlink.AddrDel(lo, a) // the next start finds it, which does no harm
		}
	}
	for _, text := range addresses {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(text).To4(), Mask: net.CIDRMask(32, 32)}}
		if err := netlink.AddrAdd(lo, a); err != nil && !errors.Is(err, unix.EEXIST) {
			release()
			return nil, fmt.Errorf("give lo the address %s: %w", text, err)
		}
		taken = append(taken, a)
	}
	return release, nil
}

// rules are those that the program adds to the node's, in a table of their own.
type rules struct {
	netfilter *nftables.Conn
	table     *nftables.Table
}

// newRules sets the redirection. What an earlier process left is replaced.
func newRules() (*rules, error) {
	netfilter, err := nftables.New()
	if err != nil {
		return nil, err
	}
	r := &rules{netfilter: netfilter, table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "gke-metadata"}}
	netfilter.AddTable(r.table) // so that there is one to delete
	netfilter.DelTable(r.table)
	netfilter.AddTable(r.table)
	return r, r.redirect()
}

func (r *rules) close() error {
	r.netfilter.DelTable(r.table)
	return r.netfilter.Flush()
}

// redirect is GKE's rule (kubernetes, cluster/gce/gci/configure-helper.sh).
func (r *rules) redirect() error {
	r.add("redirect", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest,
		rule.Of(rule.To(linkLocal, 80), rule.DNAT(gkeServer, gkePort)))
	return r.netfilter.Flush()
}

// bypassFor takes it away from one Pod alone.
func (r *rules) bypassFor(source netip.Addr) error {
	r.remove("redirect")
	r.add("redirect", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest,
		rule.Of(rule.From(source.String()), rule.Accept()),
		rule.Of(rule.To(linkLocal, 80), rule.DNAT(gkeServer, gkePort)))
	return r.netfilter.Flush()
}

// restore takes back what bypassFor did.
func (r *rules) restore() error {
	r.remove("redirect")
	return r.redirect()
}

// drop discards what the Pod sends to the metadata server, as a NetworkPolicy does that
// selects it and has no rule for that address.
func (r *rules) drop(source netip.Addr) error {
	r.add("drop", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
		rule.Of(rule.From(source.String()), rule.To(linkLocal, 80), rule.Drop()))
	return r.netfilter.Flush()
}

func (r *rules) undrop() error {
	r.remove("drop")
	return r.netfilter.Flush()
}

// bypass takes the redirection away.
func (r *rules) bypass() error {
	r.remove("redirect")
	return r.netfilter.Flush()
}

// cut resets whatever the node and its Pods send to these addresses, and what is
// sent to them from elsewhere by way of the node.
func (r *rules) cut(addresses []netip.AddrPort) error {
	var each [][]expr.Any
	for _, a := range addresses {
		each = append(each, rule.Of(rule.To(a.Addr().String(), a.Port()), rule.Reject()))
	}
	r.add("cut-in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, each...)
	r.add("cut-out", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw, each...)
	return r.netfilter.Flush()
}

func (r *rules) mend() error {
	r.remove("cut-in")
	r.remove("cut-out")
	return r.netfilter.Flush()
}

// add puts rules into a new chain at the hook. It takes effect with the next flush.
func (r *rules) add(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, each ...[]expr.Any) {
	chain := r.netfilter.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: priority})
	for _, expressions := range each {
		r.netfilter.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: expressions})
	}
}

func (r *rules) remove(name string) {
	chain := &nftables.Chain{Name: name, Table: r.table}
	r.netfilter.FlushChain(chain)
	r.netfilter.DelChain(chain)
}
