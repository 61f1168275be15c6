package plugin_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

const secret = "ya29.not-for-anybody"

// google answers as the IAM API (v1, v2) and the Resource Manager API (v1) are documented to,
// by method and path; to what it does not know as IAM does, with 403.
type google struct {
	answers map[string]any
	asked   []string
}

func (g *google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := r.Method + " " + r.URL.EscapedPath()
	g.asked = append(g.asked, call)
	fails := func(code int, status, message string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(object{"error": object{"code": code, "message": message, "status": status}})
	}
	v, ok := g.answers[call]
	switch code, _ := v.(int); {
	case r.Header.Get("Authorization") != "Bearer "+secret || r.Header.Get("X-Goog-User-Project") != "quota":
		fails(http.StatusUnauthorized, "UNAUTHENTICATED", "no "+r.Header.Get("Authorization"))
	case strings.HasSuffix(call, "@demo-project.iam.gserviceaccount.com:getIamPolicy") && r.URL.Query().Get("options.requestedPolicyVersion") != "3":
		fails(http.StatusBadRequest, "INVALID_ARGUMENT", "conditions would be left out")
	case code == http.StatusNotFound:
		fails(code, "NOT_FOUND", "Not found; Gaia id not found for email "+app)
	case code == http.StatusFound:
		http.Redirect(w, r, "http://127.0.0.1:1/", code)
	case !ok || code != 0:
		fails(max(code, http.StatusForbidden), "PERMISSION_DENIED", "Permission denied on resource (or it may not exist).")
	default:
		_ = json.NewEncoder(w).Encode(v)
	}
}

const (
	accountPath = "/v1/projects/demo-project/serviceAccounts/" + app
	getAccount  = "GET " + accountPath
	getPolicy   = "POST " + accountPath + ":getIamPolicy"
	getProject  = "POST /v1/projects/demo-project:getIamPolicy"
	denyPath    = "/v2/policies/cloudresourcemanager.googleapis.com%2Fprojects%2Fdemo-project/denypolicies"
	member      = "serviceAccount:demo-project.svc.id.goog[shop/app]"
	principals  = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/demo-project.svc.id.goog/"
)

func binds(role string, members ...string) object { return object{"role": role, "members": members} }

func bindings(all ...object) object {
	return object{"version": 3, "etag": "BwXhqDVgYMM=", "bindings": all}
}

