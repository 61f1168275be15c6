package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A token is nowhere in the memory of the agent once its probe is over, and no core
// dump is written of what is there during one. Before that was so, a core dump had 63 copies of 21 tokens.
func TestNoTokenOutlivesItsProbe(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the memory of another process is to be had on Linux only")
	}
	s := newScene(t)
	defer s.end()
	metadata, _, err := s.simulator("node", "-pod", "*=demo/app="+app)
	if err != nil {
		t.Fatal(err)
	}
	address, err := s.agent("agent", "WI_METADATA_HOST="+metadata, "WI_EXPECTED_EMAILS="+app)
	if err != nil {
		t.Fatal(err)
	}
	agent := s.processes["agent"]
	pages := hostileAgent{t, "http://" + address}
	asked := func() float64 {
		n, _ := number(pages.page("/metrics"), `workload_identity_probes_total{endpoint="token"}`)
		return n
	}
	for end := time.Now().Add(patience); asked() < 5; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the agent did not ask for five tokens")
		}
	}
	fewest := 1 << 30
	for range 10 { // one of which is no moment of a probe
		copies, read := inMemory(t, agent, secret)
		if read < 1<<20 {
			t.Fatalf("%d bytes of memory were read, want its heap", read)
		}
		if fewest = min(fewest, copies); fewest == 0 {
			break
		}
		time.Sleep(170 * time.Millisecond)
	}
	if fewest > 0 {
		t.Errorf("%d copies of tokens are in the memory of the agent at any time", fewest)
	}
	if copies, _ := inMemory(t, agent, app); copies == 0 {
		t.Error("not even the email is found there: the test looks at the wrong place")
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", agent.command.Process.Pid))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 bytes") {
		t.Errorf("a core dump may be written: %v %s", err, limits)
	}
}

// inMemory counts a text in what is mapped without a file, among it Go's heap and stacks,
// while the process stands still. The race detector's own gigabytes are left out.
func inMemory(t *testing.T, p *process, text string) (count, read int) {
	t.Helper()
	pid := p.command.Process.Pid
	if err := p.command.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer p.command.Process.Signal(syscall.SIGCONT) //nolint:errcheck // the next wait finds out
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	const most = 64 << 20 // of a mapping: an arena of the heap
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var may string
		file := strings.Join(strings.Fields(line)[5:], " ")
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &may); err != nil || to-from > most || !strings.HasPrefix(may, "rw") || strings.HasPrefix(file, "/") {
			continue
		}
		content := make([]byte, to-from)
		n, _ := memory.ReadAt(content, from)
		count += bytes.Count(content[:n], []byte(text))
		read += n
	}
	return count, read
}
