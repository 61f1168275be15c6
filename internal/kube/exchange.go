package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// maxBody is many times the size of any object that is read. A ConfigMap has at
	// most 1 MiB.
	maxBody = 2 << 20
	// maxErrorBody is that of a Status, which has a few hundred bytes.
	maxErrorBody = 8 << 10
	maxHeader    = 64 << 10
	// maxRequest bounds a request whose context has no deadline.
	maxRequest = 10 * time.Second
)

// exchange is one request, with the credentials that are in the files at that moment:
// the kubelet rotates the token, and administrators the CA. The API server is a peer
// like any other, so nothing that it does keeps the connection open beyond the deadline
// of the request, or of the session.
type exchange struct {
	target *rest.Config
	shared http.RoundTripper // of a session; nil: the request has a connection of its own
	// date is when the server answered, by its own clock; zero if it did not tell.
	date time.Time
	// cut: the body was larger than what is read of it.
	cut bool
}

// RoundTrip sends the request with the token. It does so to the configured host
// only: an answer that redirects is returned as it is.
func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := credential(x.target.BearerTokenFile)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	through := x.shared
	if through == nil {
		if through, err = transport(r.Context(), x.target, false); err != nil {
			return nil, err
		}
	}
	res, err := through.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		_ = res.Body.Close() // fails only if it is closed
		return nil, errors.New("the answer switches to another protocol")
	}
	x.date, _ = http.ParseTime(res.Header.Get("Date"))
	limit := int64(maxBody)
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusCreated {
		limit = maxErrorBody
	}
	body := res.Body
	res.Body = struct {
		io.Reader
		io.Closer
	}{&bounded{body, limit, &x.cut}, body}
	return res, nil
}

// transport returns a new one, whose connections end with the context.
func transport(ctx context.Context, target *rest.Config, keepAlive bool) (http.RoundTripper, error) {
	config, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: target.TLSClientConfig})
	if err != nil {
		return nil, fmt.Errorf("set up TLS to the API server: %w", err)
	}
	var through http.RoundTripper = &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            func(_ context.Context, network, address string) (net.Conn, error) { return dial(ctx, network, address) },
		TLSClientConfig:        config,
		DisableKeepAlives:      !keepAlive,
		DisableCompression:     true, // a compressed answer could be far larger than what is read of it
		MaxResponseHeaderBytes: maxHeader,
	}
	if target.WrapTransport != nil {
		through = target.WrapTransport(through)
	}
	return through, nil
}

// dial connects within the context, and ties the connection to it: http.Transport
// ends neither a dial nor the body of every answer with the request.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() }) // fails only if it is closed
	return conn, nil
}

// ErrNotInCluster is returned where there is no API server to ask.
var ErrNotInCluster = errors.New("no Kubernetes API server: the process does not run in a Pod with a mounted ServiceAccount token")

// credential is what the file holds. One that is not there, or not yet, means that
// the Pod has none.
func credential(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	content, err := os.ReadFile(path)
	token := strings.TrimSpace(string(content))
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && token == "":
		return "", ErrNotInCluster
	case err != nil:
		return "", fmt.Errorf("read the ServiceAccount token: %w", err)
	}
	return token, nil
}

// bounded reads at most so many bytes, and notes whether there were more.
type bounded struct {
	from io.Reader
	left int64
	cut  *bool
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		*b.cut = true
		return 0, io.EOF
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
