package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

const root = "../.."

func TestWhatIsCommittedIsRendered(t *testing.T) {
	if err := run(root, true); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(root + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rendered is a page as Grafana reads it, with the labels that clusters have there.
type rendered struct {
	*Dashboard

	path     string
	clusters clusterLabels
}

// committed are all pages of both folders.
func committed(t *testing.T) []rendered {
	t.Helper()
	c, err := configured(root)
	if err != nil {
		t.Fatal(err)
	}
	var all []rendered
	for _, set := range []rendered{{path: usual, clusters: c}, {path: forGMP, clusters: gmp}} {
		for _, uid := range []string{fleetUID, clusterUID, nodeUID} {
			d := rendered{&Dashboard{}, set.path + "/" + uid + ".json", set.clusters}
			decoder := json.NewDecoder(strings.NewReader(read(t, d.path)))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(d.Dashboard); err != nil {
				t.Fatalf("%s: %v", d.path, err)
			}
			if d.UID != uid {
				t.Errorf("uid %s in %s: links would not find it", d.UID, d.path)
			}
			all = append(all, d)
		}
	}
	return all
}

// each calls f for all panels.
func each(t *testing.T, f func(d rendered, p *Panel)) {
	t.Helper()
	for _, d := range committed(t) {
		for _, p := range d.Panels {
			if p.Type != "row" {
				f(d, p)
			}
		}
	}
}

func TestEveryPageIsReadOnlyTaggedAndInTheSameTime(t *testing.T) {
	for _, d := range committed(t) {
		if d.Editable || !slices.Contains(d.Tags, tag) || d.SchemaVersion != 37 || d.GraphTooltip != 1 || d.Title == "" || d.Description == "" {
			t.Errorf("%s: want it not editable, tagged %s, of schema 37, with a shared crosshair, a title and a description", d.path, tag)
		}
	}
}

func TestEveryPageLeadsToAllAndKeepsTheChoices(t *testing.T) {
	for _, d := range committed(t) {
		for _, uid := range []string{fleetUID, clusterUID, nodeUID} {
			if !slices.ContainsFunc(d.Links, func(l Link) bool { return l.URL == "/d/"+uid && l.IncludeVars && l.KeepTime && l.Type == "link" }) {
				t.Errorf("%s has no link to %s that keeps variables and time", d.path, uid)
			}
		}
	}
}

// A uid of a datasource is that of somebody's Grafana.
func TestNoUIDOfADatasourceIsWritten(t *testing.T) {
	uid := regexp.MustCompile(`"uid": "([^"]*)"`)
	for _, d := range committed(t) {
		for _, m := range uid.FindAllStringSubmatch(read(t, d.path), -1) {
			if m[1] != d.UID && m[1] != "${datasource}" {
				t.Errorf("%s names the uid %s", d.path, m[1])
			}
		}
		for _, p := range d.Panels {
			if p.Type != "text" && p.Type != "row" && (p.Datasource == nil || p.Datasource.UID != "${datasource}") {
				t.Errorf("%s: %q does not ask the chosen datasource", d.path, p.Title)
			}
		}
	}
}

func TestVariables(t *testing.T) {
	want := map[string][]string{
		fleetUID:   {},
		clusterUID: {"job", "worst"},
		nodeUID:    {"job", "node", "worst"},
	}
	for _, d := range committed(t) {
		var got []string
		for _, v := range d.Templating.List {
			got = append(got, v.Name)
			if v.Label == "" || v.Description == "" {
				t.Errorf("%s: $%s has no label or no description", d.path, v.Name)
			}
			query := fmt.Sprint(v.Query)
			if strings.Contains(query, "\n") {
				t.Errorf("%s: Grafana does not see the function in the query of $%s, which has several lines", d.path, v.Name)
			}
			switch v.Name {
			case "datasource":
				if v.Type != "datasource" || query != "prometheus" || v.Current != nil {
					t.Errorf("%s: $datasource is not the choice of a Prometheus", d.path)
				}
			case "worst":
				if v.Hide != 2 || !v.SkipURLSync || !v.Multi || !v.IncludeAll || v.AllValue != "" || v.Refresh != 2 {
					t.Errorf("%s: $worst is not a hidden list, always of all its values and always fresh", d.path)
				}
			default:
				if v.Type != "query" || !v.IncludeAll || v.AllValue != ".*" || v.Hide != 0 || !strings.Contains(fmt.Sprint(v.Current.Value), "$__all") {
					t.Errorf("%s: $%s has no All that matches series without the label, or does not begin with it", d.path, v.Name)
				}
			}
		}
		if want := slices.Concat([]string{"datasource"}, d.clusters, want[d.UID]); !slices.Equal(got, want) {
			t.Errorf("%s has the variables %v, want %v", d.path, got, want)
		}
	}
}

func TestEveryPanelIsExplained(t *testing.T) {
	titles := map[string]bool{}
	each(t, func(d rendered, p *Panel) {
		where := d.path + ": " + p.Title
		if p.Title == "" || titles[where] {
			t.Errorf("%s: panel %d has no title of its own", d.path, p.ID)
		}
		titles[where] = true
		if len(p.Description) < 20 || !strings.HasSuffix(p.Description, ".") {
			t.Errorf("%s: want a description in a sentence, not %q", where, p.Description)
		}
	})
}

func TestEveryNumberHasAUnit(t *testing.T) {
	each(t, func(d rendered, p *Panel) {
		mapped := len(p.FieldConfig.Defaults.Mappings) > 0
		switch p.Type {
		case "text", "table":
		case "state-timeline":
			if !mapped {
				t.Errorf("%s: %q shows numbers, not states", d.path, p.Title)
			}
		default:
			yAxis, _ := p.Options["yAxis"].(map[string]any)
			if p.FieldConfig.Defaults.Unit == "" && !mapped && yAxis["unit"] == nil {
				t.Errorf("%s: %q has no unit", d.path, p.Title)
			}
		}
	})
}

func TestPanelsFillThePageWithoutOverlap(t *testing.T) {
	for _, d := range committed(t) {
		taken := map[[2]int]string{}
		for i, p := range d.Panels {
			if p.ID != i+1 {
				t.Errorf("%s: %q has id %d, want %d", d.path, p.Title, p.ID, i+1)
			}
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Fatalf("%s: %q lies on %q", d.path, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
		}
		bottom := 0
		for at := range taken {
			if at[0] >= 24 {
				t.Fatalf("%s: %q reaches over the right edge", d.path, taken[at])
			}
			bottom = max(bottom, at[1]+1)
		}
		if got, want := len(taken), 24*bottom; got != want {
			t.Errorf("%s: panels cover %d of %d fields", d.path, got, want)
		}
	}
}

// Grafana sizes a row by the causes that the query names, and shows what they are mapped
// to, which is longer; it lets names beside a timeline have 40 % of the width.
func TestLongTextsHaveRoom(t *testing.T) {
	causes, timelines := 0, 0
	each(t, func(d rendered, p *Panel) {
		for _, o := range p.FieldConfig.Overrides {
			for _, property := range o.Properties {
				if property.ID != "mappings" || !strings.Contains(fmt.Sprint(property.Value), string(diagnose.CiliumBPFHostRouting)) {
					continue
				}
				causes++
				if p.Options["cellHeight"] != "lg" {
					t.Errorf("%s: %q has causes in rows of one line", d.path, p.Title)
				}
			}
		}
		if p.Type == "state-timeline" {
			timelines++
			if p.GridPos.W != 24 {
				t.Errorf("%s: %q is %d wide: no room for names of nodes", d.path, p.Title, p.GridPos.W)
			}
		}
	})
	if causes < 6 || timelines < 6 {
		t.Errorf("%d columns of causes and %d timelines, want those of all pages", causes, timelines)
	}
}

// An empty cell of a coloured column has the first colour of the thresholds, which is
// green where a table has none.
func TestEmptyCellsHaveNoColour(t *testing.T) {
	each(t, func(d rendered, p *Panel) {
		if p.Type != "table" {
			return
		}
		if th := p.FieldConfig.Defaults.Thresholds; th == nil || th.Steps[0].Color != good {
			t.Errorf("%s: %q colours empty cells", d.path, p.Title)
		}
	})
}

// A column that leads to a runbook by a field has a query that gives all rows one.
func TestEveryStateHasARunbook(t *testing.T) {
	found := 0
	each(t, func(d rendered, p *Panel) {
		leads := func(o Override) bool {
			return slices.ContainsFunc(o.Properties, func(p Property) bool { return slices.Contains(fieldsOf(p), "runbook") })
		}
		if !slices.ContainsFunc(p.FieldConfig.Overrides, leads) {
			return
		}
		found++
		given := func(target Target) bool { return strings.Contains(target.Expr, `"runbook", "../README", "", ""`) }
		if !slices.ContainsFunc(p.Targets, given) {
			t.Errorf("%s: %q leads to a runbook that some states do not have", d.path, p.Title)
		}
	})
	if found != 6 {
		t.Errorf("%d tables lead to runbooks of states, want one of each page", found)
	}
}

func TestTablesNameTheirColumns(t *testing.T) {
	each(t, func(d rendered, p *Panel) {
		if p.Type != "table" {
			return
		}
		last := p.Transformations[len(p.Transformations)-1]
		titles, _ := last.Options["renameByName"].(map[string]any)
		if last.ID != "organize" || len(titles) == 0 {
			t.Errorf("%s: %q does not name its columns", d.path, p.Title)
		}
		for _, o := range p.FieldConfig.Overrides {
			if !slices.Contains(slices.Collect(maps.Values(titles)), any(o.Matcher.Options)) {
				t.Errorf("%s: %q formats the column %q, which it does not have", d.path, p.Title, o.Matcher.Options)
			}
		}
		hidden, _ := last.Options["excludeByName"].(map[string]any)
		if len(p.Targets) > 1 && (p.Transformations[0].ID != "merge" || hidden["Value"] != true) {
			t.Errorf("%s: %q does not merge its queries, or shows a value without a name where only one has a result", d.path, p.Title)
		}
	})
}

// At 1440 pixels a page is 1370 wide. Names of nodes of GKE have up to 45 characters, in
// eight pixels each. What has no width gets what is left, at least that of its title.
func TestColumnsShowWhatTellsRowsApart(t *testing.T) {
	found := 0
	each(t, func(d rendered, p *Panel) {
		if p.Type != "table" {
			return
		}
		titles, _ := p.Transformations[len(p.Transformations)-1].Options["renameByName"].(map[string]any)
		column, all := map[string]float64{}, 0.0
		for _, o := range p.FieldConfig.Overrides {
			for _, property := range o.Properties {
				if width, ok := property.Value.(float64); ok && property.ID == "custom.width" {
					column[o.Matcher.Options] = width
				}
			}
		}
		for _, title := range titles {
			title, _ := title.(string)
			width := column[title]
			if width == 0 && len(d.clusters) == 1 && title != "Runbook" {
				width = 9*float64(len(title)) + 20
			}
			all += width
		}
		for _, label := range []string{"node", "pod", "alertname"} {
			title, shown := titles[label].(string)
			if !shown {
				continue
			}
			found++
			if column[title] < 45*8 {
				t.Errorf("%s: %q: the column %s is %.0f wide, want the longest name", d.path, p.Title, title, column[title])
			}
		}
		if room := 1370 * float64(p.GridPos.W) / 24; all > room {
			t.Errorf("%s: %q: columns of %.0f in %.0f pixels", d.path, p.Title, all, room)
		}
	})
	if found < 20 {
		t.Errorf("%d columns, want those of all pages", found)
	}
}

// An alert leads to a page that shows what it is about: by a table with its labels.
func TestAlertsLeadToPagesThatShowTheirSubject(t *testing.T) {
	pages := map[string]map[string]bool{}
	each(t, func(d rendered, p *Panel) {
		if p.Type != "table" {
			return
		}
		if pages[d.UID] == nil {
			pages[d.UID] = map[string]bool{}
		}
		for _, target := range p.Targets {
			for _, m := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(target.Expr, -1) {
				for l := range strings.SplitSeq(m[1], ", ") {
					pages[d.UID][l] = true
				}
			}
		}
	})
	alerts := strings.Split(read(t, "alerts/rules.tmpl.yaml"), "- alert: ")[1:]
	for _, alert := range alerts {
		name, _, _ := strings.Cut(alert, "\n")
		page := regexp.MustCompile(`dashboard_url: '<% dashboard "(\w+)" %>'`).FindStringSubmatch(alert)
		if page == nil {
			t.Errorf("%s leads to no page", name)
			continue
		}
		for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(alert, -1) {
			if subject := m[1] == "node" || m[1] == "cause"; subject && !pages["workload-identity-"+page[1]][m[1]] {
				t.Errorf("%s is about %s, which no table of the page %s shows", name, m[1], page[1])
			}
		}
	}
	if len(alerts) < 19 {
		t.Errorf("%d alerts, want all", len(alerts))
	}
}

func TestAlertsAndNewVersionsAreMarked(t *testing.T) {
	for _, d := range committed(t) {
		var got []string
		for _, a := range d.Annotations.List {
			got = append(got, a.Name)
			if !a.Enable || a.TitleFormat == "" || a.Step == "" {
				t.Errorf("%s: the mark %s is off, or has no title or no step", d.path, a.Name)
			}
		}
		if !slices.Equal(got, []string{"Alerts begin", "Alerts end", "Versions"}) {
			t.Errorf("%s marks %v", d.path, got)
		}
	}
}

func TestLinksLeadToFilesOfTheRepository(t *testing.T) {
	link := regexp.MustCompile(regexp.QuoteMeta(repository) + `/(?:blob|tree)/main/([\w/.${}]+)`)
	count := 0
	for _, d := range committed(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, d.path), -1) {
			count++
			runbooks := []string{"../README"} // where nothing is wrong
			for _, s := range states {
				if s.runbook != "" {
					runbooks = append(runbooks, s.runbook)
				}
			}
			for _, runbook := range runbooks {
				file := strings.NewReplacer("${__data.fields.alertname}", runbook, "${__data.fields.runbook}", runbook).Replace(m[1])
				if _, err := os.Stat(root + "/" + file); err != nil {
					t.Errorf("%s links to %s: %v", d.path, m[1], err)
				}
			}
		}
	}
	if count < 8 {
		t.Errorf("%d links to the repository, want those of the runbooks", count)
	}
}

// The states and their runbooks are those of the agent, in its order.
func TestStatesAreThoseOfTheAgent(t *testing.T) {
	var want []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| \\d \\| (?:\\[(\\w+)\\].*)? \\|$").FindAllStringSubmatch(read(t, "docs/report.md"), -1) {
		want = append(want, m[1]+" "+m[2])
	}
	var got []string
	for i, s := range states {
		got = append(got, s.name+" "+s.runbook)
		if s.rank != len(states)-i {
			t.Errorf("%s has rank %d, want %d", s.name, s.rank, len(states)-i)
		}
	}
	if !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("states %q, want %q", got, want)
	}
}

