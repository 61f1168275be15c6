// Package kubetest is the one corner of the Kubernetes API that the exporter
// uses, for tests and demos that must run without a cluster: a ServiceAccount,
// served over TLS, with the folder of credentials that the kubelet mounts into a
// Pod.
package kubetest

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Names of the objects that the credentials speak of.
const (
	Namespace      = "demo"
	ServiceAccount = "app"
	Node           = "node-1"
	Pod            = "exporter-abcde"
	Project        = "demo-project"
)

// Cut is the status with which the server closes the connection instead of answering.
const Cut = 0

// Server is an API server with the ServiceAccount demo/app.
type Server struct {
	// Directory holds the files token and ca.crt.
	Directory string

	http *httptest.Server

	mu          sync.Mutex
	annotations map[string]string
	changed     time.Time
	objects     map[string]any
	status      int
	delay       time.Duration
	tell        func(Written)
	requests    []http.Request
	written     []Written
	connections int
	accepted    int
}

// Start serves the ServiceAccount without annotations, and writes the
// credentials into the directory.
func Start(directory string) (*Server, error) {
	s := &Server{Directory: directory, status: http.StatusOK, objects: map[string]any{}}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch state {
		case http.StateNew:
			s.connections++
			s.accepted++
		case http.StateClosed, http.StateHijacked:
			s.connections--
		case http.StateActive, http.StateIdle:
		}
	}
	s.http.EnableHTTP2 = true
	s.http.StartTLS()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
	for name, content := range map[string][]byte{"ca.crt": ca, "token": []byte(Token())} {
		if err := os.WriteFile(filepath.Join(directory, name), content, 0o600); err != nil {
			s.Close()
			return nil, fmt.Errorf("write the credentials: %w", err)
		}
	}
	return s, nil
}

// Close stops the server.
func (s *Server) Close() { s.http.Close() }

// Environment are the variables, NAME=VALUE, by which a process finds the
// server as it would find that of its cluster.
func (s *Server) Environment() []string {
	host, port, _ := net.SplitHostPort(s.http.Listener.Addr().String()) // is an address
	return []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port, "WI_SERVICE_ACCOUNT_DIRECTORY=" + s.Directory}
}

// Annotate replaces the annotations of the ServiceAccount, which does not know when
// that was.
func (s *Server) Annotate(annotations map[string]string) { s.AnnotateAt(annotations, time.Time{}) }

// AnnotateAt does the same, and the ServiceAccount knows when, in its managed fields.
func (s *Server) AnnotateAt(annotations map[string]string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.annotations, s.changed = annotations, at
}

// Put makes the server answer requests for the path with the object, refuse
// them if it is an HTTP status, or find out by a func() any what to do.
func (s *Server) Put(path string, object any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[path] = object
}

// Answer makes the server answer with the status, after the delay or when the
// client has gone. With 429 it says when to come again, as the real one does.
func (s *Server) Answer(status int, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.delay = status, delay
}

// Requests are those received so far.
func (s *Server) Requests() []http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]http.Request(nil), s.requests...)
}

// Written is an object that was sent to the server.
type Written struct {
	Method, Path, ContentType string
	Object                    map[string]any
}

// Written are those received so far.
func (s *Server) Written() []Written {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Written(nil), s.written...)
}

// Tell makes the server call the function with each object that is sent to it.
func (s *Server) Tell(f func(Written)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = f
}

// Accepted is the number of connections that there were.
func (s *Server) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Connections is the number of connections that are open.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	written := Written{Method: r.Method, Path: r.URL.Path, ContentType: r.Header.Get("Content-Type")}
	writes := r.Method != http.MethodGet && json.NewDecoder(r.Body).Decode(&written.Object) == nil
	s.mu.Lock()
	s.requests = append(s.requests, *r)
	if writes {
		s.written = append(s.written, written)
	}
	status, delay, object, tell := s.status, s.delay, s.objects[r.URL.Path], s.tell
	account := s.account()
	s.mu.Unlock()
	if now, ok := object.(func() any); ok {
		object = now()
	}
	if refusal, ok := object.(int); ok {
		status = refusal
	}
	if writes && tell != nil {
		tell(written)
	}
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return
	}
	path := "/api/v1/namespaces/" + Namespace + "/serviceaccounts/" + ServiceAccount
	switch {
	case status == Cut:
		panic(http.ErrAbortHandler)
	case r.Header.Get("Authorization") != "Bearer "+Token():
		refuse(w, http.StatusUnauthorized)
	case status != http.StatusOK:
		refuse(w, status)
	case writes:
		answer(w, http.StatusCreated, written.Object)
	case object != nil:
		answer(w, http.StatusOK, object)
	case r.URL.Path != path:
		refuse(w, http.StatusNotFound)
	default:
		answer(w, http.StatusOK, account)
	}
}

// account is the ServiceAccount as its metadata.
func (s *Server) account() any {
	metadata := map[string]any{"namespace": Namespace, "name": ServiceAccount, "uid": "1", "annotations": s.annotations}
	if !s.changed.IsZero() {
		owned := map[string]any{}
		for key := range s.annotations {
			owned["f:"+key] = map[string]any{}
		}
		metadata["managedFields"] = []any{map[string]any{
			"manager": "kubectl-annotate", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
			"time": s.changed.UTC().Format(time.RFC3339), "fieldsV1": map[string]any{"f:metadata": map[string]any{"f:annotations": owned}},
		}}
	}
	return map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}
}

// refuse answers as the API server does, with a Status.
func refuse(w http.ResponseWriter, code int) {
	reason := map[int]string{
		http.StatusUnauthorized: "Unauthorized", http.StatusForbidden: "Forbidden", http.StatusNotFound: "NotFound",
		http.StatusTooManyRequests: "TooManyRequests",
	}[code]
	if code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	answer(w, code, map[string]any{
		"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason,
		"message": "serviceaccounts \"" + ServiceAccount + "\": " + http.StatusText(code),
	})
}

func answer(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object) // fails only if the client has gone
}

// Token is a ServiceAccount token with the claims that GKE puts into one. Its
// signature is none.
func Token() string {
	claims, _ := json.Marshal(map[string]any{ // cannot fail
		"iss": "https://container.googleapis.com/v1/projects/" + Project + "/locations/europe-west1/clusters/demo",
		"kubernetes.io": map[string]any{
			"namespace":      Namespace,
			"node":           map[string]any{"name": Node, "uid": "2"},
			"pod":            map[string]any{"name": Pod, "uid": "3"},
			"serviceaccount": map[string]any{"name": ServiceAccount, "uid": "1"},
		},
	})
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode(claims) + "." + encode([]byte("no signature"))
}
