// Package kube reads from the Kubernetes API server what the agent must know,
// one named object at a time: no watch, no informer, and no list but two bounded ones
// that nobody needs, of CiliumNodeConfigs and of the node's Cilium Pod. On a cluster of
// 15,000 nodes whatever it does is done 15,000 times.
package kube

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
)

// DefaultCredentials is the folder in which the kubelet mounts the Pod's token,
// namespace and CA certificate.
const DefaultCredentials = "/var/run/secrets/kubernetes.io/serviceaccount"

// Self is what the process knows about itself. Fields are empty when unknown.
type Self struct {
	Namespace      string
	ServiceAccount string
	Node           string
	Pod            string
	PodUID         string
	// Project is the Google Cloud project of the cluster, from the token's issuer.
	Project string
}

// Or returns s with its empty fields taken from t.
func (s Self) Or(t Self) Self {
	for _, f := range []struct{ dst, src *string }{
		{&s.Namespace, &t.Namespace},
		{&s.ServiceAccount, &t.ServiceAccount},
		{&s.Node, &t.Node},
		{&s.Pod, &t.Pod},
		{&s.PodUID, &t.PodUID},
		{&s.Project, &t.Project},
	} {
		if *f.dst == "" {
			*f.dst = *f.src
		}
	}
	return s
}

// SelfFromToken reads the claims of the mounted token, which names the Pod it
// was issued for (Kubernetes documentation, "Managing Service Accounts", bound
// tokens; the node is named since Kubernetes 1.30). The signature is not
// verified: the token is the process's own. Without a token all is unknown, and
// that is no error, because a process outside of a cluster has none.
func SelfFromToken(credentials string) (Self, error) {
	token, err := os.ReadFile(filepath.Join(credentials, "token"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(token)) == "" {
		return Self{}, nil
	}
	if err != nil {
		return Self{}, fmt.Errorf("read the ServiceAccount token: %w", err)
	}
	self, ok := claimsOf(string(token))
	if !ok { // the error could quote a part of the token
		return Self{}, fmt.Errorf("the ServiceAccount token in %s is not a JSON Web Token with readable claims", credentials)
	}
	return self, nil
}

// claimsOf reads the payload of a JSON Web Token.
func claimsOf(token string) (self Self, ok bool) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	type named struct{ Name, UID string }
	var claims struct {
		Issuer     string `json:"iss"`
		Kubernetes struct {
			Namespace      string
			Node, Pod      named
			ServiceAccount named
		} `json:"kubernetes.io"`
	}
	if len(parts) != 3 {
		return Self{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return Self{}, false
	}
	k := claims.Kubernetes
	return Self{
		Namespace: k.Namespace, ServiceAccount: k.ServiceAccount.Name, Node: k.Node.Name, Pod: k.Pod.Name,
		PodUID: k.Pod.UID, Project: projectOf(claims.Issuer),
	}, true
}

// projectOf is PROJECT in a GKE cluster's issuer,
// https://container.googleapis.com/v1/projects/PROJECT/locations/..., and empty
// for any other.
func projectOf(issuer string) string {
	_, path, _ := strings.Cut(issuer, "/projects/")
	project, _, ok := strings.Cut(path, "/locations/")
	if !ok {
		return ""
	}
	return project
}

// Config is how the process reaches the API server of its cluster: as
// rest.InClusterConfig says, but for the folder of the credentials, which may be
// a projected volume instead of the automounted one. The files are read with each
// request, and need not be there yet.
func Config(getenv func(string) string, credentials string) (*rest.Config, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, ErrNotInCluster
	}
	return &rest.Config{
		Host:            "https://" + net.JoinHostPort(host, port),
		BearerTokenFile: filepath.Join(credentials, "token"),
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(credentials, "ca.crt")},
	}, nil
}