// What the dashboards say of a cause is what the agent's own page says.
func TestCausesAreInTheWordsOfTheAgent(t *testing.T) {
	said := map[string]map[string]Result{}
	each(t, func(_ rendered, p *Panel) {
		for _, o := range p.FieldConfig.Overrides {
			for _, property := range o.Properties {
				if slices.Contains([]string{"What it is", "First remedy"}, o.Matcher.Options) && property.ID == "mappings" {
					text, err := json.Marshal(property.Value)
					var mappings []Mapping
					if err == nil {
						err = json.Unmarshal(text, &mappings)
					}
					if err != nil || len(mappings) != 1 {
						t.Fatalf("%s: mappings %s: %v", o.Matcher.Options, text, err)
					}
					said[o.Matcher.Options] = mappings[0].Options
				}
			}
		}
	})
	guides := diagnose.Guides()
	for column, words := range map[string]func(diagnose.Guide) string{
		"What it is":   func(g diagnose.Guide) string { return g.Title },
		"First remedy": func(g diagnose.Guide) string { return g.Remedy },
	} {
		if got := len(said[column]); got != len(guides)+1 {
			t.Errorf("the column %s has %d words, want those of %d causes and of none", column, got, len(guides))
		}
		for _, g := range guides {
			if got, want := said[column][string(g.Cause)].Text, words(g); got != want || want == "" {
				t.Errorf("the column %s says %q of %s, want %q", column, got, g.Cause, want)
			}
		}
	}
}

