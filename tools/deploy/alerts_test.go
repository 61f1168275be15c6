package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chartutil"
	"sigs.k8s.io/yaml"
)

// rulesOf are those of the object that has any.
func rulesOf(t *testing.T, objects []object) []monitoringv1.Rule {
	t.Helper()
	var all []monitoringv1.Rule
	for _, o := range objects {
		if o["kind"] != "PrometheusRule" && o["kind"] != "ClusterRules" {
			continue
		}
		var r monitoringv1.PrometheusRule
		decode(t, o, &r)
		for _, g := range r.Spec.Groups {
			all = append(all, g.Rules...)
		}
	}
	if len(all) == 0 {
		t.Fatal("no rules")
	}
	return all
}

func alertsOf(t *testing.T, values map[string]any) map[string]monitoringv1.Rule {
	t.Helper()
	all := map[string]monitoringv1.Rule{}
	for _, r := range rulesOf(t, rendered(t, values).objects) {
		if r.Alert != "" {
			all[r.Alert] = r
		}
	}
	return all
}

func text(t *testing.T, r monitoringv1.Rule) string {
	t.Helper()
	y, err := yaml.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(y)
}

// What people copy from the chart's README does what it says there, and nothing else.
func TestTheValuesOfTheReadmeChangeAlerts(t *testing.T) {
	readme, err := os.ReadFile(root + "/" + readmePath)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(readme)
	if m == nil {
		t.Fatal("the README of the chart has no values")
	}
	for _, kind := range []string{"prometheus-operator", "gmp"} {
		own := map[string]any{
			"googleServiceAccount": "workload-identity-exporter@my-project.iam.gserviceaccount.com",
			"monitoring":           map[string]any{"kind": kind},
		}
		var example map[string]any
		if err := yaml.UnmarshalStrict(m[1], &example); err != nil {
			t.Fatal(err)
		}
		was, is := alertsOf(t, own), alertsOf(t, chartutil.CoalesceTables(own, example))
		if _, there := is["WorkloadIdentitySlowMetadata"]; there || len(is) != len(was)-1 {
			t.Errorf("%s: %d alerts of %d, want all but WorkloadIdentitySlowMetadata", kind, len(is), len(was))
		}
		for name, a := range is {
			want := was[name]
			if name == "WorkloadIdentityFlapping" {
				for30m := monitoringv1.Duration("30m")
				want.For, want.Labels["severity"], want.Labels["team"], want.Annotations["chat"] = &for30m, "info", "identity", "#identity-{{ $labels.cluster }}"
			} else {
				want.Labels["team"] = "platform"
			}
			link := a.Annotations["dashboard_url"]
			if !strings.HasPrefix(link, "https://grafana.example.com/d/workload-identity-") || !strings.Contains(link, "&var-location={{ $labels.location }}&var-cluster={{ $labels.cluster }}") {
				t.Errorf("%s: %s links to %q", kind, name, link)
			}
			if _, there := want.Annotations["dashboard_url"]; there {
				t.Errorf("%s: %s links to a Grafana that nobody named", kind, name)
			}
			delete(a.Annotations, "dashboard_url")
			if kind == "prometheus-operator" { // those of GMP are given
				want.Expr.StrVal = strings.ReplaceAll(want.Expr.StrVal, "(cluster", "(location, cluster")
				for part, said := range want.Annotations {
					want.Annotations[part] = strings.NewReplacer("cluster=%q,", "location=%q,cluster=%q,", "$labels.cluster $labels.node", "$labels.location $labels.cluster $labels.node",
						"$labels.cluster |", "$labels.location $labels.cluster |", "$labels.cluster (or", "$labels.location $labels.cluster (or", " of cluster {{ . }}{{ end }}", " of cluster {{ . }}{{ end }}{{ with $labels.location }} in {{ . }}{{ end }}").Replace(said)
				}
			}
			if got, want := text(t, a), text(t, want); got != want {
				t.Errorf("%s: %s has\n%swant\n%s", kind, name, only(got, want), only(want, got))
			}
		}
	}
}
