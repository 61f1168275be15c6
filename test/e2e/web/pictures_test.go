package web

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const pictures = repository + "docs/images/status/"

// draw takes the pictures of the state that docs/status-page.md shows.
func draw(chrome context.Context, t *testing.T, base string, state identity.State) {
	t.Helper()
	light := screen{"desktop", 1200, 1100, false}
	screens := map[string]screen{"": light}
	if state == identity.Match || state == identity.NodeFallback {
		dark := light
		dark.dark = true
		screens["-dark"], screens["-phone"] = dark, phone
	}
	for suffix, s := range screens {
		b := open(chrome, t, s)
		b.visit(t, base+"/")
		shot, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(pictures+string(state)+suffix+".png", small(t, shot), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// small is the same picture in fewer bytes: a page of text has few colours, and
// many that nobody can tell apart.
func small(t *testing.T, shot []byte) []byte {
	t.Helper()
	full, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	count := map[color.Color]int{}
	each := func(do func(x, y int)) {
		for y := range full.Bounds().Dy() {
			for x := range full.Bounds().Dx() {
				do(x, y)
			}
		}
	}
	each(func(x, y int) { count[full.At(x, y)]++ })
	frequent := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] })
	var palette color.Palette
	for least := 1.; palette == nil || len(palette) > 256; least *= 1.5 { // colours that differ by so much at least
		palette = nil
		for _, c := range frequent {
			if palette == nil || distance(palette.Convert(c), c) >= least {
				palette = append(palette, c)
			}
		}
	}
	nearest := map[color.Color]uint8{}
	for c := range count {
		nearest[c] = uint8(palette.Index(c)) //nolint:gosec // of 256
	}
	few := image.NewPaletted(full.Bounds(), palette)
	each(func(x, y int) { few.SetColorIndex(x, y, nearest[full.At(x, y)]) })
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func distance(a, b color.Color) float64 {
	ar, ag, ab, _ := a.RGBA()
	br, bg, bb, _ := b.RGBA()
	return math.Hypot(math.Hypot(float64(ar)-float64(br), float64(ag)-float64(bg)), float64(ab)-float64(bb)) / 0x101
}
