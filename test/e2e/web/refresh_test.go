package web

import (
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// The page comes again by itself where no script may run, and not where it was
// asked to stay.
func TestThePageRefreshesItself(t *testing.T) {
	n, chrome := newNode(t), browser(t)
	a := start(t, n.api, "127.0.0.1")
	a.await(t, identity.Match)
	still, fresh := open(chrome, t, phone), open(chrome, t, phone)
	for _, b := range []*tab{still, fresh} {
		must(t, b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	}
	still.visit(t, a.base+"/?refresh=off")
	fresh.visit(t, a.base+"/")
	// Rules that a page which refreshes itself fails on purpose: it is what was asked
	// for, and it can be stopped by a link on the page. They hold where it is.
	axe := open(chrome, t, phone)
	axe.visit(t, a.base+"/")
	axe.accessible(t, "the page that refreshes itself", "meta-refresh", "meta-refresh-no-exceptions")

	began := time.Now()
	for deadline := began.Add(patience); len(fresh.asked()) < 3 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond) // the browser's clock
	}
	if took := time.Since(began); took < 7*time.Second || took > 20*time.Second {
		t.Errorf("the page came three times in %s, want every 5 s", took)
	}
	fresh.complains(t, a.base+"/")
	still.complains(t, a.base+"/?refresh=off")
	if n := len(still.asked()); n != 1 {
		t.Errorf("the page that was to stay came %d times", n)
	}
	n.fault(t, "bypass")
	a.await(t, identity.NodeFallback)
	for deadline := time.Now().Add(patience); len(fresh.asked()) < 5 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	for _, b := range []*tab{still, fresh} {
		must(t, b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{})
	}
	fresh.headed(t, identity.NodeFallback)
	still.headed(t, identity.Match)
}
