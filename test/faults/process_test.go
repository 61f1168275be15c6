package faults_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processRows are what a kernel, a node or a runtime may do to the process.
func processRows() []row {
	well := func(s *stage) bool { return s.metadata.probed(4, "email") }
	// mounted runs the agent in a mount namespace of its own, changed by the command.
	mounted := func(name, command string) row {
		return row{name: name, states: "match", enough: well, prepare: func(s *stage) {
			if out, err := exec.Command("unshare", "--mount", "sh", "-c", command).CombinedOutput(); err != nil {
				s.Skipf("no mount namespace here: %v %s", err, out)
			}
		}, wrapper: []string{"unshare", "--mount", "sh", "-c", command + ` && exec "$0"`}}
	}
	shell := func(name, command string) row {
		return row{name: name, states: "match", enough: well, wrapper: []string{"sh", "-c", command + ` exec "$0"`}}
	}
	flood := func(r row) row {
		r.name += ", and all answers for ever"
		r.states = "unavailable"
		r.begins = func(s *stage) { s.metadata.becomes(endless("HTTP/1.1 200 OK\r\n\r\n", "a"), endpoints...) }
		return r
	}
	var rows []row
	for _, r := range []row{
		mounted("a disk that is read-only", "mount -o remount,bind,ro /"),
		mounted("no /proc", "mount -t tmpfs none /proc"),
		mounted("no /sys", "mount -t tmpfs none /sys"),
		mounted("no /etc, and so no resolv.conf and no hosts", "mount -t tmpfs none /etc"),
		mounted("no /dev", "mount -t tmpfs none /dev"),
		shell("20 file descriptors", "ulimit -n 20;"),
		shell("no core, no files, no locked memory", "ulimit -c 0 -f 0 -l 0;"),
		shell("a stack of 256 kB", "ulimit -s 256;"),
		{name: "GOMEMLIMIT=1MiB", states: "match", enough: well, settings: []string{"GOMEMLIMIT=1MiB"}},
		{name: "GOGC=off", states: "match", enough: well, settings: []string{"GOGC=off", "GOMEMLIMIT=24MiB"}},
		{name: "an environment of 100 kB", states: "match", enough: well, settings: []string{fmt.Sprintf("WI_NOT_KNOWN=%0100000d", 0)}},
		{name: "proxies in the environment", states: "match", enough: well, settings: []string{"HTTP_PROXY=http://192.0.2.1:1", "http_proxy=http://192.0.2.1:1", "ALL_PROXY=http://192.0.2.1:1", "GCE_METADATA_HOST=192.0.2.1"}},
		limited("24 MiB", map[string]string{"memory/memory.limit_in_bytes": "25165824"}),
		limited("a third of a CPU", map[string]string{"cpu/cpu.cfs_period_us": "100000", "cpu/cpu.cfs_quota_us": "33000"}),
	} {
		rows = append(rows, r, flood(r))
	}
	// What the process forgets to close, the garbage collector would close some time.
	for _, k := range wire() {
		if k.at != nil && !slices.Contains(k.at, "all") || k.reason == "" || k.atAccept {
			continue
		}
		r := k.row("all")
		r.name, r.settings = "no garbage collector, and "+r.name, []string{"GOGC=off", "GOMEMLIMIT=36MiB"}
		rows = append(rows, r)
	}
	return append(
		rows,
		row{name: "20 file descriptors, and 30 clients that have them", plays: exhausted},
		row{name: "standard error is closed", plays: silently("2>&-")},
		row{name: "standard error is full", plays: silently("2>/dev/full")},
		row{name: "2 % of a CPU", plays: starved},
		row{name: "stopped for 2 s, again and again", plays: suspended(ok(app), "match")},
		row{name: "stopped for 2 s, again and again, with another email", plays: suspended(ok(other), "mismatch")},
		row{name: "stopped for 2 s, again and again, with a silent server", plays: suspended(held(""), "unavailable")},
	)
}

// limited is a row in a control group (version 1) with these limits.
func limited(name string, limits map[string]string) row {
	procs := ""
	return row{
		name: name, states: "match", enough: func(s *stage) bool { return s.metadata.probed(4, "email") },
		prepare: func(s *stage) { procs = s.group(limits); s.settings = append(s.settings, "PROCS="+procs) },
		wrapper: []string{"sh", "-c", `for p in $PROCS; do echo $$ >$p || exit 1; done; exec "$0"`},
	}
}

