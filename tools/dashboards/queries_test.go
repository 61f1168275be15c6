package main

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// asked is a query of a page, of a panel, a variable or an annotation.
type asked struct {
	page, of string
	clusters clusterLabels
	panel    *Panel // nil for others
	target   Target
	expr     parser.Expr
}

// queries are all of them, in a form that Prometheus reads.
func queries(t *testing.T) []asked {
	t.Helper()
	var all []asked
	add := func(a asked, expr string) {
		expr = strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h").Replace(expr)
		var err error
		// No experimental functions: not everybody's Prometheus has them.
		if a.expr, err = parser.NewParser(parser.Options{}).ParseExpr(expr); err != nil {
			t.Fatalf("%s: %s: %v\n%s", a.page, a.of, err, expr)
		}
		all = append(all, a)
	}
	for _, d := range committed(t) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				add(asked{page: d.path, clusters: d.clusters, of: p.Title + " " + target.RefID, panel: p, target: target}, target.Expr)
			}
		}
		for _, v := range d.Templating.List {
			query, _ := v.Query.(map[string]any)
			if query == nil {
				continue
			}
			text, _ := query["query"].(string)
			m := regexp.MustCompile(`^(?:label_values\((.+), *\w+\)|query_result\((.+)\))$`).FindStringSubmatch(text)
			if m == nil {
				t.Fatalf("%s: $%s: %s is not a query of a variable", d.path, v.Name, text)
			}
			add(asked{page: d.path, clusters: d.clusters, of: "$" + v.Name}, m[1]+m[2])
		}
		for _, a := range d.Annotations.List {
			add(asked{page: d.path, clusters: d.clusters, of: "mark " + a.Name}, a.Expr)
		}
	}
	return all
}

// selectors calls f for each selector, with the expressions that it is part of.
func (a asked) selectors(f func(s *parser.VectorSelector, within []parser.Node)) {
	parser.Inspect(a.expr, func(n parser.Node, path []parser.Node) error {
		if s, ok := n.(*parser.VectorSelector); ok {
			f(s, path)
		}
		return nil
	})
}

func matcher(s *parser.VectorSelector, label string) string {
	for _, m := range s.LabelMatchers {
		if m.Name == label {
			return m.Type.String() + m.Value
		}
	}
	return ""
}

func TestEveryQueryIsThere(t *testing.T) {
	seen := map[string]string{}
	for _, a := range queries(t) {
		if a.panel == nil {
			continue
		}
		kind := a.page + a.target.Format
		if a.target.Instant {
			kind += " now"
		}
		if other := seen[kind+a.expr.String()]; other != "" {
			t.Errorf("%s: %q asks the same as %q", a.page, a.of, other)
		}
		seen[kind+a.expr.String()] = a.of
		if a.target.Instant == a.target.Range {
			t.Errorf("%s: %q must be either for now or for the time range", a.page, a.of)
		}
		for line := range strings.Lines(a.target.Expr) {
			// Those with more labels are longer, and read in the same source.
			if len(line) > 250 && len(a.clusters) == 1 {
				t.Errorf("%s: %q has a line that nobody reads: %s", a.page, a.of, line)
			}
		}
	}
	if len(seen) < 2*30 {
		t.Errorf("%d queries, want those of three pages, twice", len(seen))
	}
}

func TestEveryQueryAsksForTheChosenClusterAndJob(t *testing.T) {
	for _, a := range queries(t) {
		a.selectors(func(s *parser.VectorSelector, _ []parser.Node) {
			for _, l := range a.clusters {
				if a.of == "$"+l {
					break // it offers what those before it leave
				}
				if matcher(s, l) != "=~$"+l {
					t.Errorf("%s: %q asks for %s of every %s", a.page, a.of, s.Name, l)
				}
			}
			if strings.HasPrefix(s.Name, "workload_identity_") && matcher(s, "job") != "=~$job" && a.of != "$job" {
				t.Errorf("%s: %q asks for %s of all jobs", a.page, a.of, s.Name)
			}
		})
	}
}

