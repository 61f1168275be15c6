package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// startKubernetes plays the API server of a cluster whose node breaks in the way of
// the fault: the annotation of the Pod's ServiceAccount, the node's labels, and the
// settings that would be the cause. Events about the node are printed; those about
// the Pod say the same.
func startKubernetes(folder, project string, fault func() simulator.Fault, stdout io.Writer) (*kubetest.Server, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	s, err := kubetest.Start(folder)
	if err != nil {
		return nil, err
	}
	s.Annotate(map[string]string{"iam.gke.io/gcp-service-account": "app@" + project + ".iam.gserviceaccount.com"})
	s.Put("/api/v1/nodes/"+kubetest.Node, map[string]any{
		"metadata": map[string]any{"name": kubetest.Node, "labels": map[string]string{"iam.gke.io/gke-metadata-server-enabled": "true"}},
	})
	s.Put("/api/v1/namespaces/kube-system/configmaps/ip-masq-agent", func() any { return map[string]any{"data": ipMasqAgent(fault())} })
	c := &cilium{fault: fault}
	s.Put("/api/v1/namespaces/kube-system/configmaps/cilium-config", func() any { return kubetest.ConfigMap(c.now()) })
	s.Put("/apis/cilium.io/v2/namespaces/kube-system/ciliumnodeconfigs", map[string]any{"items": []any{}})
	s.Put("/apis/apps/v1/namespaces/kube-system/daemonsets/cilium", kubetest.CiliumDaemonSet(ciliumImage))
	s.Put("/api/v1/namespaces/kube-system/pods", func() any {
		_, changed := c.now()
		return kubetest.CiliumPods(ciliumImage, changed.Add(time.Second))
	})
	s.Tell(func(w kubetest.Written) {
		if about, ok := w.Object["involvedObject"].(map[string]any); ok && about["kind"] == "Node" {
			fmt.Fprintf(stdout, "Event about the Node %s: %s %s: %s\n", about["name"], w.Object["type"], w.Object["reason"], w.Object["message"])
		}
	})
	environment := filepath.Join(folder, "environment")
	if err := os.WriteFile(environment, []byte(strings.Join(s.Environment(), "\n")+"\n"), 0o600); err != nil {
		s.Close()
		return nil, err
	}
	fmt.Fprintf(stdout, "Kubernetes API server: see %s\n", environment)
	return s, nil
}

const ciliumImage = "cilium/cilium:v1.20.2"

// cilium has the settings that fit the fault. Its agent on the Node starts a second
// after they change, so that they are those that run.
type cilium struct {
	fault func() simulator.Fault

	mu      sync.Mutex
	data    map[string]string
	changed time.Time
}

// now is cilium-config, and when it was changed.
func (c *cilium) now() (map[string]string, time.Time) {
	data := ciliumConfig(c.fault())
	c.mu.Lock()
	defer c.mu.Unlock()
	if !maps.Equal(data, c.data) {
		c.data, c.changed = data, time.Now()
	}
	return c.data, c.changed
}

// ciliumConfig is cilium-config. BPF masquerading turns on eBPF host routing unless
// that is switched off, and without that a setting can still keep packets of Pods from
// connection tracking.
func ciliumConfig(f simulator.Fault) map[string]string {
	fault := f.Name
	if fault == simulator.Flap {
		fault = f.Of
	}
	return map[string]string{
		"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true", "enable-ipv4-masquerade": "true",
		"enable-ip-masq-agent": "true", "routing-mode": "native",
		"enable-host-legacy-routing":          strconv.FormatBool(fault != "bypass"),
		"install-no-conntrack-iptables-rules": strconv.FormatBool(fault == "notrack"),
	}
}

// ipMasqAgent is the ConfigMap ip-masq-agent, which names what is not masqueraded.
func ipMasqAgent(f simulator.Fault) map[string]string {
	linkLocal := f.Name == "snat" || f.Name == "snat-error"
	return map[string]string{"config": fmt.Sprintf("nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqLinkLocal: %t\n", linkLocal)}
}
