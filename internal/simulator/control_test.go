package simulator_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

func control(t *testing.T, s *simulator.Simulator, method, path string, header ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r := request(ctx, t, method, "http://"+s.ControlAddr().String()+path)
	if len(header) == 2 {
		r.Header.Set(header[0], header[1])
	}
	return do(t, clientFrom("127.0.0.1"), r)
}

func TestSwitches(t *testing.T) {
	tests := []struct {
		method, path string
		want         says
	}{
		{http.MethodGet, "/fault", says{200, `{"name":"healthy"}` + "\n"}},
		{http.MethodPut, "/fault/bypass", says{200, `{"name":"bypass"}` + "\n"}},
		{http.MethodGet, "/fault", says{200, `{"name":"bypass"}` + "\n"}},
		{http.MethodPost, "/fault/slow?delay=4s", says{200, `{"name":"slow","delay":"4s"}` + "\n"}},
		{http.MethodPut, "/fault/flap", says{200, `{"name":"flap","every":"5s","of":"bypass"}` + "\n"}},
		{http.MethodPut, "/fault/flap?every=1m&of=slow&delay=1s", says{200, `{"name":"flap","every":"1m0s","of":"slow","delay":"1s"}` + "\n"}},

		{http.MethodPut, "/fault/gremlins", says{404, "~want one of: healthy, bypass, "}},
		{http.MethodPut, "/fault/bypass?every=5s", says{400, "~fault bypass takes no parameters"}},
		{http.MethodPut, "/fault/flap?evry=5s", says{400, "~want every=DURATION, of=FAULT or delay=DURATION"}},
		{http.MethodPut, "/fault/flap?every=soon", says{400, "~want a duration from 10ms to 1h0m0s"}},
		{http.MethodPut, "/fault/flap?every=0s", says{400, "~want a duration"}},
		{http.MethodPut, "/fault/flap?every=1s&every=2s", says{400, "~given 2 times"}},
		{http.MethodPut, "/fault/flap?of=", says{400, "~want the name of a fault"}},
		{http.MethodPut, "/fault/flap?of=gremlins", says{400, "~want one of: healthy, bypass, "}},
		{http.MethodPut, "/fault/flap?of=flap", says{400, "~any other fault"}},
		{http.MethodPut, "/fault/flap?of=%zz", says{400, "~invalid URL escape"}},
		{http.MethodPut, "/fault", says{405, "~"}},
		{http.MethodGet, "/fault/bypass", says{405, "~"}},
		{http.MethodDelete, "/fault/bypass", says{405, "~"}},
		{http.MethodPost, "/faults", says{405, "~"}},
		{http.MethodGet, "/nothing", says{404, "~"}},
		{http.MethodGet, "/", says{200, "~PUT /fault/NAME"}},

		// What was refused changed nothing.
		{http.MethodGet, "/fault", says{200, `~"of":"slow"`}},
	}
	s := start(t, simulator.Options{})
	for _, test := range tests {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			test.want.check(t, test.path, control(t, s, test.method, test.path))
		})
	}
}

func TestSwitchesReachTheMetadataServer(t *testing.T) {
	s := start(t, simulator.Options{})
	says{200, "~bypass"}.check(t, "switch", control(t, s, http.MethodPut, "/fault/bypass"))
	says{ok, nodeGSA}.check(t, "email", ask(t, s, email))
	says{200, "~healthy"}.check(t, "switch", control(t, s, http.MethodPut, "/fault/healthy"))
	says{ok, appGSA}.check(t, "email", ask(t, s, email))

	t.Run("a web page may not", func(t *testing.T) {
		got := control(t, s, http.MethodPost, "/fault/bypass", "Origin", "https://example.com")
		if got.status != http.StatusForbidden || s.Fault().Name != "healthy" {
			t.Errorf("got %d and fault %s", got.status, s.Fault())
		}
	})
	t.Run("a fault of a server that is not served", func(t *testing.T) {
		alone := start(t, simulator.Options{Serve: simulator.ServeVM})
		says{409, "~fault snat needs serve=gke"}.check(t, "switch", control(t, alone, http.MethodPut, "/fault/snat"))
		if got := control(t, alone, http.MethodGet, "/faults").body; strings.Contains(got, "snat") || !strings.Contains(got, "refused") {
			t.Errorf("got the list\n%s", got)
		}
	})
}

func TestListOfFaults(t *testing.T) {
	s := start(t, simulator.Options{})

	table := control(t, s, http.MethodGet, "/faults").body
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if len(lines) != len(simulator.Faults()) {
		t.Fatalf("got %d lines, want one for each of %d faults", len(lines), len(simulator.Faults()))
	}
	for i, kind := range simulator.Faults() {
		if !strings.HasPrefix(lines[i], kind.Name+" ") || !strings.Contains(lines[i], kind.Description) {
			t.Errorf("line %d: got %q, want %s", i, lines[i], kind.Name)
		}
	}

	var list []simulator.FaultKind
	text := control(t, s, http.MethodGet, "/faults", "Accept", "application/json").body
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != len(simulator.Faults()) || list[1].Name != "bypass" {
		t.Errorf("got %s (%v)", text, err)
	}
}

func TestStatsInJSON(t *testing.T) {
	s := start(t, simulator.Options{Fault: simulator.Fault{Name: "flap", Every: time.Minute}})
	ask(t, s, email)
	// Bytes are counted after they were sent, which the client may be the first to know.
	for deadline := time.Now().Add(10 * time.Second); s.BytesWritten() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	var got simulator.Stats
	text := control(t, s, http.MethodGet, "/stats").body
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if got.Connections != 1 || got.Requests[email] != 1 || got.BytesWritten == 0 || got.Playing.Name != "bypass" ||
		got.Fault != (simulator.Fault{Name: "flap", Every: time.Minute, Of: "bypass"}) {
		t.Errorf("got %+v", got)
	}
}
