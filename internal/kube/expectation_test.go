package kube_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// entry is one of the managed fields of an object.
func entry(manager, age, fields string) string {
	d, err := time.ParseDuration(age)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"manager":%q,"operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","time":%q,"fieldsV1":%s}`, manager, now.Add(-d).Format(time.RFC3339), fields)
}

// now is what the clock of the API server says, which is far from that of the node.
var now = time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)

const (
	ownsAccount   = `{"f:metadata":{"f:annotations":{".":{},"f:iam.gke.io/gcp-service-account":{}}}}`
	ownsPrincipal = `{"f:metadata":{"f:annotations":{"f:iam.gke.io/return-principal-id-as-email":{}}}}`
	ownsLabels    = `{"f:metadata":{"f:labels":{"f:app":{}}}}`
)

// The object itself knows when its annotation was changed, so that an agent which
// starts a moment later knows it too.
func TestAnExpectationIsAsOldAsTheLastChangeOfItsAnnotation(t *testing.T) {
	const account = `"iam.gke.io/gcp-service-account":"app@demo-project.iam.gserviceaccount.com"`
	for _, tt := range []struct {
		name        string
		annotations string
		fields      string
		dated       bool
		want        time.Duration
		known       bool
	}{
		{"its owner tells", account, entry("kubectl-annotate", "40s", ownsAccount), true, 40 * time.Second, true},
		{"others do not matter", account, entry("helm", "1h", ownsAccount) + "," + entry("labeller", "3s", ownsLabels), true, time.Hour, true},
		{"the last of two owners", account, entry("helm", "1h", ownsAccount) + "," + entry("kubectl-annotate", "5s", ownsAccount), true, 5 * time.Second, true},
		{"the other annotation counts as well", account, entry("helm", "1h", ownsAccount) + "," + entry("kubectl-annotate", "7s", ownsPrincipal), true, 7 * time.Second, true},
		{"one that was removed has no owner", "", entry("kubectl-create", "1h", ownsLabels), true, 0, false},
		{"one that nobody owns", account, entry("kubectl-create", "1h", ownsLabels), true, 0, false},
		{"a clock that is ahead", account, entry("helm", "-1h", ownsAccount), true, 0, true},
		{"no managed fields", account, "", true, 0, false},
		{"fields of an unknown form", account, entry("helm", "1h", `"x"`), true, 0, false},
		{"no clock of the server", account, entry("helm", "1h", ownsAccount), false, 0, true}, // by that of the node, which is behind
		{"a time that is none", account, `{"manager":"x","time":"garbage","fieldsV1":{}},` + entry("helm", "40s", ownsAccount), true, 40 * time.Second, true},
		{"numbers where there are words", account, `{"manager":1,"time":5,"subresource":7},` + entry("helm", "40s", ownsAccount), true, 40 * time.Second, true},
		{"a million managers", account, strings.Repeat("{},", 650_000) + entry("helm", "40s", ownsAccount), true, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := listenRaw(t, "127.0.0.1:0")
			client := locate(t, s).client(t, nil)
			text := fmt.Sprintf(`{"metadata":{"annotations":{%s},"managedFields":[%s]}}`, tt.annotations, tt.fields)
			header := ""
			if tt.dated {
				header = "Date: " + now.Format("Mon, 02 Jan 2006 15:04:05 GMT") + "\r\n"
			}
			s.answers(says(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", header, len(text), text)))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := client.Expectation(t.Context(), demoApp)
			if err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 24 {
				t.Errorf("the read allocated %d MiB", n)
			}
			if r.Age != tt.want || r.Changed.IsZero() == tt.known {
				t.Errorf("age %s, changed at %s; want %s, %t", r.Age, r.Changed, tt.want, tt.known)
			}
			if source := map[bool]identity.Source{true: identity.SourceWorkloadPool, false: identity.SourceAnnotation}[tt.annotations == ""]; r.Source != source {
				t.Errorf("source %s, want %s", r.Source, source)
			}
		})
	}
}
