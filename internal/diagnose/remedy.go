package diagnose

import (
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// The remedies, in the words of the runbooks in alerts/runbooks.

func useLegacyRouting(f Facts) Remedy {
	c := f.cilium()
	cilium := "kubectl -n " + arg(c.namespace(), "CILIUM_NAMESPACE") + " "
	alternative := ", or bpf.masquerade: false"
	if agent, _ := c.flag("enable-ip-masq-agent", No); agent != No {
		alternative = " (bpf.masquerade: false keeps Cilium's agents from starting while enable-ip-masq-agent is on)"
	}
	restart := []string{
		cilium + "delete pod -l k8s-app=cilium --field-selector spec.nodeName=" + f.node(),
		f.kubectl() + "exec " + f.pod() + " -- /workload-identity-exporter check # right after some seconds?",
		cilium + "rollout restart daemonset/cilium",
		cilium + "rollout status daemonset/cilium",
	}
	const then = " Then restart the Pods that keep connections to the metadata server."
	if routing, _ := c.hostRouting(); routing == No {
		return Remedy{
			"See which host routing runs, BPF or Legacy. " +
				"If it is BPF, restart Cilium's agents, on one node first." + then,
			append([]string{
				cilium + "exec $(" + cilium + "get pods -o name -l k8s-app=cilium --field-selector spec.nodeName=" +
					f.node() + ") -c cilium-agent -- cilium-dbg status | grep -i routing",
			}, restart...),
		}
	}
	return Remedy{
		"Set enable-host-legacy-routing to \"true\" and restart Cilium's agents, on one node first. The same in the " +
			"Helm values, or the next upgrade brings it back: bpf.hostLegacyRouting: true" + alternative +
			". masqLinkLocal: false alone does not help." + then,
		append([]string{
			cilium + "patch configmap cilium-config --type=merge -p " +
				`'{"data": {"enable-host-legacy-routing": "true"}}'`,
		}, restart...),
	}
}

func dropLocalRedirect(f Facts) Remedy {
	return Remedy{
		"Bring the backend of the policy back; it works again without a restart. For good: set " +
			"enable-host-legacy-routing to \"true\", restart Cilium's agents, and remove the policy, which is not " +
			"needed then.",
		[]string{"kubectl get ciliumlocalredirectpolicies -A", f.metadataServers()},
	}
}

func enableMetadataServer(f Facts) Remedy {
	pool := arg(f.NodeLabels[labelNodePool], "POOL")
	const where = " --cluster=CLUSTER --location=LOCATION "
	return Remedy{
		"Set the node pool to GKE_METADATA. That takes the node's account from all Pods of the pool, those that " +
			"rely on it too: ask their owners.",
		[]string{
			"gcloud container node-pools describe " + pool + where +
				"--format='value(config.workloadMetadataConfig.mode)' # GKE_METADATA is right",
			"gcloud container node-pools update " + pool + where + "--workload-metadata=GKE_METADATA",
		},
	}
}

func leaveHostNetwork(f Facts) Remedy {
	return Remedy{
		"Remove hostNetwork from the DaemonSet of the agent.",
		[]string{f.kubectl() + "get pod " + f.pod() + " -o jsonpath='{.spec.hostNetwork}' # true?"},
	}
}

func excludeLinkLocal(f Facts) Remedy {
	return Remedy{
		"In the ConfigMap ip-masq-agent set masqLinkLocal to false and add 169.254.0.0/16 to nonMasqueradeCIDRs. It " +
			"acts without a restart.",
		[]string{"kubectl -n " + arg(f.IPMasqAgent.namespace(), "NAMESPACE") + " edit configmap ip-masq-agent"},
	}
}

func findSourceNAT(f Facts) Remedy {
	return Remedy{
		"Look for source NAT in the node's rules (nat INPUT), for a proxy before the metadata server, and at its " +
			"log: it says Unable to find pod, or Caller is not authenticated. If the account is the node pool's, " +
			"name it in WI_NODE_SERVICE_ACCOUNTS.",
		[]string{
			f.metadataServers() + " | xargs kubectl -n kube-system logs --tail=100",
			"gcloud container node-pools list --cluster=CLUSTER --location=LOCATION " +
				"--format='table(name, config.serviceAccount)'",
		},
	}
}

func correctExpectation(f Facts) Remedy {
	return Remedy{
		"Correct WI_EXPECTED_EMAILS in the DaemonSet, or remove it, so that the annotation counts.",
		[]string{f.setEnv("WI_EXPECTED_EMAILS-")},
	}
}

func annotate(f Facts) Remedy {
	return Remedy{
		"Annotate the Kubernetes ServiceAccount, or remove WI_EXPECTED_EMAILS if it needs no service account of " +
			"Google's. An annotation whose key is misspelt is none.",
		[]string{f.annotate(f.gsa())},
	}
}

func waitForAnnotation(f Facts) Remedy {
	return Remedy{
		"Wait some minutes. If it lasts, restart the gke-metadata-server of the node. Clients may use a token of " +
			"the old account for up to an hour.",
		[]string{f.restartMetadataServer()},
	}
}

func correctAccount(f Facts) Remedy {
	return Remedy{
		"Correct the annotation if it is misspelt. If the account was deleted, create it again: it is a new one " +
			"then, and needs its binding again.",
		[]string{"gcloud iam service-accounts describe " + f.gsa(), f.annotate("GSA@PROJECT.iam.gserviceaccount.com")},
	}
}

func bind(f Facts) Remedy {
	member := arg(f.Self.Project, "PROJECT") + ".svc.id.goog[" + f.namespace() + "/" + f.serviceAccount() + "]"
	return Remedy{
		"Look whether the account exists and is enabled, and give the Kubernetes ServiceAccount the role. It takes " +
			"some minutes, and nothing must be restarted.",
		[]string{
			"gcloud iam service-accounts describe " + f.gsa(),
			"gcloud iam service-accounts get-iam-policy " + f.gsa(),
			"gcloud iam service-accounts add-iam-policy-binding " + f.gsa() +
				` --role=roles/iam.workloadIdentityUser --member="serviceAccount:` + member + `"`,
		},
	}
}

func askLess(f Facts) Remedy {
	return Remedy{
		"Find the Pods that ask so often, such as a crash loop, or clients that fetch a token for each request. The " +
			"server takes 500 connections at once on a node, and STS 6,000 requests a minute for a project.",
		[]string{
			"kubectl get pods -A -o wide --field-selector spec.nodeName=" + f.node() +
				" --sort-by='.status.containerStatuses[0].restartCount' | tail",
		},
	}
}

func openSTS(f Facts) Remedy {
	return Remedy{
		"The node needs sts.googleapis.com and iamcredentials.googleapis.com: look at its route, firewall and DNS, " +
			"and on many nodes at once at the status of Google Cloud.",
		[]string{f.metadataServers() + " | xargs kubectl -n kube-system logs --tail=100"},
	}
}

func restartServer(f Facts) Remedy {
	text := "Look whether gke-metadata-server runs, and delete its Pod. If it does not come back, drain the node " +
		"and let it be replaced. If there is no such Pod, look whether the node pool is in the mode GKE_METADATA."
	commands := []string{f.metadataServers(), f.restartMetadataServer()}
	if on, _ := f.cilium().flag("enable-local-redirect-policy", No); on == Yes {
		text += " If it runs and connections are refused, remove the local redirect policy, after making sure that " +
			"Cilium does without it."
		commands = append(commands, "kubectl get ciliumlocalredirectpolicies -A")
	}
	return Remedy{text, commands}
}

func allowEgress(f Facts) Remedy {
	text := "Allow egress to 169.254.169.254/32 port 80 with Dataplane V2 and with a self-managed Cilium (by " +
		"toCIDR: toEntities: [host] does not match it), else to 169.254.169.252/32 port 988."
	switch {
	case f.DataplaneV2 == Yes || f.Cilium.State == Read:
		text = "Allow egress to 169.254.169.254/32 port 80. With Cilium toEntities: [host] does not match it, " +
			"toCIDR does."
	case f.DataplaneV2 == No && f.Cilium.State == Absent:
		text = "Allow egress to 169.254.169.252/32 port 988."
	}
	return Remedy{
		text + " Ask as a workload first: a policy of the agent's namespace concerns nobody else.",
		[]string{
			"kubectl get networkpolicies -A",
			"kubectl get ciliumnetworkpolicies,ciliumclusterwidenetworkpolicies -A # with a self-managed Cilium",
		},
	}
}

func findProxy(Facts) Remedy {
	return Remedy{
		"Find out what answers: a proxy on the way, or metadata concealment on an old node pool.",
		[]string{"kubectl exec -n NAMESPACE POD_WITH_CURL -- curl -s -i -H 'Metadata-Flavor: Google' " +
			"http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/email"},
	}
}

func unsetVariables(f Facts) Remedy {
	if f.Environment.MetadataHost != "" {
		return Remedy{
			"Remove WI_METADATA_HOST from the DaemonSet, unless this is a test.",
			[]string{f.setEnv("WI_METADATA_HOST-")},
		}
	}
	return Remedy{
		"Find out who sets the variable, and whether Pods of workloads have it: by it they ask somebody else than " +
			"the metadata server of the node. A proxy needs 169.254.169.254 among its exceptions.",
		[]string{f.kubectl() + "get pod " + f.pod() + " -o jsonpath='{.spec.containers[*].env[*].name}'"},
	}
}

func findWhyVM(f Facts) Remedy {
	return Remedy{
		"Find out why the VM's metadata server answers, by the causes of a fallback in the runbook. It is right by " +
			"chance.",
		[]string{"kubectl get node " + f.node() + " -L " + labelNodePool + " -L " + LabelMetadataServer},
	}
}

func restartPods(f Facts) Remedy {
	return Remedy{
		"Restart the Pods that run under an annotated Kubernetes ServiceAccount, are not hostNetwork, and started " +
			"before the end of the failure. The runbook has a command that lists only those.",
		[]string{"kubectl get pods -A -o wide --field-selector spec.nodeName=" + f.node()},
	}
}

func (f Facts) namespace() string      { return arg(f.Self.Namespace, "NAMESPACE") }
func (f Facts) serviceAccount() string { return arg(f.Self.ServiceAccount, "KSA") }
func (f Facts) node() string           { return arg(f.Self.Node, "NODE") }
func (f Facts) pod() string            { return arg(f.Self.Pod, "POD") }
func (f Facts) kubectl() string        { return "kubectl -n " + f.namespace() + " " }

func (f Facts) annotate(account string) string {
	return f.kubectl() + "annotate serviceaccount " + f.serviceAccount() + " --overwrite " +
		identity.AnnotationServiceAccount + "=" + account
}

func (f Facts) setEnv(change string) string {
	return f.kubectl() + "get daemonset -l app.kubernetes.io/name=workload-identity-exporter -o name | xargs -I{} " +
		f.kubectl() + "set env {} " + change
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
