package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// podTable is the flag -pod, which may be repeated. A table without entries is
// nil, and leaves the default one.
type podTable struct {
	pods     map[netip.Addr]simulator.Pod
	fallback *simulator.Pod
}

// String is the default value, of which there is none to print.
func (*podTable) String() string { return "" }

// Set reads one ADDRESS=NAMESPACE/KSA[=GSA].
func (t *podTable) Set(text string) error {
	address, rest, _ := strings.Cut(text, "=")
	account, gsa, linked := strings.Cut(rest, "=")
	namespace, name, ok := strings.Cut(account, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") || linked && gsa == "" {
		return errors.New("want ADDRESS=NAMESPACE/KSA or ADDRESS=NAMESPACE/KSA=GSA")
	}
	pod := simulator.Pod{Namespace: namespace, ServiceAccount: name, GSA: gsa}
	if gsa == "principal" {
		pod.GSA, pod.ReturnPrincipal = "", true
	}
	if t.pods == nil {
		t.pods = map[netip.Addr]simulator.Pod{}
	}
	if address == "*" {
		if t.fallback != nil {
			return errors.New("address * is given twice")
		}
		t.fallback = &pod
		return nil
	}
	source, err := netip.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("address %q: want an IP address or *", address)
	}
	source = source.Unmap().WithZone("")
	if _, twice := t.pods[source]; twice {
		return fmt.Errorf("address %s is given twice", source)
	}
	t.pods[source] = pod
	return nil
}
