package metadata

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func (x *exchange) request() identity.Request {
	r := identity.Request{Origin: identity.Asked, Took: x.took, ServerHeader: x.serverHeader, Failure: x.failure}
	switch {
	case x.genuine:
		x.authenticate(&r)
	case x.mark == "" && x.page:
		r.Proxy = "an HTML page"
	default:
		r.Proxy = x.mark
	}
	return r
}

// authenticate takes the answer for one that only a metadata server gives: what it has of
// a proxy is of one that it passed.
func (x *exchange) authenticate(r *identity.Request) { r.Genuine, r.Proxy, r.Passed = true, "", x.mark }

func (x *exchange) malformed(format string, args ...any) *identity.Failure {
	return &identity.Failure{Reason: identity.Malformed, Status: x.status, Detail: fmt.Sprintf(format, args...)}
}

func parseEmail(x *exchange) identity.Email {
	a := identity.Email{Request: x.request()}
	if x.failure != nil {
		return a
	}
	// The content type is not looked at: no documentation promises one, and a
	// page of somebody else's does not pass for an identity.
	id, err := identity.Parse(string(x.body))
	if err != nil {
		a.Failure, a.Instead = x.malformed("the answer is %v", err), identity.Shown(string(x.body))
		return a
	}
	a.Identity = id
	x.authenticate(&a.Request)
	return a
}

// parseToken reads the OAuth 2.0 access token response (RFC 6749, section 5.1)
// and lets go of the token.
func parseToken(x *exchange) identity.Token {
	a := identity.Token{Request: x.request()}
	if x.failure != nil {
		return a
	}
	// The secrets are looked at in the body, and copied nowhere.
	var token struct {
		oauth2.Token
		AccessToken  presence        `json:"access_token"`
		RefreshToken presence        `json:"refresh_token"`
		ExpiresIn    json.RawMessage `json:"expires_in"` // to tell null from nothing
	}
	err := json.Unmarshal(x.body, &token)
	lifetime, ok := lifetime(token.ExpiresIn)
	switch {
	case err != nil: // err may quote the body
		a.Failure = x.malformed("the answer is not the JSON of a token")
	case !bool(token.AccessToken):
		a.Failure = x.malformed("the answer has no access_token")
	case !strings.EqualFold(token.Type(), "Bearer"):
		a.Failure = x.malformed("the token_type is not Bearer")
	case !ok:
		a.Failure = x.malformed("expires_in is not a number of seconds from 1 up")
	default:
		a.Type, a.Lifetime = token.Type(), lifetime
		x.authenticate(&a.Request)
	}
	return a
}

// presence tells whether a field is a string that is not empty.
type presence bool

// UnmarshalJSON implements json.Unmarshaler. What it gets is a part of the body.
func (p *presence) UnmarshalJSON(b []byte) error {
	if string(b) != "null" && (len(b) < 2 || b[0] != '"') {
		return errors.New("not a string")
	}
	*p = len(b) > len(`""`) && b[0] == '"'
	return nil
}

// maxLifetime is twice as long as any access token of Google lives.
const maxLifetime = 24 * time.Hour

// lifetime reads the value of expires_in, 0 if there is none. It is recommended
// only (RFC 6749, section 5.1). What is far too long is cut: taken at its word, it
// would overflow, and an expiry of centuries ago end in a metric.
func lifetime(expiresIn json.RawMessage) (lifetime time.Duration, ok bool) {
	if expiresIn == nil {
		return 0, true
	}
	seconds, err := strconv.ParseInt(string(expiresIn), 10, 64)
	if err != nil || seconds < 1 {
		return 0, false
	}
	return time.Duration(min(seconds, int64(maxLifetime/time.Second))) * time.Second, true
}

