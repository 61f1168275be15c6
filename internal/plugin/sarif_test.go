package plugin_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

type sarif struct {
	Version string
	Runs    []struct {
		Tool struct {
			Driver struct {
				Name  string
				Rules []struct {
					ID, HelpURI      string
					ShortDescription struct{ Text string }
				}
			}
		}
		Results []struct {
			RuleID    string
			RuleIndex int
			Level     string
			Message   struct{ Text string }
			Locations []struct {
				PhysicalLocation struct{ ArtifactLocation struct{ URI string } }
			}
			PartialFingerprints map[string]string
		}
	}
}

func sarifOf(t *testing.T, found []plugin.Finding) sarif {
	t.Helper()
	var out strings.Builder
	if err := plugin.PrintFindings(&out, found, nil, "sarif", false); err != nil {
		t.Fatal(err)
	}
	var log sarif
	if err := json.Unmarshal([]byte(out.String()), &log); err != nil || log.Version != "2.1.0" || len(log.Runs) != 1 {
		t.Fatalf("%v: %s", err, out.String())
	}
	return log
}

func TestFindingsForCodeScanning(t *testing.T) {
	f := func(code, evidence string) plugin.Finding {
		return plugin.Finding{Code: code, Severity: plugin.Info, Object: "Deployment shop/app", What: "a", Evidence: evidence, Do: "b", Link: "c"}
	}
	run := sarifOf(t, []plugin.Finding{f("WI102", "container a"), f("WI102", "container b"), f("WI003", "c")}).Runs[0]
	rules := run.Tool.Driver.Rules
	if len(rules) != len(plugin.Checks()) {
		t.Fatalf("%d rules, want one for each check", len(rules))
	}
	for n, c := range plugin.Checks() {
		if rules[n].ID != c.Code || rules[n].ShortDescription.Text != c.What || !strings.HasSuffix(rules[n].HelpURI, "/docs/kubectl.md#"+strings.ToLower(c.Code)) {
			t.Errorf("rule %+v, want that of %s", rules[n], c.Code)
		}
	}
	prints := map[string]bool{}
	for _, r := range run.Results {
		if rules[r.RuleIndex].ID != r.RuleID || r.Level != "note" || r.Locations[0].PhysicalLocation.ArtifactLocation.URI != "kubernetes/deployment/shop/app" {
			t.Errorf("result %+v", r)
		}
		prints[r.PartialFingerprints["object/v1"]] = true
	}
	if len(prints) != 3 {
		t.Errorf("%d fingerprints, want one for each finding", len(prints))
	}
	// Words and other findings may change.
	again := sarifOf(t, []plugin.Finding{f("WI301", "x"), f("WI102", "in other words"), f("WI003", "d")}).Runs[0].Results[1]
	if got := run.Results[0].PartialFingerprints["object/v1"]; got != again.PartialFingerprints["object/v1"] {
		t.Errorf("fingerprint %s, before %s", again.PartialFingerprints["object/v1"], got)
	}
	if empty := sarifOf(t, nil).Runs[0]; empty.Results == nil {
		t.Error("no results is a list as well")
	}
}
