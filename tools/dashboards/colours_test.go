package main

import (
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// The backgrounds of panels in Grafana's two themes.
const lightTheme, darkTheme = "#FFFFFF", "#181B1F"

// luminance is the relative luminance of WCAG 2: how bright a colour is to
// everybody, the colour-blind as well.
func luminance(t *testing.T, colour string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(colour[1:], 16, 32)
	if err != nil || len(colour) != 7 {
		t.Fatalf("%q is not a colour", colour)
	}
	part := func(shift uint) float64 {
		c := float64(n>>shift&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*part(16) + 0.7152*part(8) + 0.0722*part(0)
}

// contrast is the ratio of WCAG 2, from 1 to 21.
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	x, y := luminance(t, a)+0.05, luminance(t, b)+0.05
	return max(x, y) / min(x, y)
}

func TestStatesDifferInBrightness(t *testing.T) {
	const neighbours, fromRight, fromPage = 1.8, 1.5, 1.7
	right := states[len(states)-1].colour
	for i, s := range states {
		for _, background := range []string{lightTheme, darkTheme} {
			if c := contrast(t, s.colour, background); c < fromPage {
				t.Errorf("%s on %s: contrast %.2f, want %.1f", s.name, background, c, fromPage)
			}
		}
		if i == len(states)-1 {
			break
		}
		if c := contrast(t, s.colour, states[i+1].colour); c < neighbours {
			t.Errorf("%s beside %s: contrast %.2f, want %.1f", s.name, states[i+1].name, c, neighbours)
		}
		if c := contrast(t, s.colour, right); c < fromRight || luminance(t, s.colour) > luminance(t, right) {
			t.Errorf("%s beside match: contrast %.2f, want %.1f, and darker", s.name, c, fromRight)
		}
	}
}

func TestThresholdsDifferInBrightness(t *testing.T) {
	checked := 0
	each(t, func(d rendered, p *Panel) {
		lists := [][]Step{}
		if th := p.FieldConfig.Defaults.Thresholds; th != nil {
			lists = append(lists, th.Steps)
		}
		for _, o := range p.FieldConfig.Overrides {
			for _, property := range o.Properties {
				if property.ID == "thresholds" {
					lists = append(lists, stepsOf(t, property.Value))
				}
			}
		}
		for _, steps := range lists {
			for i := range len(steps) - 1 {
				checked++
				for _, page := range []string{lightTheme, darkTheme} {
					if c := contrast(t, on(page, steps[i].Color), on(page, steps[i+1].Color)); c < 1.5 {
						t.Errorf("%s: %q: %s beside %s on %s: contrast %.2f, want 1.5", d.UID, p.Title, steps[i].Color, steps[i+1].Color, page, c)
					}
				}
			}
		}
	})
	if checked < 10 {
		t.Errorf("%d thresholds, want those of the numbers", checked)
	}
}

// on is a colour as it is seen on a page.
func on(page, colour string) string {
	if colour == "transparent" {
		return page
	}
	return colour
}

// Grafana writes on a coloured cell or number in one of two colours, by the brightness
// of what is below. Source: Grafana, packages/grafana-ui/src/utils/colors.ts,
// getTextColorForBackground. On what is transparent it writes as on the page.
func TestTextOnColoursCanBeRead(t *testing.T) {
	colours := map[string]string{"warning": warning, "bad": bad, "no agent": noAgent}
	for _, s := range states {
		colours[s.name] = s.colour
	}
	for name, colour := range colours {
		n, err := strconv.ParseUint(colour[1:], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		text := "#F7F8FA"
		if (299*(n>>16)+587*(n>>8&0xff)+114*(n&0xff))/1000 > 180 {
			text = "#202226"
		}
		if c := contrast(t, colour, text); c < 4.5 {
			t.Errorf("%s: %s on %s: contrast %.2f, want 4.5", name, text, colour, c)
		}
	}
}

// Thresholds of a timeline put values into buckets before mappings are asked: each
// state had the colour of the same bucket.
func TestTimelinesHaveTheColoursOfTheirMappings(t *testing.T) {
	found := 0
	each(t, func(d rendered, p *Panel) {
		switch field := p.FieldConfig.Defaults; {
		case p.Type != "state-timeline":
		case field.Color.Mode != "fixed" || field.Thresholds != nil || len(field.Mappings) == 0:
			t.Errorf("%s: %q is not coloured by its mappings alone", d.path, p.Title)
		default:
			found++
		}
	})
	if found < 6 {
		t.Errorf("%d timelines, want three of each set of pages", found)
	}
}

func stepsOf(t *testing.T, value any) []Step {
	t.Helper()
	object, _ := value.(map[string]any)
	list, _ := object["steps"].([]any)
	var steps []Step
	for _, e := range list {
		step, _ := e.(map[string]any)
		colour, _ := step["color"].(string)
		steps = append(steps, Step{Color: colour})
	}
	if len(steps) == 0 {
		t.Fatalf("no thresholds in %v", value)
	}
	return steps
}

// Names such as "green" are other colours in each theme, and not measured.
func TestColoursAreOnesThatWereChosen(t *testing.T) {
	chosen := []string{"#3A7EBF", good, warning, bad, noAgent} // the first is of marks
	for _, s := range states {
		chosen = append(chosen, s.colour)
	}
	colour := regexp.MustCompile(`"(?:color|fixedColor|iconColor)": "([^"]*)"`)
	found := map[string]bool{}
	for _, d := range committed(t) {
		for _, m := range colour.FindAllStringSubmatch(read(t, "dashboards/"+d.UID+".json"), -1) {
			found[m[1]] = true
		}
	}
	for c := range maps.Keys(found) {
		if !slices.Contains(chosen, c) {
			t.Errorf("%q is not of the palette", c)
		}
	}
	if len(found) < len(states) {
		t.Errorf("%d colours, want those of all states", len(found))
	}
}