// tokenRefusal tells from the body of an error of the token endpoint what IAM
// said, as far as the bodies are known. Nothing of the body is repeated.
func tokenRefusal(r identity.Reason, body []byte) (identity.Reason, string) {
	has := func(s string) bool { return bytes.Contains(body, []byte(s)) }
	switch {
	case r == identity.Denied && blockedBy(body) != "":
		return r, "IAM denies the token: " + blockedBy(body)
	case r == identity.Denied && has(iamDenies):
		return r, "IAM denies the token: the Kubernetes ServiceAccount lacks roles/iam.workloadIdentityUser on the service account, or there is no such account"
	case has("Failed to generate federated token"):
		return r, "STS refuses the token of the Kubernetes ServiceAccount, without which the server gets none"
	case r == identity.Denied && has("metadata endpoint is concealed"):
		return identity.Malformed, "a metadata concealment proxy answers, not a metadata server"
	case r == identity.Denied && has("Missing required header"):
		return identity.Malformed, "the request's Metadata-Flavor header was lost on the way"
	case r == identity.PodUnknown:
		return r, "the server says that it does not know the Pod that asks"
	case r == identity.NotFound && has("IAM returned 404"):
		return identity.NoServiceAccount, "IAM does not know the service account: it was deleted, or its email is misspelt"
	case r == identity.NotFound:
		return r, "the server does not serve tokens, or not yet"
	}
	return r, "body withheld"
}

// iamDenies is how GKE's server begins to tell of IAM's 403.
const iamDenies = "IAM returned 403"

// blockedBy is what IAM says is in the way of a token, beside roles; empty if it names
// nothing. GKE's server adds that a binding may be missing, whatever it is
// (google/kctf issue 194). These are Google's texts for any API.
func blockedBy(body []byte) string {
	has := func(s string) bool { return bytes.Contains(body, []byte(s)) }
	switch {
	case !has(iamDenies):
	case has("has not been used in project"), has("SERVICE_DISABLED"):
		return "the API iamcredentials.googleapis.com is not enabled in the project"
	case has("prohibited by organization's policy"):
		return "VPC Service Controls forbid the request"
	}
	return ""
}

// parseClaims reads the payload of a JSON Web Token (RFC 7519, section 3) and lets
// go of the token. Its signature is not verified: whoever answers is who answers.
func parseClaims(x *exchange) identity.Claims {
	unknown := identity.Claims{Server: identity.ServerUnknown}
	parts := bytes.Split(bytes.TrimSpace(x.body), []byte("."))
	if x.failure != nil || len(parts) != 3 {
		return unknown
	}
	payload, err := base64.RawURLEncoding.AppendDecode(nil, parts[1])
	var claims struct {
		Audience string `json:"aud"`
		Email    string `json:"email"`
		Google   struct {
			ComputeEngine *struct {
				InstanceName string `json:"instance_name"`
			} `json:"compute_engine"`
		} `json:"google"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Audience == "" {
		return unknown
	}
	id, _ := identity.Parse(claims.Email) // which is not promised
	if vm := claims.Google.ComputeEngine; vm != nil {
		return identity.Claims{Server: identity.ServerVM, Machine: foreign.Text(vm.InstanceName, maxExcerpt), Identity: id}
	}
	return identity.Claims{Server: identity.ServerGKE, Identity: id}
}

// parseServer tells the two metadata servers apart by instance/machine-type,
// which only the VM server serves. A 404 stays a failure here, see settle.
func parseServer(x *exchange) identity.Responder {
	a := identity.Responder{Request: x.request(), Server: identity.ServerUnknown}
	switch {
	// projects/NUMBER/machineTypes/NAME
	case x.failure == nil && bytes.HasPrefix(x.body, []byte("projects/")) && bytes.Contains(x.body, []byte("/machineTypes/")):
		a.Server = identity.ServerVM
		x.authenticate(&a.Request)
	case x.failure == nil:
		a.Failure = x.malformed("the answer is not a machine type")
	case x.status == http.StatusNotFound && strings.HasPrefix(x.serverHeader, vmServer):
		a.Failure = x.malformed("the VM metadata server answers, but knows no machine type")
	}
	return a
}