// Clusters of one name in two locations are two. What keeps one label of the cluster
// keeps all of them, in the order of the list.
func TestAClusterIsAllItsLabels(t *testing.T) {
	for _, a := range queries(t) {
		of := func(labels []string) []string {
			return slices.DeleteFunc(slices.Clone(labels), func(l string) bool { return !slices.Contains(a.clusters, l) })
		}
		whole := func(what string, labels []string) {
			if got := of(labels); len(got) > 0 && !slices.Equal(got, a.clusters) {
				t.Errorf("%s: %q: %s (%s) holds a part of the cluster, want %s", a.page, a.of, what, strings.Join(labels, ", "), strings.Join(a.clusters, ", "))
			}
		}
		parser.Inspect(a.expr, func(n parser.Node, _ []parser.Node) error {
			switch n := n.(type) {
			case *parser.AggregateExpr:
				whole(n.Op.String(), n.Grouping)
				if slices.Contains(n.Grouping, "node") && len(of(n.Grouping)) == 0 && a.of != "$worst" {
					t.Errorf("%s: %q: nodes of one name in two clusters would be one: %s", a.page, a.of, n)
				}
			case *parser.BinaryExpr:
				if n.VectorMatching != nil {
					whole("on", n.VectorMatching.MatchingLabels)
				}
			}
			return nil
		})
		var named []string
		for _, m := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(a.target.LegendFormat, -1) {
			named = slices.Insert(named, 0, m[1])
		}
		whole("the legend", named)
	}
}

func TestLinksAndTablesNameTheWholeCluster(t *testing.T) {
	each(t, func(d rendered, p *Panel) {
		for _, o := range p.FieldConfig.Overrides {
			for _, property := range o.Properties {
				for _, url := range urlsOf(property) {
					for _, l := range d.clusters {
						if strings.HasPrefix(url, "/d/"+clusterUID) && !strings.Contains(url, "&var-"+l+"=${__data.fields."+l+"}") ||
							strings.HasPrefix(url, "/d/"+nodeUID) && !strings.Contains(url, "&${"+l+":queryparam}") {
							t.Errorf("%s: %q: the link %s leaves %s out", d.path, p.Title, url, l)
						}
					}
				}
			}
		}
		if p.Type == "table" {
			options := p.Transformations[len(p.Transformations)-1].Options
			columns, _ := options["renameByName"].(map[string]any)
			for _, l := range d.clusters[:len(d.clusters)-1] {
				if (columns[l] == nil) != (columns[d.clusters.name()] == nil) {
					t.Errorf("%s: %q shows a part of the cluster", d.path, p.Title)
				}
			}
		}
	})
}

