package web

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// The states in turn on one node, as they may come, and those of agents beside.
func TestEveryState(t *testing.T) {
	n, chrome := newNode(t), browser(t)
	seen := map[identity.State]bool{}
	look := func(a *agent, state identity.State) {
		t.Helper()
		a.await(t, state)
		seen[state] = true
		t.Run(string(state), func(t *testing.T) {
			if *update {
				draw(chrome, t, a.base, state)
			}
			if b := examine(chrome, t, a.base, state); evaluate[int](t, b, `document.querySelectorAll('.strip').length`) != 1 {
				t.Error("the page has no strip")
			}
		})
	}

	// A process that was suspended, and then finds that nobody answers: until its
	// requests are past their deadline, the last verdict is too old.
	// Longer than a confirmation of six probes, with a second between two cycles.
	const timeout, silence = 5 * time.Second, 34 * time.Second
	suspended := start(t, n.api, "127.0.0.2", "WI_PROBE_TIMEOUT="+timeout.String(), "WI_STARTUP_GRACE=0s")
	suspended.await(t, identity.Match)
	if err := suspended.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()

	a := start(t, n.api, "127.0.0.1")
	a.await(t, identity.Match)
	if *update {
		n.fault(t, "sts-blocked") // a blip
		time.Sleep(1500 * time.Millisecond)
		n.fault(t, "healthy")
		time.Sleep(55 * time.Second) // for a strip with something in it
	}
	look(a, identity.Match)
	for _, f := range []struct {
		fault string
		state identity.State
	}{
		{"bypass", identity.NodeFallback},
		{"stranger", identity.Mismatch},
		{"unannotated", identity.Unbound},
		{"no-binding", identity.TokenDenied},
		{"refused", identity.Unavailable},
	} {
		n.fault(t, f.fault)
		look(a, f.state)
		n.fault(t, "healthy")
		a.await(t, identity.Match)
	}

	forbidden := apiServer(t)
	forbidden.Put("/api/v1/namespaces/demo/serviceaccounts/app", 403)
	look(start(t, forbidden, "127.0.0.3", "WI_STARTUP_GRACE=0s"), identity.UnknownExpectation)

	n.fault(t, "refused")
	look(start(t, n.api, "127.0.0.4", "WI_STARTUP_GRACE=1h"), identity.Starting)

	n.fault(t, "silent")
	young := start(t, n.api, "127.0.0.5", "WI_PROBE_TIMEOUT=1m")
	t.Run("before the first probe", func(t *testing.T) { examine(chrome, t, young.base, identity.Starting) })
	time.Sleep(time.Until(stopped.Add(silence)))
	if err := suspended.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	look(suspended, identity.Stale)

	for _, s := range identity.States() {
		if !seen[s] {
			t.Errorf("nobody has looked at the state %s", s)
		}
	}
}

// examine looks at a page in all ways, and returns the tab in which it did.
func examine(chrome context.Context, t *testing.T, base string, state identity.State) *tab {
	t.Helper()
	still := base + "/?refresh=off"
	// A tab that nothing is injected into.
	clean := open(chrome, t, desktop)
	clean.visit(t, still)
	clean.headed(t, state)
	clean.leads(t, state)
	clean.complains(t, still)

	tested := open(chrome, t, desktop)
	tested.visit(t, still)
	for _, s := range screens {
		tested.resize(t, s)
		where := string(state) + " on " + s.name
		tested.fits(t, where)
		tested.readable(t, where, state)
		tested.accessible(t, where)
	}
	return tested
}

// leads fails unless the first link of the page leads to a runbook that there is,
// where there is something to do.
func (b *tab) leads(t *testing.T, state identity.State) {
	t.Helper()
	to := evaluate[string](t, b, `document.querySelector('a').href`)
	name, ok := strings.CutPrefix(to, diagnose.Runbooks)
	if state == identity.Match || state == identity.Starting {
		if ok {
			t.Errorf("%s has the runbook %s", state, to)
		}
		return
	}
	if _, err := os.Stat(repository + "alerts/runbooks/" + name); err != nil || !ok {
		t.Errorf("the runbook of %s is %s: %v", state, to, err)
	}
}

// headed fails unless the page's heading is the state, with an icon.
func (b *tab) headed(t *testing.T, state identity.State) {
	t.Helper()
	if got := evaluate[string](t, b, `document.querySelector('h1').innerText`); got != string(state) {
		t.Errorf("the heading is %q, want %s", got, state)
	}
	if box := evaluate[[2]float64](t, b, `(() => { const r = document.querySelector('h1 svg').getBoundingClientRect(); return [r.width, r.height]; })()`); box[0] < 10 || box[1] < 10 {
		t.Errorf("%s: the icon is of %v pixels", state, box)
	}
	if title := evaluate[string](t, b, `document.title`); !strings.HasPrefix(title, string(state)+" on ") {
		t.Errorf("the title is %q, want it to begin with %s", title, state)
	}
}

// fits fails if one must scroll sideways, in the page or in a part of it.
func (b *tab) fits(t *testing.T, where string) {
	t.Helper()
	wide := evaluate[[]string](t, b, `(() => {
		const e = document.scrollingElement, wide = [];
		if (e.scrollWidth > innerWidth) wide.push('the page: ' + e.scrollWidth + ' of ' + innerWidth);
		for (const x of document.querySelectorAll('body *:not(thead, thead *)'))
			if (x.getBoundingClientRect().right > innerWidth + .5 || (x.clientWidth > 0 && x.scrollWidth > x.clientWidth + 1)) wide.push(x.outerHTML.slice(0, 120));
		return wide;
	})()`)
	for _, w := range wide {
		t.Errorf("%s: too wide: %s", where, w)
	}
}
