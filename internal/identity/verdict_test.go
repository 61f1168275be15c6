package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	app       identity.Identity = "app@project.iam.gserviceaccount.com"
	other     identity.Identity = "other@project.iam.gserviceaccount.com"
	nodeSA    identity.Identity = "123456789012-compute@developer.gserviceaccount.com"
	customSA  identity.Identity = "nodes@project.iam.gserviceaccount.com"
	sovereign identity.Identity = "app@project.eu0.iam.gserviceaccount.com"
	pool      identity.Identity = "project.svc.id.goog"
	euPool    identity.Identity = "project.eu0.svc.id.goog"
	subject   identity.Identity = "principal://iam.googleapis.com/projects/123/locations/global/workloadidentitypools/project.svc.id.goog/subject/ns/demo/sa/app"
	agentID   identity.Identity = "principal://agents.global.org-123456789012.system.id.goog/resources/container/projects/123456789012/locations/us-central1/clusters/c1/ns/demo/sa/app"
	stranger  identity.Identity = "principal://iam.googleapis.com/projects/123/locations/global/workloadidentitypools/project.svc.id.goog/subject/ns/demo/sa/stranger"
)

func fail(r identity.Reason) *identity.Failure {
	return &identity.Failure{Reason: r, Detail: "because"}
}

func ok() identity.Request { return identity.Request{Origin: identity.Asked, Took: time.Millisecond} }

func failed(r identity.Reason) identity.Request {
	return identity.Request{Origin: identity.Asked, Failure: fail(r)}
}

// from is an observation in which everything succeeds.
func from(s identity.Server, id identity.Identity) identity.Observation {
	return identity.Observation{
		Email:  identity.Email{Request: ok(), Identity: id},
		Token:  identity.Token{Request: ok(), Type: "Bearer", Lifetime: time.Hour},
		Server: identity.Responder{Request: ok(), Server: s},
	}
}

func gke(id identity.Identity) identity.Observation { return from(identity.ServerGKE, id) }
func vm(id identity.Identity) identity.Observation  { return from(identity.ServerVM, id) }

func noToken(r identity.Reason, o identity.Observation) identity.Observation {
	o.Token = identity.Token{Request: failed(r)}
	return o
}

func noEmail(r identity.Reason, o identity.Observation) identity.Observation {
	o.Email = identity.Email{Request: failed(r)}
	return o
}

func noServer(r identity.Reason, o identity.Observation) identity.Observation {
	o.Server = identity.Responder{Request: failed(r), Server: identity.ServerUnknown}
	return o
}

