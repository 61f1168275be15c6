package page

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// receiver is whoever gets the pages and tickets: by webhooks, which tell
// exactly what was sent, and as PagerDuty and Slack, which show the text that
// people read.
type receiver struct {
	http *httptest.Server

	mu            sync.Mutex
	notifications []notification
	texts         []text
	problems      []error
}

// notification is a webhook of Alertmanager's.
type notification struct {
	at       time.Time
	receiver string // page or ticket

	Status      string
	GroupLabels map[string]string
	Alerts      []alert
}

type alert struct {
	Status string
	Labels map[string]string
}

// String is the notification in a few words: "page WorkloadIdentityNodeFallback firing".
func (n notification) String() string {
	return n.receiver + " " + n.GroupLabels["alertname"] + " " + n.Status
}

// text is what a person reads.
type text struct {
	receiver, status string // as those of a notification
	title, body      string
}

func newReceiver() *receiver {
	r := &receiver{}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /webhook/{receiver}", r.webhook)
	routes.HandleFunc("POST /pagerduty", r.pagerDuty)
	routes.HandleFunc("POST /slack", r.slack)
	r.http = httptest.NewServer(routes)
	return r
}

func (r *receiver) address() string { return r.http.URL }

func (r *receiver) close() { r.http.Close() }

// of are the notifications about a cluster so far.
func (r *receiver) of(cluster string) []notification {
	r.mu.Lock()
	defer r.mu.Unlock()
	var its []notification
	for _, n := range r.notifications {
		if n.GroupLabels["cluster"] == cluster {
			its = append(its, n)
		}
	}
	return its
}

// textsOf are those that speak of a cluster.
func (r *receiver) textsOf(cluster string) []text {
	r.mu.Lock()
	defer r.mu.Unlock()
	var its []text
	for _, t := range r.texts {
		if t.isAbout(cluster) {
			its = append(its, t)
		}
	}
	return its
}

// isAbout tells it by the text, as a person would have to.
func (t text) isAbout(cluster string) bool {
	return strings.Contains(t.title+" "+t.body+" ", "cluster "+cluster+" ")
}

func (r *receiver) webhook(_ http.ResponseWriter, request *http.Request) {
	n := notification{at: time.Now(), receiver: request.PathValue("receiver")}
	if err := json.NewDecoder(request.Body).Decode(&n); err != nil {
		r.problem("a webhook: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notifications = append(r.notifications, n)
}

func (r *receiver) pagerDuty(w http.ResponseWriter, request *http.Request) {
	var event struct {
		Action  string `json:"event_action"`
		Payload struct {
			Summary string
			Details struct{ What string } `json:"custom_details"`
		}
	}
	if err := json.NewDecoder(request.Body).Decode(&event); err != nil {
		r.problem("an event for PagerDuty: %v", err)
	}
	status := map[string]string{"trigger": "firing", "resolve": "resolved"}[event.Action]
	r.read(text{receiver: "page", status: status, title: event.Payload.Summary, body: event.Payload.Details.What})
	w.WriteHeader(http.StatusAccepted)
}

func (r *receiver) slack(w http.ResponseWriter, request *http.Request) {
	var message struct {
		Attachments []struct{ Title, Text string }
	}
	if err := json.NewDecoder(request.Body).Decode(&message); err != nil || len(message.Attachments) != 1 {
		r.problem("a message for Slack has %d attachments: %v", len(message.Attachments), err)
		return
	}
	t := text{receiver: "ticket", status: "firing", title: message.Attachments[0].Title, body: message.Attachments[0].Text}
	if strings.HasPrefix(t.title, "RESOLVED: ") {
		t.status = "resolved"
	}
	r.read(t)
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, "ok") // anything else is an error
}

// longest is what a person takes in at a glance, in the night.
const longest = 120

// read keeps a text, and finds what nobody should have to read.
func (r *receiver) read(t text) {
	if n := utf8.RuneCountInString(t.title); n == 0 || n > longest {
		r.problem("a title of %d characters, want at most %d: %q", n, longest, t.title)
	}
	if (t.status == "resolved") != strings.HasPrefix(t.title, "RESOLVED: ") {
		r.problem("a title does not tell %s: %q", t.status, t.title)
	}
	for _, wrong := range []string{"<no value>", "<error", "{{", "}}", "%!", "map["} {
		if strings.Contains(t.title+t.body, wrong) {
			r.problem("%q in a text: %q %q", wrong, t.title, t.body)
		}
	}
	if !strings.Contains(t.body, "/runbooks/WorkloadIdentity") {
		r.problem("no runbook in a text: %q", t.body)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.texts = append(r.texts, t)
}

// wrong is what is wrong with all texts so far.
func (r *receiver) wrong() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.problems...)
}

func (r *receiver) problem(format string, arguments ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, fmt.Errorf(format, arguments...))
}
