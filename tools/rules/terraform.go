package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// notification is what one of Cloud Monitoring says. It knows no templates of
// Prometheus, but the labels of a query's result as variables, and "(none)" where
// there is no such label (Google Cloud SDK, the translation of `gcloud monitoring
// policies migrate`; Cloud Monitoring, "Annotate notifications").
type notification struct{ subject, what, first string }

var notifications = map[string]notification{
	"WorkloadIdentityClusterWideFallback": {
		"Many nodes of {cluster} hand out their own identity",
		"Pods with Workload Identity on many nodes of cluster {cluster} get the service account of their node instead of theirs: they have its rights and lack their own. So many nodes at once have a common cause, most likely a change of the datapath.",
		"Find what was rolled out a moment ago, and stop it. Most likely the Cilium agents were restarted or upgraded.",
	},
	"WorkloadIdentityNodeFallback": {
		"Pods on {node} get the node's identity",
		"Pods with Workload Identity on node {node} of cluster {cluster} get {observed}, the node's own service account, instead of {expected}: they have its rights and lack their own. The metadata server that answered: {metadata_server}.",
		"Look whether Cilium was restarted or upgraded, or a node pool changed, a moment ago, and stop that rollout. `kubectl cordon {node}` keeps new Pods away.",
	},
	"WorkloadIdentityMismatch": {
		"Pods on {node} get a foreign identity",
		"Pods with Workload Identity on node {node} of cluster {cluster} get {observed} instead of {expected}, which is neither theirs nor known as the node's. The metadata server that answered: {metadata_server}.",
		"Look whose account {observed} is. If it is another workload's, `kubectl cordon {node}` keeps new Pods away.",
	},
	"WorkloadIdentityPartlyWrong": {
		"Many answers on {node} give a wrong identity",
		"Many answers on node {node} of cluster {cluster}, though not all, give a wrong identity: most likely two servers answer. Each new connection of a Pod may get the node's rights.",
		"`kubectl cordon {node}` keeps new Pods away. Then find out which two servers answer: run `check` several times in the agent's Pod.",
	},
	"WorkloadIdentityMetadataUnavailableClusterWide": {
		"No usable metadata server on many nodes of {cluster}",
		"Pods on many nodes of cluster {cluster} get no usable answer, for their identity or for a token. Pods that start get no token, and those that run work until theirs expires.",
		"Look whether Google Cloud reports an incident of IAM or STS. Stop rollouts and scaling: Pods that do not restart still have a token.",
	},
}

// explained are the alerts that others explain. Cloud Monitoring has no inhibition,
// so their queries leave out where those others hold.
var explained = map[string][]string{
	"WorkloadIdentityNodeFallback": {"WorkloadIdentityClusterWideFallback"},
	"WorkloadIdentityMismatch":     {"WorkloadIdentityClusterWideFallback"},
	"WorkloadIdentityPartlyWrong":  {"WorkloadIdentityClusterWideFallback", "WorkloadIdentityNodeFallback", "WorkloadIdentityMismatch"},
}

// leastInterval is how often Cloud Monitoring evaluates, and of what the interval
// is a multiple (terraform-provider-google, monitoring_alert_policy).
const leastInterval = 30 * time.Second

// ruled is what an alert of the ClusterRules has for Cloud Monitoring.
type ruled struct {
	Alert  string            `json:"alert"`
	Expr   string            `json:"expr"`
	For    string            `json:"for"`
	Labels map[string]string `json:"labels"`
}

// withPolicies adds what comes from the rules of GMP, the one form without series
// that other rules record.
func withPolicies(files []file, err error) ([]file, error) {
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(files, func(f file) bool { return f.path == gmpRules })
	if at < 0 {
		return nil, errors.New("no " + gmpRules)
	}
	policies, err := terraform(files[at].content)
	return append(files, policies...), err
}

const gmpRules = "deploy/kustomize/overlays/gmp/clusterrules.yaml"

