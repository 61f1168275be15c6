package config_test

import (
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// FuzzLoad is the value of each variable.
func FuzzLoad(f *testing.F) {
	variables := config.Variables()
	for i := range variables {
		for _, s := range []string{
			"", " ", ":10988", "[::1]:0", "host:99999", "169.254.169.254", "a:b@c/d?e#f", "app@demo-project.iam.gserviceaccount.com,demo-project.svc.id.goog",
			"*@*.iam.gserviceaccount.com", "10s", "-1ns", "9223372036854775807ns", "true", "json", "info+1", "fd00::1%eth0", "kube-system", "\xff", "a\nb", ",,", "\u202e",
		} {
			f.Add(uint8(i), s)
		}
	}
	for _, v := range variables {
		f.Setenv(v.Name, "")
		os.Unsetenv(v.Name)
	}
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		v := variables[int(which)%len(variables)]
		if strings.Contains(value, "\x00") || v.Name == "WI_WEB_CONFIG_FILE" && strings.HasPrefix(value, "/") {
			return // which no variable can hold; a file may be anything
		}
		t.Setenv(v.Name, value)
		c, err := config.Load()
		config.EnvironmentOf([]string{value, config.Prefix + "_" + value}).Typos()
		if err != nil {
			if says := err.Error(); !strings.HasPrefix(says, v.Name+"=") || !utf8.ValidString(says) || strings.Count(says, "\n") > 0 {
				t.Errorf("the error is %q, want one line that begins with %s", says, v.Name)
			}
			return
		}
		for _, d := range []time.Duration{c.ProbeInterval, c.TokenInterval, c.ExpectationInterval, c.AnnotationGrace + 1, c.StartupGrace + 1, c.ProbeTimeout} {
			if d <= 0 || d > 24*time.Hour+1 {
				t.Errorf("a duration of %s", d)
			}
		}
		e, err := c.Expectation()
		if err != nil || e.Known() != (len(c.ExpectedEmails) > 0) || e.Accepts("nobody@else.iam.gserviceaccount.com") && !strings.Contains(value, "nobody@else") {
			t.Errorf("%+v, %v", e, err)
		}
		for _, p := range e.Accepted {
			if identity.Identity(p).Kind() == "" || strings.Contains(string(p), "*") {
				t.Errorf("%q is expected", p)
			}
		}
		if _, err := c.NodeAccounts(); err != nil {
			t.Error(err)
		}
	})
}
