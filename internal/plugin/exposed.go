package plugin

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// tokenLife is how long a token may be used after it was issued, and lateness how long
// after it begins a wrong identity is stated at the default settings, and more.
const tokenLife, lateness = time.Hour, time.Minute

// Window is a time in which a node handed out a wrong identity.
type Window struct {
	Node string    `json:"node"`
	From time.Time `json:"from"`
	// Until is when it was over, or the present if it is Ongoing.
	Until   time.Time `json:"until"`
	Ongoing bool      `json:"ongoing,omitempty"`
	// Observed are the identities that were given, none if not known.
	Observed []string         `json:"observed"`
	States   []identity.State `json:"states"`
}

// ExposedPod ran on such a node meanwhile.
type ExposedPod struct {
	Namespace      string    `json:"namespace"`
	Pod            string    `json:"pod"`
	Node           string    `json:"node"`
	ServiceAccount string    `json:"service_account,omitempty"`
	From           time.Time `json:"from"`
	Until          time.Time `json:"until"`
	Observed       []string  `json:"observed"`
	// Runs: a container of it has run since then, so that it may hold a connection to the
	// wrong server, or a token of it.
	Runs bool `json:"runs"`
}

// Exposure is what there is to say after an incident.
type Exposure struct {
	Windows []Window     `json:"windows"`
	Pods    []ExposedPod `json:"pods"`
	// Not affected on the same nodes at the same time: Pods in the node's network, which is
	// their identity at any time; Pods whose ServiceAccount has no annotation; and those
	// that run, and whose containers have all begun since.
	HostNetwork    int `json:"host_network"`
	NotAnnotated   int `json:"not_annotated"`
	RestartedSince int `json:"restarted_since"`
	// Queries are for Cloud Logging: what was done with each account meanwhile.
	Queries []string `json:"queries"`
	// Unknown is what may be missing, and why.
	Unknown []string `json:"unknown"`
}

// Incident is which time and which Pods are looked at.
type Incident struct {
	Since time.Time
	// Namespace is that of the Pods; empty for all.
	Namespace string
	// Prometheus knows more than the agents; nil if there is none.
	Prometheus *Prometheus
}

// ranPod is what exposed must know of a Pod.
type ranPod struct {
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		UID       string `json:"uid"`
	} `json:"metadata"`
	Spec struct {
		NodeName           string `json:"nodeName"`
		ServiceAccountName string `json:"serviceAccountName"`
		HostNetwork        bool   `json:"hostNetwork"`
	} `json:"spec"`
	Status struct {
		Phase                 string       `json:"phase"`
		StartTime             *metav1.Time `json:"startTime"`
		ContainerStatuses     []ranStatus  `json:"containerStatuses"`
		InitContainerStatuses []ranStatus  `json:"initContainerStatuses"`
	} `json:"status"`
}

type ranStatus struct {
	State struct {
		Running *struct {
			StartedAt metav1.Time `json:"startedAt"`
		} `json:"running"`
		Terminated *struct {
			FinishedAt metav1.Time `json:"finishedAt"`
		} `json:"terminated"`
	} `json:"state"`
}

