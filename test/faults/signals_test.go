package faults_test

import (
	"encoding/json"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"
)

// signalRows end the process in each of its phases.
func signalRows() []row {
	var rows []row
	for _, k := range wire() {
		if k.reason != "timeout" && !strings.Contains(k.name, "for ever") {
			continue
		}
		for _, fromStart := range []bool{false, true} {
			at := "all"
			if k.at != nil && !slices.Contains(k.at, at) {
				at = k.at[0]
			}
			r := k.row(at)
			r.name, r.fromStart, r.stops = "while probes get "+k.name, fromStart, true
			if fromStart {
				r.name = "at a start where " + strings.TrimPrefix(r.name, "while ")
				r.enough = func(s *stage) bool { return s.metadata.probed(1, "email") }
				r.failures, r.states = nil, "starting/"+r.states
			}
			rows = append(rows, r)
		}
	}
	phase := func(name string, plays func(*stage)) row {
		return row{name: name, plays: func(s *stage) outcome { plays(s); return outcome{end: "`SIGTERM` ends it"} }}
	}
	hang := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	return append(
		rows,
		phase("while the API server is read for the first time", func(s *stage) {
			s.serveKubernetes()
			s.api.answers(hang)
			s.start(nil)
			s.within("it reads", func() bool { return s.api.read(1) })
		}),
		phase("while the API server is silent instead of TLS", func(s *stage) {
			s.serveKubernetes()
			s.api.interrupts(hang)
			s.start(nil)
			s.within("it reads", func() bool { return s.api.read(1) })
		}),
		phase("while the API server is read to confirm", func(s *stage) {
			s.serveKubernetes()
			s.start(nil)
			s.becomes("match")
			s.api.answers(hang)
			accuse(s)
			s.within("it reads", func() bool { return s.api.read(1) })
		}),
		phase("while a state is confirmed", func(s *stage) {
			s.start(nil)
			s.becomes("match")
			s.metadata.forget()
			accuse(s)
			s.within("it probes", func() bool { return s.metadata.probed(2, "email") })
		}),
		phase("while an identity token is asked for", func(s *stage) {
			s.metadata.becomes(held(""), "identity")
			s.start(nil)
			s.becomes("match")
			s.metadata.forget()
			accuse(s)
			s.within("it asks", func() bool { return s.metadata.probed(1, "identity") })
		}),
		phase("while an Event is written", func(s *stage) {
			s.serveKubernetes()
			s.start(nil)
			s.becomes("match")
			s.metadata.gives(node)
			s.metadata.becomes(ok("projects/1/machineTypes/e2-medium"), "machine-type")
			s.becomes("node_fallback")
			s.api.interrupts(hang)
			s.within("it writes", func() bool { return s.api.read(1) || s.api.told("VM metadata server") })
		}),
		phase("while clients are silent", func(s *stage) {
			s.start(nil)
			s.becomes("match")
			s.attack(10, hang)
			time.Sleep(300 * time.Millisecond) // of the clients
		}),
		phase("while clients do not read", func(s *stage) {
			s.start(nil)
			s.becomes("match")
			s.attack(6, func(c net.Conn) {
				_ = c.(*net.TCPConn).SetReadBuffer(1024)
				_, _ = io.WriteString(c, strings.Repeat("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200))
				unread(c)
			})
			time.Sleep(500 * time.Millisecond) // of the clients
		}),
		phase("while clients send half a request", func(s *stage) {
			s.start(nil)
			s.becomes("match")
			s.attack(6, func(c net.Conn) {
				_, _ = io.WriteString(c, "GET /metrics HTTP/1.1\r\nHo")
				hang(c)
			})
			time.Sleep(300 * time.Millisecond) // of the clients
		}),
		phase("while it is stopped", func(s *stage) {
			s.start(nil)
			s.becomes("match")
			for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGTERM, syscall.SIGCONT} {
				_ = s.agent.command.Process.Signal(signal) // seen by what follows
			}
			select {
			case <-s.agent.ended:
			case <-time.After(maxStop + 20*s.slowness()):
				s.Fatal("it lives on")
			}
			if state := s.agent.command.ProcessState; state.ExitCode() != 0 {
				s.Errorf("%s, want 0", state)
			}
			s.agent = nil
		}),
		row{name: "as soon as it listens", plays: func(s *stage) outcome {
			s.start(nil)
			return outcome{end: "`SIGTERM` ends it"}
		}},
		row{name: "at each moment of the start", plays: func(s *stage) outcome {
			for after := time.Duration(0); after < 60*time.Millisecond; after += 3 * time.Millisecond {
				a := s.launch(nil)
				time.Sleep(after) // of the start
				_ = a.command.Process.Signal(syscall.SIGTERM)
				select {
				case <-a.ended:
				case <-time.After(maxStop + 20*s.slowness()):
					s.Fatalf("it lives on after SIGTERM %s after the start", after)
				}
				// Before it listens to signals they end it, as they end any program.
				status, _ := a.command.ProcessState.Sys().(syscall.WaitStatus)
				if a.command.ProcessState.ExitCode() != 0 && status.Signal() != syscall.SIGTERM {
					s.Errorf("%s after the start: %s\n%s", after, a.command.ProcessState, a.log.String())
				}
			}
			return outcome{end: "`SIGTERM` ends it"}
		}},
	)
}

// checkRows run the subcommand against servers that are no good.
func checkRows() []row {
	var rows []row
	for _, k := range slices.Concat(wire(), emails(), tokens()) {
		at := "all"
		if k.at != nil && !slices.Contains(k.at, at) {
			at = k.at[0]
		}
		r := k.row(at)
		if strings.Contains(k.name, "in turns") {
			r.states += "/unavailable" // which is all that a few probes can tell
		}
		rows = append(rows, row{name: r.name, plays: func(s *stage) outcome {
			r.begins(s)
			a := s.launch(nil, "check", "-expect", app, "-output", "json")
			select {
			case <-a.ended:
			case <-time.After(patience):
				s.Fatal("check does not end")
			}
			said, code := a.log.String(), a.command.ProcessState.ExitCode()
			var report struct{ State string }
			// Before it are warnings.
			if err := json.Unmarshal([]byte(said[max(0, strings.Index(said, "{\n")):]), &report); err != nil {
				s.Fatalf("%v:\n%s", err, said)
			}
			if !allowed(r.states, report.State) || (code == 0) != (report.State == "match") {
				s.Errorf("it says %s by code %d, want %s:\n%s", report.State, code, r.states, said)
			}
			if part := s.shows(said); part != "" || strings.ContainsAny(said, "\x00\x1b\u202e") {
				s.Errorf("it shows %q of a secret, or what is not to be shown:\n%s", part, said)
			}
			return outcome{state: "`" + report.State + "`", end: "ends by itself"}
		}})
	}
	return rows
}
