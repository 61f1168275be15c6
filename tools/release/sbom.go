package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	"github.com/package-url/packageurl-go"
)

// binary is a program that was built.
type binary struct {
	version string
	content []byte
	info    *debug.BuildInfo // as `go version -m` shows it
}

// sbom returns the bill of materials of a binary, in CycloneDX's JSON: what Go wrote
// into the binary, which is what was linked, rather than what go.mod asks for. The
// same binary and time give the same text. It fails if a module is replaced by a
// folder outside of the repository, which nobody else has.
func sbom(b binary, when time.Time) ([]byte, error) {
	main := cyclonedx.Component{
		Type: cyclonedx.ComponentTypeApplication, Name: program, Version: b.version,
		PackageURL: purl(b.info.Main.Path, "v"+b.version),
		Hashes:     &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: digest(b.content)}},
		Licenses:   &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "Apache-2.0"}}},
	}
	main.BOMRef = main.PackageURL
	var settings []cyclonedx.Property
	for _, s := range b.info.Settings {
		settings = append(settings, cyclonedx.Property{Name: "go:build:" + s.Key, Value: s.Value})
	}
	main.Properties = &settings

	components := []cyclonedx.Component{standardLibrary(b.info.GoVersion)}
	for _, d := range b.info.Deps {
		c, err := component(d, main)
		if err != nil {
			return nil, err
		}
		components = append(components, c)
	}
	// Go does not write down who imports whom.
	var refs []string
	for _, c := range components {
		refs = append(refs, c.BOMRef)
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp:  when.UTC().Format(time.RFC3339),
		Lifecycles: &[]cyclonedx.Lifecycle{{Phase: cyclonedx.LifecyclePhasePostBuild}},
		Tools: &cyclonedx.ToolsChoice{Components: &[]cyclonedx.Component{{
			Type: cyclonedx.ComponentTypeApplication, Name: "tools/release of " + b.info.Main.Path, Version: b.version,
		}}},
		Component: &main,
	}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	var text bytes.Buffer
	encoder := cyclonedx.NewBOMEncoder(&text, cyclonedx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	err := encoder.EncodeVersion(bom, cyclonedx.SpecVersion1_6)
	return text.Bytes(), err
}

// component describes a module that was linked. One that go.mod replaces is what it
// is replaced by, with the original as its ancestor: advisories about the original
// may not concern it.
func component(d *debug.Module, main cyclonedx.Component) (cyclonedx.Component, error) {
	if d.Replace == nil {
		return module(d), nil
	}
	c := module(d.Replace)
	if local := d.Replace.Path; strings.HasPrefix(local, ".") || filepath.IsAbs(local) {
		folder := filepath.ToSlash(filepath.Clean(local))
		if !filepath.IsLocal(local) {
			return c, fmt.Errorf("%s is replaced by the folder %s, which is outside of the repository: publish it, and replace it by that", d.Path, local)
		}
		// The folder is a part of this very repository.
		c = cyclonedx.Component{Type: cyclonedx.ComponentTypeLibrary, Name: d.Path, Version: main.Version}
		c.PackageURL = main.PackageURL + "#" + folder
		c.BOMRef = c.PackageURL
	}
	c.Pedigree = &cyclonedx.Pedigree{
		Ancestors: &[]cyclonedx.Component{{
			Type: cyclonedx.ComponentTypeLibrary, Name: d.Path, Version: d.Version, PackageURL: purl(d.Path, d.Version),
		}},
		Notes: "go.mod replaces " + d.Path + " by " + d.Replace.Path,
	}
	return c, nil
}

func module(d *debug.Module) cyclonedx.Component {
	c := cyclonedx.Component{Type: cyclonedx.ComponentTypeLibrary, Name: d.Path, Version: d.Version, PackageURL: purl(d.Path, d.Version)}
	c.BOMRef = c.PackageURL
	if d.Sum != "" {
		// It is a hash of the hashes of the module's files (golang.org/x/mod/sumdb/dirhash),
		// so it is not that of any file, and none of the specification's kinds.
		c.Properties = &[]cyclonedx.Property{{Name: "go:sum", Value: d.Sum}}
	}
	return c
}

// standardLibrary describes what Go itself linked. The names are those by which
// scanners find advisories about it.
func standardLibrary(goVersion string) cyclonedx.Component {
	version, _, _ := strings.Cut(strings.TrimPrefix(goVersion, "go"), " ")
	c := cyclonedx.Component{
		Type: cyclonedx.ComponentTypeLibrary, Name: "stdlib", Version: version,
		PackageURL: purl("stdlib", version), CPE: "cpe:2.3:a:golang:go:" + version + ":*:*:*:*:*:*:*",
	}
	c.BOMRef = c.PackageURL
	return c
}

// purl is the name of a module by the package-url specification, in lower case.
func purl(path, version string) string {
	namespace, name := "", path
	if i := strings.LastIndex(path, "/"); i >= 0 {
		namespace, name = path[:i], path[i+1:]
	}
	p := packageurl.NewPackageURL(packageurl.TypeGolang, strings.ToLower(namespace), strings.ToLower(name), version, nil, "")
	return p.ToString()
}