// terraform gives the data of the module in alerts/terraform: the alerts of the
// ClusterRules that page, as policies of Cloud Monitoring.
func terraform(clusterRules []byte) ([]file, error) {
	var rules struct {
		Spec struct {
			Groups []struct {
				Name     string  `json:"name"`
				Interval string  `json:"interval"`
				Rules    []ruled `json:"rules"`
			} `json:"groups"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(clusterRules, &rules); err != nil {
		return nil, fmt.Errorf("cluster rules: %w", err)
	}
	exprs := map[string]string{}
	for _, g := range rules.Spec.Groups {
		for i, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			each, err := eachNode(r.Expr)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.Alert, err)
			}
			exprs[r.Alert], g.Rules[i].Expr = each, each
		}
	}

	var out strings.Builder
	out.WriteString(generated + "locals {\nalerts = {\n")
	for _, g := range rules.Spec.Groups {
		interval, err := seconds(g.Interval)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", g.Name, err)
		}
		// Up to the next multiple.
		interval = (interval + leastInterval - 1) / leastInterval * leastInterval
		for _, r := range g.Rules {
			if r.Labels["severity"] != "critical" {
				continue
			}
			if err := policy(&out, g.Name, interval, r, exprs); err != nil {
				return nil, fmt.Errorf("%s: %w", r.Alert, err)
			}
		}
	}
	out.WriteString("}\n}\n")
	return []file{{"alerts/terraform/alerts.tf", hclwrite.Format([]byte(out.String()))}}, nil
}

// policy writes what the module needs to know about one alert.
func policy(out *strings.Builder, group string, interval time.Duration, r ruled, exprs map[string]string) error {
	text, known := notifications[r.Alert]
	if !known {
		return errors.New("pages, and has no text for Cloud Monitoring")
	}
	duration, err := seconds(r.For)
	if err != nil {
		return err
	}
	query := r.Expr
	for _, other := range explained[r.Alert] {
		whole, is := exprs[other]
		if !is {
			continue
		}
		labels, err := matchedBy(whole)
		if err != nil {
			return fmt.Errorf("%s: %w", other, err)
		}
		query = fmt.Sprintf("(%s) unless on (%s) (%s)", query, strings.Join(labels, ", "), whole)
	}
	// On one line, as the console of Cloud Monitoring wants it to find a threshold.
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "%s = {\n", r.Alert)
	fmt.Fprintf(out, "group = %q\ninterval = \"%.0fs\"\nduration = \"%.0fs\"\nseverity = \"CRITICAL\"\n", literal(group), interval.Seconds(), duration.Seconds())
	out.WriteString("labels = {\n")
	for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
		fmt.Fprintf(out, "%s = %q\n", name, literal(r.Labels[name]))
	}
	out.WriteString("}\n")
	fmt.Fprintf(out, "subject = %q\n", literal(variables(text.subject)))
	fmt.Fprintf(out, "content = <<-EOT\n%s\nEOT\n", literal(variables(text.what+"\n\n**First:** "+text.first)))
	fmt.Fprintf(out, "query = <<-EOT\n%s\nEOT\n", literal(expr.String()))
	out.WriteString("}\n")
	return nil
}

// eachNode is the part of an expression that is about single nodes, however many they
// are: Cloud Monitoring makes no text for each, and its variables name a node.
func eachNode(query string) (string, error) {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return "", err
	}
	if either, is := expr.(*parser.BinaryExpr); is && either.Op == parser.LOR {
		if few, is := either.LHS.(*parser.BinaryExpr); is && few.Op == parser.LUNLESS {
			return few.LHS.String(), nil
		}
	}
	return query, nil
}

// matchedBy gives the labels of what an expression is about, a cluster or a node:
// those by which its outermost operation matches or groups.
func matchedBy(query string) ([]string, error) {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return nil, err
	}
	if b, is := expr.(*parser.BinaryExpr); is {
		if b.VectorMatching != nil && b.VectorMatching.On {
			return b.VectorMatching.MatchingLabels, nil
		}
		expr = b.LHS // of a comparison with a number
	}
	if a, is := expr.(*parser.AggregateExpr); is && !a.Without {
		return a.Grouping, nil
	}
	return nil, errors.New("its outermost operation matches by no labels")
}

// variables puts Cloud Monitoring's for {label}.
func variables(text string) string {
	return strings.NewReplacer("{", "${metric_or_resource.label.", "}", "}").Replace(text)
}

// literal keeps text from Terraform, which has the same marks for its own.
func literal(text string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(text)
}

// seconds reads a duration of Prometheus; none is zero.
func seconds(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	return time.ParseDuration(text)
}