func annotated(t *testing.T, annotations map[string]string) identity.Expectation {
	t.Helper()
	e, err := identity.FromAnnotations(annotations, "demo", "app", "project")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestJudge(t *testing.T) {
	var (
		expected   = identity.Expect(app)
		several    = identity.Expect(other, app)
		unknown    = identity.Expectation{}
		unlinked   = annotated(t, nil)
		principals = annotated(t, map[string]string{identity.AnnotationReturnPrincipal: "true"})
		both       = annotated(t, map[string]string{identity.AnnotationReturnPrincipal: "true", identity.AnnotationServiceAccount: string(app)})
		nodes      = identity.DefaultNodeAccounts()
		configured = append(identity.DefaultNodeAccounts(), "nodes@*.iam.gserviceaccount.com")
	)
	tests := []struct {
		name     string
		expected identity.Expectation
		nodes    identity.NodeAccounts
		observed identity.Observation
		want     identity.State
	}{
		{"the expected identity and a token", expected, nodes, gke(app), identity.Match},
		{"one of several expected identities", several, nodes, gke(app), identity.Match},
		{"the other of several expected identities", several, nodes, gke(other), identity.Match},
		{"a service account of a sovereign cloud", identity.Expect(sovereign), nodes, gke(sovereign), identity.Match},
		{"the same name in another universe is another account", expected, nodes, gke(sovereign), identity.Mismatch},
		{"it cannot be told who answers, but the identity is right", expected, nodes, noServer(identity.Timeout, gke(app)), identity.Match},

		{"the VM server answers, so the Pod is the node", expected, nodes, vm(customSA), identity.NodeFallback},
		{"the VM server answers with the default node account", expected, nodes, vm(nodeSA), identity.NodeFallback},
		{"the GKE server answers with the default node account", expected, nodes, gke(nodeSA), identity.NodeFallback},
		{"the GKE server answers with the default node account of an old project (spinnaker issue 1341)", expected, nodes, gke("123456789012@project.gserviceaccount.com"), identity.NodeFallback},
		{"the same in another form of old", expected, nodes, gke("123456789012-compute@project.gserviceaccount.com"), identity.NodeFallback},
		{"the same of a sovereign cloud (S3NS documentation, Key differences)", expected, nodes, gke("1234567-compute@developer.s3ns-system.iam.gserviceaccount.com"), identity.NodeFallback},
		{"an account of a sovereign cloud whose name is like it", expected, nodes, gke("my-compute@developer.s3ns.iam.gserviceaccount.com"), identity.Mismatch},
		{"an account of a project whose name is project", expected, nodes, gke("app@project.iam.gserviceaccount.com.example.com"), identity.Mismatch},
		{"the GKE server answers with a node account that nobody named", expected, nodes, gke(customSA), identity.Mismatch},
		{"the GKE server answers with a node account of the configured pattern", expected, configured, gke(customSA), identity.NodeFallback},
		{"somebody unknown answers with the default node account", expected, nodes, noServer(identity.Malformed, gke(nodeSA)), identity.NodeFallback},
		{"the node's account, and its token is refused", expected, nodes, noToken(identity.Denied, vm(customSA)), identity.NodeFallback},
		{"the node's account, and its token request times out", expected, nodes, noToken(identity.Timeout, vm(nodeSA)), identity.NodeFallback},

		{"the VM server answers with the expected identity: the pool's own account is the expected one", expected, nodes, vm(app), identity.Match},
		{"an expected identity that matches the node pattern", identity.Expect(nodeSA), nodes, gke(nodeSA), identity.Match},
		{"an expected identity that matches the node pattern, from the VM server", identity.Expect(nodeSA), nodes, vm(nodeSA), identity.Match},
		{"the VM server, the expected identity, a refused token", expected, nodes, noToken(identity.Denied, vm(app)), identity.TokenDenied},

		{"another service account", expected, nodes, gke(other), identity.Mismatch},
		{"another service account, and it cannot be told who answers", expected, nodes, noServer(identity.Unreachable, gke(other)), identity.Mismatch},
		{"another service account, whose token is refused", expected, nodes, noToken(identity.Denied, gke(other)), identity.Mismatch},
		{"another service account, and the token request fails", expected, nodes, noToken(identity.ServerError, gke(other)), identity.Mismatch},

		{"the pool instead of a service account", expected, nodes, gke(pool), identity.Unbound},
		{"the principal instead of a service account", expected, nodes, gke(subject), identity.Unbound},
		{"the pool instead of a service account, whose token is refused", expected, nodes, noToken(identity.Denied, gke(pool)), identity.Unbound},
		{"mixed evidence: the pool, which the VM server cannot have given", expected, nodes, vm(pool), identity.Unbound},

		{"a ServiceAccount without annotation gets the pool", unlinked, nodes, gke(pool), identity.Match},
		{"a ServiceAccount without annotation gets the pool of a sovereign cloud", unlinked, nodes, gke(euPool), identity.Match},
		{"a ServiceAccount without annotation in a fleet gets the pool of the fleet's host project", unlinked, nodes, gke("fleet-host.svc.id.goog"), identity.Match},
		{"a ServiceAccount without annotation gets a service account", unlinked, nodes, gke(other), identity.Mismatch},
		{"a ServiceAccount without annotation becomes the node", unlinked, nodes, vm(customSA), identity.NodeFallback},
		{"mixed evidence: the expected pool, and the VM server", unlinked, nodes, vm(pool), identity.Match},
		{"mixed evidence: another pool, and the VM server", unlinked, nodes, vm("fleet-host.svc.id.goog"), identity.Match},
		{"the pool of another project than the configured one", identity.Expect(pool), nodes, gke("stranger.svc.id.goog"), identity.Mismatch},
		{"the principal where it is asked for", principals, nodes, gke(subject), identity.Match},
		{"the pool where the principal is asked for", principals, nodes, gke(pool), identity.Match},
		{"the principal of another ServiceAccount", principals, nodes, gke(stranger), identity.Mismatch},
		{"the principal where the pool is expected", unlinked, nodes, gke(subject), identity.Mismatch},
		{"an agent's identity (GKE documentation, agent identities), which is expected", identity.Expect(agentID), nodes, gke(agentID), identity.Match},
		{"an agent's identity instead of a service account", expected, nodes, gke(agentID), identity.Unbound},
		{"an agent's identity instead of another's", identity.Expect(agentID), nodes, gke(agentID + "2"), identity.Mismatch},
		{"both annotations, and the service account", both, nodes, gke(app), identity.Match},
		{"both annotations, and the principal", both, nodes, gke(subject), identity.Match},
		{"both annotations, and the pool", both, nodes, gke(pool), identity.Unbound},

		{"the token is denied by IAM", expected, nodes, noToken(identity.Denied, gke(app)), identity.TokenDenied},
		{"IAM does not know the service account", expected, nodes, noToken(identity.NoServiceAccount, gke(app)), identity.TokenDenied},
		{"the pool's token is denied", unlinked, nodes, noToken(identity.Denied, gke(pool)), identity.TokenDenied},
		{"a plain 404 for the token, as from a server that starts", expected, nodes, noToken(identity.NotFound, gke(app)), identity.Unavailable},
		{"the token request times out", expected, nodes, noToken(identity.Timeout, gke(app)), identity.Unavailable},
		{"the token request is throttled", expected, nodes, noToken(identity.Throttled, gke(app)), identity.Unavailable},
		{"the token answer is malformed", expected, nodes, noToken(identity.Malformed, gke(app)), identity.Unavailable},
		{"no token was ever asked for", expected, nodes, identity.Observation{Email: gke(app).Email, Server: gke(app).Server}, identity.Unavailable},

		{"the email request times out", expected, nodes, noEmail(identity.Timeout, gke("")), identity.Unavailable},
		{"the email answer is empty", expected, nodes, noEmail(identity.Malformed, gke("")), identity.Unavailable},
		{"the email request fails, and the VM server answers: a node without a service account", expected, nodes, noEmail(identity.NotFound, vm("")), identity.Unavailable},
		{"everything fails", expected, nodes, noEmail(identity.Unreachable, noToken(identity.Unreachable, noServer(identity.Unreachable, gke("")))), identity.Unavailable},
		{"the email is denied, a token comes", expected, nodes, noEmail(identity.Denied, gke("")), identity.Unavailable},
		{"nothing was asked", expected, nodes, identity.Observation{}, identity.Unavailable},

		{"nothing is expected, a service account", unknown, nodes, gke(app), identity.UnknownExpectation},
		{"nothing is expected, the pool", unknown, nodes, gke(pool), identity.UnknownExpectation},
		{"nothing is expected, the token is denied", unknown, nodes, noToken(identity.Denied, gke(app)), identity.UnknownExpectation},
		{"nothing is expected, the default node account", unknown, nodes, gke(nodeSA), identity.NodeFallback},
		{"nothing is expected, the VM server gives the node's", unknown, nodes, vm(customSA), identity.NodeFallback},
		{"nothing is expected, no answer", unknown, nodes, noEmail(identity.Timeout, gke("")), identity.Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := identity.Judge(tt.expected, tt.nodes, tt.observed)
			if got.State != tt.want {
				t.Errorf("Judge() = %s because %s, want %s", got.State, got.Why, tt.want)
			}
			if got.Why == "" || got.Server == "" {
				t.Errorf("Judge() = %+v, want a reason and a server", got)
			}
			if want := tt.observed.Email.Identity; got.Identity != want {
				t.Errorf("Judge().Identity = %q, want the observed %q", got.Identity, want)
			}
		})
	}
}

