package diagnose_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// check holds what is true of every diagnosis.
func check(t *testing.T, f diagnose.Facts, d diagnose.Diagnosis) {
	t.Helper()
	judged := slices.Contains([]identity.State{
		identity.NodeFallback, identity.Mismatch, identity.Unbound, identity.TokenDenied, identity.Unavailable,
		identity.UnknownExpectation, identity.Match,
	}, f.Verdict.State)
	switch match := f.Verdict.State == identity.Match; {
	case !judged && len(d.Suspects)+len(d.Risks)+len(d.RuledOut) > 0:
		t.Errorf("%s: findings %+v without a verdict", f.Verdict.State, d)
	case match && len(d.Suspects)+len(d.RuledOut) > 0:
		t.Errorf("a match has suspects %v and excludes %v", causes(d.Suspects), causes(d.RuledOut))
	case !match && len(d.Risks) > 0:
		t.Errorf("%s has the risks %v", f.Verdict.State, causes(d.Risks))
	}

	seen := map[diagnose.Cause]bool{}
	for _, list := range []struct {
		findings []diagnose.Finding
		causes   []diagnose.Cause
		excludes bool
	}{
		{d.Suspects, suspectedCauses, false},
		{d.Risks, riskCauses, false},
		{d.RuledOut, suspectedCauses, true},
	} {
		for i, found := range list.findings {
			if seen[found.Cause] || !slices.Contains(list.causes, found.Cause) {
				t.Errorf("%s is found twice, or is no such cause", found.Cause)
			}
			seen[found.Cause] = true
			if list.excludes != (found.Confidence == diagnose.RulesOut) {
				t.Errorf("%s: confidence %s", found.Cause, found.Confidence)
			}
			if i > 0 && found.Confidence == diagnose.Proves && list.findings[i-1].Confidence != diagnose.Proves {
				t.Errorf("%s is proven and ranks below %s", found.Cause, list.findings[i-1].Cause)
			}
			for _, text := range append([]string{found.Why, found.Remedy.Text}, found.Remedy.Commands...) {
				if _, known := shownAs.LoadOrStore(text, true); known {
					continue // the same few words come again and again
				}
				if shown := foreign.Text(text, 4<<10); shown != text {
					t.Errorf("%s: our own words are shown as %q, not as %q", found.Cause, shown, text)
				}
			}
			for _, command := range found.Remedy.Commands {
				if strings.Contains(command, " #") { // which zsh takes for arguments
					t.Errorf("%s: a comment is behind the command %q", found.Cause, command)
				}
			}
			if !isSentence(found.Why) || len(found.Why) > 900 {
				t.Errorf("%s: why is no sentence: %q", found.Cause, found.Why)
			}
			if !list.excludes && (!isSentence(found.Remedy.Text) || len(found.Remedy.Commands) == 0) {
				t.Errorf("%s: the remedy is no sentence, or has no commands: %+v", found.Cause, found.Remedy)
			}
			if !strings.HasPrefix(found.Runbook, diagnose.Runbooks) || !strings.Contains(found.Runbook, "#") {
				t.Errorf("%s: runbook %s", found.Cause, found.Runbook)
			}
		}
	}
	if len(d.Suspects) > 1 && d.Suspects[0].Confidence == diagnose.Proves {
		t.Errorf("a proof is beside other suspects: %v", causes(d.Suspects))
	}
	for _, g := range d.Missing {
		if !isSentence(g.Fact) || !isSentence(g.Remedy.Text) {
			t.Errorf("a gap is no sentence: %+v", g)
		}
	}

	if !slices.ContainsFunc(live(f.Observation), identity.Request.OK) {
		for _, c := range []diagnose.Cause{diagnose.MetadataServerDown, diagnose.NetworkPolicy} {
			connected := slices.ContainsFunc(live(f.Observation), func(r identity.Request) bool { return r.Failure.Connected })
			if slices.Contains(causes(d.RuledOut), c) && (c != diagnose.NetworkPolicy || !connected) {
				t.Errorf("no request was answered now, and %s is ruled out", c)
			}
		}
	}
	suspected := func(list ...diagnose.Cause) bool {
		return slices.ContainsFunc(list, func(c diagnose.Cause) bool { return slices.Contains(causes(d.Suspects), c) })
	}
	ofVM := []diagnose.Cause{
		diagnose.HostNetwork, diagnose.NodePoolGCEMetadata,
		diagnose.CiliumBPFHostRouting, diagnose.LocalRedirectDormant,
	}
	ofAddress := []diagnose.Cause{
		diagnose.SourceNAT, diagnose.IPMasqAgentLinkLocal, diagnose.CiliumBPFMasqueradeLinkLocal,
	}
	if f.Verdict.Server == gke && suspected(ofVM...) {
		t.Errorf("GKE's server answers, and a cause for the VM's is suspected: %v", causes(d.Suspects))
	}
	if f.Verdict.Server == vm && suspected(ofAddress...) {
		t.Errorf("the VM's server answers, and the Pod's address is suspected: %v", causes(d.Suspects))
	}
	if suspected(ofVM...) && suspected(ofAddress...) {
		t.Errorf("suspects that exclude each other: %v", causes(d.Suspects))
	}
	// What was not read, or is Google's, is no evidence.
	if f.Cilium.State != diagnose.Read || f.DataplaneV2 == diagnose.Yes {
		for _, found := range slices.Concat(d.Suspects, d.Risks) {
			if found.Confidence != diagnose.Possible && slices.Contains([]diagnose.Cause{
				diagnose.CiliumBPFHostRouting, diagnose.CiliumNoConntrack, diagnose.LocalRedirectDormant,
				diagnose.CiliumBPFMasqueradeLinkLocal,
			}, found.Cause) {
				t.Errorf("%s without settings", found.Cause)
			}
		}
	}
}

