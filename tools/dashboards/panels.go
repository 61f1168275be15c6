package main

import (
	"fmt"
	"strings"
)

var datasource = Datasource{Type: "prometheus", UID: "${datasource}"}

// query is a target whose result is a line, or a block, for each series.
func query(legend, expr string) Target {
	return Target{Expr: strings.TrimSpace(expr), LegendFormat: legend, Format: "time_series", Range: true}
}

// now is a target for the present alone.
func now(legend, expr string) Target {
	return Target{Expr: strings.TrimSpace(expr), LegendFormat: legend, Format: "time_series", Instant: true}
}

// wellRow is the row of a table in which nothing is wrong. Some agent must say so: where
// there is none, the table is empty.
func wellRow(label, text string) string {
	return fmt.Sprintf("\n  or on ()\nlabel_replace(0 * max(workload_identity:cluster:nodes{<chosen>}), %q, %q, \"\", \"\")", label, text)
}

// rows is a target whose result is a row for each series, now.
func rows(expr string) Target {
	return Target{Expr: strings.TrimSpace(expr), Format: "table", Instant: true}
}

// panel is what all kinds have. The width is out of 24.
func panel(kind, title, description string, w, h int, targets []Target) *Panel {
	for i := range targets {
		targets[i].RefID = string(rune('A' + i))
		targets[i].EditorMode = "code"
	}
	p := &Panel{Type: kind, Title: title, Description: description, GridPos: GridPos{W: w, H: h}, Targets: targets, Options: map[string]any{}}
	if len(targets) > 0 {
		p.Datasource = &datasource
	}
	return p
}

// stat is one number, or one for each series.
func stat(title, description, unit string, steps []Step, w int, targets ...Target) *Panel {
	p := panel("stat", title, description, w, 4, targets)
	p.FieldConfig.Defaults = Field{Unit: unit, Color: &Color{Mode: "thresholds"}, Thresholds: &Thresholds{"absolute", steps}}
	p.Options = map[string]any{
		"colorMode": "background", "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
		"reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
	}
	return p
}

// absent is what a panel says where there is no result.
func (p *Panel) absent(text string) *Panel {
	p.FieldConfig.Defaults.NoValue = text
	return p
}

// count is a number without decimals, and in a graph of zeros an axis to one.
func (p *Panel) count() *Panel {
	p.FieldConfig.Defaults.Decimals = new(0)
	if p.Type == "timeseries" {
		p.FieldConfig.Defaults.Custom["axisSoftMax"] = 1
	}
	return p
}

// twoLines is a table whose texts need two: Grafana sizes rows by labels, and not by what
// they are mapped to.
func (p *Panel) twoLines() *Panel {
	p.Options["cellHeight"] = "lg"
	return p
}

// sorted is a table that begins with the greatest or the least of a column.
func (p *Panel) sorted(column string, desc bool) *Panel {
	p.Options["sortBy"] = []any{map[string]any{"displayName": column, "desc": desc}}
	return p
}

// bySeverity colours the column of that name.
func bySeverity() Override {
	return named("Severity", append(coloured(), Property{"custom.width", 100}, Property{"mappings", []Mapping{{Type: "value", Options: map[string]Result{
		"critical": {Text: "critical", Color: bad}, "warning": {Text: "warning", Color: warning, Index: 1}, "no alert fires": {Text: "none fires", Color: good, Index: 2},
	}}}})...)
}

// lines is a graph.
func lines(title, description, unit string, w int, targets ...Target) *Panel {
	p := panel("timeseries", title, description, w, 8, targets)
	p.FieldConfig.Defaults = Field{
		Unit: unit, Min: new(0.0), Color: &Color{Mode: "palette-classic"},
		Custom: map[string]any{"drawStyle": "line", "lineWidth": 2, "fillOpacity": 0, "showPoints": "never"},
	}
	p.Options = map[string]any{"legend": latest(), "tooltip": map[string]any{"mode": "multi", "sort": "desc"}}
	return p
}

