package cli_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// query is how a URL is asked for: by GET, if nothing else is said.
type query struct{ method, header, value, user, ca string }

// ask makes one request on a connection of its own, past any proxy.
func (q query) ask(url string) (*http.Response, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, q.method, url, http.NoBody)
	if err != nil {
		return nil, "", err
	}
	if q.header != "" {
		request.Header.Set(q.header, q.value)
	}
	if name, password, ok := strings.Cut(q.user, ":"); ok {
		request.SetBasicAuth(name, password)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if q.ca != "" {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(q.ca))
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, string(body), err
}

// poll gets the URL until its body is as wanted, and returns the last body.
func poll(url string, limit time.Duration, wanted func(body string) bool) (string, error) {
	var body string
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, body, err = (query{}).ask(url); err == nil && wanted(body) {
			return body, nil
		}
	}
	if err == nil {
		err = errors.New("it answers something else")
	}
	return body, err
}

// slowReadCommand asks for the status and reads no more than the beginning of the
// answer, which has all settings. The server cannot send the rest if that is large: the buffers of
// the kernel are kept small, on both sides by the small segments.
func slowReadCommand(ts *testscript.TestScript, s *scene, args []string) error {
	address := ts.Getenv(args[0])
	small := func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = errors.Join(
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048),
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536))
		}), err)
	}
	connection, err := (&net.Dialer{Control: small, Timeout: patience}).Dial("tcp", address)
	if err != nil {
		return err
	}
	s.slow, s.answer = connection, bufio.NewReaderSize(connection, 64)
	if _, err := fmt.Fprintf(connection, "GET /status.json HTTP/1.1\r\nHost: %s\r\n\r\n", address); err != nil {
		return err
	}
	_, err = s.answer.Peek(64)
	return errors.Join(err, connection.SetDeadline(time.Now().Add(patience)))
}

// finishReadCommand reads the rest of the answer.
func finishReadCommand(ts *testscript.TestScript, s *scene, _ []string) error {
	response, err := http.ReadResponse(s.answer, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	fmt.Fprint(ts.Stdout(), string(body))
	fmt.Fprintln(ts.Stderr(), response.Status)
	return err
}

// refused waits until nobody listens at the address.
func refused(address string) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		if err == nil {
			c.Close()
		}
	}
	return fmt.Errorf("%s still accepts connections", address)
}

func certificateCommand(ts *testscript.TestScript, _ *scene, _ []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agent"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: certificate}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func mkdir(path string) error { return os.MkdirAll(path, 0o700) }