func TestAClusterIsNamedAndChosenByAllItsLabels(t *testing.T) {
	if got, want := gmp.in("<where>"), "{{cluster}} / {{location}} / {{project_id}}"; got != want {
		t.Errorf("named %s, want %s", got, want)
	}
	var got []string
	for _, v := range gmp.variables() {
		query, _ := v.Query.(VariableQuery)
		got = append(got, v.Label+": "+query.Query)
	}
	want := []string{
		`Project: label_values(workload_identity:cluster:nodes, project_id)`,
		`Location: label_values(workload_identity:cluster:nodes{project_id=~"$project_id"}, location)`,
		`Cluster: label_values(workload_identity:cluster:nodes{project_id=~"$project_id",location=~"$location"}, cluster)`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("variables\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := configured(t.TempDir()); err == nil {
		t.Error("no values, and no error")
	}
}

// A window shorter than two scrapes is empty, a longer one than a step hides.
func TestWindowsFollowTheResolution(t *testing.T) {
	for _, a := range queries(t) {
		if a.panel == nil {
			continue
		}
		for _, m := range regexp.MustCompile(`\[([^\]]*)\]`).FindAllStringSubmatch(a.target.Expr, -1) {
			// Some are a memory of what is gone, and one is that of the alert about
			// partly wrong answers, which the line is of.
			memory := slices.Contains([]string{"1d", "1d:15s"}, m[1])
			if m[1] != "$__rate_interval" && !memory && (m[1] != "2m" || a.panel.Title != "Share of wrong answers") {
				t.Errorf("%s: %q has the window %s, want $__rate_interval", a.page, a.of, m[1])
			}
		}
		parser.Inspect(a.expr, func(n parser.Node, _ []parser.Node) error {
			if c, ok := n.(*parser.Call); ok && (c.Func.Name == "irate" || c.Func.Name == "delta" || c.Func.Name == "idelta") {
				t.Errorf("%s: %q uses %s", a.page, a.of, c.Func.Name)
			}
			return nil
		})
	}
}

func TestTheFleetAsksForNoNode(t *testing.T) {
	for _, a := range queries(t) {
		if !strings.HasSuffix(a.page, fleetUID+".json") {
			continue
		}
		a.selectors(func(s *parser.VectorSelector, within []parser.Node) {
			if s.Name != "ALERTS" && !strings.HasPrefix(s.Name, "workload_identity:cluster") {
				t.Errorf("%q asks for %s, which is not recorded by cluster", a.of, s.Name)
			}
			if s.Name == "ALERTS" && !aggregatedAway(within) {
				t.Errorf("%q has a series for each alert", a.of)
			}
		})
	}
}

// What has a series for each node or Pod is asked for by name, or only its worst
// or its sum comes back.
func TestNoQueryHasASeriesForEveryNode(t *testing.T) {
	for _, a := range queries(t) {
		if a.of == "$job" || a.of == "$node" {
			continue // values of a label
		}
		a.selectors(func(s *parser.VectorSelector, within []parser.Node) {
			if strings.HasPrefix(s.Name, "workload_identity:cluster") || strings.Contains(matcher(s, "node"), "$worst") || aggregatedAway(within) {
				return
			}
			t.Errorf("%s: %q may have a series for every node: %s", a.page, a.of, s)
		})
	}
}

// aggregatedAway tells whether one of the expressions leaves few series.
func aggregatedAway(within []parser.Node) bool {
	return slices.ContainsFunc(within, func(n parser.Node) bool {
		g, ok := n.(*parser.AggregateExpr)
		if !ok || g.Without {
			return false
		}
		if g.Op == parser.TOPK || g.Op == parser.BOTTOMK {
			return len(g.Grouping) == 0
		}
		return !slices.Contains(g.Grouping, "node") && !slices.Contains(g.Grouping, "pod") && !slices.Contains(g.Grouping, "instance")
	})
}

// external are the series that others export, with the labels that are used.
var external = map[string][]string{
	"ALERTS": {"alertname", "alertstate", "severity", "node"},
	"up":     fromTheScrape,
}

// fromTheScrape are labels that every series of the agent has by the scrape
// configuration.
var fromTheScrape = []string{"node", "job", "instance", "namespace", "pod"}

// known are all metrics with their labels: those of the reference, and what the
// rules record. The name of a recorded metric tells its labels. Those of the cluster
// are everywhere, and not among them.
func known(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	add := func(name string, own []string) {
		all[name] = append(slices.Clone(own), fromTheScrape...)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(workload_identity_\\w+)` \\| (\\w+) \\| (.*?) \\|").FindAllStringSubmatch(read(t, "docs/metrics.md"), -1) {
		var own []string
		for _, l := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[3], -1) {
			own = append(own, l[1])
		}
		add(m[1], own)
		if m[2] == "histogram" {
			add(m[1]+"_bucket", append(own, "le"))
		}
	}
	maps.Copy(all, external)
	for _, name := range recorded(t) {
		parts := strings.Split(name, ":")
		switch name {
		case "workload_identity:node:verdict":
			all[name] = []string{"node", "state", "expected", "observed", "metadata_server"}
		case "workload_identity:pod:affected", "workload_identity:pod:exposed":
			all[name] = []string{"namespace", "pod", "node", "service_account"}
		default:
			all[name] = strings.Split(parts[1], "_")
			if strings.HasSuffix(parts[2], "_bucket") {
				all[name] = append(all[name], "le")
			}
		}
	}
	return all
}

func recorded(t *testing.T) []string {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []struct{ Record string } }
	}
	if err := yaml.Unmarshal([]byte(read(t, "alerts/workload-identity.rules.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				names = append(names, r.Record)
			}
		}
	}
	return names
}

func TestEveryMetricAndLabelExists(t *testing.T) {
	metrics := known(t)
	for _, a := range queries(t) {
		there := slices.Clone([]string(a.clusters))
		a.selectors(func(s *parser.VectorSelector, _ []parser.Node) {
			names := []string{s.Name}
			if s.Name == "" {
				names = strings.Split(strings.TrimPrefix(matcher(s, "__name__"), "=~"), "|")
			}
			var own []string
			for _, name := range names {
				labels, ok := metrics[name]
				if !ok {
					t.Errorf("%s: %q asks for %s, which nobody exports or records", a.page, a.of, name)
				}
				own = append(own, labels...)
			}
			there = append(there, own...)
			for _, m := range s.LabelMatchers {
				if m.Name != "__name__" && !slices.Contains(own, m.Name) && !slices.Contains(a.clusters, m.Name) {
					t.Errorf("%s: %q: %s has no label %s", a.page, a.of, s.Name, m.Name)
				}
			}
		})
		parser.Inspect(a.expr, func(n parser.Node, _ []parser.Node) error {
			if c, ok := n.(*parser.Call); ok && (c.Func.Name == "label_replace" || c.Func.Name == "label_join") {
				there = append(there, strings.Trim(c.Args[1].String(), `"`))
			}
			return nil
		})
		need := func(what string, names ...string) {
			for _, name := range names {
				if !slices.Contains(there, name) {
					t.Errorf("%s: %q: %s %s is a label that nothing here has", a.page, a.of, what, name)
				}
			}
		}
		parser.Inspect(a.expr, func(n parser.Node, _ []parser.Node) error {
			switch n := n.(type) {
			case *parser.AggregateExpr:
				need("by", n.Grouping...)
			case *parser.BinaryExpr:
				if n.VectorMatching != nil {
					need("on", n.VectorMatching.MatchingLabels...)
					need("group_left", n.VectorMatching.Include...)
				}
			case *parser.Call:
				if n.Func.Name == "label_replace" {
					if from := strings.Trim(n.Args[3].String(), `"`); from != "" {
						need("label_replace of", from)
					}
				}
			}
			return nil
		})
		if a.panel == nil {
			continue
		}
		for _, m := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(a.target.LegendFormat, -1) {
			need("the legend", m[1])
		}
		if len(a.panel.Targets) == 1 {
			for _, o := range a.panel.FieldConfig.Overrides {
				for _, p := range o.Properties {
					for _, field := range fieldsOf(p) {
						need("a link by", field)
					}
				}
			}
		}
	}
}