// live are the requests that the last probe made.
func live(o identity.Observation) []identity.Request {
	var all []identity.Request
	for _, r := range o.Requests() {
		if r.Live() {
			all = append(all, r)
		}
	}
	return all
}

// isSentence reports whether s is printable, begins with a capital letter and ends
// with a stop.
func isSentence(s string) bool {
	return len(s) > 2 && s[0] >= 'A' && s[0] <= 'Z' && s[len(s)-1] == '.' && isPrintable(s)
}

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// shownAs are the texts that were looked at.
var shownAs sync.Map

// The sets do not change, and check is called often.
var suspectedCauses, riskCauses = diagnose.SuspectedCauses(), diagnose.RiskCauses()

func gate(f *diagnose.Facts) { f.Gate = true }

// worlds calls f with every combination of facts.
func worlds(f func(diagnose.Facts)) {
	var states []fact
	for _, by := range []identity.Server{vm, gke, unknown} {
		states = append(states, fallback(by), match(by), verdict(identity.Mismatch, other, by),
			verdict(identity.Unbound, pool, by), verdict(identity.Unbound, principal, by),
			verdict(identity.UnknownExpectation, other, by), verdict(identity.Stale, node, by),
			verdict(identity.Starting, "", by))
		for _, r := range identity.Reasons(identity.EndpointToken) {
			x, failing := failure(r, 500), by
			states = append(states, refused(r, 403),
				failed(failing, x, nil, nil), failed(failing, nil, x, nil), failed(failing, x, x, x),
				all(failed(failing, x, nil, x), reused),
				all(failed(failing, x, x, nil), envoy), all(failed(failing, x, x, x), genuine),
				all(refused(r, 403), func(f *diagnose.Facts) { f.Verdict.Server = failing }))
		}
		dropped := failure(identity.Timeout, 0)
		states = append(states, failed(by, dropped, dropped, dropped), all(refused(identity.Denied, 403), blocked),
			all(verdict(identity.Unbound, pool, by), passed), all(verdict(identity.Mismatch, other, by), passed))
	}
	settings := []fact{
		ciliumIs(diagnose.NotRead), ciliumIs(diagnose.Forbidden), ciliumIs(diagnose.Absent),
		bypass, legacy, redirect, ownMasq, cilium(bpfMasquerade, "true", kubeProxyReplacement, "partial"),
		notrack, all(kubeProxy, nodeConfig("kpr", diagnose.Yes, kubeProxyReplacement, "true")),
		all(bypass, nodeConfig("legacy", diagnose.Unknown, legacyRouting, "true"), started(time.Minute)),
		all(legacy, nodeConfigsAre(diagnose.Absent), started(-time.Minute)),
		cilium(ipv4Masquerade, "false", "enable-ipv6", "false", kubeProxyReplacement, "true", "datapath-mode", "netkit"),
	}
	masq := []fact{ipMasqIs(diagnose.Forbidden), ipMasqIs(diagnose.Absent), ipMasq(linkLocal), ipMasq("garbage")}
	places := []fact{
		all(), all(podNetwork, withServer), all(podNetwork, noServer),
		all(hostNetwork, noServer), all(hostNetwork, withServer), noServer,
	}
	planes := []fact{all(), v1, v2}
	accounts := []fact{
		all(), configured(app), all(annotations(), recovered),
		all(configured(app), annotations(identity.AnnotationReturnPrincipal, "true")),
		all(configured(app), annotations(identity.AnnotationServiceAccount, string(other))),
		all(annotations(identity.AnnotationServiceAccount, string(other)),
			replaced(annotated(other)), variables("HTTP_PROXY")),
		all(replaced(annotated(node)), probes("x")),
		all(configured(app), annotations("iam.gke.io/gcp-service-acount", string(app))),
		all(configured(other), gate),
	}
	signers := []fact{all(), signs(gke, ""), signs(vm, "gke-pool-1"), signs(unknown, "")}
	for _, state := range states {
		for i, setting := range settings {
			for l, m := range masq {
				for j, place := range places {
					for k, plane := range planes {
						// Accounts and the datapath do not meet in a rule, and who signs changes
						// little, so not all combinations are needed.
						account, signer := accounts[(i+j+k)%len(accounts)], signers[(i+l+j+k)%len(signers)]
						f(facts(state, setting, m, place, plane, account, signer))
					}
				}
			}
		}
	}
}

