// Package rule has the parts of nftables rules that the suites set on nodes.
package rule

import (
	"encoding/binary"
	"net"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Of joins parts into the expressions of one rule.
func Of(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

// To matches TCP packets for the IPv4 address and port.
func To(address string, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}, // destination address
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.ParseIP(address).To4()},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // destination port
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// From matches packets from the IPv4 address.
func From(address string) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}, // source address
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.ParseIP(address).To4()},
	}
}

// NotFrom matches packets that did not come in by the device.
func NotFrom(device string) []expr.Any { return byDevice(expr.MetaKeyIIFNAME, expr.CmpOpNeq, device) }

// LeavingBy matches packets that go out by the device.
func LeavingBy(device string) []expr.Any {
	return byDevice(expr.MetaKeyOIFNAME, expr.CmpOpEq, device)
}

func byDevice(key expr.MetaKey, op expr.CmpOp, device string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, device)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: name}}
}

// Count counts the packets that come this far.
func Count() []expr.Any { return []expr.Any{&expr.Counter{}} }

// DNAT sends them to another IPv4 address and port.
func DNAT(address string, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: net.ParseIP(address).To4()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	}
}

// SNAT gives them another IPv4 source address.
func SNAT(address string) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: net.ParseIP(address).To4()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}
}

// Masquerade gives them the address of the device by which they leave.
func Masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

// Drop discards them.
func Drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// Accept lets them pass this hook.
func Accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// Reject answers them with a TCP reset.
func Reject() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

// Longer matches IPv4 packets of more bytes than that.
func Longer(bytes uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 2, Len: 2}, // total length
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint16(bytes)},
	}
}

// Unlucky matches this share of packets, in percent, at random.
func Unlucky(percent uint32) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(percent)},
	}
}

// ToNetwork matches packets for the IPv4 network, whose prefix is a number of bytes.
func ToNetwork(network *net.IPNet) []expr.Any { return within(network, 16) }

// FromNetwork matches packets from it.
func FromNetwork(network *net.IPNet) []expr.Any { return within(network, 12) }

func within(network *net.IPNet, offset uint32) []expr.Any {
	bits, _ := network.Mask.Size()
	length := uint32(bits / 8) //nolint:gosec // at most 4
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: network.IP.To4()[:length]},
	}
}

// Jump goes on with the rules of another chain.
func Jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// Comment is what iptables -m comment --comment makes of a text.
func Comment(text string) []expr.Any {
	comment := xt.Comment(text)
	return []expr.Any{&expr.Match{Name: "comment", Info: &comment}}
}

// NoTrack is what iptables -j CT --notrack makes: struct xt_ct_target_info_v1 with the
// flag XT_CT_NOTRACK (linux/netfilter/xt_CT.h).
func NoTrack() []expr.Any {
	info := make(xt.Unknown, 72)
	binary.NativeEndian.PutUint16(info, 1)
	return []expr.Any{&expr.Target{Name: "CT", Rev: 2, Info: &info}}
}
