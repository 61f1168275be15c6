package diagnose_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// hostile is what a name, an annotation or a server could hold.
var hostile = []string{
	"$(reboot)", "`reboot`", "a;reboot", "a'b", `a"b`, "a b", "a\nreboot", "a|b", "a>b", "a&b",
	"-x", "--all", "{a,b}", "~", "*", "a\\", "#a", "!1",
	"a\x1b[31m", "a\u202eb", "ä", strings.Repeat("x", 5000), "[a]", "a/../b", "\x00", "\xff\xfe",
}

// Commands are pasted into shells: what is foreign and could mean something there
// is left out of them.
func TestCommandsHoldNothingForeign(t *testing.T) {
	commands := func(fill func(string) string) []string {
		var lines []string
		for _, state := range []fact{
			fallback(vm), fallback(gke), match(gke), match(vm),
			verdict(identity.Mismatch, other, gke), verdict(identity.Unbound, pool, gke),
			refused(identity.Denied, 403), refused(identity.NoServiceAccount, 404),
			failed(gke, failure(identity.ServerError, 500), nil, nil),
			failed(gke, nil, failure(identity.Throttled, 429), nil),
			failed(unknown, failure(identity.Timeout, 0), nil, failure(identity.Timeout, 0)),
			failed(gke, nil, failure(identity.Timeout, 0), nil),
			failed(unknown, failure(identity.Redirect, 302), nil, nil),
			all(allFailed(failure(identity.NotFound, 404)), envoy),
			failed(gke, nil, failure(identity.Malformed, 200), nil),
			verdict(identity.UnknownExpectation, other, gke),
		} {
			for _, setting := range []fact{redirect, legacy, ciliumIs(diagnose.Forbidden)} {
				for _, place := range []fact{
					all(), all(podNetwork, noServer), hostNetwork, all(podNetwork, withServer), recovered,
				} {
					f := facts(state, setting, place, v1, ipMasq(linkLocal), variables("HTTP_PROXY"))
					if x := fill("x"); x != "" {
						f.Self = diagnose.Self{
							Namespace: fill("namespace"), ServiceAccount: fill("ksa"),
							Node: fill("node"), Pod: fill("pod"), Project: fill("project"),
						}
						f.Expectation = annotated(identity.Identity(fill("app") + "@p.iam.gserviceaccount.com"))
						f.Cilium.Namespace, f.IPMasqAgent.Namespace = fill("cilium"), fill("masq")
						f.Verdict.Identity = identity.Identity(fill("id"))
						if f.NodeLabels != nil {
							f.NodeLabels["cloud.google.com/gke-nodepool"] = fill("pool")
						}
						if f.Observation.Email.Failure != nil {
							f.Observation.Email.Failure.Detail = fill("detail")
							f.Observation.Server.Proxy += fill("proxy")
						}
						if f.Verdict.State != identity.UnknownExpectation {
							f.Annotations = map[string]string{identity.AnnotationServiceAccount: fill("annotation")}
						}
					}
					d := diagnose.Diagnose(f)
					check(t, f, d)
					for _, found := range slices.Concat(d.Suspects, d.Risks) {
						lines = append(lines, found.Remedy.Commands...)
					}
					for _, g := range d.Missing {
						lines = append(lines, g.Remedy.Commands...)
					}
				}
			}
		}
		slices.Sort(lines)
		return slices.Compact(lines)
	}

	const foreign = "zzz"
	words := strings.Join(commands(func(s string) string { return foreign + s }), "\n")
	for _, name := range []string{
		"namespace", "ksa", "node", "pod", "project", "app@p.iam.gserviceaccount.com", "cilium", "masq", "pool",
	} {
		if !strings.Contains(words, foreign+name) {
			t.Errorf("no command has the known %s:\n%s", name, words)
		}
	}
	for _, h := range hostile {
		for _, c := range commands(func(s string) string { return h + foreign + s }) {
			if strings.Contains(c, foreign) || !isPrintable(c) {
				t.Errorf("%q is in the command %q", h, c)
			}
		}
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no shell to read the commands with")
	}
	if out, err := exec.Command(sh, "-n", "-c", words).CombinedOutput(); err != nil {
		t.Errorf("a shell does not read the commands: %v\n%s", err, out)
	}
}

// Of two expected accounts neither is put into a command.
func TestCommandsNameTheOnlyExpectedAccount(t *testing.T) {
	for _, tt := range []struct {
		expected identity.Expectation
		want     string
	}{
		{identity.Expect(app), " " + string(app)},
		{identity.Expect(pool, app), " " + string(app)},
		{identity.Expect(app, other), " GSA@PROJECT.iam.gserviceaccount.com"},
		{identity.Expect(pool), " GSA@PROJECT.iam.gserviceaccount.com"},
	} {
		f := facts(refused(identity.Denied, 403))
		f.Expectation = tt.expected
		if got := diagnose.Diagnose(f).Suspects[0].Remedy.Commands[0]; !strings.HasSuffix(got, tt.want) {
			t.Errorf("%s: got %q, want it to end with %q", tt.expected, got, tt.want)
		}
	}
}

// A value from outside is cut in the explanation, and cannot move a terminal.
func TestQuotedValuesAreShortAndPrintable(t *testing.T) {
	for _, h := range append(hostile, strings.Repeat("ä", 5000), strings.Repeat("\"", 5000)) {
		for _, f := range []diagnose.Facts{
			facts(fallback(vm), known, cilium(bpfMasquerade, h, kubeProxyReplacement, "true")),
			facts(fallback(vm), podNetwork, labels(diagnose.LabelMetadataServer, h)),
			facts(verdict(identity.Unbound, pool, gke), annotations(identity.AnnotationServiceAccount, h)),
			facts(
				configured(identity.Identity(h)), verdict(identity.Mismatch, identity.Identity(h), gke),
				annotations(identity.AnnotationServiceAccount, h),
			),
			facts(verdict(identity.Mismatch, identity.Identity(h), gke), replaced(annotated(identity.Identity(h)))),
			facts(fallback(vm), probes(h), variables(h)),
			facts(
				fallback(vm), ciliumIs(diagnose.Absent), podNetwork, withServer,
				func(f *diagnose.Facts) { f.Cilium.Namespace = h },
			),
			facts(failed(unknown, &identity.Failure{Reason: identity.Malformed, Detail: h}, nil, nil)),
			facts(allFailed(&identity.Failure{Reason: identity.Unreachable, Detail: h})),
			facts(allFailed(&identity.Failure{Reason: identity.NotFound, Status: 404, Detail: h}), marked(h)),
			facts(failed(unknown, &identity.Failure{Reason: identity.PodUnknown, Detail: h}, nil, nil)),
			facts(failed(gke, nil, &identity.Failure{Reason: identity.Malformed, Detail: h}, nil)),
		} {
			check(t, f, diagnose.Diagnose(f))
		}
	}
}