// Exposed finds the Pods that ran on a node while it handed out a wrong identity.
func Exposed(ctx context.Context, c *Cluster, i Incident) (Exposure, error) {
	now := time.Now().UTC().Truncate(time.Second)
	e := Exposure{Windows: []Window{}, Pods: []ExposedPod{}, Queries: []string{}, Unknown: []string{}}
	windows, err := e.agents(ctx, c, i, now)
	if err == nil && i.Prometheus != nil {
		var recorded []Window
		recorded, err = i.Prometheus.windows(ctx, i.Since, now)
		windows = append(windows, recorded...)
	}
	if err != nil {
		return e, err
	}
	e.Windows = union(windows)
	if len(e.Windows) == 0 {
		return e, nil
	}
	e.Queries = queries(e.Windows, now)

	annotated, known := map[string]bool{}, map[string]bool{}
	for s, err := range list[ServiceAccount](ctx, c, inPath("/api/v1", i.Namespace, "serviceaccounts"), "", metadataOnly) {
		if err != nil {
			return e, err
		}
		name := s.Metadata.Namespace + "/" + s.Metadata.Name
		known[name], annotated[name] = true, strings.TrimSpace(s.Metadata.Annotations[identity.AnnotationServiceAccount]) != ""
	}
	// One that is gone meanwhile may have had an annotation.
	wanted := func(account string) bool { return annotated[account] || !known[account] }
	uids := map[string]bool{}
	for p, err := range list[ranPod](ctx, c, inPath("/api/v1", i.Namespace, "pods"), "", "") {
		if err != nil {
			return e, err
		}
		uids[p.Metadata.UID] = true
		e.live(p, wanted)
	}
	if i.Prometheus == nil {
		e.Unknown = append(e.Unknown, "Pods that were deleted since are known to Prometheus alone: name it by --prometheus")
	} else {
		gone, err := i.Prometheus.pods(ctx, e.Windows)
		if err != nil {
			return e, err
		}
		if len(gone) == 0 {
			e.Unknown = append(e.Unknown, "Prometheus has no kube_pod_info of these nodes at that time (of kube-state-metrics), so Pods that were deleted since are not listed")
		}
		for _, p := range gone {
			if !uids[p.uid] && (i.Namespace == "" || i.Namespace == p.namespace) {
				e.gone(p, wanted)
			}
		}
	}
	slices.SortFunc(e.Pods, func(a, b ExposedPod) int {
		return cmp.Or(-compareBool(a.Runs, b.Runs), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), a.From.Compare(b.From))
	})
	return e, nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// agents are the windows that the agents remember.
func (e *Exposure) agents(ctx context.Context, c *Cluster, i Incident, now time.Time) ([]Window, error) {
	var agents []Pod
	for p, err := range list[Pod](ctx, c, "/api/v1/pods", Selector, "") {
		if err != nil {
			return nil, err
		}
		agents = append(agents, p)
	}
	var (
		mu      sync.Mutex // guards what follows
		windows []Window
		silent  []string
		young   int // agents that remember less, and the youngest memory
		begins  time.Time
		group   errgroup.Group
	)
	group.SetLimit(atOnce)
	for _, p := range agents {
		group.Go(func() error {
			r, err := status(ctx, c, p)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, p.Spec.NodeName)
				return nil //nolint:nilerr // it is said below
			}
			remembered, since := history(p.Spec.NodeName, r, now)
			for _, w := range remembered {
				if w.Until.After(i.Since) {
					w.From = later(w.From, i.Since)
					windows = append(windows, w)
				}
			}
			if since.After(i.Since) {
				young, begins = young+1, later(begins, since)
			}
			return nil
		})
	}
	_ = group.Wait() // a node that is silent is no error
	if i.Prometheus == nil {
		if len(agents) == 0 {
			e.Unknown = append(e.Unknown, "there is no agent")
		}
		if len(silent) > 0 {
			slices.Sort(silent)
			e.Unknown = append(e.Unknown, fmt.Sprintf("%d agents do not answer, on %s", len(silent), few(silent)))
		}
		if young > 0 {
			e.Unknown = append(e.Unknown, fmt.Sprintf("%d of %d agents remember less than was asked for, at worst from %s on: Prometheus knows more, name it by --prometheus", young, len(agents), stamp(begins)))
		}
	}
	return windows, ctx.Err()
}

// history are the windows that the agent remembers, and since when it remembers anything.
func history(node string, r report.Report, now time.Time) (windows []Window, since time.Time) {
	until, ongoing := now, true
	if r.State == identity.Stale {
		until, ongoing = r.Since, false
	}
	since = r.Since
	for i, c := range r.Changes { // the newest first
		if c.To.Accuses() {
			w := Window{Node: node, From: c.At, Until: until, Ongoing: ongoing, Observed: []string{}, States: []identity.State{c.To}}
			if observed := shown(cmp.Or(c.Observed, map[bool]string{true: r.Observed}[i == 0])); observed != "" {
				w.Observed = append(w.Observed, observed)
			}
			windows = append(windows, w)
		}
		until, ongoing, since = c.At, false, c.At
	}
	return windows, since
}

