package diagnose

import (
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Lines for a shell, and their parts.

func (f Facts) namespace() string      { return arg(f.Self.Namespace, "NAMESPACE") }
func (f Facts) serviceAccount() string { return arg(f.Self.ServiceAccount, "KSA") }
func (f Facts) node() string           { return arg(f.Self.Node, "NODE") }
func (f Facts) pod() string            { return arg(f.Self.Pod, "POD") }
func (f Facts) kubectl() string        { return "kubectl -n " + f.namespace() + " " }

func (f Facts) annotate(account string) string {
	return f.kubectl() + "annotate serviceaccount " + f.serviceAccount() + " --overwrite " +
		identity.AnnotationServiceAccount + "=" + account
}

func (f Facts) describeAnnotation() string {
	return f.kubectl() + "get serviceaccount " + f.serviceAccount() + " -o jsonpath='{.metadata.annotations}'"
}

func (f Facts) setEnv(change string) string {
	return f.kubectl() + "get daemonset -l app.kubernetes.io/name=workload-identity-exporter -o name | xargs -I{} " +
		f.kubectl() + "set env {} " + change
}

// askAgent is the command that asks the agent on the node, where that is installed as
// the manifests do.
func (f Facts) askAgent() string {
	const kubectl = "kubectl -n workload-identity-exporter "
	return kubectl + "exec $(" + kubectl + "get pods -o name -l app.kubernetes.io/name=workload-identity-exporter " +
		"--field-selector spec.nodeName=" + f.node() + ") -- /workload-identity-exporter check"
}

func (f Facts) metadataServers() string {
	return "kubectl -n kube-system get pods -o name --field-selector spec.nodeName=" + f.node() +
		" | grep gke-metadata-server"
}

func (f Facts) restartMetadataServer() string {
	return f.metadataServers() + " | xargs kubectl -n kube-system delete"
}

// gsa is the one service account that is expected.
func (f Facts) gsa() string {
	account := ""
	for _, p := range f.Expectation.Accepted {
		if identity.Identity(p).Kind() == identity.ServiceAccount {
			if account != "" {
				account = ""
				break
			}
			account = string(p)
		}
	}
	return arg(account, "GSA@PROJECT.iam.gserviceaccount.com")
}

// arg is a word of a command: the value if a shell takes each of its characters
// literally and no program takes it for an option, else the placeholder. People
// paste these lines, and some values come from servers and objects of others.
func arg(value, placeholder string) string {
	const literal = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.-_@:"
	if value == "" || len(value) > 253 || value[0] == '-' || strings.Trim(value, literal) != "" {
		return placeholder
	}
	return value
}
