package page

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// results are what the suite measured, in the order in which scenarios began.
var results table

type table struct {
	mu       sync.Mutex
	outcomes []*outcome
}

// outcome is one run of a scenario.
type outcome struct {
	scenario string
	awaited  []string

	mu                       sync.Mutex
	toPage, toResolve        []time.Duration
	expected, pages, tickets int
	unwanted, missed         int
}

func (r *table) begin(scenario string) *outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := &outcome{scenario: scenario}
	r.outcomes = append(r.outcomes, o)
	return o
}

func (o *outcome) took(what string, d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !strings.HasPrefix(what, "page "):
	case strings.HasSuffix(what, " firing"):
		o.toPage = append(o.toPage, d)
	default:
		o.toResolve = append(o.toResolve, d)
	}
}

// judge compares what came with what was to come. The last call counts.
func (o *outcome) judge(received []string, want ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expected, o.pages, o.tickets, o.unwanted, o.missed = 0, 0, 0, 0, 0
	wanted := map[string]int{}
	for _, w := range want {
		if isPage(w) {
			o.expected++
			wanted[w]++
		}
	}
	open := map[string]bool{}
	for _, line := range received {
		if strings.HasPrefix(line, "ticket ") && strings.HasSuffix(line, " firing") && !open[line] {
			open[line] = true
			o.tickets++
		}
		if !isPage(line) {
			continue
		}
		o.pages++
		if wanted[line]--; wanted[line] < 0 {
			o.unwanted++
		}
	}
	for _, left := range wanted {
		o.missed += max(left, 0)
	}
}

func isPage(line string) bool {
	return strings.HasPrefix(line, "page ") && strings.HasSuffix(line, " firing")
}

// markdown is one line for each scenario.
func (r *table) markdown() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	rows := map[string][]*outcome{}
	for _, o := range r.outcomes {
		if rows[o.scenario] == nil {
			names = append(names, o.scenario)
		}
		rows[o.scenario] = append(rows[o.scenario], o)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(number(a), number(b)), strings.Compare(a, b)) })
	var b strings.Builder
	b.WriteString("\n| scenario | runs | s to page: median | worst | s to resolve: median | worst | pages expected | received | tickets | unwanted pages | missed pages |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, name := range names {
		var sum outcome
		for _, o := range rows[name] {
			o.mu.Lock()
			sum.toPage = append(sum.toPage, o.toPage...)
			sum.toResolve = append(sum.toResolve, o.toResolve...)
			sum.expected, sum.pages, sum.tickets = sum.expected+o.expected, sum.pages+o.pages, sum.tickets+o.tickets
			sum.unwanted, sum.missed = sum.unwanted+o.unwanted, sum.missed+o.missed
			o.mu.Unlock()
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %d | %d | %d | %d | %d |\n", name, len(rows[name]), middle(sum.toPage), middle(sum.toResolve),
			sum.expected, sum.pages, sum.tickets, sum.unwanted, sum.missed)
	}
	return b.String() + "\n"
}

// number is that with which the name of a scenario begins.
func number(scenario string) int {
	digits, _, _ := strings.Cut(scenario, " ")
	n, _ := strconv.Atoi(digits) // 0 is as good
	return n
}

// middle is the median and the greatest, in seconds, as two cells.
func middle(of []time.Duration) string {
	if len(of) == 0 {
		return "– | –"
	}
	slices.Sort(of)
	return fmt.Sprintf("%.1f | %.1f", of[len(of)/2].Seconds(), of[len(of)-1].Seconds())
}
