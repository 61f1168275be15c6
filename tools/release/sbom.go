package main

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"strings"
	"time"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/rs/zerolog"
)

// sbom is the bill of materials of a binary, in CycloneDX's JSON: what Go wrote into
// it, which is what was linked, rather than what go.mod asks for. It fails if a module
// is replaced by a folder outside of the repository, which nobody else has.
func sbom(path, version string, when time.Time) ([]byte, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, err
	}
	replaced := map[string]string{}
	for _, d := range info.Deps {
		if d.Replace != nil {
			replaced[d.Replace.Path] = d.Path
		}
	}
	generator, err := bin.NewGenerator(path, bin.WithIncludeStdlib(true), bin.WithVersionOverride("v"+version), bin.WithLogger(zerolog.Nop()))
	if err != nil {
		return nil, err
	}
	bom, err := generator.Generate()
	if err != nil {
		return nil, err
	}
	bom.Metadata.Timestamp = when.Format(time.RFC3339)
	for i := range *bom.Components {
		switch c := &(*bom.Components)[i]; {
		case c.Name == "std": // scanners find advisories by another name
			c.Name, c.Version = "stdlib", strings.TrimPrefix(c.Version, "go")
			c.PackageURL = "pkg:golang/stdlib@" + c.Version
		case strings.HasPrefix(c.Name, "./"): // a part of this very repository
			c.PackageURL = "pkg:golang/" + info.Main.Path + "@v" + version + "#" + c.Name[2:]
			c.Name, c.Version = replaced[c.Name], version
		case strings.HasPrefix(c.Name, ".") || strings.HasPrefix(c.Name, "/"):
			return nil, fmt.Errorf("%s is replaced by the folder %s, which is outside of the repository: publish it, and replace it by that", replaced[c.Name], c.Name)
		}
	}
	var text bytes.Buffer
	err = cyclonedx.NewBOMEncoder(&text, cyclonedx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cyclonedx.SpecVersion1_6)
	return text.Bytes(), err
}