// union joins windows of a node that overlap, and sorts them.
func union(windows []Window) []Window {
	slices.SortFunc(windows, func(a, b Window) int { return cmp.Or(cmp.Compare(a.Node, b.Node), a.From.Compare(b.From)) })
	all := []Window{}
	for _, w := range windows {
		if n := len(all); n > 0 && all[n-1].Node == w.Node && !w.From.After(all[n-1].Until) {
			last := &all[n-1]
			last.Until, last.Ongoing = later(last.Until, w.Until), last.Ongoing || w.Ongoing
			last.Observed, last.States = distinct(last.Observed, w.Observed), distinct(last.States, w.States)
			continue
		}
		all = append(all, w)
	}
	return all
}

func distinct[T cmp.Ordered](a, b []T) []T {
	all := slices.Sorted(slices.Values(slices.Concat(a, b)))
	return slices.Compact(all)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.After(b) {
		return b
	}
	return a
}

// live judges a Pod that the API server has, whether it runs or has finished.
func (e *Exposure) live(p ranPod, wanted func(account string) bool) {
	if p.Status.StartTime == nil {
		return
	}
	finished, runs := time.Time{}, time.Time{} // when the last container ended, and the first one of those that run began
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if t := s.State.Terminated; t != nil {
			finished = later(finished, t.FinishedAt.Time)
		}
		if r := s.State.Running; r != nil && (runs.IsZero() || r.StartedAt.Time.Before(runs)) {
			runs = r.StartedAt.Time
		}
	}
	over := time.Now()
	if runs.IsZero() && (p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed") && !finished.IsZero() {
		over = finished
	}
	account := p.Metadata.Namespace + "/" + cmp.Or(p.Spec.ServiceAccountName, "default")
	found, ok := e.overlap(p.Spec.NodeName, p.Status.StartTime.Time, over)
	switch {
	case !ok:
	case p.Spec.HostNetwork:
		e.HostNetwork++
	case !wanted(account):
		e.NotAnnotated++
	default:
		found.Namespace, found.Pod, found.ServiceAccount = p.Metadata.Namespace, p.Metadata.Name, cmp.Or(p.Spec.ServiceAccountName, "default")
		found.Runs = !runs.IsZero() && !runs.After(found.Until)
		if !runs.IsZero() && !found.Runs {
			e.RestartedSince++
		}
		e.Pods = append(e.Pods, found)
	}
}

// gone judges one that Prometheus alone knows.
func (e *Exposure) gone(p recordedPod, wanted func(account string) bool) {
	found, ok := e.overlap(p.node, p.from, p.until)
	switch {
	case !ok:
	case p.hostNetwork:
		e.HostNetwork++
	case p.account != "" && !wanted(p.namespace+"/"+p.account):
		e.NotAnnotated++
	default:
		found.Namespace, found.Pod, found.ServiceAccount = shown(p.namespace), shown(p.pod), shown(p.account)
		e.Pods = append(e.Pods, found)
	}
}

// overlap is when something was on the node while that was wrong.
func (e *Exposure) overlap(node string, from, until time.Time) (ExposedPod, bool) {
	found := ExposedPod{Node: node, Observed: []string{}}
	for _, w := range e.Windows {
		if w.Node != node || from.After(w.Until) || until.Before(w.From) {
			continue
		}
		if found.From.IsZero() {
			found.From = later(from, w.From).UTC()
		}
		found.Until = earlier(until, w.Until).UTC()
		found.Observed = distinct(found.Observed, w.Observed)
	}
	return found, !found.From.IsZero()
}

