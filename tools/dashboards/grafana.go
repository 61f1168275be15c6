package main

// The part of Grafana's dashboard JSON that is used here: schema 37, that of
// Grafana 9.3, which newer versions migrate when they load it.

// Dashboard is a page.
type Dashboard struct {
	UID           string      `json:"uid"`
	Title         string      `json:"title"`
	Description   string      `json:"description"`
	Tags          []string    `json:"tags"`
	Editable      bool        `json:"editable"`
	SchemaVersion int         `json:"schemaVersion"`
	GraphTooltip  int         `json:"graphTooltip"` // 1: a crosshair on all panels
	Refresh       string      `json:"refresh"`
	Time          TimeRange   `json:"time"`
	Links         []Link      `json:"links"`
	Templating    Templating  `json:"templating"`
	Annotations   Annotations `json:"annotations"`
	Panels        []*Panel    `json:"panels"`
}

// TimeRange is what is shown at first.
type TimeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Link leads to another dashboard, or from a value to what it is about.
type Link struct {
	Title       string `json:"title"`
	Type        string `json:"type,omitempty"`
	URL         string `json:"url"`
	Tooltip     string `json:"tooltip,omitempty"`
	Icon        string `json:"icon,omitempty"`
	IncludeVars bool   `json:"includeVars,omitempty"`
	KeepTime    bool   `json:"keepTime,omitempty"`
	TargetBlank bool   `json:"targetBlank,omitempty"`
}

// Templating has the variables.
type Templating struct {
	List []*Variable `json:"list"`
}

// Variable is a choice at the top of the page. Query is a text for the choice of
// a datasource, and an object for values from Prometheus.
type Variable struct {
	Name        string      `json:"name"`
	Label       string      `json:"label"`
	Description string      `json:"description"`
	Type        string      `json:"type"`
	Query       any         `json:"query"`
	Datasource  *Datasource `json:"datasource,omitempty"`
	Regex       string      `json:"regex"`
	Refresh     int         `json:"refresh"` // 1: on load, 2: also when the time range changes
	Sort        int         `json:"sort"`
	Multi       bool        `json:"multi"`
	IncludeAll  bool        `json:"includeAll"`
	AllValue    string      `json:"allValue,omitempty"`
	Hide        int         `json:"hide"` // 2: not shown
	SkipURLSync bool        `json:"skipUrlSync"`
	Current     *Current    `json:"current,omitempty"`
}

// Current is what is chosen at first.
type Current struct {
	Text  any `json:"text"`
	Value any `json:"value"`
}

// VariableQuery is how values are got from Prometheus.
type VariableQuery struct {
	Query string `json:"query"`
	RefID string `json:"refId"`
}

// Datasource is always the one that is chosen at the top of the page.
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// Annotations are marks on all graphs.
type Annotations struct {
	List []Annotation `json:"list"`
}

// Annotation marks the times at which a query has a value.
type Annotation struct {
	Name        string     `json:"name"`
	Datasource  Datasource `json:"datasource"`
	Enable      bool       `json:"enable"`
	IconColor   string     `json:"iconColor"`
	Expr        string     `json:"expr"`
	Step        string     `json:"step"`
	TitleFormat string     `json:"titleFormat"`
	TextFormat  string     `json:"textFormat"`
}

// Panel is one answer.
type Panel struct {
	ID              int              `json:"id"`
	Type            string           `json:"type"`
	Title           string           `json:"title"`
	Description     string           `json:"description"`
	Datasource      *Datasource      `json:"datasource,omitempty"`
	GridPos         GridPos          `json:"gridPos"`
	MaxDataPoints   int              `json:"maxDataPoints,omitempty"`
	Targets         []Target         `json:"targets,omitempty"`
	Transformations []Transformation `json:"transformations,omitempty"`
	FieldConfig     FieldConfig      `json:"fieldConfig"`
	Options         map[string]any   `json:"options"`
	Collapsed       bool             `json:"collapsed"` // a row that is folded
}

// GridPos is the place on the page, which is 24 wide.
type GridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

// Target is a query.
type Target struct {
	RefID        string `json:"refId"`
	Expr         string `json:"expr"`
	LegendFormat string `json:"legendFormat,omitempty"`
	Format       string `json:"format"`
	Instant      bool   `json:"instant"`
	Range        bool   `json:"range"`
	EditorMode   string `json:"editorMode"`
}

// Transformation changes a result before it is shown.
type Transformation struct {
	ID      string         `json:"id"`
	Options map[string]any `json:"options"`
}

// FieldConfig is how values are written and coloured.
type FieldConfig struct {
	Defaults  Field      `json:"defaults"`
	Overrides []Override `json:"overrides"`
}

// Field is the writing of one value.
type Field struct {
	Unit       string         `json:"unit,omitempty"`
	Decimals   *int           `json:"decimals,omitempty"`
	Min        *float64       `json:"min,omitempty"`
	Max        *float64       `json:"max,omitempty"`
	Color      *Color         `json:"color,omitempty"`
	Thresholds *Thresholds    `json:"thresholds,omitempty"`
	Mappings   []Mapping      `json:"mappings,omitempty"`
	Links      []Link         `json:"links,omitempty"`
	Custom     map[string]any `json:"custom,omitempty"`
	// NoValue is shown where there is no result.
	NoValue string `json:"noValue,omitempty"`
}

// Color is how the colour is found.
type Color struct {
	Mode       string `json:"mode"`
	FixedColor string `json:"fixedColor,omitempty"`
}

// Thresholds colour a number.
type Thresholds struct {
	Mode  string `json:"mode"`
	Steps []Step `json:"steps"`
}

// Step is a colour from a value on; the first has no value.
type Step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"`
}

// Mapping gives values a text and a colour.
type Mapping struct {
	Type    string            `json:"type"`
	Options map[string]Result `json:"options"`
}

// Result is what a value is mapped to.
type Result struct {
	Text  string `json:"text"`
	Color string `json:"color,omitempty"`
	Index int    `json:"index"`
}

// Override is the writing of one column, or of one series.
type Override struct {
	Matcher    Matcher    `json:"matcher"`
	Properties []Property `json:"properties"`
}

// Matcher finds columns.
type Matcher struct {
	ID      string `json:"id"`
	Options string `json:"options"`
}

// Property is one thing that is different there.
type Property struct {
	ID    string `json:"id"`
	Value any    `json:"value"`
}
