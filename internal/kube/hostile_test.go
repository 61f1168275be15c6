package kube_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

// rawServer is an API server that answers each request as a function of the
// connection does, over TLS with a certificate of its own.
type rawServer struct {
	listener net.Listener
	ca       []byte // PEM

	mu     sync.Mutex
	answer func(net.Conn)
	open   sync.WaitGroup
}

func listenRaw(t *testing.T, address string) *rawServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{listener: listener, ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	s.answers(account("app@demo-project.iam.gserviceaccount.com"))
	s.open.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.open.Go(func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				s.mu.Lock()
				answer := s.answer
				s.mu.Unlock()
				answer(conn)
			})
		}
	})
	t.Cleanup(s.close)
	return s
}

// close waits for all connections to end, which they do only if the client ends them.
func (s *rawServer) close() {
	_ = s.listener.Close()
	s.open.Wait()
}

func (s *rawServer) answers(f func(net.Conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

func says(text string) func(net.Conn) {
	return func(c net.Conn) { _, _ = io.WriteString(c, text) }
}

func body(status, contentType, text string) func(net.Conn) {
	return says(fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", status, contentType, len(text), text))
}

func account(annotated string) func(net.Conn) {
	return body("200 OK", "application/json", fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, identity.AnnotationServiceAccount, annotated))
}

// then says something and holds the connection until the client closes it.
func thenSilence(text string) func(net.Conn) {
	return func(c net.Conn) {
		says(text)(c)
		_, _ = io.Copy(io.Discard, c)
	}
}

// thenForEver says something, and the second text again and again.
func thenForEver(text, again string, gap time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		says(text)(c)
		for {
			if _, err := io.WriteString(c, again); err != nil {
				return
			}
			time.Sleep(gap) // of the peer
		}
	}
}

const secret = "ya29.a0AfB_byCsecretsecretsecretsecretsecret"

// place is where the client finds the server and its credentials.
type place struct {
	config    *rest.Config
	directory string
}

func (p place) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.directory, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func locate(t *testing.T, s *rawServer) place {
	t.Helper()
	host, port, err := net.SplitHostPort(s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	p := place{directory: t.TempDir()}
	p.config, err = kube.Config(os.Getenv, p.directory)
	if err != nil {
		t.Fatal(err)
	}
	p.write(t, "token", secret)
	p.write(t, "ca.crt", string(s.ca))
	return p
}

func (p place) client(t *testing.T, observe func(kube.Resource, kube.Reason)) *kube.Client {
	t.Helper()
	if observe == nil {
		observe = func(kube.Resource, kube.Reason) {}
	}
	client, err := kube.NewClient(p.config, "test/1", observe)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

var demoApp = kube.Self{Namespace: "demo", ServiceAccount: "app"}

// The API server is a peer like any other: whatever it does, a read ends by its
// deadline, early and small, and the connection with it.
func TestNoAnswerOfAnAPIServerHangsOrBloatsARead(t *testing.T) {
	deep := `{"metadata":{"x":` + strings.Repeat("[", 1_000_000)
	var zeros bytes.Buffer
	z := gzip.NewWriter(&zeros)
	_, _ = z.Write(make([]byte, 64<<20))
	_ = z.Close()
	for _, tt := range []struct {
		name   string
		answer func(net.Conn)
		want   kube.Reason
	}{
		{"101 and silence", thenSilence("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), kube.Unavailable},
		{"101 and a byte now and then", thenForEver("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "x", 20*time.Millisecond), kube.Unavailable},
		{"silence", thenSilence(""), kube.Timeout},
		{"half a header", thenSilence("HTTP/1.1 200 OK\r\nContent-"), kube.Timeout},
		{"half a body", thenSilence("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), kube.Timeout},
		{"a body that trickles", thenForEver("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", " ", 20*time.Millisecond), kube.Timeout},
		{"an endless body", thenForEver("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", strings.Repeat(" ", 64<<10), 0), kube.Unavailable},
		{"an endless error", thenForEver("HTTP/1.1 500 No\r\nContent-Type: text/plain\r\n\r\n", strings.Repeat("x ", 64<<10), 0), kube.Unavailable},
		{"endless headers", thenForEver("HTTP/1.1 200 OK\r\n", "X-Y: z\r\n", 0), kube.Unavailable},
		{"100 Continue for ever", thenForEver("", "HTTP/1.1 100 Continue\r\n\r\n", 0), kube.Unavailable},
		{"JSON a million deep", body("200 OK", "application/json", deep), kube.Unavailable},
		{"an error a million deep", body("500 No", "application/json", deep), kube.Unavailable},
		{"64 MiB of zeros, compressed", says("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: " + strconv.Itoa(zeros.Len()) + "\r\n\r\n" + zeros.String()), kube.Unavailable},
		{"not JSON", body("200 OK", "application/json", "<html>"), kube.Unavailable},
		{"JSON of something else", body("200 OK", "application/json", "[]"), kube.Unavailable},
		{"no content", says("HTTP/1.1 204 No Content\r\n\r\n"), kube.Unavailable},
		{"not HTTP", says("SSH-2.0-x\r\n"), kube.Unavailable},
		{"nothing", says(""), kube.Unavailable},
		{"401", body("401 No", "text/plain", "no"), kube.Forbidden},
		{"403", body("403 No", "text/plain", "no"), kube.Forbidden},
		{"404", body("404 No", "text/plain", "no"), kube.NotFound},
		{"429", body("429 No", "text/plain", "no"), kube.Throttled},
		{"503", body("503 No", "text/plain", "no"), kube.Unavailable},
		{"an error that echoes the token", body("500 No", "text/plain", "no such token: "+secret), kube.Unavailable},
		{"an error of 100 kB", body("500 No", "text/plain", strings.Repeat("word ", 20_000)), kube.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := listenRaw(t, "127.0.0.1:0")
			p := locate(t, s)
			var reasons []kube.Reason
			client := p.client(t, func(_ kube.Resource, r kube.Reason) { reasons = append(reasons, r) })
			s.answers(tt.answer)
			// What ends by itself does so long before a deadline.
			deadline := 20 * time.Second
			if tt.want == kube.Timeout {
				deadline = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			e, err := client.Expectation(ctx, demoApp)
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			if err == nil || e.Known() {
				t.Fatalf("expectation %q, want an error", e)
			}
			if took > 10*time.Second {
				t.Errorf("the read took %s, want its deadline at most, or less", took)
			}
			if len(reasons) != 1 || reasons[0] != tt.want {
				t.Errorf("observed %q, want %s (%v)", reasons, tt.want, err)
			}
			if n := len(err.Error()); n > 1024 || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("an error of %d bytes, want one short line: %.200q", n, err)
			}
			if strings.Contains(err.Error(), secret[:12]) {
				t.Errorf("the error shows the token: %v", err)
			}
			if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 24 {
				t.Errorf("the read allocated %d MiB", n)
			}
			s.answers(account("app@demo-project.iam.gserviceaccount.com"))
			if _, err := client.Expectation(t.Context(), demoApp); err != nil {
				t.Errorf("the next read: %v", err)
			}
		})
	}
}

// A stop must not wait for an API server.
func TestTheEndOfTheContextEndsARead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(net.Conn)
	}{
		{"silence", thenSilence("")},
		{"half a body", thenSilence("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")},
		{"101 and silence", thenSilence("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := listenRaw(t, "127.0.0.1:0")
			client := locate(t, s).client(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			asked := make(chan struct{})
			s.answers(func(c net.Conn) { close(asked); tt.answer(c) })
			go func() { <-asked; cancel() }()
			began := time.Now()
			if _, err := client.Expectation(ctx, demoApp); err == nil {
				t.Error("no error")
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// The source is CVE-2022-3172: what an API server relays may redirect.
func TestNoRedirectIsFollowedAndNoTokenIsSentOnOne(t *testing.T) {
	var requests atomic.Int32
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) })} //nolint:gosec // it is not asked
	done := make(chan struct{})
	go func() { defer close(done); _ = other.Serve(plain) }()
	defer func() { _ = other.Close(); <-done }()
	s := listenRaw(t, "127.0.0.1:0")
	client := locate(t, s).client(t, nil)
	for _, status := range []string{"301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"} {
		s.answers(says("HTTP/1.1 " + status + "\r\nLocation: http://" + plain.Addr().String() + "/\r\nContent-Length: 0\r\n\r\n"))
		if _, err := client.Expectation(t.Context(), demoApp); err == nil {
			t.Errorf("%s: no error", status)
		}
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests followed the redirect, want none", n)
	}
}

// The kubelet renews the token before its end, and a server may refuse the old one
// at once.
func TestARenewedTokenIsUsedAtOnce(t *testing.T) {
	s := listenRaw(t, "127.0.0.1:0")
	p := locate(t, s)
	client := p.client(t, nil)
	if _, err := client.Expectation(t.Context(), demoApp); err != nil {
		t.Fatal(err)
	}
	var sent []string
	p.config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.Header.Get("Authorization"))
			return next.RoundTrip(r)
		})
	}
	client = p.client(t, nil)
	for _, token := range []string{"first", "second", "third"} {
		p.write(t, "token", token+"\n")
		if _, err := client.Expectation(t.Context(), demoApp); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := strings.Join(sent, ","), "Bearer first,Bearer second,Bearer third"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAChangedCAIsUsedAtOnce(t *testing.T) {
	first := listenRaw(t, "127.0.0.1:0")
	p := locate(t, first)
	client := p.client(t, nil)
	if _, err := client.Expectation(t.Context(), demoApp); err != nil {
		t.Fatal(err)
	}
	first.close()
	second := listenRaw(t, first.listener.Addr().String())
	if _, err := client.Expectation(t.Context(), demoApp); err == nil {
		t.Fatal("a server with a certificate of another CA was believed")
	}
	p.write(t, "ca.crt", string(second.ca))
	if _, err := client.Expectation(t.Context(), demoApp); err != nil {
		t.Errorf("with the new CA: %v", err)
	}
}

// A projected volume may be filled after the start.
func TestATokenThatComesLaterIsUsed(t *testing.T) {
	for _, early := range []string{"absent", "empty", "white space"} {
		t.Run(early, func(t *testing.T) {
			s := listenRaw(t, "127.0.0.1:0")
			p := locate(t, s)
			p.write(t, "token", map[string]string{"white space": " \n"}[early])
			if early == "absent" {
				if err := os.Remove(filepath.Join(p.directory, "token")); err != nil {
					t.Fatal(err)
				}
			}
			requests := 0
			client := p.client(t, func(kube.Resource, kube.Reason) { requests++ })
			if _, err := client.Expectation(t.Context(), demoApp); !errors.Is(err, kube.ErrNotInCluster) {
				t.Errorf("without a token: %v, want %v", err, kube.ErrNotInCluster)
			}
			if requests != 0 {
				t.Errorf("%d requests counted that were never made", requests)
			}
			p.write(t, "token", secret)
			if _, err := client.Expectation(t.Context(), demoApp); err != nil || requests != 1 {
				t.Errorf("with a token: %v after %d requests", err, requests)
			}
		})
	}
}