// group makes control groups of version 1 with the limits, and returns their files of processes.
func (s *stage) group(limits map[string]string) string {
	s.Helper()
	folders := map[string]bool{}
	for limit, value := range limits {
		folder := filepath.Join("/sys/fs/cgroup", filepath.Dir(limit), fmt.Sprintf("faults-%d", os.Getpid()), strconv.FormatUint(rand.Uint64(), 16))
		for f := range folders {
			if filepath.Dir(filepath.Dir(f)) == filepath.Dir(filepath.Dir(folder)) {
				folder = f
			}
		}
		if !folders[folder] {
			if err := os.MkdirAll(folder, 0o700); err != nil {
				s.Skip("no control group here:", err)
			}
			folders[folder] = true
			s.Cleanup(func() {
				_ = os.Remove(folder)
				_ = os.Remove(filepath.Dir(folder)) // by the last one
			})
		}
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(limit)), []byte(value), 0o600); err != nil {
			s.Skip("no such control group here:", err)
		}
	}
	var procs strings.Builder
	for f := range folders {
		procs.WriteString(" " + filepath.Join(f, "cgroup.procs"))
	}
	return procs.String()
}

// exhausted lets clients have all file descriptors, so that the probes have none.
func exhausted(s *stage) outcome {
	s.start([]string{"sh", "-c", `ulimit -n 20; exec "$0"`})
	s.becomes("match")
	before := s.least()
	s.attack(30, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	time.Sleep(4 * time.Second) // of the clients: nobody can look meanwhile
	s.undone()
	s.within("the state becomes match", func() bool {
		_, err := s.get("/healthz")
		return err == nil && s.status().State == "match"
	})
	for _, c := range s.status().Changes {
		if c.To != "match" && c.To != "unavailable" {
			s.Errorf("the state became %s because %s, want unavailable at most", c.To, c.Why)
		}
	}
	var failed []string
	for f := range s.failures() {
		if f != "server/not_found" {
			failed = append(failed, f)
		}
	}
	slices.Sort(failed)
	s.within("goroutines and files are as before", func() bool {
		after := s.usage()
		return after.goroutines <= before.goroutines+1 && after.files <= before.files+1
	})
	s.examine()
	return outcome{state: "`match` or `unavailable`", reasons: strings.Join(failed, ", "), end: "`match`"}
}

// silently runs the agent with a standard error that takes nothing.
func silently(redirection string) func(*stage) outcome {
	return func(s *stage) outcome {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.Fatal(err)
		}
		address := l.Addr().String()
		l.Close()
		s.settings = append(s.settings, "WI_LISTEN_ADDRESS="+address)
		s.agent = s.launch([]string{"sh", "-c", `exec "$0" ` + redirection})
		s.agent.address = address
		s.within("it answers", func() bool { s.alive(); _, err := s.get("/healthz"); return err == nil })
		s.becomes("match")
		s.metadata.gives(other)
		s.becomes("mismatch")
		s.metadata.heals()
		s.becomes("match")
		s.examine()
		return outcome{state: "`mismatch`", end: "`match`"}
	}
}

// starved gives the process so little of a CPU that it hardly comes to anything.
func starved(s *stage) outcome {
	procs := s.group(map[string]string{"cpu/cpu.cfs_period_us": "100000", "cpu/cpu.cfs_quota_us": "2000"})
	s.start(nil)
	s.becomes("match")
	if err := os.WriteFile(procs[1:], fmt.Append(nil, s.agent.command.Process.Pid), 0o600); err != nil {
		s.Skip("it cannot be limited here:", err)
	}
	s.metadata.forget()
	s.within("it probes", func() bool { s.alive(); return s.metadata.probed(5, "email") })
	if err := os.WriteFile("/sys/fs/cgroup/cpu/cgroup.procs", fmt.Append(nil, s.agent.command.Process.Pid), 0o600); err != nil {
		s.Fatal(err)
	}
	s.becomes("match")
	seen := "`match`"
	for _, c := range s.status().Changes {
		if c.To != "match" && c.To != "unavailable" && c.To != "stale" {
			s.Errorf("the state became %s because %s", c.To, c.Why)
		}
		if c.To == "unavailable" {
			seen = "`unavailable`"
		}
	}
	s.examine()
	return outcome{state: seen, end: "`match`"}
}

// suspended stops the process in the midst of its probes, again and again.
func suspended(email answer, state string) func(*stage) outcome {
	return func(s *stage) outcome {
		s.metadata.becomes(late(100*time.Millisecond, right), "token", "machine-type")
		s.metadata.becomes(late(100*time.Millisecond, email), "email")
		s.start(nil)
		s.becomes(state)
		for range 5 {
			for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
				if err := s.agent.command.Process.Signal(signal); err != nil {
					s.Fatal(err)
				}
				if signal == syscall.SIGSTOP {
					time.Sleep(2 * time.Second) // of the stop
				}
			}
			time.Sleep(50 * time.Millisecond) // that it runs
		}
		s.becomes(state)
		for _, c := range s.status().Changes {
			if c.To != state {
				s.Errorf("the state became %s because %s, want only %s", c.To, c.Why, state)
			}
		}
		s.metadata.heals()
		s.becomes("match")
		s.examine()
		return outcome{state: "`" + state + "`", end: "`match`"}
	}
}
