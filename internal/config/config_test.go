package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestDefaults(t *testing.T) {
	c, err := config.Load()
	if err != nil {
		t.Fatal(err)
	}
	if c.ListenAddress != ":10988" || c.MetadataHost != "169.254.169.254" || c.ProbeInterval != 10*time.Second || c.ProbeTimeout != 3*time.Second ||
		c.TokenInterval != time.Minute || c.StartupGrace != time.Minute || c.AnnotationGrace != 2*time.Minute || c.ExpectationInterval != 15*time.Minute || !c.RuntimeMetrics || c.LogFormat != "json" {
		t.Errorf("defaults %+v", c)
	}
	if e, err := c.Expectation(); err != nil || e.Known() {
		t.Errorf("expectation %v, %v; want none", e, err)
	}
	if n, err := c.NodeAccounts(); err != nil || !slices.Equal(n, identity.DefaultNodeAccounts()) {
		t.Errorf("node accounts %v, %v; want the default ones", n, err)
	}
}

// The name in the reference must be the one that is read.
func TestEveryVariableIsRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{
		"WI_LISTEN_ADDRESS": "127.0.0.1:1", "WI_WEB_CONFIG_FILE": file, "WI_WEB_HOSTS": "agents.example.com", "WI_METADATA_HOST": "[::1]:80",
		"WI_EXPECTED_EMAILS": "a@p.iam.gserviceaccount.com, b@p.iam.gserviceaccount.com", "WI_NODE_SERVICE_ACCOUNTS": "nodes-*@p.iam.gserviceaccount.com",
		"WI_PROBE_INTERVAL": "1s", "WI_PROBE_TIMEOUT": "100ms", "WI_TOKEN_INTERVAL": "1s", "WI_EXPECTATION_INTERVAL": "1m", "WI_STARTUP_GRACE": "0s", "WI_ANNOTATION_GRACE": "0s",
		"WI_POD_NAME": "pod", "WI_POD_NAMESPACE": "namespace", "WI_NODE_NAME": "node", "WI_SERVICE_ACCOUNT": "account", "WI_SERVICE_ACCOUNT_DIRECTORY": "/x",
		"WI_POD_ADDRESS": "10.0.0.1", "WI_NODE_ADDRESS": "fd00::1", "WI_CILIUM_NAMESPACE": "cilium", "WI_ONLY_METADATA_SERVER_NODES": "true",
		"WI_EVENTS": "false", "WI_NODE_CONDITION": "true",
		"WI_LOG_LEVEL": "debug", "WI_LOG_FORMAT": "text", "WI_RUNTIME_METRICS": "false",
		"WI_REDACT_IDENTITIES": "true", "WI_REDACT_KEY_FILE": key,
	}
	defaults, err := config.Load()
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range values {
		t.Setenv(name, value)
	}
	c, err := config.Load()
	if err != nil {
		t.Fatal(err)
	}
	was := defaults.Values()
	for i, v := range c.Values() {
		if _, ok := values[v.Name]; !ok {
			t.Errorf("%s is not in this test", v.Name)
		}
		if v.Value == was[i].Value {
			t.Errorf("%s=%q has no effect", v.Name, values[v.Name])
		}
		if v.Default || !was[i].Default {
			t.Errorf("%s=%q is its default: %t; that of %q is: %t", v.Name, v.Value, v.Default, was[i].Value, was[i].Default)
		}
	}
	if e, _ := c.Expectation(); e.String() != "a@p.iam.gserviceaccount.com,b@p.iam.gserviceaccount.com" {
		t.Errorf("expectation %s, want both without the space", e)
	}
}

