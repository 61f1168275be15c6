package simulator_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

const ok, missing = http.StatusOK, http.StatusNotFound

func TestPathsOfTheTwoServers(t *testing.T) {
	const anything = "\x00any" // a body that has tests of its own
	tests := []struct {
		path    string
		gke     int
		gkeBody string
		vm      int
		vmBody  string
	}{
		{"/", ok, "computeMetadata/\n", ok, "0.1/\ncomputeMetadata/\n"},
		{"/computeMetadata/", ok, "v1/\n", ok, anything},
		{v1, ok, "instance/\nproject/\n", ok, "instance/\nproject/\n"},
		{v1 + "instance/", ok, "attributes/\nhostname\nid\nservice-accounts/\nzone\n", ok, anything},
		{v1 + "instance/attributes/", ok, "cluster-location\ncluster-name\ncluster-uid\n", ok, anything},
		{v1 + "instance/attributes/cluster-name", ok, "demo", ok, "demo"},
		{v1 + "instance/attributes/cluster-location", ok, "europe-west1", ok, "europe-west1"},
		{v1 + "instance/attributes/cluster-uid", ok, anything, ok, anything},
		{v1 + "instance/attributes/kube-env", missing, "Not Found\n", ok, anything},
		{v1 + "instance/hostname", ok, "gke-demo-default-pool-1a2b3c4d-x7k9.c.demo-project.internal", ok, anything},
		{v1 + "instance/id", ok, "4386175936122954212", ok, "4386175936122954212"},
		{v1 + "instance/zone", ok, "projects/123456789012/zones/europe-west1-b", ok, "projects/123456789012/zones/europe-west1-b"},
		{v1 + "instance/name", missing, "Not Found\n", ok, "gke-demo-default-pool-1a2b3c4d-x7k9"},
		{machine, missing, "Not Found\n", ok, "projects/123456789012/machineTypes/e2-standard-4"},
		{v1 + "project/", ok, "numeric-project-id\nproject-id\n", ok, anything},
		{v1 + "project/project-id", ok, "demo-project", ok, "demo-project"},
		{v1 + "project/numeric-project-id", ok, "123456789012", ok, "123456789012"},
		{v1 + "instance/service-accounts/", ok, appGSA + "/\ndefault/\n", ok, nodeGSA + "/\ndefault/\n"},
		{account, ok, "aliases\nemail\nidentity\nscopes\ntoken\n", ok, "aliases\nemail\nidentity\nscopes\ntoken\n"},
		{email, ok, appGSA, ok, nodeGSA},
		{account + "aliases", ok, "default\n", ok, "default\n"},
		{account + "scopes", ok, anything, ok, anything},
		{account + "identity", http.StatusBadRequest, anything, http.StatusBadRequest, anything},
		{account + "secrets", missing, "Not Found\n", missing, anything},
		{v1 + "instance/service-accounts/" + appGSA + "/email", ok, appGSA, missing, anything},
		{v1 + "instance/service-accounts/" + nodeGSA + "/email", missing, "Not Found\n", ok, nodeGSA},
		{v1 + "instance/service-accounts", missing, "Not Found\n", missing, anything},
		{v1 + "instance/service-accounts/default/?recursive=true", ok, anything, ok, anything},
		{"/computeMetadata/v2/", missing, "Not Found\n", missing, anything},
	}
	gke := start(t, simulator.Options{})
	vm := start(t, simulator.Options{Serve: simulator.ServeVM})
	for _, test := range tests {
		t.Run(test.path, func(t *testing.T) {
			for server, want := range map[*simulator.Simulator]struct {
				name, body string
				status     int
			}{gke: {"GKE", test.gkeBody, test.gke}, vm: {"VM", test.vmBody, test.vm}} {
				got := ask(t, server, test.path)
				if got.status != want.status || want.body != anything && got.body != want.body {
					t.Errorf("%s server: got %d %q, want %d %q", want.name, got.status, got.body, want.status, want.body)
				}
			}
		})
	}

	t.Run("only the VM has more than three attributes", func(t *testing.T) {
		if got := strings.Count(ask(t, vm, v1+"instance/attributes/").body, "\n"); got <= 3 {
			t.Errorf("got %d attributes, want more than 3", got)
		}
	})
	t.Run("client libraries read an account at once", func(t *testing.T) {
		var got struct {
			Aliases, Scopes []string
			Email           string
		}
		text := ask(t, gke, account+"?recursive=true").body
		if err := json.Unmarshal([]byte(text), &got); err != nil || got.Email != appGSA || len(got.Scopes) == 0 || got.Aliases[0] != "default" {
			t.Errorf("got %s (%v)", text, err)
		}
	})
	t.Run("asking by another method", func(t *testing.T) {
		for _, s := range []*simulator.Simulator{gke, vm} {
			got := do(t, clientFrom("127.0.0.1"), request(t.Context(), t, http.MethodPost, "http://"+s.MetadataAddr().String()+email))
			if got.status != http.StatusMethodNotAllowed {
				t.Errorf("got %d, want 405", got.status)
			}
		}
	})
}

