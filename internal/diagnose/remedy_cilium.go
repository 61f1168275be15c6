package diagnose

import (
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// The remedies in the settings of Cilium, in the words of the runbooks.

// kubectlCilium is kubectl in the namespace of Cilium.
func (f Facts) kubectlCilium() string {
	return "kubectl -n " + arg(f.cilium().namespace(), "CILIUM_NAMESPACE") + " "
}

// set are the commands that change settings of Cilium where they are decided: in
// cilium-config, or in a CiliumNodeConfig of this node.
func (f Facts) set(data string, decided ...string) []string {
	c := f.cilium()
	for _, key := range decided {
		if by := c.by[key]; by != "" {
			return []string{
				f.kubectlCilium() + "patch ciliumnodeconfig " + arg(by, "NAME") + ` --type=merge -p '{"spec": {"defaults": {` + data + `}}}'`,
			}
		}
	}
	return []string{f.kubectlCilium() + `patch configmap cilium-config --type=merge -p '{"data": {` + data + `}}'`}
}

// restartCilium are the commands that restart Cilium's agents, on this node first.
func (f Facts) restartCilium() []string {
	cilium := f.kubectlCilium()
	return []string{
		cilium + "delete pod -l k8s-app=cilium --field-selector spec.nodeName=" + f.node(),
		f.kubectl() + "exec " + f.pod() + " -- /workload-identity-exporter check -wait 1m",
		cilium + "rollout restart daemonset/cilium",
		cilium + "rollout status daemonset/cilium",
	}
}

// whatRoutes is the command that tells how Cilium routes on this node.
func (f Facts) whatRoutes() string {
	return f.inCilium("cilium-dbg status | grep -i routing")
}

// inCilium is a command in Cilium's agent on this node.
func (f Facts) inCilium(command string) string {
	cilium := f.kubectlCilium()
	return cilium + "exec $(" + cilium + "get pods -o name -l k8s-app=cilium --field-selector spec.nodeName=" + f.node() +
		") -c cilium-agent -- " + command
}

const (
	restartPooled = " Then restart the Pods that keep connections to the metadata server."
	// Of what has not struck nothing need be restarted: that is what would bring it about.
	beforeRestart = " Do so before Cilium's agents are restarted or upgraded, or new nodes start."
)

func useLegacyRouting(f Facts) Remedy {
	c := f.cilium()
	routing, _ := c.hostRouting()
	switch {
	case c.word("datapath-mode") == "netkit":
		return Remedy{
			"With datapath-mode netkit Cilium's agents do not start with legacy routing. Set datapath-mode to \"veth\" " +
				"and enable-host-legacy-routing to \"true\" for new nodes, and move Pods there; a node is not changed " +
				"while Pods run on it.",
			[]string{f.whatRoutes()},
		}
	case c.State != Read && (f.in(identity.Match) || f.Gate):
		return Remedy{"See which host routing runs, BPF or Legacy.", []string{f.whatRoutes()}}
	case c.State != Read, routing == No:
		return Remedy{
			"See which host routing runs, and if it is BPF, set enable-host-legacy-routing to \"true\" where it is not and " +
				"restart Cilium's agents, on one node first." + restartPooled,
			append([]string{f.whatRoutes()}, f.restartCilium()...),
		}
	}
	text, data := "Set enable-host-legacy-routing to \"true\"", `"enable-host-legacy-routing": "true"`
	if on, _ := c.flag(noConntrackRules, No); on == Yes {
		text += " and " + noConntrackRules + " to \"false\", both at once,"
		data += `, "` + noConntrackRules + `": "false"`
	}
	helm := " The same in the Helm values, or the next upgrade brings it back: bpf.hostLegacyRouting: true" + c.alternative() +
		". masqLinkLocal: false alone does not help."
	commands := f.set(data, legacyRouting, noConntrackRules)
	if f.in(identity.Match) && !f.vmAnswers() {
		return Remedy{strings.TrimSuffix(text, ",") + "." + beforeRestart + helm, append(commands, f.whatRoutes())}
	}
	return Remedy{
		text + " and restart Cilium's agents, on one node first." + helm + restartPooled,
		append(commands, f.restartCilium()...),
	}
}

// alternative is the other remedy for host routing, as far as Cilium starts with it and
// it helps: without any masquerading it does not, and two settings need BPF masquerading.
func (c ciliumSettings) alternative() string {
	ipv4, _ := c.flag(ipv4Masquerade, Yes)
	agent, _ := c.flag("enable-ip-masq-agent", No)
	conntrack, _ := c.flag(noConntrackRules, No)
	switch {
	case ipv4 == No:
		return " (bpf.masquerade: false does not help while enable-ipv4-masquerade is off)"
	case agent != No:
		return " (bpf.masquerade: false keeps Cilium's agents from starting while enable-ip-masq-agent is on)"
	case conntrack != No:
		return " (bpf.masquerade: false keeps Cilium's agents from starting while " + noConntrackRules + " is on)"
	}
	return ", or bpf.masquerade: false"
}

func trackConnections(f Facts) Remedy {
	text := "Set " + noConntrackRules + " to \"false\""
	const rest = " The same in the Helm values: installNoConntrackIptablesRules: false. Leave " + legacyRouting +
		" at \"true\": without it eBPF host routing does the same."
	commands := f.set(`"`+noConntrackRules+`": "false"`, noConntrackRules)
	look := f.inCilium("iptables -t raw -S CILIUM_PRE_raw | grep notrack")
	switch {
	case f.unreadCilium():
		return Remedy{text + " and restart Cilium's agents, on one node first." + rest, []string{look}}
	case f.in(identity.Match) && !f.vmAnswers():
		return Remedy{text + "." + beforeRestart + rest, append(commands, f.whatRoutes())}
	}
	return Remedy{
		text + " and restart Cilium's agents, on one node first." + rest + restartPooled,
		append(append(commands, look), f.restartCilium()...),
	}
}

func restoreRedirect(f Facts) Remedy {
	return Remedy{
		"Look on the node for the rule that sends 169.254.169.254 to 169.254.169.252:988; if it is missing, drain the node and let it be replaced. GKE writes the rule when " +
			"the node starts, and what flushes or reloads iptables takes it away.",
		[]string{
			"gcloud compute ssh " + f.node() + " -- sudo iptables -t nat -S PREROUTING",
		},
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