func TestEveryWayOfProvisioningHasAllDashboards(t *testing.T) {
	all := dashboards(gmp)
	for _, folder := range []string{usual, forGMP} {
		var generator struct {
			ConfigMapGenerator []struct {
				Name  string
				Files []string
			}
			GeneratorOptions struct {
				DisableNameSuffixHash bool
				Labels, Annotations   map[string]string
			}
		}
		if err := yaml.Unmarshal([]byte(read(t, folder+"/kustomization.yaml")), &generator); err != nil {
			t.Fatal(err)
		}
		if o := generator.GeneratorOptions; o.Labels["grafana_dashboard"] != "1" || o.Annotations["grafana_folder"] == "" || !o.DisableNameSuffixHash {
			t.Errorf("%s: options %v: want the sidecar's label and folder, and names without a hash", folder, o)
		}
		if len(generator.ConfigMapGenerator) != len(all) {
			t.Fatalf("%s: %d ConfigMaps, want %d", folder, len(generator.ConfigMapGenerator), len(all))
		}
		for i, d := range all {
			if g := generator.ConfigMapGenerator[i]; g.Name != d.UID || !slices.Equal(g.Files, []string{d.UID + ".json"}) {
				t.Errorf("%s: ConfigMap %v, want %s", folder, g, d.UID)
			}
		}
	}
	// Grafana takes no change of pages of one uid in what it provisions as one folder.
	if rel, err := filepath.Rel(usual, forGMP); err != nil || !strings.HasPrefix(rel, "..") {
		t.Errorf("%s is within %s: who provisions the whole folder has each page twice", forGMP, usual)
	}
	operator := strings.Split(read(t, "deploy/kustomize/overlays/grafana-operator/dashboards.yaml"), "\n---\n")
	if len(operator) != len(all) {
		t.Fatalf("%d GrafanaDashboards, want %d", len(operator), len(all))
	}
	for i, d := range all {
		var resource struct {
			APIVersion, Kind string
			Spec             struct {
				Folder           string
				InstanceSelector struct{ MatchLabels map[string]string }
				ConfigMapRef     struct{ Name, Key string }
			}
		}
		if err := yaml.Unmarshal([]byte(operator[i]), &resource); err != nil {
			t.Fatal(err)
		}
		if resource.APIVersion != "grafana.integreatly.org/v1beta1" || resource.Kind != "GrafanaDashboard" || len(resource.Spec.InstanceSelector.MatchLabels) == 0 ||
			resource.Spec.ConfigMapRef.Name != d.UID || resource.Spec.ConfigMapRef.Key != d.UID+".json" {
			t.Errorf("%+v, want a GrafanaDashboard of %s", resource, d.UID)
		}
	}
}