// The literals are recorded from real servers.
func TestHeadersAsRecorded(t *testing.T) {
	const plain = "text/plain; charset=utf-8"
	vmAlways := func(contentType string, more ...string) map[string]string {
		headers := map[string]string{
			"Metadata-Flavor": "Google", "Server": "Metadata Server for VM",
			"X-Xss-Protection": "0", "X-Frame-Options": "SAMEORIGIN", "Content-Type": contentType,
		}
		for _, name := range more {
			headers[name] = "any"
		}
		return headers
	}
	gke := start(t, simulator.Options{})
	vm := start(t, simulator.Options{Serve: simulator.ServeVM})
	tests := []struct {
		name   string
		server *simulator.Simulator
		path   string
		want   map[string]string
	}{
		{"GKE, a directory", gke, "/", map[string]string{"Content-Type": "application/text", "Metadata-Flavor": "Google", "Server": "GKE Metadata Server"}},
		{"GKE, a token", gke, token, map[string]string{"Content-Type": "application/json"}},
		{"GKE, a value", gke, v1 + "project/project-id", map[string]string{"Content-Type": "application/text", "Metadata-Flavor": "Google", "Server": "GKE Metadata Server", "Etag": "any"}},
		{"GKE, not found", gke, machine, map[string]string{"Content-Type": plain, "X-Content-Type-Options": "nosniff"}},
		{"VM, a value", vm, email, vmAlways("application/text", "Etag")},
		{"VM, a token", vm, token, vmAlways("application/json", "Etag")},
		{"VM, not found", vm, v1 + "instance/nothing", vmAlways("text/html; charset=UTF-8")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { headers(t, ask(t, test.server, test.path), test.want) })
	}

	t.Run("VM, the page of a 404", func(t *testing.T) {
		const recorded = "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n" +
			"  <meta name=viewport content=\"initial-scale=1, minimum-scale=1, width=device-width\">\n  <title>Error 404 (Not Found)!!1</title>\n"
		if got := ask(t, vm, v1+"instance/nothing").body; !strings.HasPrefix(got, recorded) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("without Metadata-Flavor", func(t *testing.T) {
		for _, s := range []*simulator.Simulator{gke, vm} {
			r := request(t.Context(), t, http.MethodGet, "http://"+s.MetadataAddr().String()+token)
			r.Header.Del("Metadata-Flavor")
			got := do(t, clientFrom("127.0.0.1"), r)
			if got.status != http.StatusForbidden || strings.Contains(got.body, secret) {
				t.Errorf("got %d %q, want 403", got.status, got.body)
			}
			if s != gke {
				continue
			}
			const recorded = "GKE Metadata Server encountered an error: Missing required header \"Metadata-Flavor\": \"Google\"\n"
			if got.body != recorded || got.header.Get("Content-Length") != "94" {
				t.Errorf("got %q, want %q", got.body, recorded)
			}
			headers(t, got, map[string]string{"Content-Type": plain, "X-Content-Type-Options": "nosniff"})
		}
	})
}

func TestTheSourceAddressChoosesThePod(t *testing.T) {
	const principal = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/demo-project.svc.id.goog/subject/ns/demo/sa/principal"
	s := start(t, simulator.Options{})
	tokens := map[string]bool{}
	for _, test := range []struct {
		source, email string
		identity      int
	}{
		{"127.0.0.1", appGSA, ok},
		{"127.0.0.2", "other@demo-project.iam.gserviceaccount.com", ok},
		{"127.0.0.3", "demo-project.svc.id.goog", missing},
		{"127.0.0.4", principal, missing},
	} {
		t.Run(test.source, func(t *testing.T) {
			client := clientFrom(test.source)
			if got := askWith(t, client, s, email, time.Second); got.status != ok || got.body != test.email {
				t.Errorf("email: got %d %q, want 200 %q", got.status, got.body, test.email)
			}
			byName := v1 + "instance/service-accounts/" + test.email + "/email"
			if got := askWith(t, client, s, byName, time.Second); got.body != test.email {
				t.Errorf("email by name: got %d %q", got.status, got.body)
			}
			if got := askWith(t, client, s, identity, time.Second); got.status != test.identity {
				t.Errorf("identity: got %d, want %d", got.status, test.identity)
			}
			got := askWith(t, client, s, token, time.Second)
			if !strings.Contains(got.body, secret) {
				t.Errorf("token: got %q, want the secret in it", got.body)
			}
			tokens[got.body] = true
		})
	}
	if len(tokens) != 4 {
		t.Errorf("got %d tokens for 4 Pods", len(tokens))
	}

	t.Run("an unknown source gets an error and no identity", func(t *testing.T) {
		for _, path := range []string{email, token, identity} {
			got := askWith(t, clientFrom("127.0.0.9"), s, path, time.Second)
			if got.status != http.StatusInternalServerError || got.body != "GKE Metadata Server: Internal Server Error" {
				t.Errorf("%s: got %d %q", path, got.status, got.body)
			}
		}
		if got := askWith(t, clientFrom("127.0.0.9"), s, machine, time.Second).status; got != missing {
			t.Errorf("machine-type: got %d, want 404", got)
		}
	})
	t.Run("a fallback is for every other source", func(t *testing.T) {
		s := start(t, simulator.Options{
			Pods:     map[netip.Addr]simulator.Pod{netip.MustParseAddr("127.0.0.2"): {Namespace: "a", ServiceAccount: "b", GSA: "b@p"}},
			Fallback: &simulator.Pod{Namespace: "c", ServiceAccount: "d", GSA: "d@p"},
		})
		for source, want := range map[string]string{"127.0.0.2": "b@p", "127.0.0.1": "d@p", "127.0.0.77": "d@p"} {
			if got := askWith(t, clientFrom(source), s, email, time.Second).body; got != want {
				t.Errorf("%s: got %q, want %q", source, got, want)
			}
		}
	})
}

func TestTokensAndIdentities(t *testing.T) {
	gke := start(t, simulator.Options{})
	vm := start(t, simulator.Options{Serve: simulator.ServeVM, Node: simulator.Node{ServiceAccount: "nodes@demo-project.iam.gserviceaccount.com"}})

	t.Run("a token is the document that was recorded", func(t *testing.T) {
		for _, s := range []*simulator.Simulator{gke, vm} {
			before, after, found := strings.Cut(ask(t, s, token).body, secret)
			_, after, dotted := strings.Cut(after, ".")
			if before != `{"access_token":"` || !found || !dotted || !strings.HasSuffix(after, `","expires_in":3599,"token_type":"Bearer"}`) {
				t.Errorf("got %s<secret>.%s", before, after)
			}
		}
	})

	claims := func(t *testing.T, s *simulator.Simulator, path string) map[string]any {
		t.Helper()
		parts := strings.Split(ask(t, s, path).body, ".")
		if len(parts) != 3 {
			t.Fatalf("got %d parts, want a JWT", len(parts))
		}
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		var claims map[string]any
		if err := json.Unmarshal(text, &claims); err != nil {
			t.Fatal(err)
		}
		return claims
	}
	t.Run("the GKE server's JWT has no google claim", func(t *testing.T) {
		got := claims(t, gke, identity)
		if got["google"] != nil || got["email"] != appGSA || got["aud"] != "probe" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("the VM server's JWT tells the machine", func(t *testing.T) {
		got := claims(t, vm, identity)
		google, _ := got["google"].(map[string]any)
		engine, _ := google["compute_engine"].(map[string]any)
		if engine["instance_name"] != "gke-demo-default-pool-1a2b3c4d-x7k9" || got["email"] != "nodes@demo-project.iam.gserviceaccount.com" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("but not in the standard format", func(t *testing.T) {
		if got := claims(t, vm, account+"identity?audience="+url.QueryEscape("https://x")); got["google"] != nil {
			t.Errorf("got %v", got)
		}
	})
	t.Run("tokens of two processes differ", func(t *testing.T) {
		if one, two := simulator.NewTokens().Secret, simulator.NewTokens().Secret; one == two {
			t.Error("got the same secret twice")
		}
		if !strings.HasPrefix(simulator.NewTokens().Secret, "ya29.simulated-") {
			t.Error("a secret does not tell that it is simulated")
		}
	})
}
