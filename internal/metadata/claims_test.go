package metadata_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
)

func TestClaimsTellWhoSigns(t *testing.T) {
	s := simulate(t)
	for fault, want := range map[string]identity.Server{
		"healthy": identity.ServerGKE, "snat": identity.ServerGKE, "swap": identity.ServerGKE, "bypass": identity.ServerVM,
		"concealed": identity.ServerUnknown, "html": identity.ServerUnknown, "empty": identity.ServerUnknown, "huge": identity.ServerUnknown,
		"refused": identity.ServerUnknown, "silent": identity.ServerUnknown, "server-error": identity.ServerUnknown, "redirect": identity.ServerUnknown,
	} {
		t.Run(fault, func(t *testing.T) {
			set(t, s, fault)
			timeout := 5 * time.Second
			if fault == "silent" {
				timeout = 300 * time.Millisecond
			}
			got := metadata.New(s.MetadataAddr().String(), timeout, "test/1").Claims(t.Context())
			if got.Server != want || (got.Machine != "") != (want == identity.ServerVM) {
				t.Errorf("claims %+v, want those of %s", got, want)
			}
		})
	}
}

func TestClaimsOfAnythingElseAreUnknown(t *testing.T) {
	part := base64.RawURLEncoding.EncodeToString
	token := func(payload string) string { return part([]byte("{}")) + "." + part([]byte(payload)) + ".c2lnbg" }
	long := strings.Repeat("x", 1000)
	for _, tt := range []struct {
		name, body string
		want       identity.Claims
	}{
		{"a VM", token(`{"aud":"a","google":{"compute_engine":{"instance_name":"gke-1"}}}`) + "\n", identity.Claims{Server: identity.ServerVM, Machine: "gke-1"}},
		{"a VM that does not say its name", token(`{"aud":"a","google":{"compute_engine":{}}}`), identity.Claims{Server: identity.ServerVM}},
		{"a name with control characters", token(`{"aud":"a","google":{"compute_engine":{"instance_name":"a\u001b[31m\nb"}}}`), identity.Claims{Server: identity.ServerVM, Machine: "a [31m b"}},
		{"a name that is long", token(`{"aud":"a","google":{"compute_engine":{"instance_name":"` + long + `"}}}`), identity.Claims{Server: identity.ServerVM, Machine: long[:160]}},
		{"no VM", token(`{"aud":"a","email":"a@b"}`), identity.Claims{Server: identity.ServerGKE}},
		{"another google claim", token(`{"aud":"a","google":{"other":{}}}`), identity.Claims{Server: identity.ServerGKE}},
		{"no audience", token(`{"google":{"compute_engine":{"instance_name":"gke-1"}}}`), identity.Claims{Server: identity.ServerUnknown}},
		{"no JSON", token(`null,`), identity.Claims{Server: identity.ServerUnknown}},
		{"no base64", "a.!!!.c", identity.Claims{Server: identity.ServerUnknown}},
		{"two parts", "a.b", identity.Claims{Server: identity.ServerUnknown}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = r.URL.String() + " " + r.Header.Get("Metadata-Flavor")
				fmt.Fprint(w, tt.body)
			}))
			defer server.Close()
			got := metadata.New(server.Listener.Addr().String(), 5*time.Second, "test/1").Claims(t.Context())
			if got != tt.want {
				t.Errorf("claims %+v, want %+v", got, tt.want)
			}
			if want := "/computeMetadata/v1/instance/service-accounts/default/identity?audience=workload-identity-exporter&format=full Google"; asked != want {
				t.Errorf("asked %s, want %s", asked, want)
			}
		})
	}
}
