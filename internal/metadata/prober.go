// Package metadata asks the metadata server who the Pod is, and says exactly
// why when there is no answer.
//
// An access token is a secret. It exists only in this package, only while its
// answer is read, and leaves it as a type and a lifetime. The buffers that held it are
// overwritten; it is in no string. Those of the kernel are the kernel's.
package metadata

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	gce "cloud.google.com/go/compute/metadata"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// DefaultHost is the link-local address at which every Google metadata server
// is reached. It is an address and not metadata.google.internal, so that a
// probe does not depend on the cluster's DNS.
const DefaultHost = "169.254.169.254"

// Prober makes probes. Each request of each probe is a new TCP connection.
type Prober struct {
	host      string
	timeout   time.Duration
	userAgent string
	dial      dialer
}

// New returns a prober of the metadata server at host, an IP address or name
// with or without a port. Each request must be answered within the timeout.
//
// The environment is not asked: neither GCE_METADATA_HOST, which the client
// library obeys, nor a proxy may redirect a probe and fake a pass.
func New(host string, timeout time.Duration, userAgent string) *Prober {
	dial := (&net.Dialer{KeepAlive: -1}).DialContext
	return &Prober{host: host, timeout: timeout, userAgent: userAgent, dial: dial}
}

// Probe asks the server for the email, for who it is, and if withToken for a
// token, at the same moment. It takes at most the timeout, and panics if one
// of its requests does.
func (p *Prober) Probe(ctx context.Context, withToken bool) (o identity.Observation) {
	pauses := watchPauses(p.timeout)
	defer func() { o.Void = isVoid(o, pauses.stop(), p.timeout) }()
	questions := []func(){
		func() { o.Email = answer(p.ask(ctx, identity.EndpointEmail), parseEmail) },
		func() { o.Server = answer(p.ask(ctx, identity.EndpointServer), parseServer) },
	}
	if withToken {
		questions = append(questions, func() { o.Token = answer(p.ask(ctx, identity.EndpointToken), parseToken) })
	}
	atOnce(questions)
	settle(&o)
	return o
}

// endpointIdentity is no part of a probe: each answer is one more credential.
const endpointIdentity identity.Endpoint = "identity"

// Claims asks for an identity token, and returns what it says about the server: a
// second witness beside the machine type, for a verdict that somebody must explain.
func (p *Prober) Claims(ctx context.Context) identity.Claims {
	return answer(p.ask(ctx, endpointIdentity), parseClaims)
}

// answer is what is made of an exchange, whose body is gone afterwards.
func answer[T any](x *exchange, parse func(*exchange) T) T {
	defer clear(x.body)
	return parse(x)
}

// Panic is what Probe panics with if one of its requests did. It has the place, but
// not the value, which may hold a part of an answer, unless the runtime made it.
type Panic struct {
	what  string
	stack []byte
}

func (p Panic) String() string { return "metadata probe: " + p.what }

// Stack is that of the goroutine that panicked, as debug.Stack has it.
func (p Panic) Stack() []byte { return p.stack }

// atOnce runs the functions concurrently and waits for all of them. A panic in
// one of them is passed on to the caller, who could not recover it otherwise.
func atOnce(functions []func()) {
	panics := make(chan Panic, len(functions))
	var running sync.WaitGroup
	for _, f := range functions {
		running.Go(func() {
			defer func() {
				switch r := recover().(type) {
				case nil:
				case runtime.Error:
					panics <- Panic{r.Error(), debug.Stack()}
				default:
					panics <- Panic{fmt.Sprintf("a %T", r), debug.Stack()}
				}
			}()
			f()
		})
	}
	running.Wait()
	select {
	case p := <-panics:
		panic(p)
	default:
	}
}

// path is where the metadata server answers the question, below
// /computeMetadata/v1/.
func path(e identity.Endpoint) string {
	switch e {
	case identity.EndpointEmail:
		return "instance/service-accounts/default/email"
	case identity.EndpointToken:
		return "instance/service-accounts/default/token"
	case identity.EndpointServer:
		return "instance/machine-type"
	case endpointIdentity:
		return "instance/service-accounts/default/identity?audience=workload-identity-exporter&format=full"
	}
	panic("metadata: unknown endpoint " + string(e))
}

// ask makes one request. What the client library makes of the answer is not
// used: it drops the status, the headers and the cause of a failure, all of
// which the exchange has kept.
func (p *Prober) ask(ctx context.Context, e identity.Endpoint) *exchange {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	x := &exchange{prober: p, endpoint: e}
	began := time.Now()
	// No logger: at debug level the library would write the token into it.
	_, err := gce.NewClient(&http.Client{Transport: x}).GetWithContext(ctx, path(e))
	x.took = time.Since(began)
	if err != nil && x.failure == nil {
		// The library gave up before or after the exchange, which it has no reason to.
		x.failure = &identity.Failure{Reason: identity.Malformed, Detail: "the metadata client library refused the request or the answer"}
	}
	return x
}