func TestIAM(t *testing.T) {
	const user, account = "roles/iam.workloadIdentityUser", "Google service account " + app
	covered := map[string]bool{}
	conditioned := binds(user, member)
	conditioned["condition"] = object{"title": "office hours", "expression": "request.time.getHours() < 18"}
	deny := func(permission string) object {
		return object{"rules": []object{{"denyRule": object{"deniedPrincipals": []string{"principalSet://goog/public:all"}, "deniedPermissions": []string{permission}}}}}
	}
	for _, tt := range []struct {
		name    string
		answers map[string]any // beside those of a healthy account
		want    []string
		unread  string
	}{
		{"all is well", nil, nil, ""},
		{"it does not exist", map[string]any{getAccount: 404}, []string{"WI401 " + account + ": IAM answers 404: Not found; Gaia id"}, ""},
		{"it may not be read", map[string]any{getAccount: 403}, nil, account + " (status 403)"},
		{"a redirect", map[string]any{getAccount: 302}, nil, account + " (status 302)"},
		{"it is disabled", map[string]any{getAccount: object{"email": app, "disabled": true}}, []string{"WI402 " + account}, ""},
		{"no binding", map[string]any{getPolicy: object{"etag": "ACAB"}}, []string{"WI403 ServiceAccount shop/app: neither"}, ""},
		{"a binding of another ServiceAccount", map[string]any{getPolicy: bindings(binds(user, "serviceAccount:demo-project.svc.id.goog[shop/app2]", "serviceAccount:demo-project.svc.id.goog[pay/app]"))}, []string{"WI403 ServiceAccount shop/app"}, ""},
		{"another role", map[string]any{getPolicy: bindings(binds("roles/iam.serviceAccountUser", member))}, []string{"WI403 ServiceAccount shop/app"}, ""},
		{"the policy may not be read", map[string]any{getPolicy: 403}, nil, "the policy of " + account + " (status 403)"},
		{"a custom role, which may be as good", map[string]any{getPolicy: bindings(binds("projects/demo-project/roles/tokens", member))}, nil, ""},
		{"a principal", map[string]any{getPolicy: bindings(binds(user, "principal:"+principals+"subject/ns/shop/sa/app"))}, nil, ""},
		{"another principal", map[string]any{getPolicy: bindings(binds(user, "principal:"+principals+"subject/ns/shop/sa/app2"))}, []string{"WI403 ServiceAccount shop/app"}, ""},
		{"the namespace", map[string]any{getPolicy: bindings(binds(user, "principalSet:"+principals+"namespace/shop"))}, nil, ""},
		{"another namespace", map[string]any{getPolicy: bindings(binds(user, "principalSet:"+principals+"namespace/pay"))}, []string{"WI403 ServiceAccount shop/app"}, ""},
		{"all", map[string]any{getPolicy: bindings(binds(user, "principalSet:"+principals+"*"))}, nil, ""},
		{"a cluster", map[string]any{getPolicy: bindings(binds(user, "principalSet:"+principals+"kubernetes.cluster/https://container.googleapis.com/v1/projects/demo-project/locations/l/clusters/c"))}, nil, ""},
		{"a binding of the project", map[string]any{getPolicy: bindings(), getProject: bindings(binds(user, member))}, nil, ""},
		{"no binding, and the project may not be read", map[string]any{getPolicy: bindings(), getProject: 403}, nil, "the policy of the project demo-project (status 403)"},
		{"another pool", map[string]any{getPolicy: bindings(binds(user, "serviceAccount:fleet.svc.id.goog[shop/app]"))}, []string{"WI404 ServiceAccount shop/app: serviceAccount:fleet.svc.id.goog[shop/app] has " + user}, ""},
		{"a condition", map[string]any{getPolicy: bindings(conditioned)}, []string{`WI405 ServiceAccount shop/app: roles/iam.workloadIdentityUser to ` + member + ` if "office hours": request.time`}, ""},
		{"a condition, and the same without", map[string]any{getPolicy: bindings(conditioned, binds(user, member))}, nil, ""},
		{"a deny policy", map[string]any{
			"GET " + denyPath:                object{"policies": []object{{"name": "policies/cloudresourcemanager.googleapis.com%2Fprojects%2F123/denypolicies/no-tokens"}}},
			"GET " + denyPath + "/no-tokens": deny("iam.googleapis.com/serviceAccounts.getAccessToken"),
		}, []string{"WI406 Deny policy demo-project/no-tokens"}, ""},
		{"a deny policy about something else", map[string]any{
			"GET " + denyPath:              object{"policies": []object{{"name": "policies/cloudresourcemanager.googleapis.com%2Fprojects%2F123/denypolicies/no-keys"}}},
			"GET " + denyPath + "/no-keys": deny("iam.googleapis.com/serviceAccountKeys.create"),
		}, nil, ""},
		{"deny policies that may not be read", map[string]any{"GET " + denyPath: 403}, nil, "deny policies of the project demo-project (status 403)"},
		{"the node may do everything", map[string]any{getProject: bindings(binds("roles/editor", "serviceAccount:nodes@demo-project.iam.gserviceaccount.com"))}, []string{"WI407 Google service account nodes@demo-project.iam.gserviceaccount.com: it has roles/editor on the project demo-project: blast radius: project"}, ""},
		{"the node may write logs", map[string]any{getProject: bindings(binds("roles/logging.logWriter", "serviceAccount:nodes@demo-project.iam.gserviceaccount.com"))}, nil, ""},
	} {
		for _, w := range tt.want {
			covered[w[:5]] = true
		}
		t.Run(tt.name, func(t *testing.T) {
			g := &google{answers: map[string]any{
				getAccount: object{"name": "projects/demo-project/serviceAccounts/" + app, "projectId": "demo-project", "uniqueId": "1", "email": app, "oauth2ClientId": "1"},
				getPolicy:  bindings(binds(user, member)), getProject: bindings(), "GET " + denyPath: object{},
			}}
			maps.Copy(g.answers, tt.answers)
			found, unread, said := asked(t, g, secret)
			if !slices.EqualFunc(found, tt.want, strings.HasPrefix) || strings.Join(unread, ",") != tt.unread {
				t.Errorf("found %q, unread %q; want %q, %q; asked %q", found, unread, tt.want, tt.unread, g.asked)
			}
			if strings.Contains(said, secret) {
				t.Errorf("the token is in %s", said)
			}
		})
	}
	for _, c := range plugin.Checks() {
		if strings.HasPrefix(c.Code, "WI4") && !covered[c.Code] {
			t.Errorf("%s has no case", c.Code)
		}
	}
}

