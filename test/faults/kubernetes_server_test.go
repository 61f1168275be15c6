package faults_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// apiServer is an API server on a bare socket, with the ServiceAccount demo/app.
type apiServer struct {
	stage    *stage
	listener net.Listener
	running  sync.WaitGroup

	mu          sync.Mutex
	certificate *tls.Certificate
	token       string
	annotation  string
	// hostile answers the reads of the ServiceAccount, unhandshaken each connection.
	hostile      func(net.Conn)
	unhandshaken func(net.Conn)
	reads        int // since the fault began
	given        int // ServiceAccounts
	events       []string
	open         map[net.Conn]bool
}

// serveKubernetes starts an API server, and gives its place to the agent.
func (s *stage) serveKubernetes() {
	a := &apiServer{stage: s, annotation: app, open: map[net.Conn]bool{}}
	s.api = a
	if err := a.listen("127.0.0.1:0"); err != nil {
		s.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(a.listener.Addr().String()) // is an address
	s.settings = append(s.settings, "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port, "WI_SERVICE_ACCOUNT_DIRECTORY="+s.folder, "WI_EXPECTED_EMAILS=")
	a.rotateCA(true)
	a.rotateToken(true)
	s.Cleanup(a.away)
}

// listen begins to serve.
func (a *apiServer) listen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	a.listener = l
	a.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a.mu.Lock()
			a.open[c] = true
			a.mu.Unlock()
			a.running.Go(func() {
				a.serve(c)
				c.Close()
				a.mu.Lock()
				delete(a.open, c)
				a.mu.Unlock()
			})
		}
	})
	return nil
}

// away ends it, and back starts it at the same address.
func (a *apiServer) away() {
	a.listener.Close()
	a.mu.Lock()
	for c := range a.open {
		c.Close()
	}
	a.mu.Unlock()
	a.running.Wait()
}

func (a *apiServer) back() {
	a.stage.Helper()
	a.stage.within("the API server's address is free", func() bool { return a.listen(a.listener.Addr().String()) == nil })
}

func (a *apiServer) serve(c net.Conn) {
	a.mu.Lock()
	unhandshaken, certificate := a.unhandshaken, a.certificate
	if unhandshaken != nil {
		a.reads++
	}
	a.mu.Unlock()
	if unhandshaken != nil {
		unhandshaken(c)
		return
	}
	t := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12})
	if err := t.Handshake(); err != nil {
		a.mu.Lock()
		a.reads++
		a.mu.Unlock()
		return
	}
	defer t.Close()
	r, err := http.ReadRequest(bufio.NewReader(t))
	if err != nil {
		return
	}
	body, _ := io.ReadAll(r.Body) // of an Event
	isRead := r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/serviceaccounts/app")
	a.mu.Lock()
	hostile, token, annotation := a.hostile, a.token, a.annotation
	if isRead {
		a.reads++
	}
	if r.Method != http.MethodGet {
		a.events = append(a.events, string(body))
	}
	a.mu.Unlock()
	switch {
	case isRead && hostile != nil:
		hostile(t)
	case r.Header.Get("Authorization") != "Bearer "+token:
		_, _ = io.WriteString(t, object("401 Unauthorized", `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`))
	case isRead:
		if _, err := io.WriteString(t, serviceAccount(annotation)); err == nil {
			a.mu.Lock()
			a.given++
			a.mu.Unlock()
		}
	case r.Method == http.MethodGet:
		_, _ = io.WriteString(t, object("404 Not Found", `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`))
	default:
		_, _ = io.WriteString(t, object("201 Created", string(body)))
	}
}

func object(status, json string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(json), json)
}

func serviceAccount(annotation string) string {
	return object("200 OK", fmt.Sprintf(`{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"namespace":"demo","name":"app","annotations":{"iam.gke.io/gcp-service-account":%q}}}`, annotation))
}

// answers makes the ServiceAccount be answered so, nil rightly.
func (a *apiServer) answers(hostile func(net.Conn)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hostile, a.reads = hostile, 0
}

func (a *apiServer) interrupts(f func(net.Conn)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unhandshaken, a.reads = f, 0
}

func (a *apiServer) annotate(email string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.annotation = email
}

func (a *apiServer) read(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reads >= n
}

func (a *apiServer) write(name, content string) {
	// As the kubelet does it: never half of a file.
	place := filepath.Join(a.stage.folder, name)
	if err := os.WriteFile(place+".new", []byte(content), 0o600); err != nil {
		a.stage.Error(err)
	}
	if err := os.Rename(place+".new", place); err != nil {
		a.stage.Error(err)
	}
}

// rotateToken makes the server want another token, and mounts it.
func (a *apiServer) rotateToken(mounted bool) {
	encode := base64.RawURLEncoding.EncodeToString
	signature := encode([]byte(rand.Text() + rand.Text()))
	claims := `{"iss":"https://container.googleapis.com/v1/projects/demo-project/locations/europe-west1/clusters/demo",` +
		`"kubernetes.io":{"namespace":"demo","node":{"name":"node-1"},"pod":{"name":"exporter-abcde"},"serviceaccount":{"name":"app"}}}`
	token := encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + "." + signature
	a.mu.Lock()
	a.token = token
	a.stage.secrets = append(a.stage.secrets, token)
	a.mu.Unlock()
	if mounted {
		a.mountToken()
	}
}

func (a *apiServer) mountToken() {
	a.mu.Lock()
	token := a.token
	a.mu.Unlock()
	a.write("token", token)
}

// rotateCA makes the server have a certificate of another authority, and mounts that.
func (a *apiServer) rotateCA(mounted bool) {
	c, _, err := newCertificate(time.Now().Add(time.Hour))
	if err != nil {
		a.stage.Fatal(err)
	}
	a.mu.Lock()
	a.certificate = &c
	a.mu.Unlock()
	if mounted {
		a.mountCA()
	}
}

func (a *apiServer) mountCA() {
	a.mu.Lock()
	certificate := a.certificate.Certificate[0]
	a.mu.Unlock()
	a.write("ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
}

// newCertificate is one for 127.0.0.1, signed by itself, with its key in PEM.
func newCertificate(until time.Time) (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), err
}
