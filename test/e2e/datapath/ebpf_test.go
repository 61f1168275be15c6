package datapath

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Offsets in an Ethernet frame with an IPv4 header without options.
const (
	etherType   = 12
	ipProtocol  = 23
	ipChecksum  = 24
	ipSource    = 26
	ipTarget    = 30
	tcpSource   = 34
	tcpTarget   = 36
	tcpChecksum = 50
)

// What a tc program returns (linux/bpf.h, enum tcx_action_base), and the flag
// of bpf_l4_csum_replace for an address, which TCP's checksum covers too.
const (
	next         = -1
	pseudoHeader = 0x10
)

// hostRouting does to the exporter's Pod what eBPF host routing with BPF
// masquerade does: two programs at the node's devices take packets for the
// metadata address past netfilter, from the Pod to the uplink and back, with the
// node's address as their source. The returned function takes it away.
func (c *cluster) hostRouting() (restore func()) {
	c.t.Helper()
	pod, node, metadata := net.ParseIP("10.1.0.2"), net.ParseIP(nodeAddress), net.ParseIP(linkLocal)
	out := redirecting(c.index(uplink), ipSource, pod, node,
		match{ipTarget, asm.Word, number(metadata)}, match{tcpTarget, asm.Half, 80})
	back := redirecting(c.index("pod0"), ipTarget, node, pod,
		match{ipSource, asm.Word, number(metadata)}, match{tcpSource, asm.Half, 80})
	detachOut := c.attach("pod0", out)
	detachBack := c.attach(uplink, back)
	return func() { detachOut(); detachBack() }
}

// match is a field that must have this value, in the host's byte order.
type match struct {
	offset int32
	size   asm.Size
	value  int32
}

// redirecting is a program that replaces an address in the TCP packets that
// match, and hands them to the device, whose neighbour the kernel looks up.
func redirecting(device int, address int32, from, to net.IP, matches ...match) asm.Instructions {
	program := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)} // the packet, where LoadAbs expects it
	matches = append([]match{{etherType, asm.Half, 0x0800}, {ipProtocol, asm.Byte, 6}, {address, asm.Word, number(from)}}, matches...)
	for _, m := range matches {
		program = append(program,
			asm.LoadAbs(m.offset, m.size),
			asm.JNE.Imm32(asm.R0, m.value, "pass"),
		)
	}
	replace := func(offset int32, flags int32, function asm.BuiltinFunc) {
		program = append(program,
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, offset),
			asm.Mov.Imm32(asm.R3, raw(from)),
			asm.Mov.Imm32(asm.R4, raw(to)),
			asm.Mov.Imm(asm.R5, 4|flags),
			function.Call(),
		)
	}
	replace(ipChecksum, 0, asm.FnL3CsumReplace)
	replace(tcpChecksum, pseudoHeader, asm.FnL4CsumReplace)
	return append(program,
		asm.StoreImm(asm.RFP, -4, int64(raw(to)), asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, address),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, -4),
		asm.Mov.Imm(asm.R4, 4),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),

		asm.Mov.Imm(asm.R1, int32(device)), //nolint:gosec // an interface's index
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, next).WithSymbol("pass"),
		asm.Return(),
	)
}

// number is the address as a number in the host's byte order, raw as it lies in memory.
func number(ip net.IP) int32 { return int32(binary.BigEndian.Uint32(ip.To4())) }    //nolint:gosec // bits
func raw(ip net.IP) int32    { return int32(binary.NativeEndian.Uint32(ip.To4())) } //nolint:gosec // bits

func (c *cluster) index(device string) int {
	c.t.Helper()
	l, err := c.node.links.LinkByName(device)
	if err != nil {
		c.t.Fatal(err)
	}
	return l.Attrs().Index
}

// attach runs the program for what comes in by the device of the node.
func (c *cluster) attach(device string, instructions asm.Instructions) (detach func()) {
	c.t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: instructions, License: "GPL"})
	if err != nil {
		if verifier, ok := errors.AsType[*ebpf.VerifierError](err); ok {
			c.t.Fatalf("load the program: %+v", verifier)
		}
		c.t.Fatalf("load the program: %v", err)
	}
	var attached link.Link
	err = c.node.do(func() (err error) {
		attached, err = link.AttachTCX(link.TCXOptions{Interface: c.index(device), Program: program, Attach: ebpf.AttachTCXIngress})
		return err
	})
	if err != nil {
		c.t.Fatalf("attach the program to %s: %v", device, err)
	}
	return func() { _ = attached.Close(); _ = program.Close() }
}

// The failure that started this project: eBPF host routing takes the Pods'
// packets past netfilter, while GKE's rule stands as it always did.
func TestHostRoutingSkipsTheRuleThatStands(t *testing.T) {
	t.Parallel()
	if os.Getenv(insideRoot) == "" {
		if os.Getenv("CI") != "" && os.Getenv(userNamespace) == "" {
			t.Fatal("CI is to run this as root")
		}
		t.Skip("loading tc programs needs root")
	}
	c := newCluster(t, setup{})
	e := start(t, c.pods[0])
	e.awaits(t, "match", time.Now())
	hits := c.rules.hits()
	if hits == 0 {
		t.Fatal("the rule counts no packets before the bypass")
	}

	began := time.Now()
	restore := c.hostRouting()
	hits = c.rules.hits()
	detected := c.missesRule(t, e, began, hits)

	began = time.Now()
	restore()
	recovered := e.awaits(t, "match", began)
	e.stated(t, "match", "node_fallback", "match")
	t.Logf("node_fallback after %s, match again after %s", detected, recovered)
}
