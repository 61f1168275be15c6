package kube

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	// component is the name that Events carry.
	component = "workload-identity-exporter"
	// repeatedAfter is when an Event about the same state is written again: one that
	// comes and goes is in the metrics.
	repeatedAfter = 10 * time.Minute
	// eventsEach and eventsBurst bound all Events of a node.
	eventsEach  = 5 * time.Minute
	eventsBurst = 6
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
	// pollInterval is how often the state is looked at while nobody wakes the
	// reporter: a loop that hangs does not.
	pollInterval = 30 * time.Second
	// heartbeatInterval is how often the condition is written while nothing changes,
	// so that one can see whether somebody still looks.
	heartbeatInterval = 5 * time.Minute
)

// ConditionType is that of the Node condition.
const ConditionType = "WorkloadIdentityBroken"

// Report is a state of the node as Kubernetes shows it.
type Report struct {
	State identity.State
	// Message says it to people, in as many bytes as the API server accepts, 1024.
	Message string
}

// Reporter writes Events about the Node and the agent's own Pod, and the Node
// condition. It pulls: while the API server hangs, states pass that are never
// written, and the newest one is written when it answers again. Nothing waits for it.
type Reporter struct {
	client    *Client
	self      Self
	events    bool
	condition bool
	current   func() Report
	log       *slog.Logger

	wake   chan struct{}
	last   identity.State // the one that was looked at last
	limit  *rate.Limiter
	told   map[identity.State]time.Time
	failed map[Resource]Reason // what was logged last

	status     string
	transition time.Time
	next       time.Time // when the condition is written again if nothing changes
	failures   int       // of its writes in a row
}

// NewReporter returns a reporter that writes what is wanted of the current state. It must Run.
func NewReporter(c *Client, self Self, events, condition bool, current func() Report, log *slog.Logger) *Reporter {
	return &Reporter{
		client: c, self: self, events: events, condition: condition && self.Node != "", current: current, log: log,
		wake: make(chan struct{}, 1), limit: rate.NewLimiter(rate.Every(eventsEach), eventsBurst),
		told: map[identity.State]time.Time{}, failed: map[Resource]Reason{},
	}
}

// Wake makes the reporter look at the state now. It never blocks.
func (p *Reporter) Wake() {
	select {
	case p.wake <- struct{}{}:
	default: // it will look, and then see the newest
	}
}

// Run writes until the context ends.
func (p *Reporter) Run(ctx context.Context) {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-poll.C:
		}
		p.report(ctx, p.current())
	}
}

// report writes what is due. Before there is a verdict there is nothing to report.
func (p *Reporter) report(ctx context.Context, r Report) {
	if r.State == identity.Starting {
		return
	}
	changed := r.State != p.last
	p.last = r.State
	if changed {
		p.writeEvents(ctx, r)
	}
	if p.condition && (changed || !time.Now().Before(p.next)) {
		p.keepCondition(ctx, r)
	}
}

// keepCondition writes the condition, and plans the next time: soon after a failure,
// but less and less often; and with the heartbeat, unless the loop has none.
func (p *Reporter) keepCondition(ctx context.Context, r Report) {
	wait := heartbeatInterval
	switch ok := p.writeCondition(ctx, r); {
	case !ok:
		wait = min(pollInterval<<min(p.failures, 10), heartbeatInterval)
		p.failures++
	case r.State == identity.Stale:
		wait = math.MaxInt64
		fallthrough
	default:
		p.failures = 0
	}
	p.next = time.Now().Add(wait)
}

// writeEvents writes one about the Node and one about the Pod, unless there was the
// same a moment ago. That a healthy agent starts is no news.
func (p *Reporter) writeEvents(ctx context.Context, r Report) {
	state := r.State
	began, before := p.told[state]
	if !p.events || (len(p.told) == 0 && state == identity.Match) || (before && time.Since(began) < repeatedAfter) || !p.limit.Allow() {
		return
	}
	p.told[state] = time.Now()
	// `kubectl describe node` finds those of the kubelet by this uid.
	p.writeEvent(ctx, r, "default", map[string]string{"kind": "Node", "apiVersion": "v1", "name": p.self.Node, "uid": p.self.Node})
	p.writeEvent(ctx, r, p.self.Namespace, map[string]string{"kind": "Pod", "apiVersion": "v1", "name": p.self.Pod, "namespace": p.self.Namespace, "uid": p.self.PodUID})
}

func (p *Reporter) writeEvent(ctx context.Context, r Report, namespace string, about map[string]string) {
	if about["name"] == "" || namespace == "" {
		return
	}
	kind, now := "Warning", time.Now()
	if r.State == identity.Match {
		kind = "Normal"
	}
	at := now.UTC().Format(time.RFC3339)
	p.write(ctx, http.MethodPost, Events, "/api/v1/namespaces/"+namespace+"/events", "application/json", map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]any{"namespace": namespace, "name": about["name"] + "." + strconv.FormatInt(now.UnixNano(), 16)},
		"involvedObject": about,
		"type":           kind, "reason": reasonName(r.State), "message": r.Message,
		"source":         map[string]string{"component": component, "host": p.self.Node},
		"firstTimestamp": at, "lastTimestamp": at, "count": 1,
		"reportingComponent": component, "reportingInstance": p.self.Pod,
	})
}

// reasonName is the state as Kubernetes writes reasons: WorkloadIdentityNodeFallback.
func reasonName(s identity.State) string {
	var name strings.Builder
	name.WriteString("WorkloadIdentity")
	for word := range strings.SplitSeq(string(s), "_") {
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return name.String()
}

// writeCondition writes the Node condition. Its transition is when the status
// changed, as far as this process knows.
func (p *Reporter) writeCondition(ctx context.Context, r Report) bool {
	status := "Unknown"
	switch {
	case r.State.Accuses():
		status = "True"
	case r.State == identity.Match:
		status = "False"
	}
	if status != p.status {
		p.status, p.transition = status, time.Now()
	}
	return p.write(ctx, http.MethodPatch, Nodes, "/api/v1/nodes/"+p.self.Node+"/status", "application/strategic-merge-patch+json", map[string]any{
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": ConditionType, "status": status, "reason": reasonName(r.State), "message": r.Message,
			"lastHeartbeatTime": time.Now().UTC().Format(time.RFC3339), "lastTransitionTime": p.transition.UTC().Format(time.RFC3339),
		}}},
	})
}

// write makes one request, reports whether it succeeded, and logs when its outcome changes.
func (p *Reporter) write(ctx context.Context, method string, of Resource, path, contentType string, body any) bool {
	content, err := json.Marshal(body)
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, writeTimeout)
		defer cancel()
		err = p.client.send(limited, of, method, path, contentType, content)
	}
	reason := reasonOf(err)
	if err != nil && p.failed[of] != reason && ctx.Err() == nil {
		p.log.Warn("Failed to write the state to Kubernetes", "resource", of, "reason", reason, "error", err.Error())
	}
	p.failed[of] = reason
	return err == nil
}
