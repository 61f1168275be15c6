package datapath

import (
	"net"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
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
		leavingBy(uplink), []expr.Any{&expr.Masq{}})
	return r
}

func (r *rules) flush() {
	r.t.Helper()
	if err := r.node.rules.Flush(); err != nil {
		r.t.Fatalf("change the rules of %s: %v", r.node.name, err)
	}
}

// add puts a rule into a new chain at the hook.
func (r *rules) add(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, expressions ...[]expr.Any) {
	r.t.Helper()
	chain := r.node.rules.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: priority})
	var all []expr.Any
	for _, e := range expressions {
		all = append(all, e...)
	}
	r.node.rules.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: all})
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
		notFrom(uplink), to(linkLocal, 80), []expr.Any{
			&expr.Counter{},
			&expr.Immediate{Register: 1, Data: net.ParseIP(r.server).To4()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(gkePort)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		})
}

// hits is how many connections the redirection has met.
func (r *rules) hits() uint64 {
	r.t.Helper()
	found, err := r.node.rules.GetRules(r.table, &nftables.Chain{Name: "redirect", Table: r.table})
	if err != nil {
		r.t.Fatal(err)
	}
	var hits uint64
	for _, rule := range found {
		for _, e := range rule.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				hits += counter.Packets
			}
		}
	}
	return hits
}

// hideSource replaces the source of what arrives at the node's metadata server
// by the node's address.
func (r *rules) hideSource() {
	r.t.Helper()
	r.add("hide", nftables.ChainTypeNAT, nftables.ChainHookInput, nftables.ChainPriorityNATSource,
		to(gkeAddress, gkePort), []expr.Any{
			&expr.Immediate{Register: 1, Data: net.ParseIP(nodeAddress).To4()},
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
		})
}

// masquerade gives the node's address to what it forwards to the metadata server.
// It changes nothing while the server is on the node: packets that are delivered
// there never pass postrouting.
func (r *rules) masquerade() {
	r.t.Helper()
	r.add("hide", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		to(r.server, gkePort), []expr.Any{&expr.Masq{}})
}

// drop discards packets for the node's metadata server.
func (r *rules) drop() {
	r.t.Helper()
	r.add("drop", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter,
		to(gkeAddress, gkePort), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
}

// reject answers them with a reset.
func (r *rules) reject() {
	r.t.Helper()
	r.add("reject", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter,
		to(gkeAddress, gkePort), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
}

// dropAnswers discards what the node's metadata server sends in packets of more
// than 120 bytes: handshakes pass, answers do not, as where an MTU is wrong.
func (r *rules) dropAnswers() {
	r.t.Helper()
	r.add("answers", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter,
		from(gkeAddress), []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 2, Len: 2}, // total length
			&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint16(120)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		})
}

// lose discards this share, in percent, of the packets for the node's metadata
// server and of those from it, at random.
func (r *rules) lose(percent uint32) {
	r.t.Helper()
	unlucky := []expr.Any{
		&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(percent)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
	r.add("loss-in", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, to(gkeAddress, gkePort), unlucky)
	r.add("loss-out", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter, from(gkeAddress), unlucky)
}

// to matches TCP packets for the address and port.
func to(address string, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}, // destination address
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.ParseIP(address).To4()},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // destination port
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// from matches packets from the address.
func from(address string) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}, // source address
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.ParseIP(address).To4()},
	}
}

// notFrom matches packets that did not come in by the device.
func notFrom(device string) []expr.Any { return byDevice(expr.MetaKeyIIFNAME, expr.CmpOpNeq, device) }

// leavingBy matches packets that go out by the device.
func leavingBy(device string) []expr.Any {
	return byDevice(expr.MetaKeyOIFNAME, expr.CmpOpEq, device)
}

func byDevice(key expr.MetaKey, op expr.CmpOp, device string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, device)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: name}}
}