// Whatever meets, Judge must neither accuse without an identity nor be content
// without the expected identity and a token. This goes through every
// combination of expectation, identity, token and server.
func TestJudgeNeverPagesFalselyNorPassesFalsely(t *testing.T) {
	expectations := []identity.Expectation{{}, identity.Expect(app), identity.Expect(app, other), identity.Expect(nodeSA), annotated(t, nil)}
	emails := []identity.Email{{}, {Request: failed(identity.Timeout)}, {Request: failed(identity.Denied)}}
	for _, id := range []identity.Identity{app, other, nodeSA, customSA, pool, subject, sovereign} {
		emails = append(emails, identity.Email{Request: ok(), Identity: id})
	}
	tokens := []identity.Token{{}, {Request: ok()}}
	for _, r := range identity.Reasons(identity.EndpointToken) {
		tokens = append(tokens, identity.Token{Request: failed(r)})
	}
	servers := []identity.Responder{
		{},
		{Request: ok(), Server: identity.ServerGKE},
		{Request: ok(), Server: identity.ServerVM},
		{Request: failed(identity.Timeout), Server: identity.ServerUnknown},
	}
	seen := map[identity.State]int{}
	for _, e := range expectations {
		for _, email := range emails {
			for _, token := range tokens {
				for _, server := range servers {
					v := identity.Judge(e, identity.DefaultNodeAccounts(), identity.Observation{Email: email, Token: token, Server: server})
					seen[v.State]++
					switch right := e.Accepts(email.Identity); {
					case v.State == identity.Match && (!right || !token.OK()):
						t.Errorf("false green: %+v for %+v, %+v, %+v", v, email, token, server)
					case v.State.Accuses() && (!email.OK() || right):
						t.Errorf("false page: %+v for %+v, %+v, %+v", v, email, token, server)
					case (v.State == identity.Mismatch || v.State == identity.Unbound) && !e.Known():
						t.Errorf("accused without an expectation: %+v for %+v", v, email)
					case v.State == identity.TokenDenied && !right:
						t.Errorf("a refused token hides a wrong identity: %+v for %+v", v, email)
					}
				}
			}
		}
	}
	for _, s := range identity.VerdictStates() {
		if seen[s] == 0 {
			t.Errorf("no combination gives %s", s)
		}
		delete(seen, s)
	}
	if len(seen) > 0 {
		t.Errorf("states outside the closed set: %v", seen)
	}
}

