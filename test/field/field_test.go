package field

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

const application = "app@demo-project.iam.gserviceaccount.com"

// fieldCase is a configuration, an answer or a report that somebody has published, and
// what is right about it. Personal details are replaced.
type fieldCase struct {
	ID     string
	Kind   string // metadata, configmap or annotation
	Source string
	What   string // what happened
	Why    string // why that is right which is wanted
	Want   struct {
		State, Cause, Risk oneOrMore
		NoCause            []string `json:"no_cause"`
		NoRisk             []string `json:"no_risk"`
		NotProven          []string `json:"not_proven"`
		NotRuledOut        []string `json:"not_ruled_out"`
		AnyCause           bool     `json:"any_cause"`
		Exit               *int
		Server, Text       string
	}

	Expect string // check -expect
	// VM is the account that the VM's metadata server gives, if that answers, and Email
	// what GKE's gives. Answers are those by endpoint that are others.
	VM, Email string
	Answers   map[string]fieldAnswer

	Annotations map[string]string
	ConfigMaps  map[string]map[string]string // by namespace/name
	NodeConfig  map[string]string            `json:"node_config"` // of a CiliumNodeConfig
	Anetd       bool
	Env         map[string]string
}

type fieldAnswer struct {
	Status  int
	Headers map[string]string
	Body    string
	Delay   float64 // seconds
}

// oneOrMore is a string or a list of them, any of which is right.
type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte("[")) {
		return json.Unmarshal(b, (*[]string)(o))
	}
	*o = []string{""}
	return json.Unmarshal(b, &(*o)[0])
}

func fieldCases(t *testing.T) []fieldCase {
	t.Helper()
	f, err := os.Open("testdata/field-cases.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []fieldCase
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var c fieldCase
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&c); err != nil {
			t.Fatalf("%.60s: %v", lines.Text(), err)
		}
		all = append(all, c)
	}
	return all
}

// Each case was wrong once, or guards what was right.
func TestWhatPeopleHaveReportedIsExplained(t *testing.T) {
	for _, c := range fieldCases(t) {
		t.Run(c.ID, func(t *testing.T) {
			t.Parallel()
			c.holds(t, c.check(t))
		})
	}
}

// check judges in the middle of the case, with risks. A report without a state is one of
// wrong use.
//
// The parts are put together here, since the program says of any address but
// 169.254.169.254 that nothing is known by it.
func (c fieldCase) check(t *testing.T) report.Report {
	t.Helper()
	server := httptest.NewServer(c)
	defer server.Close()
	prober := metadata.New(server.Listener.Addr().String(), time.Second, "field")
	o := agent.Options{
		Prober: prober, Claims: prober.Claims, Recorder: nobody{}, Logger: slog.New(slog.DiscardHandler),
		Nodes: identity.DefaultNodeAccounts(), Interval: time.Second, Timeout: time.Second,
		TokenInterval: time.Minute, ExpectationInterval: time.Minute,
	}
	if c.Kind == "metadata" {
		settings := config.Config{ExpectedEmails: []string{application}}
		if c.Expect != "" {
			settings.ExpectedEmails = []string{c.Expect}
		}
		expected, err := settings.Expectation()
		if err != nil {
			return report.Report{ExitCode: 2, Why: err.Error()}
		}
		o.Expect = func(context.Context) (identity.Reading, error) { return identity.Reading{Expectation: expected}, nil }
	} else {
		c.cluster(t, &o)
	}
	return report.New(agent.Check(t.Context(), o, true), report.About{})
}

// nobody counts.
type nobody struct{}

func (nobody) Probed(identity.Observation) {}
func (nobody) Judged(identity.State)       {}
func (nobody) Panicked()                   {}

// cluster starts an API server as it is in the case.
func (c fieldCase) cluster(t *testing.T, o *agent.Options) {
	t.Helper()
	api, err := kubetest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	api.Annotate(c.Annotations)
	if c.Annotations == nil {
		api.Annotate(map[string]string{identity.AnnotationServiceAccount: application})
	}
	for where, data := range c.ConfigMaps {
		namespace, name := path.Split(where)
		api.Put("/api/v1/namespaces/"+namespace+"configmaps/"+name, map[string]any{"data": data})
	}
	if c.Anetd {
		api.Put("/apis/apps/v1/namespaces/kube-system/daemonsets/anetd", map[string]any{"metadata": map[string]any{"name": "anetd"}})
	}
	if c.NodeConfig != nil {
		api.Put("/apis/cilium.io/v2/namespaces/kube-system/ciliumnodeconfigs", map[string]any{"items": []any{map[string]any{
			"metadata": map[string]any{"name": "one"}, "spec": map[string]any{"nodeSelector": map[string]any{}, "defaults": c.NodeConfig},
		}}})
	}
	environment := map[string]string{}
	for _, v := range api.Environment() {
		name, value, _ := strings.Cut(v, "=")
		environment[name] = value
	}
	target, err := kube.Config(func(name string) string { return environment[name] }, api.Directory)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kube.NewClient(target, "field", func(kube.Resource, kube.Reason) {})
	if err != nil {
		t.Fatal(err)
	}
	self, err := kube.SelfFromToken(api.Directory)
	if err != nil {
		t.Fatal(err)
	}
	o.Expect = func(ctx context.Context) (identity.Reading, error) { return client.Expectation(ctx, self) }
	o.ClusterSettings = func(ctx context.Context, scope diagnose.Scope, before diagnose.Settings) diagnose.Settings {
		return client.ClusterSettings(ctx, self, cmp.Or(c.Env["WI_CILIUM_NAMESPACE"], "kube-system"), scope, before)
	}
}

