package kube

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
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
	// newsAfter is when a state that comes back is news again: one that comes and goes
	// is in the metrics.
	newsAfter = 10 * time.Minute
	// repeatInterval is how often an Event is repeated while the state is bad: the API
	// server forgets Events after an hour.
	repeatInterval = 30 * time.Minute
	// eventsEach and eventsBurst bound all Events of a node.
	eventsEach  = 5 * time.Minute / 2
	eventsBurst = 12
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
	session   *Client // of the report that is being written; nil before it writes
	end       func()  // of the session
	whoami    func() Self
	condition bool
	current   func() Report
	log       *slog.Logger

	wake   chan struct{}
	self   Self                // as it is known now
	last   identity.State      // the one that was reported last
	stale  bool                // it was when it was looked at last
	failed map[Resource]Reason // what was logged last

	limit   *rate.Limiter
	written map[identity.State]time.Time // when there was an Event about the state last
	about   []*subject

	status     string
	transition time.Time
	heartbeat  schedule
}

// schedule is when something is written next, unless something happens before.
type schedule struct {
	next     time.Time
	failures int // in a row
}

func (s *schedule) due() bool { return !time.Now().Before(s.next) }

// wrote plans the next time: as soon as wait tells after a success, and soon after a
// failure, but less and less often.
func (s *schedule) wrote(ok bool, wait time.Duration) {
	spread := wait / 10
	if ok {
		s.failures = 0
	} else {
		wait = min(pollInterval<<min(s.failures, 10), wait)
		spread = wait / 2
		s.failures++
	}
	// 15,000 agents may have begun at the same moment.
	s.next = time.Now().Add(wait - time.Duration(rand.Float64()*float64(spread))) //nolint:gosec // a jitter
}

// subject is what Events are about, with the last one.
type subject struct {
	// of is the namespace of its Events, and who it is.
	of   func(Self) (namespace string, involved map[string]string)
	news bool // there is to be an Event about the last state
	schedule

	state identity.State
	name  string
	count int
}

// node is found by `kubectl describe node` by its name as the uid, as the kubelet
// writes it.
func node(s Self) (string, map[string]string) {
	return "default", map[string]string{"kind": "Node", "apiVersion": "v1", "name": s.Node, "uid": s.Node}
}

func pod(s Self) (string, map[string]string) {
	return s.Namespace, map[string]string{"kind": "Pod", "apiVersion": "v1", "name": s.Pod, "namespace": s.Namespace, "uid": s.PodUID}
}

// NewReporter returns a reporter that writes what is wanted of the current state. It must
// Run. whoami is asked each time, since the token that tells may come later.
func NewReporter(c *Client, whoami func() Self, events, condition bool, current func() Report, log *slog.Logger) *Reporter {
	p := &Reporter{
		client: c, whoami: whoami, condition: condition, current: current, log: log,
		wake: make(chan struct{}, 1), limit: rate.NewLimiter(rate.Every(eventsEach), eventsBurst),
		written: map[identity.State]time.Time{}, failed: map[Resource]Reason{},
	}
	if events {
		p.about = []*subject{{of: node}, {of: pod}}
	}
	return p
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
	if r.State == identity.Starting || p.isFirstStale(r) {
		return
	}
	defer p.endSession()
	p.self = p.whoami()
	changed := r.State != p.last
	if changed {
		p.planEvents(r.State)
	}
	if p.condition && p.self.Node != "" && (changed || p.heartbeat.due()) {
		ok, wait := p.writeCondition(ctx, r), heartbeatInterval
		if ok && r.State == identity.Stale {
			wait = never // a loop that hangs has no heartbeat
		}
		p.heartbeat.wrote(ok, wait)
	}
	for _, about := range p.about {
		// A write may have taken long.
		if p.current().State != r.State {
			p.Wake()
			return
		}
		if (about.news || r.State != identity.Match) && about.due() && p.limit.Allow() {
			p.writeEvent(ctx, r, about)
		}
	}
}

func (p *Reporter) endSession() {
	if p.session != nil {
		p.end()
		p.session = nil
	}
}

// isFirstStale reports whether the state is stale, and was not when it was looked at
// before. When a process that was stopped goes on, its state is stale until the
// first probe, which is no news.
func (p *Reporter) isFirstStale(r Report) bool {
	first := r.State == identity.Stale && !p.stale
	p.stale = r.State == identity.Stale
	return first
}

// never is longer than a process lives.
const never = 100 * 365 * 24 * time.Hour

// planEvents plans the Events about another state. That a healthy agent starts is no
// news, nor what was written a moment ago.
func (p *Reporter) planEvents(to identity.State) {
	at, before := p.written[to]
	for _, about := range p.about {
		about.news = (!before || time.Since(at) >= newsAfter) && (p.last != "" || to != identity.Match)
		about.schedule = schedule{}
		if !about.news {
			about.next = at.Add(repeatInterval)
		}
	}
	p.last = to
}

// writeEvent repeats the Event about the state if there is one and a Role allows it,
// or else writes a new one.
func (p *Reporter) writeEvent(ctx context.Context, r Report, about *subject) {
	namespace, involved := about.of(p.self)
	if involved["name"] == "" || namespace == "" {
		return
	}
	kind, now := "Warning", time.Now()
	if r.State == identity.Match {
		kind = "Normal"
	}
	at, path := now.UTC().Format(time.RFC3339), "/api/v1/namespaces/"+namespace+"/events"
	if about.state == r.State && !about.news {
		patch := map[string]any{"count": about.count + 1, "lastTimestamp": at, "message": r.Message}
		if p.send(ctx, http.MethodPatch, Events, path+"/"+about.name, "application/merge-patch+json", patch) == nil {
			about.count++
			about.wrote(true, repeatInterval)
			return
		}
		// It is gone after an hour, or the Role has the verb create alone.
	}
	name := involved["name"] + "." + strconv.FormatInt(now.UnixNano(), 16)
	ok := p.write(ctx, http.MethodPost, Events, path, "application/json", map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]any{"namespace": namespace, "name": name},
		"involvedObject": involved,
		"type":           kind, "reason": reasonName(r.State), "message": r.Message,
		"source":         map[string]string{"component": component, "host": p.self.Node},
		"firstTimestamp": at, "lastTimestamp": at, "count": 1,
		"reportingComponent": component, "reportingInstance": p.self.Pod,
	})
	if ok {
		about.news, about.state, about.name, about.count = false, r.State, name, 1
		p.written[r.State] = now
	}
	about.wrote(ok || p.failed[Events] == Forbidden, repeatInterval)
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
	err := p.send(ctx, method, of, path, contentType, body)
	reason := reasonOf(err)
	if err != nil && p.failed[of] != reason && ctx.Err() == nil && !errors.Is(err, ErrNotInCluster) {
		p.log.Warn("Failed to write the state to Kubernetes", "resource", of, "reason", reason, "error", err.Error())
	}
	p.failed[of] = reason
	return err == nil
}

func (p *Reporter) send(ctx context.Context, method string, of Resource, path, contentType string, body any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if p.session == nil {
		p.session, p.end = p.client.session(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return p.session.send(limited, of, method, path, contentType, content)
}
