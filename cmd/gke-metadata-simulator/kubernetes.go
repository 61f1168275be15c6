package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

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
	for name, data := range map[string]func(simulator.Fault) map[string]string{"cilium-config": cilium, "ip-masq-agent": ipMasqAgent} {
		s.Put("/api/v1/namespaces/kube-system/configmaps/"+name, func() any { return map[string]any{"data": data(fault())} })
	}
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

// cilium is cilium-config. BPF masquerading turns on eBPF host routing unless that
// is switched off.
func cilium(f simulator.Fault) map[string]string {
	legacy := "true"
	if f.Name == "bypass" || f.Name == "flap" && f.Of == "bypass" {
		legacy = "false"
	}
	return map[string]string{
		"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true", "enable-host-legacy-routing": legacy,
		"enable-ipv4-masquerade": "true", "enable-ip-masq-agent": "true",
	}
}

// ipMasqAgent is the ConfigMap ip-masq-agent, which names what is not masqueraded.
func ipMasqAgent(f simulator.Fault) map[string]string {
	linkLocal := f.Name == "snat" || f.Name == "snat-error"
	return map[string]string{"config": fmt.Sprintf("nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqLinkLocal: %t\n", linkLocal)}
}