// queries are those for Cloud Logging, one for each account: from just before it was
// given until the last token of it has expired.
func queries(windows []Window, now time.Time) []string {
	times := map[string][]Window{}
	for _, w := range windows {
		for _, o := range w.Observed {
			if id, err := identity.Parse(o); err == nil && id.Kind() == identity.ServiceAccount {
				times[string(id)] = append(times[string(id)], Window{From: w.From.Add(-lateness), Until: earlier(w.Until.Add(tokenLife), now)})
			}
		}
	}
	all := []string{}
	for _, account := range slices.Sorted(maps.Keys(times)) {
		var within []string
		for _, w := range union(times[account]) {
			within = append(within, fmt.Sprintf("(timestamp>=%q AND timestamp<=%q)", stamp(w.From), stamp(w.Until)))
		}
		all = append(all, fmt.Sprintf("protoPayload.authenticationInfo.principalEmail=%q AND (%s)", account, strings.Join(within, " OR ")))
	}
	return all
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func few(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}

// StillRun are those that a restart would take the wrong identity from.
func (e Exposure) StillRun() []ExposedPod {
	return slices.Collect(func(yield func(ExposedPod) bool) {
		for _, p := range e.Pods {
			if p.Runs && !yield(p) {
				return
			}
		}
	})
}

// ExitCode is ExitWrong if some Pod may hold a wrong identity, and ExitInconclusive if
// none is known to, and not all is known.
func (e Exposure) ExitCode() int {
	switch {
	case len(e.StillRun()) > 0:
		return report.ExitWrong
	case len(e.Unknown) > 0:
		return report.ExitInconclusive
	}
	return report.ExitMatch
}

// PrintExposure writes it in one of the Formats, or by name: the words for kubectl delete,
// a line for each Pod that still runs, with its namespace.
func PrintExposure(w io.Writer, e Exposure, format string) error {
	switch format {
	case "json", "yaml":
		return object(w, e, format)
	case "name":
		for _, p := range e.StillRun() {
			fmt.Fprintf(w, "-n %s pod/%s\n", p.Namespace, p.Pod)
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	cells := func(all ...string) {
		if format != "wide" {
			all = all[:len(all)-1]
		}
		fmt.Fprintln(t, strings.Join(all, "\t"))
	}
	if len(e.Pods) > 0 {
		cells("NAMESPACE", "POD", "NODE", "FROM", "UNTIL", "RUNS", "SERVICE ACCOUNT", "WAS")
	}
	for _, p := range e.Pods {
		cells(p.Namespace, p.Pod, p.Node, stamp(p.From), stamp(p.Until), map[bool]string{true: "yes", false: "no"}[p.Runs], or(p.ServiceAccount), or(strings.Join(p.Observed, ", ")))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return e.explain(w)
}

// explain says what the list rests on.
func (e Exposure) explain(w io.Writer) error {
	var b strings.Builder
	if len(e.Windows) == 0 {
		b.WriteString("No node is known to have handed out a wrong identity in that time.\n")
	} else {
		if len(e.Pods) > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%d Pods, of which %d still run and may hold a connection or a token until they are restarted.\n", len(e.Pods), len(e.StillRun()))
		fmt.Fprintf(&b, "Left out: %d Pods that are hostNetwork, which have the identity of their node at any time, and %d whose ServiceAccount has no annotation. %d of those listed were restarted since.\n\nNodes:\n",
			e.HostNetwork, e.NotAnnotated, e.RestartedSince)
		for _, n := range e.Windows {
			until := stamp(n.Until)
			if n.Ongoing {
				until = "now, and it goes on"
			}
			fmt.Fprintf(&b, "  %s from %s until %s: %s, %s\n", n.Node, stamp(n.From), until, n.States[0], cmp.Or(strings.Join(n.Observed, ", "), "the identity is not known"))
		}
	}
	for i, q := range e.Queries {
		if i == 0 {
			b.WriteString("\nIn Cloud Logging, what was done with the account meanwhile, by these nodes and others that have it, until the last token expired:\n")
		}
		fmt.Fprintf(&b, "  %s\n", q)
	}
	for i, u := range e.Unknown {
		if i == 0 {
			b.WriteString("\nNot known:\n")
		}
		fmt.Fprintf(&b, "  %s\n", u)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
