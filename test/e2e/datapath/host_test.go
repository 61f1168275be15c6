package datapath

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// host is a network namespace: a node, a Pod, or the world outside.
type host struct {
	name  string
	ns    netns.NsHandle
	links *netlink.Handle
	rules *nftables.Conn
}

// onThread runs f on a thread of its own, which ends with it. What f does to the
// thread's namespaces concerns nobody else.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks, so that the thread is not used again
		result <- f()
	}()
	return <-result
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	h := &host{name: name}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if h.ns, err = netns.Get(); err != nil {
			return err
		}
		if h.links, err = netlink.NewHandle(); err != nil {
			return err
		}
		h.rules, err = nftables.New(nftables.WithNetNSFd(int(h.ns)))
		return err
	})
	if err != nil {
		t.Fatalf("make the network namespace of %s: %v", name, err)
	}
	t.Cleanup(func() { h.links.Close(); _ = h.ns.Close() })
	lo, err := h.links.LinkByName("lo")
	if err == nil {
		err = h.links.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatalf("set up lo of %s: %v", name, err)
	}
	return h
}

// do runs f in the namespace. Sockets and processes that f makes stay in it.
func (h *host) do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("enter the namespace of %s: %w", h.name, err)
		}
		return f()
	})
}

// sysctl writes /proc/sys/net/NAME of the namespace.
func (h *host) sysctl(t *testing.T, name, value string) {
	t.Helper()
	// /proc/sys/net shows the namespace of the thread that opens it.
	err := h.do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatalf("set %s of %s: %v", name, h.name, err)
	}
}

// address gives an interface an address, ADDRESS/BITS, and sets it up.
func (h *host) address(t *testing.T, device, address string) {
	t.Helper()
	link, err := h.links.LinkByName(device)
	if err == nil {
		var a *netlink.Addr
		if a, err = netlink.ParseAddr(address); err == nil {
			if err = h.links.AddrAdd(link, a); err == nil {
				err = h.links.LinkSetUp(link)
			}
		}
	}
	if err != nil {
		t.Fatalf("give %s of %s the address %s: %v", device, h.name, address, err)
	}
}

// route sends packets for the network, NETWORK/BITS, by way of the gateway.
func (h *host) route(t *testing.T, network, gateway string) {
	t.Helper()
	_, to, err := net.ParseCIDR(network)
	if err == nil {
		err = h.links.RouteAdd(&netlink.Route{Dst: to, Gw: net.ParseIP(gateway)})
	}
	if err != nil {
		t.Fatalf("route %s of %s by %s: %v", network, h.name, gateway, err)
	}
}

// connect lays a cable: a veth pair with one end in each namespace.
func connect(t *testing.T, a *host, deviceA string, b *host, deviceB string) {
	t.Helper()
	attributes := netlink.NewLinkAttrs()
	attributes.Name = deviceA
	err := a.links.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: deviceB, PeerNamespace: netlink.NsFd(int(b.ns))})
	if err != nil {
		t.Fatalf("connect %s to %s: %v", a.name, b.name, err)
	}
}