func TestEveryStateHasAMeaning(t *testing.T) {
	for _, s := range identity.States() {
		if s.Meaning() == "" {
			t.Errorf("%s has no meaning", s)
		}
	}
}

func TestSameVerdict(t *testing.T) {
	v := identity.Judge(identity.Expect(app), nil, gke(other))
	for _, tt := range []struct {
		name string
		w    identity.Verdict
		want bool
	}{
		{"itself", v, true},
		{"in other words", identity.Verdict{State: v.State, Identity: v.Identity, Server: v.Server, Why: "so"}, true},
		{"another identity", identity.Judge(identity.Expect(app), nil, gke(customSA)), false},
		{"another server", identity.Judge(identity.Expect(app), nil, noServer(identity.Timeout, gke(other))), false},
		{"another state", identity.Verdict{State: identity.Match, Identity: v.Identity, Server: v.Server}, false},
	} {
		if got := v.Same(tt.w); got != tt.want {
			t.Errorf("Same(%s) = %t, want %t", tt.name, got, tt.want)
		}
	}
}

// That GKE repeats an annotation unchecked is not confirmed. Where it does, the
// annotation is at fault, and not the server.
func TestAnAnnotationThatIsNoEmailAndIsRepeated(t *testing.T) {
	for _, tt := range []struct{ name, annotation, answer string }{
		{"a stray quote (google-github-actions/auth issue 139)", `"app@project.iam.gserviceaccount.com`, `"app@project.iam.gserviceaccount.com`},
		{"an IAM member (velero-plugin-for-gcp issue 194)", "serviceAccount:app@project.iam.gserviceaccount.com", "serviceAccount:app@project.iam.gserviceaccount.com\n"},
		{"white space and case", " \"App@project.iam.gserviceaccount.com\n", `"app@project.iam.gserviceaccount.com`},
		{"curly quotes", "“app@project.iam.gserviceaccount.com”", "“app@project.iam.gserviceaccount.com”"},
		{"no domain", "app", "app"},
		{"more than is shown", strings.Repeat("app ", 1000), strings.Repeat("app ", 1000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := identity.FromAnnotations(map[string]string{identity.AnnotationServiceAccount: tt.annotation}, "demo", "app", "project")
			if err == nil || e.Known() || e.Source != identity.SourceAnnotation {
				t.Fatalf("expectation %+v, %v; want an error, and that the annotation is its source", e, err)
			}
			o := noToken(identity.NoServiceAccount, noEmail(identity.Malformed, gke("")))
			o.Email.Instead = identity.Shown(tt.answer)
			v := identity.Judge(e, nil, o)
			if v.State != identity.UnknownExpectation || v.Identity != "" || !strings.Contains(v.Why, "repeats") || len(v.Why) > 600 {
				t.Errorf("%s because %s, want unknown_expectation because the server repeats the annotation", v.State, v.Why)
			}
			o.Email.Instead = "Sign in to the network"
			if v := identity.Judge(e, nil, o); v.State != identity.Unavailable {
				t.Errorf("%s because %s, want unavailable: the server says something else", v.State, v.Why)
			}
			if v := identity.Judge(e, nil, gke(app)); v.State != identity.UnknownExpectation || !strings.Contains(v.Why, identity.AnnotationServiceAccount) {
				t.Errorf("%s because %s, want unknown_expectation that names the annotation", v.State, v.Why)
			}
			if v := identity.Judge(e, nil, vm(customSA)); v.State != identity.NodeFallback {
				t.Errorf("%s because %s, want node_fallback", v.State, v.Why)
			}
			if e.Equal(identity.Expectation{Source: identity.SourceAnnotation}) {
				t.Error("it equals an expectation without it")
			}
		})
	}
}

