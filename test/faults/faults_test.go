package faults_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

var (
	play   = flag.Bool("faults", false, "play the rows, which takes minutes")
	soak   = flag.Duration("soak", 0, "play for so long what changes all the time, instead of the rows")
	update = flag.Bool("update", false, "write docs/faults.md again; with -faults")
)

// documentation lists the rows.
const documentation = "../../docs/faults.md"

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		if !*play && *soak == 0 {
			return m.Run()
		}
		// Rows wait most of the time.
		_ = flag.Set("test.parallel", "10")
		folder, err := os.MkdirTemp("", "faults")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		binary = filepath.Join(folder, "workload-identity-exporter")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "../../cmd/workload-identity-exporter")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// row is one fault.
type row struct {
	name string
	// states are right while the fault lasts, separated by slashes.
	states string
	// failures are right for the requests that fail meanwhile, as ENDPOINT/REASON, and the
	// first of them has to be counted. What is late is always right.
	failures []string
	// told: there is an API server, and the causes of the first Event about the state have to
	// be those that the documentation has.
	told bool

	// prepare is called before the agent is started, and may change its settings.
	prepare func(*stage)
	// settings are the agent's, besides those of every row.
	settings []string
	// wrapper is a command that runs the agent: its arguments are appended.
	wrapper []string
	// fromStart: the fault is there before the agent.
	fromStart bool
	// begins and ends are the fault. It lasts until enough says so.
	begins, ends func(*stage)
	enough       func(*stage) bool
	// plays replaces all of that by a play of its own.
	plays func(*stage) outcome
	// stops: it is ended in the midst of the fault, and not repaired.
	stops  bool
	memory int // MiB, if it may have more than others
	logs   int // bytes, if it may write more than others
}

// groups are all rows.
func groups() []struct {
	name string
	rows []row
} {
	return []struct {
		name string
		rows []row
	}{
		{"metadata", metadataRows()},
		{"kubernetes", kubernetesRows()},
		{"clients", clientRows()},
		{"files", fileRows()},
		{"process", processRows()},
		{"signals", signalRows()},
		{"check", checkRows()},
	}
}

// outcome is what came of a row.
type outcome struct{ state, reasons, causes, end string }

// line is the outcome as the documentation has it.
func (o outcome) line(row string) string {
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", cell(row), o.state, o.reasons, o.causes, o.end)
}

var outcomes = struct {
	sync.Mutex
	of map[string]outcome
}{of: map[string]outcome{}}

func TestFaults(t *testing.T) {
	if !*play {
		t.Skip("make faults plays the rows")
	}
	t.Cleanup(func() {
		if *update && !t.Failed() {
			if err := os.WriteFile(documentation, []byte(document()), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			for _, r := range g.rows {
				t.Run(r.name, func(t *testing.T) {
					t.Parallel()
					o := outcome{end: "skipped: the machine does not permit it"}
					defer func() {
						outcomes.Lock()
						defer outcomes.Unlock()
						outcomes.of[g.name+"/"+r.name] = o
					}()
					o = r.play(t)
					if before, known := recorded(g.name, r.name); r.told && known && !*update && before != o.causes {
						t.Errorf("the first Event says %s, want %s: if that is right, run `make faults UPDATE=1`", o.causes, before)
					}
				})
			}
		})
	}
}

// Rows are looked up by their names, also in the documentation.
func TestEveryRowIsDocumented(t *testing.T) {
	if *update {
		t.Skip("it is being written")
	}
	text, err := os.ReadFile(documentation)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range groups() {
		for _, r := range g.rows {
			if seen[g.name+r.name] {
				t.Errorf("%s: there are two rows %q", g.name, r.name)
			}
			seen[g.name+r.name] = true
			if !strings.Contains(string(text), "\n| "+cell(r.name)+" |") {
				t.Errorf("%s lacks the row %q: run `make faults UPDATE=1`", documentation, r.name)
			}
		}
	}
	if listed := strings.Count(string(text), "\n| ") - len(groups()); listed != len(seen) {
		t.Errorf("%s lists %d rows, want %d", documentation, listed, len(seen))
	}
}

// document keeps what is written of the rows that were not played.
func document() string {
	var b strings.Builder
	before, _ := os.ReadFile(documentation) // there may be none yet
	b.WriteString(introduction)
	for _, g := range groups() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| row | state meanwhile | failed requests | causes of the first Event | afterwards |\n|---|---|---|---|---|\n", titles[g.name].title, titles[g.name].text)
		for _, r := range g.rows {
			o, played := outcomes.of[g.name+"/"+r.name]
			if line := written(string(before), titles[g.name].title, r.name); !played && line != "" {
				b.WriteString(line)
				continue
			}
			b.WriteString(o.line(r.name))
		}
	}
	return b.String()
}

// recorded are the causes that the documentation has of the row.
func recorded(group, row string) (causes string, known bool) {
	text, _ := os.ReadFile(documentation) // TestEveryRowIsDocumented reads it as well
	cells := strings.Split(written(string(text), titles[group].title, row), " | ")
	if len(cells) < 5 {
		return "", false
	}
	return cells[len(cells)-2], true
}

// written is the line of the row in its section.
func written(text, section, row string) string {
	_, text, _ = strings.Cut(text, "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	begin := "| " + cell(row) + " |"
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, begin) {
			return line
		}
	}
	return ""
}

func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "*", "\\*").Replace(s)
}

const introduction = `# What was done to the exporter

` + "`make faults`" + ` plays each row on an agent of its own, which is the binary as it is shipped: it is well, then it has the fault, then it is
well again. While the fault lasts, only the states of the row may be stated, and afterwards ` + "`match`" + ` without a restart. In no row may the
process end, hang or panic, keep goroutines or file descriptors, take more than 40 MiB, write more than 8 kB of log lines, export more
than 120 series of its own, or show any part of a token, on a page, in a metric or in the log; and SIGTERM ends it within 1.5 seconds.

This page is written by ` + "`make faults UPDATE=1`" + `.
`

var titles = map[string]struct{ title, text string }{
	"metadata":   {"The metadata server", "The first word of a name is the endpoint that answers wrongly, `all` for each of them. The others answer rightly, but where the fault is of `identity`, which is asked about a wrong identity only: there the email is another one. The first Event about the state has these causes, of which the last is no fault of the row: `WI_METADATA_HOST` names the server."},
	"kubernetes": {"The API server", "What is expected comes from the annotation of the ServiceAccount, which is read at the start, and again when another identity is given: that is what begins in each row but those of `start`."},
	"clients":    {"Clients", "All else is well, so that the state is to stay `match`, and all pages are answered. More clients than a few are another matter."},
	"files":      {"TLS files", "The HTTP server has TLS by `WI_WEB_CONFIG_FILE`. Where a row is named after a start, the process is to refuse that, with one line."},
	"process":    {"The process and its place", "Rows that the machine does not permit are said to be skipped."},
	"signals":    {"SIGTERM in each phase", "The process is to end with code 0 within 1.5 seconds."},
	"check":      {"`check`", "The subcommand is run against such servers. It is to end by itself, with a state and without a secret, and not with code 0 but for a `match`."},
}

func allowed(states, state string) bool { return slices.Contains(strings.Split(states, "/"), state) }
