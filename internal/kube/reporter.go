package kube

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

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
	// heartbeatInterval is how often the condition is written while nothing changes,
	// so that one can see whether somebody still looks.
	heartbeatInterval = 5 * time.Minute
)

// ConditionType is that of the Node condition.
const ConditionType = "WorkloadIdentityBroken"

// Report is a state of the node that Kubernetes is told of.
type Report struct {
	State identity.State
	// Message says it to people, in as many bytes as the API server accepts, 1024.
	Message string
}

// Reporter writes Events about the Node and the agent's own Pod, and the Node
// condition. Nothing waits for it: what cannot be written is counted and dropped.
type Reporter struct {
	reader    *Reader
	self      Self
	events    bool
	condition bool
	log       *slog.Logger

	reports chan Report
	limit   *rate.Limiter
	told    map[identity.State]time.Time
	failed  map[Resource]Reason // what was logged last

	status     string
	transition time.Time
}

// NewReporter returns a reporter that writes what is wanted. It must Run.
func NewReporter(r *Reader, self Self, events, condition bool, log *slog.Logger) *Reporter {
	return &Reporter{
		reader: r, self: self, events: events, condition: condition && self.Node != "", log: log,
		reports: make(chan Report, 8), limit: rate.NewLimiter(rate.Every(eventsEach), eventsBurst),
		told: map[identity.State]time.Time{}, failed: map[Resource]Reason{},
	}
}

// Report tells of a change of state. It never blocks.
func (p *Reporter) Report(r Report) {
	select {
	case p.reports <- r:
	default: // the API server has been away for so many changes
	}
}

// Run writes until the context ends.
func (p *Reporter) Run(ctx context.Context) {
	heartbeat := time.NewTicker(heartbeatInterval)
	defer heartbeat.Stop()
	var last *Report
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-p.reports:
			last = &r
			p.writeEvents(ctx, r)
			p.writeCondition(ctx, r)
		case <-heartbeat.C:
			if last != nil {
				p.writeCondition(ctx, *last)
			}
		}
	}
}

// writeEvents writes one about the Node and one about the Pod, unless the same was
// told a moment ago. That a healthy agent starts is no news.
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
func (p *Reporter) writeCondition(ctx context.Context, r Report) {
	if !p.condition {
		return
	}
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
	p.write(ctx, http.MethodPatch, Nodes, "/api/v1/nodes/"+p.self.Node+"/status", "application/strategic-merge-patch+json", map[string]any{
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": ConditionType, "status": status, "reason": reasonName(r.State), "message": r.Message,
			"lastHeartbeatTime": time.Now().UTC().Format(time.RFC3339), "lastTransitionTime": p.transition.UTC().Format(time.RFC3339),
		}}},
	})
}

// write makes one request, and says in the log when its outcome changes.
func (p *Reporter) write(ctx context.Context, method string, of Resource, path, contentType string, body any) {
	content, err := json.Marshal(body)
	if err == nil {
		err = p.reader.send(ctx, method, of, path, contentType, content)
	}
	reason := reasonOf(err)
	if err != nil && p.failed[of] != reason && ctx.Err() == nil {
		p.log.Warn("Kubernetes was not told of the state", "resource", of, "reason", reason, "error", err.Error())
	}
	p.failed[of] = reason
}

func (r *Reader) send(ctx context.Context, method string, of Resource, path, contentType string, body []byte) error {
	defer utilnet.CloseIdleConnectionsFor(r.client.Client.Transport)
	ctx, cancel := context.WithTimeout(klog.NewContext(ctx, klog.Logger{}), writeTimeout)
	defer cancel()
	// Not by Post and Patch, of which the latter wants client-go's types of patches.
	request := rest.NewRequest(r.client).Verb(method)
	err := request.AbsPath(path).SetHeader("Content-Type", contentType).Body(body).MaxRetries(0).Do(ctx).Error()
	r.observe(of, reasonOf(err))
	return err
}
