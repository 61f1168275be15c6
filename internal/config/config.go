// Package config reads the settings from environment variables, says what is
// wrong with all of them at once, and documents them.
package config

import (
	"log/slog"
	"time"
)

// Prefix is that of every variable.
const Prefix = "WI"

// Config holds the settings. Each field is a variable: its name in upper case
// with the prefix. The tag `default` is its default, `desc` its meaning, `want`
// what is accepted; all three are shown by -help and in docs/configuration.md.
//
// No field has an `envconfig` tag: with one, the library would also read the
// variable without the prefix, and a LOG_LEVEL meant for another program.
type Config struct {
	ListenAddress string `split_words:"true" default:":10988" want:"[HOST]:PORT" desc:"Address of the HTTP server: metrics, health, status page."`
	WebConfigFile string `split_words:"true" want:"a path" desc:"File that sets up TLS and basic authentication for the HTTP server, in the format of the Prometheus exporter-toolkit. None: plain HTTP."`

	WebHosts []string `split_words:"true" want:"names separated by commas" desc:"Names of the public DNS by which people open the status page, as behind an Ingress. By addresses, names without a dot, and names in .svc, .local, .internal and .localhost it can always be asked for; by others it is refused, because a page of somebody else's may have that name (DNS rebinding)."`

	MetadataHost        string   `split_words:"true" default:"169.254.169.254" want:"HOST or HOST:PORT" desc:"The metadata server to ask. Any other than the default is for tests: a probe of it says nothing about what Pods get, so it is shown on the status page and by the metric workload_identity_config_info. GCE_METADATA_HOST and proxies are ignored."`
	ExpectedEmails      []string `split_words:"true" want:"identities separated by commas" desc:"The identities that are right, any one of them. None: what the annotations of the Pod's own Kubernetes ServiceAccount say, read from the API server."`
	NodeServiceAccounts []string `split_words:"true" want:"emails separated by commas, with * for any run of characters" desc:"Service accounts that are known to be a node's, besides the default ones of Compute Engine: *-compute@developer.gserviceaccount.com, *@project.gserviceaccount.com, and *-compute@developer.*-system.iam.gserviceaccount.com of a sovereign cloud. They are recognised even when the metadata server of GKE hands them out."`

	ProbeInterval       time.Duration `split_words:"true" default:"10s" want:"a duration from 1s up, such as 10s" desc:"Longest time between the beginnings of two probes. A wrong identity is stated at most this and one second after it began, and mismatch and unbound two seconds later."`
	ProbeTimeout        time.Duration `split_words:"true" default:"3s" want:"a duration from 100ms to 60s, such as 3s" desc:"Deadline of each request to the metadata server."`
	TokenInterval       time.Duration `split_words:"true" default:"60s" want:"a duration from 1s up, such as 60s" desc:"How long a valid token is taken for granted before the next one is asked for. It is asked for at once when the identity changes."`
	ExpectationInterval time.Duration `split_words:"true" default:"15m" want:"a duration from 1m up, such as 15m" desc:"How often the Kubernetes ServiceAccount is read while nothing is wrong. It is read again before a wrong identity is stated, three times at once and then once a minute: where it cannot be read then, or may not be read yet, the state is unknown_expectation instead of mismatch and unbound, and node_fallback is stated."`
	AnnotationGrace     time.Duration `split_words:"true" default:"2m" want:"a duration from 0s up, such as 2m" desc:"How much later than the API server the metadata server may know of a changed annotation. So long after the change mismatch and unbound are not stated, by the clock of the API server and also by an agent that starts meanwhile; node_fallback is."`
	StartupGrace        time.Duration `split_words:"true" default:"60s" want:"a duration from 0s up, such as 60s" desc:"How long after the start the state stays starting while the metadata server or the expected identity is not available. A wrong identity is stated at once."`

	PodName                 string `split_words:"true" want:"a name" desc:"Name of the agent's Pod, from the downward API. None: from the mounted token."`
	PodNamespace            string `split_words:"true" want:"a name" desc:"Namespace of the agent's Pod, from the downward API. None: from the mounted token."`
	NodeName                string `split_words:"true" want:"a name" desc:"Name of the node, from the downward API. None: from the mounted token."`
	ServiceAccount          string `split_words:"true" want:"a name" desc:"Name of the Pod's Kubernetes ServiceAccount, from the downward API. None: from the mounted token."`
	PodAddress              string `split_words:"true" want:"an IP address" desc:"Address of the agent's Pod (status.podIP), from the downward API. With WI_NODE_ADDRESS it tells whether the Pod is hostNetwork, which explains a node's identity. None: not known."`
	NodeAddress             string `split_words:"true" want:"an IP address" desc:"Address of the node (status.hostIP), from the downward API."`
	OnlyMetadataServerNodes bool   `split_words:"true" default:"false" want:"true or false" desc:"Whether the DaemonSet's nodeSelector keeps the agent on nodes with the label iam.gke.io/gke-metadata-server-enabled=true. The manifests set it; it rules out a node pool without GKE's metadata server, where the Node may not be read."`
	CiliumNamespace         string `split_words:"true" default:"kube-system" want:"a name" desc:"Namespace of Cilium, whose ConfigMap cilium-config may explain a wrong identity."`
	ServiceAccountDirectory string `split_words:"true" default:"/var/run/secrets/kubernetes.io/serviceaccount" want:"a path" desc:"Folder with the files token and ca.crt, by which the API server is reached."`

	Events         bool       `split_words:"true" default:"true" want:"true or false" desc:"Whether to write a Kubernetes Event about the Node and one about the agent's Pod when the state changes, and to repeat them while it is bad. They need the verb create on events in the namespace default and in that of the Pod; with the verb patch too, one Event counts the repetitions."`
	NodeCondition  bool       `split_words:"true" default:"false" want:"true or false" desc:"Whether to keep the condition WorkloadIdentityBroken of the Node, for those who drain nodes by conditions. It needs the verb patch on nodes/status."`
	LogLevel       slog.Level `split_words:"true" default:"info" want:"debug, info, warn or error" desc:"Least severity of log lines. Info has one line for each change of state, debug one for each probe."`
	LogFormat      string     `split_words:"true" default:"json" want:"json or text" desc:"Format of log lines: json has the field names that Cloud Logging reads."`
	RuntimeMetrics bool       `split_words:"true" default:"true" want:"true or false" desc:"Whether to export the metrics of the Go runtime and of the process (go_*, process_*) too."`

	RedactKeyFile    string `split_words:"true" want:"a path of a file with 16 random bytes or more" desc:"File with the key of these hashes, the same for all agents that are to be compared. None: ca.crt in WI_SERVICE_ACCOUNT_DIRECTORY, which is the same in a cluster; whoever can read that can tell which account a hash stands for by trying names."`
	RedactIdentities bool   `split_words:"true" default:"false" want:"true or false" desc:"Whether metrics, status, log and Events have a short keyed hash in the place of each Google identity, such as sa-3f9c01d2a4b6. The subcommand redact tells the hash of a name."`
}
