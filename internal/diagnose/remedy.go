package diagnose

import (
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// The remedies, in the words of the runbooks in alerts/runbooks.

func enableMetadataServer(f Facts) Remedy {
	pool := arg(f.NodeLabels[labelNodePool], "POOL")
	const where = " --cluster=CLUSTER --location=LOCATION "
	return Remedy{
		"Set the node pool to GKE_METADATA. That takes the node's account from all Pods of the pool, those that " +
			"rely on it too: ask their owners.",
		[]string{
			"gcloud container node-pools describe " + pool + where +
				"--format='value(config.workloadMetadataConfig.mode)'",
			"gcloud container node-pools update " + pool + where + "--workload-metadata=GKE_METADATA",
		},
	}
}

func leaveHostNetwork(f Facts) Remedy {
	command := f.kubectl() + "get pod " + f.pod() + " -o jsonpath='{.spec.hostNetwork}'"
	if f.Gate {
		return Remedy{"Remove hostNetwork from the Pod's spec, or expect the identity of the node.", []string{command}}
	}
	return Remedy{"Remove hostNetwork from the DaemonSet of the agent.", []string{command}}
}

func excludeLinkLocal(f Facts) Remedy {
	return Remedy{
		"In the ConfigMap ip-masq-agent set masqLinkLocal to false and add 169.254.0.0/16 to nonMasqueradeCIDRs. It " +
			"acts without a restart.",
		[]string{"kubectl -n " + arg(f.IPMasqAgent.namespace(), "NAMESPACE") + " edit configmap ip-masq-agent"},
	}
}

func findSourceNAT(f Facts) Remedy {
	isNodes := " If the account is the node pool's, name it in WI_NODE_SERVICE_ACCOUNTS."
	if f.Gate {
		isNodes = ""
	}
	if f.passed() != "" {
		return Remedy{
			"Keep requests to 169.254.169.254 from proxies that ask in their own name, such as a waypoint of Istio's ambient mode: " +
				"label the ServiceEntry of the metadata server istio.io/use-waypoint=none." + isNodes,
			[]string{
				"kubectl get serviceentries -A | grep -E 'metadata|169.254'",
				"kubectl get namespace " + f.namespace() + " --show-labels",
			},
		}
	}
	return Remedy{
		"Look for source NAT in the node's rules (nat INPUT), for a proxy before the metadata server, and at its " +
			"log: it says Unable to find pod, or Caller is not authenticated." + isNodes,
		[]string{
			f.metadataServers() + " | xargs kubectl -n kube-system logs --tail=100",
			"gcloud container node-pools list --cluster=CLUSTER --location=LOCATION " +
				"--format='table(name, config.serviceAccount)'",
		},
	}
}

func correctExpectation(f Facts) Remedy {
	if f.Gate {
		return Remedy{
			"Compare -expect with the annotation of the Pod's Kubernetes ServiceAccount, and correct the one that is wrong.",
			[]string{f.describeAnnotation()},
		}
	}
	return Remedy{
		"Correct WI_EXPECTED_EMAILS in the DaemonSet, or remove it, so that the annotation counts.",
		[]string{f.setEnv("WI_EXPECTED_EMAILS-")},
	}
}

func annotate(f Facts) Remedy {
	text := "Annotate the Kubernetes ServiceAccount, or expect the workload pool if it needs no service account of Google's."
	return Remedy{text + " An annotation whose key is misspelt is none.", []string{f.annotate(f.gsa())}}
}

func correctAnnotation(f Facts) Remedy {
	commands := []string{f.annotate(f.gsa())}
	if key := arg(strings.ReplaceAll(f.misspeltKey(), "/", ""), ""); key != "" {
		commands = append(commands, f.kubectl()+"annotate serviceaccount "+f.serviceAccount()+" "+f.misspeltKey()+"-")
	}
	return Remedy{
		"Set the annotation " + identity.AnnotationServiceAccount + " to the full email of the service account, " +
			"without quotes or a prefix.",
		commands,
	}
}

func waitForAnnotation(f Facts) Remedy {
	return Remedy{
		"Wait some minutes, and if it lasts, restart the gke-metadata-server of the node. Clients may use a token of " +
			"the old account for up to an hour.",
		[]string{f.restartMetadataServer()},
	}
}

func correctAccount(f Facts) Remedy {
	return Remedy{
		"Correct the annotation if it is misspelt, or create the account again if it was deleted. It is a new one " +
			"then, and needs its binding again.",
		[]string{"gcloud iam service-accounts describe " + f.gsa(), f.annotate("GSA@PROJECT.iam.gserviceaccount.com")},
	}
}

func bind(f Facts) Remedy {
	member := arg(identity.PoolOf(f.Self.Project), "PROJECT.svc.id.goog") + "[" + f.namespace() + "/" + f.serviceAccount() + "]"
	return Remedy{
		"Look whether the account exists and is enabled, and give the Kubernetes ServiceAccount the role. It takes " +
			"some minutes, and nothing need be restarted.",
		[]string{
			"gcloud iam service-accounts describe " + f.gsa(),
			"gcloud iam service-accounts get-iam-policy " + f.gsa(),
			"gcloud iam service-accounts add-iam-policy-binding " + f.gsa() +
				` --role=roles/iam.workloadIdentityUser --member="serviceAccount:` + member + `"`,
		},
	}
}

func openIAM(f Facts) Remedy {
	project := arg(f.Self.Project, "PROJECT")
	return Remedy{
		"Enable the API, or have the perimeter let the nodes reach it. It is iamcredentials.googleapis.com, in the project of " +
			"the cluster; where VPC Service Controls forbid the request, the audit log has the violation.",
		[]string{
			"gcloud services enable iamcredentials.googleapis.com --project=" + project,
			`gcloud logging read 'protoPayload.metadata."@type"="type.googleapis.com/google.cloud.audit.VpcServiceControlAuditMetadata"' --freshness=1h --limit=5 --project=` + project,
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
	if on, _ := f.cilium().flag(localRedirectPolicy, No); on == Yes {
		text += " If it runs and connections are refused, remove the local redirect policy, after making sure that " +
			"Cilium does without it."
		commands = append(commands, "kubectl get ciliumlocalredirectpolicies -A")
	}
	return Remedy{text, commands}
}

func allowEgress(f Facts) Remedy {
	text := "Allow egress to the metadata server: to 169.254.169.254/32 port 80 with Dataplane V2 and with a self-managed " +
		"Cilium, else to 169.254.169.252/32 port 988."
	if f.DataplaneV2 == Yes || f.Cilium.State == Read {
		text = "Allow egress to the metadata server: to 169.254.169.254/32 port 80."
	}
	text += " For Cilium that is toCIDR; under a local redirect policy whose backend is hostNetwork, allow toEntities: [host] " +
		"port 988 as well, which a plain NetworkPolicy cannot."
	if !f.Gate {
		text += " Ask as a workload first: a policy of the agent's namespace affects nobody else."
	}
	return Remedy{
		text,
		[]string{
			"kubectl get networkpolicies -A",
			"kubectl get ciliumnetworkpolicies,ciliumclusterwidenetworkpolicies -A",
		},
	}
}

// renewTokens: a server that starts anew asks for new tokens.
func renewTokens(f Facts) Remedy {
	return Remedy{
		"Read the log of gke-metadata-server, compare the node's clock with the true time, and delete its Pod, so that it " +
			"asks for new tokens. Where STS refuses, look whether the cluster's workload pool is that of its project.",
		[]string{
			f.metadataServers() + " | xargs kubectl -n kube-system logs --tail=100",
			f.restartMetadataServer(),
			"gcloud container clusters describe CLUSTER --location=LOCATION --format='value(workloadIdentityConfig.workloadPool)'",
		},
	}
}

// findProxy: a mesh intercepts what a Pod sends, unless it is told not to, and before
// its proxy has started nobody answers rightly.
func findProxy(f Facts) Remedy {
	ask := "kubectl exec -n NAMESPACE POD_WITH_CURL -- curl -s -i -H 'Metadata-Flavor: Google' " +
		"http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/email"
	switch _, _, mark := f.proxied(); {
	case strings.Contains(strings.ToLower(mark), "envoy"):
		return Remedy{
			"Exclude 169.254.169.254/32 and 169.254.169.252/32 from what the mesh intercepts: with Istio by the Pod's annotation " +
				"traffic.sidecar.istio.io/excludeOutboundIPRanges. If it fails only while a Pod starts, " +
				"holdApplicationUntilProxyStarts is enough.",
			[]string{
				f.kubectl() + "get pod " + f.pod() + " -o jsonpath='{.spec.initContainers[*].name} {.spec.containers[*].name}'",
				ask,
			},
		}
	case strings.Contains(mark, "l5d-"):
		return Remedy{
			"Keep requests to the metadata server from Linkerd's proxy, by the Pod's annotation config.linkerd.io/skip-subnets: " +
				"169.254.169.254/32,169.254.169.252/32.",
			[]string{
				f.kubectl() + "get pod " + f.pod() + " -o jsonpath='{.spec.initContainers[*].name} {.spec.containers[*].name}'",
				ask,
			},
		}
	case mark != "":
		return Remedy{
			"Find the proxy or web server that answers, and keep requests to 169.254.169.254 from it: by an exception where they " +
				"are redirected, or in NO_PROXY.",
			[]string{ask},
		}
	}
	return Remedy{
		"Find out what answers: a proxy on the way, or metadata concealment on an old node pool.",
		[]string{ask},
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
			"before the end of the failure. The plugin for kubectl lists only those, and so does a command of the runbook.",
		[]string{"kubectl workload-identity exposed", "kubectl get pods -A -o wide --field-selector spec.nodeName=" + f.node()},
	}
}