func TestEveryCombination(t *testing.T) {
	reached := map[diagnose.Cause]int{}
	links, remedies := map[string]bool{}, map[string]bool{}
	n := 0
	worlds(func(f diagnose.Facts) {
		n++
		d := diagnose.Diagnose(f)
		check(t, f, d)
		for _, found := range slices.Concat(d.Suspects, d.Risks) {
			reached[found.Cause]++
			links[found.Runbook] = true
			remedies[found.Remedy.Text+"\n"+strings.Join(found.Remedy.Commands, "\n")] = true
		}
		if t.Failed() {
			t.Fatalf("facts: %+v", f)
		}
	})
	for _, c := range diagnose.Causes() {
		if reached[c] == 0 {
			t.Errorf("%s is never found", c)
		}
	}
	t.Logf("%d combinations, %d remedies, %d sections", n, len(remedies), len(links))
	for link := range links {
		lookUp(t, link)
	}
	agree(t, remedies)
}

// What is ruled out is so by live evidence about this node. A file of settings is not
// what runs, and may be overridden for a node; what was read before the verdict may
// have changed with it; and another server than the one of the node says nothing.
func TestOnlyLiveEvidenceRulesOut(t *testing.T) {
	n := 0
	worlds(func(f diagnose.Facts) {
		if n++; n%31 != 0 { // which meets each value of each fact
			return
		}
		without := func(what string, forget fact) {
			t.Helper()
			g := f
			forget(&g)
			left := causes(diagnose.Diagnose(g).RuledOut)
			for _, c := range causes(diagnose.Diagnose(f).RuledOut) {
				if !slices.Contains(left, c) {
					t.Fatalf("%s is ruled out only by %s: %+v", c, what, f)
				}
			}
		}
		without("files of settings", func(f *diagnose.Facts) {
			f.Cilium, f.IPMasqAgent = diagnose.ConfigMap{}, diagnose.ConfigMap{}
		})
		f.OldSettings = true
		without("what was read before", func(f *diagnose.Facts) { f.Settings = diagnose.Settings{} })
		f.Environment.MetadataHost = "127.0.0.1"
		if d := diagnose.Diagnose(f); len(d.RuledOut) > 0 {
			t.Fatalf("%v are ruled out by the answers of another server", causes(d.RuledOut))
		}
	})
}