// asked audits the healthy cluster by the stand-in, with a token.
func asked(t *testing.T, g *google, token string) (found, unread []string, said string) {
	t.Helper()
	w := healthy()
	w.node["spec"] = object{"providerID": "gce://demo-project/europe-west1-b/gke-n1"}
	return ask(t, g, token, w)
}

// ask audits a cluster by the stand-in, with a token.
func ask(t *testing.T, g *google, token string, w world) (found, unread []string, said string) {
	t.Helper()
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	i, err := plugin.ReadDump(strings.NewReader(dump(t, w)))
	if err != nil {
		t.Fatal(err)
	}
	iam := plugin.IAM{
		Client:   oauth2.NewClient(t.Context(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})),
		Accounts: server.URL, Projects: server.URL, QuotaProject: "quota",
		NodeAccounts: []string{"nodes@demo-project.iam.gserviceaccount.com"},
	}
	all, unread, err := iam.Audit(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		found = append(found, f.Code+" "+f.Object+": "+f.Evidence)
	}
	return found, unread, fmt.Sprintf("%+v %v", all, unread)
}

// In a sovereign cloud projects, pools, accounts and addresses have other names (S3NS
// documentation, "Key differences between Cloud de Confiance and Google Cloud").
func TestASovereignCloudIsAskedByItsNames(t *testing.T) {
	const account = "app@demo.s3ns.iam.gserviceaccount.com"
	path := "/v1/projects/s3ns:demo/serviceAccounts/" + account
	g := &google{answers: map[string]any{
		"GET " + path: object{"email": account},
		"POST " + path + ":getIamPolicy": bindings(binds("roles/iam.workloadIdentityUser",
			"serviceAccount:demo.s3ns.svc.id.goog[shop/app]")),
		"POST /v1/projects/s3ns:demo:getIamPolicy":                                                 bindings(),
		"GET /v2/policies/cloudresourcemanager.googleapis.com%2Fprojects%2Fs3ns:demo/denypolicies": object{},
	}}
	w := healthy()
	w.node["spec"] = object{"providerID": "gce://s3ns:demo/u-france-east1-a/gke-n1"}
	w.account["metadata"].(object)["annotations"] = object{"iam.gke.io/gcp-service-account": account}
	if found, unread, _ := ask(t, g, secret, w); len(found)+len(unread) > 0 {
		t.Errorf("found %q, unread %q, want none; asked %q", found, unread, g.asked)
	}
}

// The token of one cloud is not for another.
func TestCredentialsAreForOneCloud(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials.json")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	t.Setenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "")
	for universe, want := range map[string]string{"": "googleapis.com", "s3nsapis.fr": "s3nsapis.fr"} {
		if err := os.WriteFile(file, mustJSON(t, object{"type": "service_account", "universe_domain": universe}), 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := plugin.NewIAM(t.Context())
		if err != nil || i.Accounts != "https://iam."+want || i.Projects != "https://cloudresourcemanager."+want {
			t.Errorf("%q: asks %+v, %v", universe, i, err)
		}
	}
	if err := os.WriteFile(file, mustJSON(t, object{"type": "service_account"}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "s3nsapis.fr")
	if _, err := plugin.NewIAM(t.Context()); err == nil || !strings.Contains(err.Error(), `GOOGLE_CLOUD_UNIVERSE_DOMAIN="s3nsapis.fr"`) {
		t.Errorf("credentials of another cloud: %v", err)
	}
}

// Whoever has no right learns nothing, and the answer that quotes the token is not shown.
func TestATokenIsNotShownWhereItIsRefused(t *testing.T) {
	found, unread, said := asked(t, &google{}, "ya29.expired-token")
	if len(found) != 0 || !strings.Contains(strings.Join(unread, ","), "Google service account "+app+" (status 401)") || strings.Contains(said, "ya29") {
		t.Errorf("found %q, unread %q", found, unread)
	}
}
