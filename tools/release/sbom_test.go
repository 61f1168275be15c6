package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	"github.com/package-url/packageurl-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var when = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// decoded returns what a bill of materials says, after it was held against
// CycloneDX's own schema.
func decoded(t *testing.T, text []byte) cyclonedx.BOM {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	for name, file := range map[string]string{"bom-1.6.schema.json": "", "spdx.schema.json": "", "jsf-0.82.schema.json": "jsf-0.82.schemax.json"} {
		if file == "" {
			file = name
		}
		f, err := os.Open(filepath.Join(strings.TrimSpace(string(out)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		schema, err := jsonschema.UnmarshalJSON(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("http://cyclonedx.org/schema/"+name, schema); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(document); err != nil {
		t.Errorf("it is not as the schema wants it: %v", err)
	}
	var bom cyclonedx.BOM
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	return bom
}

// linked is what this very test is linked of.
func linked(t *testing.T) binary {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := parse(content, "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheBillHasAllThatGoSaysIsLinked(t *testing.T) {
	b := linked(t)
	text, err := sbom(b, when)
	if err != nil {
		t.Fatal(err)
	}
	bom := decoded(t, text)
	main := bom.Metadata.Component
	if main.Version != "1.2.3" || main.PackageURL != "pkg:golang/github.com/workload-identity-exporter/workload-identity-exporter/tools@v1.2.3" {
		t.Errorf("it is of %s %s", main.PackageURL, main.Version)
	}
	if hashes := *main.Hashes; len(hashes) != 1 || hashes[0].Algorithm != "SHA-256" || hashes[0].Value != digest(b.content) {
		t.Errorf("its hashes are %v, want the binary's SHA-256", hashes)
	}
	if bom.Metadata.Timestamp != "2026-02-03T04:05:06Z" || bom.SerialNumber != "" {
		t.Errorf("it is of %s and has the number %q; want the commit's time, and nothing random", bom.Metadata.Timestamp, bom.SerialNumber)
	}

	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := strings.Cut(string(out), "\n")
	want := map[string]string{"stdlib": strings.TrimPrefix(first[strings.LastIndex(first, " ")+1:], "go")}
	sums := map[string]string{}
	for line := range strings.Lines(rest) {
		if f := strings.Fields(line); f[0] == "dep" {
			want[f[1]], sums[f[1]] = f[2], f[3]
		}
	}
	if len(want) < 50 {
		t.Fatalf("go version -m shows %d modules only: %s", len(want), out)
	}
	depends := *(*bom.Dependencies)[0].Dependencies
	for _, c := range *bom.Components {
		if want[c.Name] != c.Version {
			t.Errorf("%s %s is there, and go version -m has %q", c.Name, c.Version, want[c.Name])
		}
		if c.Type != cyclonedx.ComponentTypeLibrary {
			t.Errorf("%s is of the type %s", c.Name, c.Type)
		}
		if c.Hashes != nil {
			t.Errorf("%s has the hashes %v, and nobody knows of which file", c.Name, *c.Hashes)
		}
		if p, err := packageurl.FromString(c.PackageURL); err != nil || p.Version != c.Version || !strings.HasSuffix(strings.ToLower(c.Name), p.Name) {
			t.Errorf("%s %s is named %s: %v", c.Name, c.Version, c.PackageURL, err)
		}
		if sum := sums[c.Name]; sum != "" && (c.Properties == nil || (*c.Properties)[0].Value != sum) {
			t.Errorf("%s lacks the sum %s", c.Name, sum)
		}
		if len(depends) == 0 || depends[0] != c.BOMRef {
			t.Errorf("the program does not depend on %s", c.BOMRef)
		} else {
			depends = depends[1:]
		}
		delete(want, c.Name)
	}
	if len(want) > 0 {
		t.Errorf("it lacks %v", want)
	}
}

func TestTheSameBinaryGivesTheSameBill(t *testing.T) {
	b := linked(t)
	one, err := sbom(b, when)
	if err != nil {
		t.Fatal(err)
	}
	two, err := sbom(b, when.In(time.FixedZone("elsewhere", 3600)))
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("two bills of the same binary differ: %v", err)
	}
}

func TestReplacedModules(t *testing.T) {
	info := func(replaced debug.Module, path, version string) binary {
		replaced.Replace = &debug.Module{Path: path, Version: version, Sum: "h1:sum="}
		return binary{version: "1.2.3", info: &debug.BuildInfo{
			GoVersion: "go1.26.8 X:nodwarf5", Main: debug.Module{Path: "example.com/Agent", Version: "(devel)"}, Deps: []*debug.Module{&replaced},
		}}
	}
	original := debug.Module{Path: "github.com/Old/lib", Version: "v1.0.0+incompatible", Sum: "h1:old="}
	for _, tt := range []struct{ name, path, version, wantName, wantVersion, wantURL string }{
		{"by another module", "github.com/new/lib/v2", "v2.0.0", "github.com/new/lib/v2", "v2.0.0", "pkg:golang/github.com/new/lib/v2@v2.0.0"},
		{"by a folder", "./internal/lib", "(devel)", "github.com/Old/lib", "1.2.3", "pkg:golang/example.com/agent@v1.2.3#internal/lib"},
	} {
		text, err := sbom(info(original, tt.path, tt.version), when)
		if err != nil {
			t.Fatal(err)
		}
		all := *decoded(t, text).Components
		if all[0].Version != "1.26.8" || all[0].PackageURL != "pkg:golang/stdlib@1.26.8" {
			t.Errorf("%s: Go is %+v", tt.name, all[0])
		}
		c := all[1]
		if c.Name != tt.wantName || c.Version != tt.wantVersion || c.PackageURL != tt.wantURL {
			t.Errorf("%s: %s %s %s, want %s %s %s", tt.name, c.Name, c.Version, c.PackageURL, tt.wantName, tt.wantVersion, tt.wantURL)
		}
		if a := (*c.Pedigree.Ancestors)[0]; a.PackageURL != "pkg:golang/github.com/old/lib@v1.0.0%2Bincompatible" || a.Version != original.Version {
			t.Errorf("%s: its ancestor is %s %s", tt.name, a.PackageURL, a.Version)
		}
	}
	for _, path := range []string{"../lib", "/lib"} {
		if _, err := sbom(info(original, path, "(devel)"), when); err == nil || !strings.Contains(err.Error(), "github.com/Old/lib is replaced by the folder "+path) {
			t.Errorf("%s: %v, want it to be refused", path, err)
		}
	}
}