func TestIdentitiesAreRedactedByAKey(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("WI_SERVICE_ACCOUNT_DIRECTORY", folder)
	t.Setenv("WI_REDACT_IDENTITIES", "true")
	c, err := config.Load()
	if err == nil || !strings.HasPrefix(err.Error(), `WI_REDACT_IDENTITIES="true": want true or false (no key: no such file or directory: set WI_REDACT_KEY_FILE, since `) {
		t.Errorf("without any key: %v", err)
	}
	const name = "a@p.iam.gserviceaccount.com"
	// What is said of the error may name somebody.
	if r, err := c.Redactor(); err == nil || r.Text(name) == name {
		t.Errorf("without any key %s is shown as %s (%v)", name, r.Text(name), err)
	}
	hashes := map[string]bool{}
	for _, k := range []struct{ file, setting string }{{filepath.Join(folder, "ca.crt"), ""}, {filepath.Join(folder, "key"), filepath.Join(folder, "key")}} {
		if err := os.WriteFile(k.file, []byte("the key "+k.file), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("WI_REDACT_KEY_FILE", k.setting)
		c, err := config.Load()
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Redactor()
		if err != nil {
			t.Fatal(err)
		}
		hashes[r.Text(name)] = true
	}
	if len(hashes) != 2 || hashes[name] {
		t.Errorf("two keys give the hashes %v", hashes)
	}
}

func TestAVariableWithoutThePrefixIsSomebodyElses(t *testing.T) {
	t.Setenv("LOG_LEVEL", "debug")
	t.Setenv("LISTEN_ADDRESS", ":1")
	t.Setenv("METADATA_HOST", "example.com")
	c, err := config.Load()
	if err != nil || c.ListenAddress != ":10988" || c.LogLevel != 0 || c.MetadataHost != "169.254.169.254" {
		t.Errorf("%+v, %v; want the defaults", c, err)
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	wrong := []struct{ name, value, says string }{
		{"WI_LISTEN_ADDRESS", "10988", "port"},
		{"WI_LISTEN_ADDRESS", ":99999", "port"},
		{"WI_LISTEN_ADDRESS", "", "port"},
		{"WI_WEB_CONFIG_FILE", "/does/not/exist", "no such file"},
		{"WI_METADATA_HOST", "http://169.254.169.254", "host"},
		{"WI_METADATA_HOST", "169.254.169.254/computeMetadata", "host"},
		{"WI_METADATA_HOST", "host:port", "host"},
		{"WI_METADATA_HOST", "host:", "port"},
		{"WI_METADATA_HOST", "", "host"},
		{"WI_METADATA_HOST", "user@host", "host"},
		{"WI_EXPECTED_EMAILS", "app@project", "app@project"},
		{"WI_EXPECTED_EMAILS", "a@p.iam.gserviceaccount.com,,b@p.iam.gserviceaccount.com", "empty"},
		{"WI_EXPECTED_EMAILS", "*@p.iam.gserviceaccount.com", "neither"},
		{"WI_EXPECTED_EMAILS", "GSA_NAME@PROJECT_ID.iam.gserviceaccount.com", "placeholder"},
		{"WI_EXPECTED_EMAILS", "serviceAccount:p.svc.id.goog[demo/app]", "the workload pool p.svc.id.goog"},
		{"WI_NODE_SERVICE_ACCOUNTS", "*", "with an @"},
		{"WI_NODE_SERVICE_ACCOUNTS", "nodes@p.iam.gserviceaccount.com,*@*.*", "nodes-*@PROJECT"},
		{"WI_NODE_SERVICE_ACCOUNTS", "*@*.iam.gserviceaccount.com", "*@PROJECT.iam"},
		{"WI_PROBE_INTERVAL", "10", "10s"},
		{"WI_PROBE_INTERVAL", "999ms", "less than 1s"},
		{"WI_PROBE_INTERVAL", "-1s", "less than 1s"},
		{"WI_PROBE_TIMEOUT", "0s", "less than 100ms"},
		{"WI_PROBE_TIMEOUT", "1h", "more than 1m"},
		{"WI_TOKEN_INTERVAL", "soon", "60s"},
		{"WI_EXPECTATION_INTERVAL", "1s", "less than 1m"},
		{"WI_STARTUP_GRACE", "-1s", "less than 0s"},
		{"WI_ANNOTATION_GRACE", "25h", "more than 24h"},
		{"WI_POD_ADDRESS", "10.0.0", "an IP address"},
		{"WI_NODE_ADDRESS", "node-1", "an IP address"},
		{"WI_CILIUM_NAMESPACE", "kube/system", "a name"},
		{"WI_ONLY_METADATA_SERVER_NODES", "some", "true or false"},
		{"WI_LOG_LEVEL", "loud", "debug, info, warn or error"},
		{"WI_LOG_FORMAT", "xml", "json or text"},
		{"WI_RUNTIME_METRICS", "perhaps", "true or false"},
		{"WI_REDACT_IDENTITIES", "yes please", "true or false"},
		{"WI_REDACT_KEY_FILE", "/none/key", "no such file"},
	}
	for _, w := range wrong {
		t.Run(w.name+"="+w.value, func(t *testing.T) {
			t.Setenv(w.name, w.value)
			_, err := config.Load()
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range []string{w.name + "=\"" + w.value + "\"", "want ", w.says} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
		})
	}
	t.Run("together", func(t *testing.T) {
		names := map[string]bool{}
		for _, w := range wrong {
			t.Setenv(w.name, w.value)
			names[w.name] = true
		}
		_, err := config.Load()
		if err == nil {
			t.Fatal("no error")
		}
		if lines := strings.Split(err.Error(), "\n"); len(lines) != len(names) {
			t.Errorf("%d lines for %d wrong variables:\n%s", len(lines), len(names), err)
		}
	})
}

func TestTheEnvironmentIsACopy(t *testing.T) {
	t.Setenv("WI_TEST", "x=y")
	e := config.EnvironmentOf(os.Environ())
	t.Setenv("WI_TEST", "changed")
	if got := e["WI_TEST"]; got != "x=y" {
		t.Errorf("WI_TEST=%q, want it as it was", got)
	}
}

// What is no UTF-8 would fail where it is shown: in metrics, in JSON, in Events.
func TestASettingThatIsNotUTF8IsAnError(t *testing.T) {
	for _, v := range config.Variables() {
		t.Run(v.Name, func(t *testing.T) {
			t.Setenv(v.Name, v.Default+"\xff")
			_, err := config.Load()
			if want := v.Name + "=\"" + v.Default + "\\xff\": want " + v.Want + " (not UTF-8)"; err == nil || err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
		})
	}
}

func TestTypos(t *testing.T) {
	e := config.EnvironmentOf([]string{
		"WI_PROBE_INTERVALL=1s", "WI_EXPECTED_EMAIL=x", "WI_LOG_LEVEL=info", "WIDTH=80",
		"WI_EXPORTER_SERVICE_PORT_METRICS=10988", // by Kubernetes, for a Service wi-exporter
	})
	want := []string{
		"WI_EXPECTED_EMAIL (did you mean WI_EXPECTED_EMAILS?)", "WI_EXPORTER_SERVICE_PORT_METRICS",
		"WI_PROBE_INTERVALL (did you mean WI_PROBE_INTERVAL?)",
	}
	if got := e.Typos(); !slices.Equal(got, want) {
		t.Errorf("Typos() = %q, want %q", got, want)
	}
}

func TestTheTableForTheTerminal(t *testing.T) {
	var b strings.Builder
	config.WriteText(&b)
	for _, v := range config.Variables() {
		if v.Meaning == "" || v.Want == "" || !strings.Contains(b.String(), v.Name) {
			t.Errorf("%+v is not explained", v)
		}
	}
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "   ") && len(line) > 81 {
			t.Errorf("line %q is longer than 80 characters", line)
		}
	}
}