// Nothing is repeated where nothing was said, or where it was not kept.
func TestAnEmptyAnswerRepeatsNoAnnotation(t *testing.T) {
	o := noEmail(identity.Malformed, gke(""))
	for _, e := range []identity.Expectation{{}, identity.Expect(app)} {
		if v := identity.Judge(e, nil, o); v.State != identity.Unavailable {
			t.Errorf("%s because %s, want unavailable", v.State, v.Why)
		}
	}
}

// An annotation may hold a credential by mistake, and whoever answers anything.
func TestWhatIsNoIdentityIsShownWithoutACredential(t *testing.T) {
	e, err := identity.FromAnnotations(map[string]string{identity.AnnotationServiceAccount: "ya29.secret-of-somebody x"}, "demo", "app", "project")
	if err == nil || strings.Contains(e.Invalid+err.Error(), "secret") || e.Invalid == "" {
		t.Errorf("%+v, %v: want it without the credential", e, err)
	}
}

func BenchmarkJudge(b *testing.B) {
	asked := identity.Request{Origin: identity.Asked, Genuine: true}
	o := identity.Observation{
		Email:  identity.Email{Request: asked, Identity: "app@project.iam.gserviceaccount.com"},
		Token:  identity.Token{Request: asked, Type: "Bearer", Lifetime: time.Hour},
		Server: identity.Responder{Request: asked, Server: identity.ServerGKE},
	}
	expected, nodes := identity.Expect("app@project.iam.gserviceaccount.com"), identity.DefaultNodeAccounts()
	b.ReportAllocs()
	for b.Loop() {
		if v := identity.Judge(expected, nodes, o); v.State != identity.Match {
			b.Fatal(v)
		}
	}
}
