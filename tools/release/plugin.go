package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// plugin is kubectl's name for the program, and krew what krew calls it.
const (
	plugin = "kubectl-workload_identity"
	krew   = "workload-identity"
	// completion is what kubectl asks for what Tab completes.
	completion = "kubectl_complete-workload_identity"
	// downloads is where the workflow publishes.
	downloads = "https://github.com/workload-identity-exporter/workload-identity-exporter/releases/download/v"
)

// platform is a system that a plugin is for.
type platform struct{ system, architecture string }

func platforms() (all []platform) {
	for _, system := range []string{"linux", "darwin", "windows"} {
		for _, a := range architectures {
			all = append(all, platform{system, a})
		}
	}
	return all
}

func (p platform) String() string { return p.system + "_" + p.architecture }

// binary is the file's name there.
func (p platform) binary() string {
	if p.system == "windows" {
		return plugin + ".exe"
	}
	return plugin
}

// archive is the name of the plugin's archive, without its end.
func (r release) archive(p platform) string {
	return plugin + "_" + r.version + "_" + p.String()
}

// plugins packs the plugin for each platform, with its bill of materials, and writes the
// manifest by which krew installs it.
func (r release) plugins(files map[string][]byte, licenses []file) error {
	completes, err := os.ReadFile(filepath.Join(r.root, "cmd/kubectl-workload-identity", completion))
	if err != nil {
		return err
	}
	var all []map[string]any
	for _, p := range platforms() {
		path := filepath.Join(r.root, "bin/plugin", p.String(), p.binary())
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		bill, err := sbom(path, r.version, r.when)
		if err != nil {
			return err
		}
		name := r.archive(p) + ".tar.gz"
		packed, err := zipped(r.when, append(slices.Clone(licenses), []file{{plugin + ".cdx.json", 0o644, bill}, {completion, 0o755, completes}, {p.binary(), 0o755, content}}...))
		if err != nil {
			return err
		}
		files[name] = packed
		all = append(all, map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"os": p.system, "arch": p.architecture}},
			"uri":      downloads + r.version + "/" + name,
			"sha256":   fmt.Sprintf("%x", sha256.Sum256(packed)),
			"bin":      p.binary(),
		})
	}
	manifest, err := yaml.Marshal(map[string]any{
		"apiVersion": "krew.googlecontainertools.github.com/v1alpha2", "kind": "Plugin",
		"metadata": map[string]any{"name": krew},
		"spec": map[string]any{
			"version":          "v" + r.version,
			"homepage":         "https://github.com/workload-identity-exporter/workload-identity-exporter",
			"shortDescription": "Which Google identity do Pods on GKE really get",
			"description":      "Lists what the agents of workload-identity-exporter say of all nodes, and looks for\nworkloads that are set up wrongly. It uses your own rights and never sees a token.\n",
			"platforms":        all,
		},
	})
	files[krew+".yaml"] = manifest
	return err
}

// checkPlugins fails if a plugin is not for its platform or not of this version, or if
// krew would refuse it.
func (r release) checkPlugins(ctx context.Context, files map[string][]byte) error {
	var manifest struct {
		Spec struct {
			Version   string
			Platforms []struct {
				Selector         struct{ MatchLabels struct{ Os, Arch string } }
				URI, SHA256, Bin string
			}
		}
	}
	if err := yaml.Unmarshal(files[krew+".yaml"], &manifest); err != nil {
		return err
	}
	all := platforms()
	if len(manifest.Spec.Platforms) != len(all) || manifest.Spec.Version != "v"+r.version {
		return fmt.Errorf("%s.yaml is for %d platforms and version %s, want %d and v%s", krew, len(manifest.Spec.Platforms), manifest.Spec.Version, len(all), r.version)
	}
	for i, p := range all {
		name := r.archive(p) + ".tar.gz"
		said := manifest.Spec.Platforms[i]
		if labels := said.Selector.MatchLabels; labels.Os != p.system || labels.Arch != p.architecture || said.URI != downloads+r.version+"/"+name ||
			said.SHA256 != fmt.Sprintf("%x", sha256.Sum256(files[name])) {
			return fmt.Errorf("%s.yaml has %+v for %s", krew, said, p)
		}
		content, err := only(files[name], said.Bin)
		if err == nil {
			err = r.checkPlugin(ctx, content, p)
		}
		if err == nil {
			err = r.licensed(files[name], "")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (r release) checkPlugin(ctx context.Context, content []byte, p platform) error {
	if err := builtFor(content, p); err != nil {
		return err
	}
	if !bytes.Contains(content, []byte(r.version)) {
		return fmt.Errorf("it does not have %q, which it should say of itself", r.version)
	}
	if p != (platform{runtime.GOOS, runtime.GOARCH}) {
		return nil
	}
	said, err := runs(ctx, content, p.binary(), "version")
	if err != nil || strings.TrimSpace(said) != r.version {
		return errors.Join(fmt.Errorf("version prints %q, want %q", said, r.version), err)
	}
	return nil
}