// ServeHTTP answers as the metadata server that the Pod reaches in the case.
func (c fieldCase) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	endpoint := path.Base(r.URL.Path)
	answer, ok := c.Answers[endpoint]
	if !ok {
		answer, ok = c.Answers["any"]
	}
	if !ok {
		answer = c.healthy(endpoint)
	}
	time.Sleep(time.Duration(answer.Delay * float64(time.Second)))
	for name, value := range answer.Headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(answer.Status)
	_, _ = w.Write([]byte(answer.Body)) // fails only when the client has gone
}

func (c fieldCase) healthy(endpoint string) fieldAnswer {
	google := map[string]string{"Metadata-Flavor": "Google", "Server": "GKE Metadata Server", "Content-Type": "application/text"}
	email := application
	switch {
	case c.VM != "":
		email, google["Server"] = c.VM, "Metadata Server for VM"
	case c.Email != "":
		email = c.Email
	}
	switch {
	case endpoint == "email":
		return fieldAnswer{Status: http.StatusOK, Headers: google, Body: email}
	case endpoint == "token":
		google["Content-Type"] = "application/json"
		return fieldAnswer{Status: http.StatusOK, Headers: google, Body: `{"access_token":"ya29.SECRET","expires_in":3599,"token_type":"Bearer"}`}
	case endpoint == "machine-type" && c.VM != "":
		return fieldAnswer{Status: http.StatusOK, Headers: google, Body: "projects/123456789012/machineTypes/e2-standard-4"}
	}
	return fieldAnswer{Status: http.StatusNotFound, Headers: google, Body: "Not Found\n"}
}

// holds fails unless the report says what is right.
func (c fieldCase) holds(t *testing.T, r report.Report) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf(format+"\n%s (%s)\n%s", append(args, c.What, c.Source, text)...)
	}
	if strings.Contains(string(text), "ya29.SECRET") {
		wrong("a token is shown")
	}
	if c.Want.State != nil && !slices.Contains(c.Want.State, string(r.State)) {
		wrong("the state is %s, want %s", r.State, c.Want.State)
	}
	if c.Want.Server != "" && c.Want.Server != string(r.MetadataServer) {
		wrong("answered by %s, want %s", r.MetadataServer, c.Want.Server)
	}
	if code := c.Want.Exit; code != nil && *code != r.ExitCode {
		wrong("exit code %d, want %d", r.ExitCode, *code)
	}
	if !strings.Contains(string(text), c.Want.Text) {
		wrong("%q is not said", c.Want.Text)
	}
	if c.Want.AnyCause && len(r.Causes) == 0 {
		wrong("no cause")
	}
	for _, cause := range c.Want.Cause {
		if !has(r.Causes, cause, "") {
			wrong("the cause %s is not named", cause)
		}
	}
	for _, cause := range c.Want.NoCause {
		if has(r.Causes, cause, "") {
			wrong("the cause %s is named", cause)
		}
	}
	for _, cause := range c.Want.NotProven {
		if has(r.Causes, cause, "proves") {
			wrong("the cause %s is proven", cause)
		}
	}
	for _, cause := range c.Want.NotRuledOut {
		if has(r.Excluded, cause, "") {
			wrong("the cause %s is ruled out", cause)
		}
	}
	for _, risk := range c.Want.Risk {
		if !has(r.Risks, risk, "") {
			wrong("the risk %s is not shown", risk)
		}
	}
	for _, risk := range c.Want.NoRisk {
		if has(r.Risks, risk, "") {
			wrong("the risk %s is shown", risk)
		}
	}
}

// has reports whether the cause is among them, with this confidence unless it is empty.
func has(causes []report.Cause, cause, confidence string) bool {
	return slices.ContainsFunc(causes, func(c report.Cause) bool {
		return string(c.Cause) == cause && (confidence == "" || string(c.Confidence) == confidence)
	})
}
