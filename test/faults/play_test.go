package faults_test

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	app   = "app@demo-project.iam.gserviceaccount.com"
	other = "other@demo-project.iam.gserviceaccount.com"
	node  = "123456789012-compute@developer.gserviceaccount.com"
)

// newStage has a metadata server that answers rightly, and no agent yet.
func newStage(t *testing.T, settings ...string) *stage {
	t.Helper()
	s := &stage{T: t, folder: t.TempDir(), scheme: "http", client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	s.secrets = []string{leak[len("ya29.c."):], jsonWebToken(`{"email":"` + other + `"}`)}
	s.metadata = listenAsMetadata(s)
	s.settings = append([]string{
		"WI_LISTEN_ADDRESS=127.0.0.1:0", "WI_PROBE_INTERVAL=1s", "WI_PROBE_TIMEOUT=500ms", "WI_TOKEN_INTERVAL=1s", "WI_STARTUP_GRACE=0s",
		"WI_METADATA_HOST=" + s.metadata.address(), "WI_EXPECTED_EMAILS=" + app,
	}, settings...)
	return s
}

// play plays the row from the start of an agent to its end.
func (r row) play(t *testing.T) outcome {
	s := newStage(t, r.settings...)
	if r.prepare != nil {
		r.prepare(s)
	}
	if r.plays != nil {
		o := r.plays(s)
		if s.agent != nil {
			r.finish(s)
		}
		return o
	}
	began := func() {
		s.metadata.forget()
		if r.begins != nil {
			r.begins(s)
		}
	}
	if r.fromStart {
		began()
	}
	s.start(r.wrapper)
	var before usage
	if !r.fromStart {
		s.becomes("match")
		before = s.least()
		began()
	}

	var now status
	s.within("the state becomes "+r.states+", and stays", func() bool {
		now = s.status()
		return allowed(r.states, now.State) && r.enough(s)
	})
	s.examine()
	o := outcome{state: "`" + now.State + "`", reasons: r.reasons(s)}
	if r.told {
		o.causes = causes(s.api.first(now.State))
	}
	r.compare(s, false)
	if r.stops {
		o.end = "`SIGTERM` ends it"
	} else {
		s.undone()
		if r.ends != nil {
			r.ends(s)
		} else {
			s.metadata.heals()
		}
		healed := time.Now()
		s.becomes("match")
		o.end = "`match`"
		t.Logf("%s, %s; match again after %.1f s", o.state, o.reasons, time.Since(healed).Seconds())
		s.examine()
		r.compare(s, true)
		if !r.fromStart {
			var after usage
			s.within("goroutines and files are as before", func() bool {
				after = s.usage()
				return after.goroutines <= before.goroutines+1 && after.files <= before.files+1
			})
		}
	}
	// The garbage collector would close what the process forgets, some time.
	if held := s.metadata.held(); held > maxHeld && held > maxHeld+20*s.slowness() {
		t.Errorf("a connection to the metadata server was open for %s, want at most %s", held, maxHeld)
	}
	r.finish(s)
	return o
}

// finish looks at what the process has had and written, and ends it.
func (r row) finish(s *stage) {
	s.Helper()
	s.alive()
	most := max(r.memory, maxMemory)
	if m := s.memory(); m > most {
		s.Errorf("the process had %d MiB, want at most %d", m, most)
	}
	s.stop()
	r.logged(s)
}

// compare looks at all states since the start. A match is one before the fault, and one
// after it if that is over.
func (r row) compare(s *stage, over bool) {
	s.Helper()
	matches := 0
	if !r.fromStart {
		matches++
	}
	if over {
		matches++
	}
	for _, c := range s.status().Changes {
		if c.To == "match" {
			matches--
		}
		if c.To != "match" && !allowed(r.states, c.To) || matches < 0 && !allowed(r.states, "match") {
			s.Errorf("the state became %s because %s, want only %s", c.To, c.Why, r.states)
		}
	}
}

// reasons lists the requests that failed, which have to be those of the row.
func (r row) reasons(s *stage) string {
	s.Helper()
	failed := s.failures()
	if len(r.failures) > 0 && failed[r.failures[0]] == 0 {
		s.Errorf("%v failed, want %s", failed, r.failures[0])
	}
	var all []string
	for f := range failed {
		if f == "server/not_found" && !slices.Contains(r.failures, f) {
			continue // as GKE's metadata server answers
		}
		if !slices.Contains(r.failures, f) && r.failures != nil && !strings.HasSuffix(f, "/timeout") {
			s.Errorf("%s, want only %v", f, r.failures)
		}
		all = append(all, f)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// logged looks at all that was written.
func (r row) logged(s *stage) {
	s.Helper()
	text, most := s.agent.log.String(), max(r.logs, maxLogs)
	if len(text) > most {
		s.Errorf("%d bytes of log, want at most %d:\n%.4000s", len(text), most, text)
	}
	if part := s.shows(text); part != "" {
		s.Errorf("the log shows %q of a secret:\n%s", part, text)
	}
	if strings.Contains(text, "panic") || strings.Contains(text, "goroutine ") || strings.ContainsAny(text, "\x00\x1b\u202e") {
		s.Errorf("the log has what is not to be there:\n%s", text)
	}
}

// secret is a token of this row alone.
func (s *stage) secret() string {
	t := "ya29.c." + rand.Text() + rand.Text()
	// What all tokens begin with is no secret.
	s.secrets = append(s.secrets, strings.TrimPrefix(t, "ya29.c."))
	return t
}