// areas is a graph of parts that add up.
func areas(title, description, unit string, w int, targets ...Target) *Panel {
	p := lines(title, description, unit, w, targets...)
	p.Options["legend"] = legend()
	p.FieldConfig.Defaults.Custom = map[string]any{
		"drawStyle": "line", "lineInterpolation": "stepAfter", "lineWidth": 0, "fillOpacity": 90, "showPoints": "never",
		"stacking": map[string]any{"mode": "normal", "group": "A"},
	}
	return p
}

// timeline is a row of blocks for each series.
func timeline(title, description string, mappings []Mapping, w, h int, targets ...Target) *Panel {
	p := panel("state-timeline", title, description, w, h, targets)
	p.MaxDataPoints = 120 // a block of 30 s in an hour is as thin as one can see
	p.FieldConfig.Defaults = Field{
		// Thresholds would put ranks into buckets before the mappings are asked.
		Color: &Color{Mode: "fixed", FixedColor: noAgent}, Mappings: mappings,
		Custom: map[string]any{"fillOpacity": 100, "lineWidth": 0, "spanNulls": false, "axisWidth": 320}, // the longest name of a node
	}
	p.Options = map[string]any{
		"mergeValues": true, "showValue": "never", "rowHeight": 0.85, "alignValue": "left",
		"legend": legend(), "tooltip": map[string]any{"mode": "single", "sort": "none"},
	}
	return p
}

// widths are those that show the longest texts of a label, in pixels.
var widths = map[string]int{"node": 365, "alertname": 365, "pod": 365}

// table has a column for each label, and for the value of each query. Columns
// are named in pairs of a field and its title, in order; an empty title hides it.
func table(title, description string, w, h int, columns []string, targets ...Target) *Panel {
	p := panel("table", title, description, w, h, targets)
	// Long texts wrap from Grafana 10 on; older ones show them by "inspect". Without
	// thresholds of its own a coloured cell that is empty is green.
	p.FieldConfig.Defaults = Field{Thresholds: &Thresholds{"absolute", from(good)}, Custom: map[string]any{
		"align": "auto", "inspect": true, "cellOptions": map[string]any{"type": "auto", "wrapText": true},
	}}
	p.Options = map[string]any{"showHeader": true, "cellHeight": "sm"}
	if len(targets) > 1 {
		p.Transformations = append(p.Transformations, Transformation{"merge", map[string]any{}})
	}
	hidden, order, titles := map[string]bool{"Time": true}, map[string]int{}, map[string]string{}
	if len(targets) > 1 {
		hidden["Value"] = true // as the value of a query is called when the others have no result
	}
	for i := 0; i+1 < len(columns); i += 2 {
		field, title := columns[i], columns[i+1]
		if title == "" {
			hidden[field] = true
			continue
		}
		order[field], titles[field] = i/2, title
		if width := widths[field]; width > 0 {
			p = p.with(wide(title, width))
		}
	}
	p.Transformations = append(p.Transformations, Transformation{"organize", map[string]any{
		"excludeByName": hidden, "indexByName": order, "renameByName": titles,
	}})
	return p
}

// bars is a bar for each series.
func bars(title, description, unit string, w, h int, targets ...Target) *Panel {
	p := panel("bargauge", title, description, w, h, targets)
	p.FieldConfig.Defaults = Field{Unit: unit, Min: new(0.0), Color: &Color{Mode: "thresholds"}, Thresholds: &Thresholds{"absolute", from(good, 1, bad)}}
	p.Options = map[string]any{
		"displayMode": "basic", "orientation": "horizontal", "showUnfilled": false,
		"reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
	}
	return p
}

