package web

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser starts Chromium, with a new profile, until the end of the test.
func browser(t *testing.T) context.Context {
	t.Helper()
	var output strings.Builder
	ctx, cancel := chromedp.NewExecAllocator(
		context.Background(),
		chromedp.ExecPath(chromium), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("no-proxy-server", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("hide-scrollbars", true), chromedp.Flag("force-color-profile", "srgb"),
		chromedp.CombinedOutput(&output),
		chromedp.ModifyCmdFunc(func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }),
	)
	ctx, cancelBrowser := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Error(err)
		}
		cancelBrowser()
		cancel()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start Chromium: %v\n%s", err, &output)
	}
	return ctx
}

// screen is what a page is looked at on.
type screen struct {
	name          string
	width, height int64
	dark          bool
}

var (
	desktop     = screen{"desktop", 1200, 900, false}
	desktopDark = screen{"desktop, dark", 1200, 900, true}
	phone       = screen{"phone", 390, 844, false}
	phoneDark   = screen{"phone, dark", 390, 844, true}
	// narrow is the width at which WCAG 1.4.10 wants no scrolling in two directions.
	narrow  = screen{"narrow", 320, 640, false}
	screens = []screen{desktop, desktopDark, phone, phoneDark, narrow}
)

// tab is one of the browser's, and what has happened in it.
type tab struct {
	//nolint:containedctx // chromedp knows a tab by its context
	ctx context.Context

	mu        sync.Mutex
	requests  []string
	complaint []string
}

// open makes a tab with this screen. It has no script to run, and no right to.
func open(ctx context.Context, t *testing.T, s screen) *tab {
	t.Helper()
	b := new(tab)
	var cancel context.CancelFunc
	b.ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Listen(b.ctx, b.note); err != nil {
		t.Fatal(err)
	}
	must(t, b, log.Enable, cdp.Empty{})
	must(t, b, audits.Enable, cdp.Empty{})
	must(t, b, network.Enable, network.EnableParams{})
	b.resize(t, s)
	return b
}

func (b *tab) resize(t *testing.T, s screen) {
	t.Helper()
	must(t, b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: s.width, Height: s.height, DeviceScaleFactor: 1, Mobile: s.width < 600})
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	must(t, b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// must runs a command of the protocol.
func must[P, R any](t *testing.T, b *tab, command cdp.Command[P, R], parameters P) R {
	t.Helper()
	result, err := chromedp.Call(b.ctx, command, parameters)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// evaluate runs a script of the suite in the page, of which it must change nothing.
func evaluate[T any](t *testing.T, b *tab, script string) T {
	t.Helper()
	result, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func (b *tab) visit(t *testing.T, address string) {
	t.Helper()
	if err := chromedp.Do(b.ctx, chromedp.Navigate(address)); err != nil {
		t.Fatal(err)
	}
}

// note writes down what the page asks for, and all that the browser says about it.
func (b *tab) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, e.Request.URL)
	case *runtime.EventConsoleAPICalled:
		b.complaint = append(b.complaint, fmt.Sprintf("console.%s", e.Type))
	case *runtime.EventExceptionThrown:
		b.complaint = append(b.complaint, "exception: "+e.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		b.complaint = append(b.complaint, fmt.Sprintf("%s %s: %s %s", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL))
	case *audits.EventIssueAdded:
		b.complaint = append(b.complaint, fmt.Sprintf("issue %s: %+v", e.Issue.Code, e.Issue.Details))
	case *page.EventJavascriptDialogOpening:
		b.complaint = append(b.complaint, "dialog: "+e.Message)
	}
}

// asked are the addresses that the tab has asked for.
func (b *tab) asked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}

// complains fails if the browser had anything to say, or if the page asked for
// anything but itself.
func (b *tab) complains(t *testing.T, address string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.complaint {
		t.Errorf("%s: the console says %s", address, c)
	}
	for _, r := range b.requests {
		if r != address {
			t.Errorf("%s: the page asks for %s", address, r)
		}
	}
	if len(b.requests) == 0 {
		t.Errorf("%s: no request was seen", address)
	}
}
