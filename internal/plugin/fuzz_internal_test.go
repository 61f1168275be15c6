package plugin

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// checkPrinted fails if a terminal would act upon the text.
func checkPrinted(t *testing.T, text string) {
	t.Helper()
	if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 || !utf8.ValidString(text) {
		t.Errorf("the output has %q at %d: %q", text[max(i, 0):min(len(text), i+8)], i, text)
	}
}

// FuzzDump is the output of kubectl, through every audit of it.
func FuzzDump(f *testing.F) {
	const account = `{"kind":"ServiceAccount","metadata":{"name":"app","namespace":"shop","annotations":{"iam.gke.io/gcp-service-account":"app@demo-project.iam.gserviceaccount.com"}}}`
	const node = `{"kind":"Node","metadata":{"name":"n1","labels":{"kubernetes.io/os":"linux","iam.gke.io/gke-metadata-server-enabled":"true"}}}`
	const pod = `{"kind":"Pod","metadata":{"name":"app-1","namespace":"shop","labels":{"app":"app"},"ownerReferences":[{"kind":"ReplicaSet","name":"app-6d5f"}]},"spec":{"nodeName":"n1","serviceAccountName":"app","containers":[{"name":"main","env":[{"name":"GCE_METADATA_HOST","value":"x\u001b[31m"},{"name":"HTTP_PROXY","value":"http://p"}]}]},"status":{"phase":"Running"}}`
	for _, more := range []string{
		`{"kind":"NetworkPolicy","metadata":{"name":"deny","namespace":"shop"},"spec":{"podSelector":{"matchExpressions":[{"key":"app","operator":"Exists"}]},"policyTypes":["Egress"],"egress":[{"to":[{"ipBlock":{"cidr":"0.0.0.0/0","except":["169.254.0.0/16"]}}],"ports":[{"port":988,"endPort":1},{"port":"x"}]}]}}`,
		`{"kind":"CiliumNetworkPolicy","metadata":{"name":"c","namespace":"shop"},"specs":[{"endpointSelector":{"matchLabels":{"k8s:app":"app"}},"egressDeny":[{"toCIDRSet":[{"cidr":"169.254.169.254/32"}],"toPorts":[{"ports":[{"port":"80","endPort":90,"protocol":"TCP"}]}]}],"egress":[{"toEntities":["world"],"toFQDNs":[{"matchPattern":"*"}]}]}]}`,
		`{"kind":"ConfigMap","metadata":{"name":"cilium-config","namespace":"kube-system"},"data":{"enable-bpf-masquerade":"true","kube-proxy-replacement":"true"}},{"kind":"Pod","metadata":{"name":"cilium-1","namespace":"kube-system","labels":{"k8s-app":"cilium"}},"spec":{"nodeName":"n1","containers":[{"name":"cilium-agent","image":"q:5000/c"}]}}`,
		`{"kind":"CiliumNodeConfig","metadata":{"name":"x","namespace":"kube-system"},"spec":{"nodeSelector":{"matchExpressions":[{"operator":"?"}]},"defaults":{"a":"b"}}}`,
		`{"kind":"CiliumLocalRedirectPolicy","metadata":{"name":"r"},"spec":{"redirectFrontend":{"addressMatcher":{"ip":"169.254.169.254","toPorts":[{"port":"80"}]}}}},{"kind":"CiliumEgressGatewayPolicy","metadata":{"name":"g"},"spec":{"destinationCIDRs":["0.0.0.0/0"]}}`,
		`{"kind":"\u202e\u0000"}`, `{"kind":"Pod","spec":null}`, `[]`,
	} {
		f.Add([]byte(`{"kind":"List","items":[`+strings.Join([]string{account, node, pod, more}, ",")+`]}`), "bpf.masquerade=true")
	}
	f.Add([]byte(account+pod+node), "enable-host-legacy-routing=false")
	f.Add([]byte(`{"kind":"PodList","items":[{}]}{"kind":"ServiceAccountList","items":[]}`), "x")
	f.Fuzz(func(t *testing.T, dump []byte, setting string) {
		i, err := ReadDump(strings.NewReader(string(dump)))
		if err != nil {
			if !utf8.ValidString(err.Error()) || len(err.Error()) > 2048 {
				t.Errorf("the error is %q", err)
			}
			return
		}
		found := Audit(i)
		codes := Checks()
		for _, one := range found {
			if !slices.ContainsFunc(codes, func(c Check) bool { return c.Code == one.Code }) {
				t.Errorf("the finding %+v is of no check", one)
			}
		}
		var out strings.Builder
		if err := PrintFindings(&out, found, i.Unread, "wide", false); err != nil {
			t.Error(err)
		}
		var c Change
		if c.SetValues([]string{setting}) == nil {
			if err := PrintForecast(&out, WhatIf(i, c), "table"); err != nil {
				t.Error(err)
			}
		}
		checkPrinted(t, out.String())
		out.Reset()
		if err := PrintFindings(&out, found, i.Unread, "sarif", false); err != nil || !json.Valid([]byte(out.String())) {
			t.Errorf("SARIF that is no JSON, %v", err)
		}
	})
}