// stacks is a bar for each value of a label, in parts by another label.
func stacks(title, description string, w, h int, bar, part string, target Target) *Panel {
	p := panel("barchart", title, description, w, h, []Target{target})
	p.Transformations = []Transformation{{"groupingToMatrix", map[string]any{
		"rowField": bar, "columnField": part, "valueField": "Value", "emptyValue": "null",
	}}}
	p.FieldConfig.Defaults = Field{Unit: "short", Min: new(0.0), Color: &Color{Mode: "palette-classic"}, Custom: map[string]any{"fillOpacity": 90, "lineWidth": 0}}
	p.Options = map[string]any{
		"orientation": "horizontal", "stacking": "normal", "showValue": "never", "barWidth": 0.9, "groupWidth": 0.8,
		"legend": legend(), "tooltip": map[string]any{"mode": "multi", "sort": "desc"},
	}
	return p
}

// heatmap shows how many observations there are of each size. Its colours run
// from dark to bright, and are made for the colour-blind.
func heatmap(title, description, unit string, w int, target Target) *Panel {
	target.Format = "heatmap"
	p := panel("heatmap", title, description, w, 8, []Target{target})
	// The unit is that of the sizes, on the axis; the colours count requests.
	p.Options = map[string]any{
		"calculate": false, "cellGap": 1, "showValue": "never",
		"color":        map[string]any{"mode": "scheme", "scheme": "Cividis", "steps": 64, "exponent": 0.5, "fill": "dark-blue", "reverse": false},
		"filterValues": map[string]any{"le": 1e-9},
		"rowsFrame":    map[string]any{"layout": "auto"},
		"yAxis":        map[string]any{"unit": unit, "axisPlacement": "left", "reverse": false},
		"legend":       map[string]any{"show": true},
		"tooltip":      map[string]any{"show": true, "yHistogram": true},
	}
	return p
}

// fold begins a row that can be folded.
func fold(title string) *Panel {
	return &Panel{Type: "row", Title: title, GridPos: GridPos{W: 24, H: 1}}
}

// zero is what a column says in place of 0.
func zero(text string) Property {
	return Property{"mappings", []Mapping{{Type: "value", Options: map[string]Result{"0": {Text: text}}}}}
}

// text is for what does not change.
func text(title, description, content string, w, h int) *Panel {
	p := panel("text", title, description, w, h, nil)
	p.Options = map[string]any{"mode": "markdown", "content": content}
	return p
}

func legend() map[string]any {
	return map[string]any{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}}
}

// latest is a legend with the last and the greatest value of each line.
func latest() map[string]any {
	return map[string]any{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []string{"lastNotNull", "max"}}
}

// with adds overrides.
func (p *Panel) with(overrides ...Override) *Panel {
	p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, overrides...)
	return p
}

// named is for the column or series of this name.
func named(name string, properties ...Property) Override {
	return Override{Matcher{"byName", name}, properties}
}

// coloured is a cell that has the colour of its value. Grafana 9.3 reads the
// first of the two, newer ones the second.
func coloured() []Property {
	return []Property{
		{"custom.align", "left"},
		{"custom.displayMode", "color-background-solid"},
		{"custom.cellOptions", map[string]any{"type": "color-background", "mode": "basic", "wrapText": true}},
	}
}

// linked makes cells links.
func linked(title, url string, elsewhere bool) Property {
	return Property{"links", []Link{{Title: title, URL: url, TargetBlank: elsewhere}}}
}

// wide is a column of so many pixels.
func wide(column string, pixels int) Override { return named(column, Property{"custom.width", pixels}) }

// moment is a column of times in milliseconds.
func moment(column string) Override {
	return named(column, Property{"unit", "dateTimeAsIso"}, Property{"custom.width", 160})
}

// from is a list of thresholds: a colour, then pairs of a value and the colour
// from there on.
func from(colour string, more ...any) []Step {
	steps := []Step{{Color: colour}}
	for i := 0; i+1 < len(more); i += 2 {
		var value float64
		switch v := more[i].(type) {
		case int:
			value = float64(v)
		case float64:
			value = v
		}
		colour, _ := more[i+1].(string)
		steps = append(steps, Step{colour, &value})
	}
	return steps
}