// fieldsOf are the columns that links of a property are made of.
func fieldsOf(p Property) []string {
	var fields []string
	for _, url := range urlsOf(p) {
		for _, m := range regexp.MustCompile(`\$\{__data\.fields\.(\w+)\}`).FindAllStringSubmatch(url, -1) {
			fields = append(fields, m[1])
		}
	}
	return fields
}

func urlsOf(p Property) []string {
	var urls []string
	list, _ := p.Value.([]any)
	for _, e := range list {
		link, _ := e.(map[string]any)
		if url, ok := link["url"].(string); ok {
			urls = append(urls, url)
		}
	}
	return urls
}

// A label without a title would be a column that nobody has thought of.
func TestEveryColumnIsNamedOrHidden(t *testing.T) {
	for _, a := range queries(t) {
		if a.panel == nil || a.panel.Type != "table" {
			continue
		}
		options := a.panel.Transformations[len(a.panel.Transformations)-1].Options
		columns, _ := options["renameByName"].(map[string]any)
		hidden, _ := options["excludeByName"].(map[string]any)
		value := "Value"
		if len(a.panel.Targets) > 1 {
			value += " #" + a.target.RefID
		}
		fields := []string{value}
		parser.Inspect(a.expr, func(n parser.Node, _ []parser.Node) error {
			if g, ok := n.(*parser.AggregateExpr); ok {
				fields = append(fields, g.Grouping...)
			}
			return nil
		})
		for _, f := range fields {
			if columns[f] == nil && hidden[f] == nil {
				t.Errorf("%s: %q has a column %s without a title", a.page, a.of, f)
			}
		}
	}
}

// A rule that no page asks for would be computed for nothing.
func TestWhatIsRecordedForDashboardsIsUsed(t *testing.T) {
	used := map[string]bool{}
	for _, a := range queries(t) {
		a.selectors(func(s *parser.VectorSelector, _ []parser.Node) { used[s.Name] = true })
	}
	_, ours, found := strings.Cut(read(t, "alerts/workload-identity.rules.yaml"), "name: workload-identity.dashboards")
	if !found {
		t.Fatal("no group of rules for the dashboards")
	}
	for _, m := range regexp.MustCompile(`- record: (\S+)`).FindAllStringSubmatch(ours, -1) {
		if !used[m[1]] {
			t.Errorf("no query asks for %s", m[1])
		}
	}
}
