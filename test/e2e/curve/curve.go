// Package curve draws measured curves as SVG.
package curve

import (
	"fmt"
	"image/color"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Line is one curve with its name.
type Line struct {
	Name   string
	Points plotter.XYs
	// Dots marks each point, where there are few.
	Dots bool
}

// Mark is a vertical line with a short name above it.
type Mark struct {
	Name string
	X    float64
}

// Picture is what is drawn.
type Picture struct {
	Title, X, Y string
	Lines       []Line
	Marks       []Mark
	// LogY: the axis y is logarithmic. What is less than 1 is drawn as 1 then.
	LogY bool
}

// colours can be told apart by those who are colour-blind (Okabe and Ito).
var colours = []color.Color{
	color.RGBA{0, 114, 178, 255}, color.RGBA{213, 94, 0, 255}, color.RGBA{0, 158, 115, 255}, color.RGBA{204, 121, 167, 255}, color.RGBA{86, 180, 233, 255},
}

// Write draws the picture into a file.
func (p Picture) Write(file string) error {
	drawn := plot.New()
	drawn.Title.Text, drawn.X.Label.Text, drawn.Y.Label.Text = p.Title, p.X, p.Y
	drawn.BackgroundColor = color.White
	drawn.Legend.Top, drawn.Legend.Left = true, true
	drawn.Y.Min = 0
	drawn.Add(plotter.NewGrid())
	if p.LogY {
		drawn.Y.Scale, drawn.Y.Tick.Marker, drawn.Y.Min = plot.LogScale{}, plot.LogTicks{}, 1
	}
	most := 0.0
	for i, l := range p.Lines {
		if p.LogY {
			for i := range l.Points {
				l.Points[i].Y = max(l.Points[i].Y, 1)
			}
		}
		line, err := plotter.NewLine(l.Points)
		if err != nil {
			return fmt.Errorf("draw %s: %w", l.Name, err)
		}
		line.Color, line.Width = colours[i%len(colours)], vg.Points(1.2)
		drawn.Add(line)
		if len(p.Lines) > 1 {
			drawn.Legend.Add(l.Name, line)
		}
		if l.Dots {
			dots, err := plotter.NewScatter(l.Points)
			if err != nil {
				return fmt.Errorf("draw %s: %w", l.Name, err)
			}
			dots.Color = line.Color
			drawn.Add(dots)
		}
		for _, at := range l.Points {
			most = max(most, at.Y)
		}
	}
	for i, m := range p.Marks {
		line, err := plotter.NewLine(plotter.XYs{{X: m.X, Y: drawn.Y.Min}, {X: m.X, Y: most}})
		if err != nil {
			return fmt.Errorf("draw %s: %w", m.Name, err)
		}
		line.Color, line.Dashes = color.Gray{128}, []vg.Length{vg.Points(2), vg.Points(2)}
		name, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: m.X, Y: most}}, Labels: []string{m.Name}})
		if err != nil {
			return fmt.Errorf("draw %s: %w", m.Name, err)
		}
		name.Offset = vg.Point{X: -2, Y: vg.Points(float64(2 + i%3*10))} // where they are close to one another
		drawn.Add(line, name)
	}
	canvas := vgsvg.New(20*vg.Centimeter, 9*vg.Centimeter)
	drawn.Draw(draw.New(canvas))
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err = canvas.WriteTo(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
