// Command operator prints the configuration that prometheus-operator makes for its
// Prometheus from the PodMonitors and ServiceMonitors, and the Secrets that they name, on standard input:
// it is the operator's own generator. It is a module of its own, because the operator
// needs older versions of Prometheus's and Kubernetes's than the suites.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus-operator/prometheus-operator/pkg/assets"
	"github.com/prometheus-operator/prometheus-operator/pkg/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	pods, services := map[string]*monitoringv1.PodMonitor{}, map[string]*monitoringv1.ServiceMonitor{}
	var secrets []any
	for decoder := json.NewDecoder(in); ; {
		var text json.RawMessage
		if err := decoder.Decode(&text); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		var kind metav1.TypeMeta
		if err := json.Unmarshal(text, &kind); err != nil {
			return err
		}
		strict := json.NewDecoder(bytes.NewReader(text))
		strict.DisallowUnknownFields()
		switch kind.Kind {
		case monitoringv1.PodMonitorsKind:
			var m monitoringv1.PodMonitor
			if err := strict.Decode(&m); err != nil {
				return err
			}
			pods[m.Namespace+"/"+m.Name] = &m
		case monitoringv1.ServiceMonitorsKind:
			var m monitoringv1.ServiceMonitor
			if err := strict.Decode(&m); err != nil {
				return err
			}
			services[m.Namespace+"/"+m.Name] = &m
		case "Secret":
			var s corev1.Secret
			if err := strict.Decode(&s); err != nil {
				return err
			}
			secrets = append(secrets, &s)
		default:
			return fmt.Errorf("kind %q, want PodMonitors, ServiceMonitors and Secrets", kind.Kind)
		}
	}
	p := &monitoringv1.Prometheus{ObjectMeta: metav1.ObjectMeta{Namespace: "monitoring", Name: "prometheus"}}
	// The operator mounts certificates; in the configuration itself they are the same.
	generator, err := prometheus.NewConfigGenerator(nil, p, prometheus.WithInlineTLSConfig())
	if err != nil {
		return err
	}
	config, err := generator.GenerateServerConfiguration(p, services, pods, nil, nil, assets.NewTestStoreBuilder(secrets...), nil, nil, nil, nil)
	if err != nil {
		return err
	}
	_, err = out.Write(config)
	return err
}