// FuzzReport is the log of an ephemeral container, or /status.json of an agent.
func FuzzReport(f *testing.F) {
	for _, s := range []string{
		`{"version":2,"state":"match","since":"2026-11-26T12:00:00Z","why":"x","requests":[{"endpoint":"email","failure":"\u001b]0;x\u0007"}],"changes":[{"at":"2026-11-26T11:00:00Z","from":"match","to":"node_fallback"}],"causes":[{"cause":"c","title":"t\u202e","commands":["$(reboot)"]}]}`,
		"warning\n" + `{"state":"node_fallback"}`, `{"state":"nonsense"}`, `{"state":"stale","changes":[{"to":"mismatch"},{"to":"mismatch"}]}`, "\x1b[2J\xff\u2028", "",
	} {
		f.Add([]byte(s), int32(1))
	}
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, log []byte, exit int32) {
		r, text := reported(log)
		if (r == nil) == (text == "") && len(log) > 0 || r != nil && !slices.Contains(identity.States(), r.State) {
			t.Errorf("report %+v, text %q", r, text)
		}
		checkPrinted(t, text)
		done := Checked{Pod: "app", Namespace: "shop", Container: "x", ExitCode: int(exit), Report: r, Log: text}
		var out strings.Builder
		if err := PrintChecks(&out, []Checked{done}, "table"); err != nil {
			t.Error(err)
		}
		checkPrinted(t, out.String())
		var said report.Report
		if json.Unmarshal(log, &said) == nil {
			for _, w := range union(first(history("n1", said, now))) {
				checkPrinted(t, strings.Join(w.Observed, ","))
			}
		}
	})
}

func first(w []Window, _ time.Time) []Window { return w }

// FuzzValues is a file of Helm values, or a ConfigMap.
func FuzzValues(f *testing.F) {
	for _, s := range []string{
		"bpf:\n  masquerade: true\nkubeProxyReplacement: true\n", "kind: ConfigMap\ndata:\n  enable-bpf-masquerade: \"true\"\n", "kind: ConfigMap\ndata: [1]\n",
		"encryption: {enabled: true, type: wireguard}\nipMasqAgent: {config: {masqLinkLocal: true}}\n", "a: &a [*a]", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
		"extraConfig: {\"\": x}", "localRedirectPolicies: {enabled: null}", "{{ .Values }}", "\x00", "1: 2",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var c Change
		if err := c.ReadFile(text[:min(len(text), 64<<10)]); err == nil && len(c.Set) == 0 && c.IPMasqAgent == "" && !c.Whole {
			t.Error("nothing was read, and that is no error")
		}
		for key := range c.Set {
			if key == "" {
				t.Error("a setting without a name")
			}
		}
	})
}

// FuzzSample is a sample of Prometheus, and a member of an IAM policy.
func FuzzSample(f *testing.F) {
	f.Add([]byte(`[1764158400.123,"1"]`), "serviceAccount:demo-project.svc.id.goog[shop/app]")
	f.Add([]byte(`[1e308,"NaN"]`), "principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/namespace/shop")
	f.Add([]byte(`[null,"+Inf",1]`), "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/shop/sa/app")
	f.Add([]byte(`{}`), "allUsers")
	f.Fuzz(func(t *testing.T, sample []byte, member string) {
		var p pair
		if p.UnmarshalJSON(sample) == nil {
			_ = stamp(p.at)
		}
		if _, is := memberOf(member, "shop", "app"); is && !strings.Contains(member, "shop/") && !strings.Contains(member, "/shop") && !strings.HasPrefix(member, "all") &&
			!strings.HasSuffix(member, "/*") && !strings.HasSuffix(member, "/sa/app") && !strings.Contains(member, "/kubernetes.") {
			t.Errorf("%q is the ServiceAccount shop/app", member)
		}
	})
}