// Two servers answer: neither excludes what makes the other one do so.
func TestAWitnessAgainstItExcludesNothing(t *testing.T) {
	for _, tt := range []struct {
		facts diagnose.Facts
		not   []diagnose.Cause
	}{
		{
			facts(fallback(gke), signs(vm, "gke-pool-1")),
			[]diagnose.Cause{diagnose.CiliumBPFHostRouting, diagnose.LocalRedirectDormant},
		},
		{
			facts(fallback(vm), signs(gke, "")),
			[]diagnose.Cause{diagnose.SourceNAT, diagnose.IPMasqAgentLinkLocal, diagnose.CiliumBPFMasqueradeLinkLocal},
		},
	} {
		ruledOut := causes(diagnose.Diagnose(tt.facts).RuledOut)
		for _, c := range tt.not {
			if slices.Contains(ruledOut, c) {
				t.Errorf("%s is ruled out by the %s server, while another one signs", c, tt.facts.Verdict.Server)
			}
		}
	}
}

// agree fails unless the runbooks name what the remedies name.
func agree(t *testing.T, remedies map[string]bool) {
	t.Helper()
	files, err := filepath.Glob("../../alerts/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var runbooks []byte
	for _, file := range append(files, "../../docs/configuration.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		runbooks = append(runbooks, text...)
	}
	terms := regexp.MustCompile(strings.Join([]string{
		`[a-z]+(?:-[a-z0-9]+){2,}`, `\bWI_[A-Z_]+`, `[a-z]+\.googleapis\.com`, `\bmasq[A-Z]\w+`, `\bnonMasq\w+`,
		`roles/[\w.]+`, `GKE_METADATA`, `bpf\.\w+`, `169\.254\.\d+\.\d+/\d+`, `--workload-metadata`,
	}, "|"))
	for remedy := range remedies {
		for _, term := range terms.FindAllString(remedy, -1) {
			if !bytes.Contains(runbooks, []byte(term)) {
				t.Errorf("no runbook names %s, as this remedy does: %s", term, remedy)
			}
		}
	}
}

// The facts are only read, and the same facts give the same diagnosis.
func TestDiagnoseIsPure(t *testing.T) {
	f := facts(fallback(vm), known, redirect, ipMasq(linkLocal), annotations("a", "b"), variables("HTTP_PROXY"))
	before := facts(fallback(vm), known, redirect, ipMasq(linkLocal), annotations("a", "b"), variables("HTTP_PROXY"))
	first, second := diagnose.Diagnose(f), diagnose.Diagnose(f)
	if !reflect.DeepEqual(first, second) {
		t.Errorf("two diagnoses of the same facts: %+v and %+v", first, second)
	}
	if !reflect.DeepEqual(f, before) {
		t.Errorf("the facts were changed: %+v", f)
	}
}

func TestCausesAreAClosedSet(t *testing.T) {
	all := diagnose.Causes()
	if want := slices.Compact(slices.Sorted(slices.Values(all))); len(all) != 25 || len(want) != len(all) {
		t.Errorf("causes %v: want 25, each once", all)
	}
	for _, c := range slices.Concat(suspectedCauses, riskCauses) {
		if !slices.Contains(all, c) {
			t.Errorf("%s is not among the causes", c)
		}
	}
	if got := len(riskCauses); got != 11 {
		t.Errorf("%d risks, want 11", got)
	}
	for _, c := range all {
		if !regexp.MustCompile("^[a-z_]+$").MatchString(string(c)) {
			t.Errorf("%q is no value of a label", c)
		}
	}
}

// lookUp fails unless the link leads to a section of a runbook of ours.
func lookUp(t *testing.T, link string) {
	t.Helper()
	file, anchor, _ := strings.Cut(strings.TrimPrefix(link, diagnose.Runbooks), "#")
	text, err := os.ReadFile(filepath.Join("../../alerts/runbooks", file))
	if err != nil {
		t.Error(err)
		return
	}
	for _, heading := range regexp.MustCompile(`(?m)^##+ (.*)$`).FindAllSubmatch(text, -1) {
		if slug(string(heading[1])) == anchor {
			return
		}
	}
	t.Errorf("%s has no section #%s", file, anchor)
}

// slug is GitHub's anchor of a heading.
func slug(heading string) string {
	heading = regexp.MustCompile(`[^a-z0-9_ -]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(heading, " ", "-")
}

func TestRunbooksAreWhereTheAlertsSayTheyAre(t *testing.T) {
	values, err := os.ReadFile("../../alerts/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(values), "runbooks: "+strings.TrimSuffix(diagnose.Runbooks, "/")+"\n") {
		t.Errorf("alerts/values.yaml does not have %s", diagnose.Runbooks)
	}
}
