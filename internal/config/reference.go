package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
	"unicode"
)

// Variable is an environment variable of the reference.
type Variable struct {
	Name, Default, Want, Meaning string
}

// Variables lists all variables in the order of the fields of Config.
func Variables() []Variable {
	t := reflect.TypeFor[Config]()
	v := make([]Variable, t.NumField())
	for i := range v {
		f := t.Field(i)
		v[i] = Variable{Prefix + "_" + variable(f.Name), f.Tag.Get("default"), f.Tag.Get("want"), f.Tag.Get("desc")}
	}
	return v
}

// Value is a variable and its value in effect.
type Value struct {
	Name, Value string
	// Default: it is what holds where the variable is not set.
	Default bool
}

// Values lists the values of all variables in the order of the reference.
func (c Config) Values() []Value {
	var values []Value
	fields := reflect.ValueOf(c)
	for i, v := range Variables() {
		text := fmt.Sprint(fields.Field(i).Interface())
		if list, ok := reflect.TypeAssert[[]string](fields.Field(i)); ok {
			text = strings.Join(list, ",")
		}
		byDefault := v.Default
		if d, err := time.ParseDuration(byDefault); err == nil {
			byDefault = d.String()
		}
		values = append(values, Value{v.Name, text, strings.EqualFold(text, byDefault)})
	}
	return values
}

// variable turns ProbeInterval into PROBE_INTERVAL, as split_words does.
func variable(field string) string {
	var b strings.Builder
	for i, r := range field {
		if i > 0 && unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// WriteText writes the table of variables for a terminal of 80 columns.
func WriteText(w io.Writer) {
	for _, v := range Variables() {
		fmt.Fprintf(w, "  %s  (%s)\n", v.Name, v.defaultText())
		for _, line := range wrap(v.Meaning+" Accepts "+v.Want+".", 74) {
			fmt.Fprintf(w, "      %s\n", line)
		}
	}
}

// WriteMarkdown writes the table of variables for docs/configuration.md.
func WriteMarkdown(w io.Writer) {
	fmt.Fprintln(w, "| variable | default | accepts | meaning |\n|---|---|---|---|")
	for _, v := range Variables() {
		def := "none"
		if v.Default != "" {
			def = "`" + v.Default + "`"
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", v.Name, def, escape(v.Want), escape(v.Meaning))
	}
}

func (v Variable) defaultText() string {
	if v.Default == "" {
		return "not set by default"
	}
	return "default " + v.Default
}

// escape keeps the stars of a pattern from being read as emphasis.
func escape(s string) string { return strings.ReplaceAll(s, "*", `\*`) }

// wrap breaks the text into lines of at most width characters.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}
