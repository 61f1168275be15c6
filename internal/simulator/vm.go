package simulator

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"
)

// VM is the Compute Engine metadata server of a node. Whoever asks it is the
// node: it does not look at the source address.
type VM struct {
	// Node is what the server tells about the machine, and the identity that
	// it hands out.
	Node Node
	// Tokens makes the access tokens.
	Tokens Tokens
}

// ServeHTTP answers like the metadata server of a virtual machine.
func (v *VM) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Metadata-Flavor", "Google")
	header.Set("Server", "Metadata Server for VM")
	header.Set("X-XSS-Protection", "0")
	header.Set("X-Frame-Options", "SAMEORIGIN")
	if r.Header.Get("Metadata-Flavor") != "Google" {
		errorPage(w, http.StatusForbidden, "Missing Metadata-Flavor:Google header.")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		errorPage(w, http.StatusMethodNotAllowed, "The request method is inappropriate for the URL.")
		return
	}

	found := v.find(r)
	switch {
	case found.status == http.StatusNotFound:
		errorPage(w, found.status, "The requested URL was not found on this server.")
		return
	case found.form == document:
		header.Set("Content-Type", "application/json")
	default:
		header.Set("Content-Type", "application/text")
	}
	header.Set("Etag", digest(found.body))
	w.WriteHeader(found.status)
	_, _ = w.Write([]byte(found.body)) // fails only when the client has gone
}

func (v *VM) find(r *http.Request) answer {
	switch r.URL.Path {
	case "/":
		return listing("0.1/", "computeMetadata/")
	case "/computeMetadata/":
		return listing("v1/", "v1beta1/")
	}
	path, ok := strings.CutPrefix(r.URL.Path, root)
	if !ok {
		return answer{status: http.StatusNotFound}
	}
	if below, ok := strings.CutPrefix(path, accounts); ok {
		return v.account().find(below, r.URL.Query())
	}
	return v.leaves().find(path)
}

func (v *VM) account() account {
	return account{email: v.Node.ServiceAccount, tokens: v.Tokens, identity: v.identity}
}

// identity describes the machine when the full format is asked for; the standard
// format has no google claim here either.
func (v *VM) identity(audience, format string) string {
	var machine map[string]any
	if format == "full" {
		machine = map[string]any{
			"instance_id": v.Node.InstanceID, "instance_name": v.Node.Name, "zone": v.Node.Zone,
			"project_id": v.Node.ProjectID, "project_number": v.Node.ProjectNumber,
			"instance_creation_timestamp": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Unix(),
		}
	}
	return v.Tokens.idToken(v.Node.ServiceAccount, audience, machine)
}

// leaves are what the GKE server serves and what only a machine has. The paths
// are the usual ones of a node that GKE made; the values are made up and hold
// nothing secret.
func (v *VM) leaves() tree {
	leaves := v.Node.shared()
	maps.Copy(leaves, tree{
		"instance/machine-type":                          "projects/" + v.Node.ProjectNumber + "/machineTypes/" + v.Node.MachineType,
		"instance/name":                                  v.Node.Name,
		"instance/cpu-platform":                          "Intel Broadwell",
		"instance/description":                           "",
		"instance/image":                                 "projects/gke-node-images/global/images/gke-simulated-cos",
		"instance/maintenance-event":                     "NONE",
		"instance/preempted":                             "FALSE",
		"instance/tags":                                  `["` + v.Node.Name + `"]`,
		"instance/network-interfaces/0/ip":               "10.132.0.2",
		"instance/network-interfaces/0/mtu":              "1460",
		"instance/scheduling/preemptible":                "FALSE",
		"instance/attributes/created-by":                 "projects/" + v.Node.ProjectNumber + "/zones/" + v.Node.Zone + "/instanceGroupManagers/gke-demo-default-pool",
		"instance/attributes/kube-env":                   "KUBERNETES_MASTER: \"false\"\n",
		"instance/attributes/kube-labels":                "cloud.google.com/gke-nodepool=default-pool",
		"instance/attributes/google-compute-enable-pcid": "true",
		"project/attributes/enable-oslogin":              "FALSE",
		accounts:                                         "", // so that instance/ lists it
	})
	return leaves
}

// errorPage begins like the recorded page of a 404, which is cut after its title.
func errorPage(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	w.WriteHeader(status)
	// Writing fails only when the client has gone.
	_, _ = fmt.Fprintf(w, `<!DOCTYPE html>
<html lang=en>
  <meta charset=utf-8>
  <meta name=viewport content="initial-scale=1, minimum-scale=1, width=device-width">
  <title>Error %d (%s)!!1</title>
  <p><b>%d.</b> %s
`, status, http.StatusText(status), status, text)
}
