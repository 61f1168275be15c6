package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// release is what is made of a commit: a folder of files.
type release struct {
	root, out string // the repository's folder, and the one for the files
	version   string // see commit.version
	revision  string // the commit, 40 hex digits
	when      time.Time
	notes     string // what changed, in Markdown
	most      int64  // the bytes that an image may have
}

// The names of the files, by the version. The chart's is Helm's.
func (r release) folder(architecture string) string {
	return program + "_" + r.version + "_linux_" + architecture
}
func (r release) archive(architecture string) string { return r.folder(architecture) + ".tar.gz" }
func (r release) bill(architecture string) string    { return r.folder(architecture) + ".cdx.json" }
func (r release) image() string                      { return program + "_" + r.version + "_image.tar" }

func (r release) monitoring() string { return program + "_" + r.version + "_monitoring" }
func (r release) chart() string      { return program + "-" + r.version + ".tgz" }

// write builds everything, and writes the files into an emptied folder.
func (r release) write(ctx context.Context, log io.Writer) error {
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o750); err != nil {
		return err
	}
	if err := r.make(ctx, log); err != nil {
		return err
	}
	license, err := os.ReadFile(filepath.Join(r.root, "LICENSE"))
	if err != nil {
		return err
	}
	for _, a := range architectures {
		if err := r.writeBinary(a.name, license); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	if err := r.copy(filepath.Join(r.root, "bin/images", program+".tar"), r.image()); err != nil {
		return err
	}
	if _, err := packChart(filepath.Join(r.root, "deploy/chart"), r.out, r.version, r.when); err != nil {
		return fmt.Errorf("chart: %w", err)
	}
	if err := r.writeMonitoring(license); err != nil {
		return err
	}
	if err := r.save("RELEASE_NOTES.md", []byte(r.notes)); err != nil {
		return err
	}
	text, err := sums(r.out)
	if err != nil {
		return err
	}
	return r.save(sumsName, []byte(text))
}

// make builds the binaries and the image by the Makefile, whose flags are those of
// everybody who builds the same tag.
func (r release) make(ctx context.Context, log io.Writer) error {
	build := exec.CommandContext(ctx, "make", "--no-print-directory", "-C", r.root, "image-tar", //nolint:gosec // the arguments are ours
		"VERSION="+r.version, "REVISION="+r.revision, "IMAGE="+program+":"+r.version)
	build.Stdout, build.Stderr = log, log
	if err := build.Run(); err != nil {
		return fmt.Errorf("make image-tar: %w", err)
	}
	return nil
}

// writeBinary writes the archive of a binary, and its bill of materials.
func (r release) writeBinary(architecture string, license []byte) error {
	content, err := os.ReadFile(filepath.Join(r.root, "bin/linux-"+architecture, program))
	if err != nil {
		return err
	}
	b, err := parse(content, r.version)
	if err != nil {
		return err
	}
	bill, err := sbom(b, r.when)
	if err != nil {
		return err
	}
	if err := r.save(r.bill(architecture), bill); err != nil {
		return err
	}
	folder := r.folder(architecture)
	return pack(filepath.Join(r.out, r.archive(architecture)), r.when, []entry{
		{folder + "/LICENSE", 0o644, license},
		{folder + "/" + program, 0o755, content},
	})
}

// writeMonitoring packs what Prometheus, Alertmanager and Grafana read without
// Kubernetes in between. The chart has the rules, too.
func (r release) writeMonitoring(license []byte) error {
	entries := []entry{{r.monitoring() + "/LICENSE", 0o644, license}}
	for _, pattern := range []string{"alerts/workload-identity.rules.yaml", "alerts/alertmanager.yaml", "dashboards/*.json", "dashboards/gmp/*.json", "dashboards/provisioning.yaml"} {
		paths, err := filepath.Glob(filepath.Join(r.root, pattern))
		if err != nil {
			return err
		}
		if len(paths) == 0 {
			return fmt.Errorf("%s: no such file", pattern)
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(r.root, path)
			if err != nil {
				return err
			}
			entries = append(entries, entry{r.monitoring() + "/" + filepath.ToSlash(name), 0o644, content})
		}
	}
	return pack(filepath.Join(r.out, r.monitoring()+".tar.gz"), r.when, entries)
}

// check reads the written files again, and fails if one is not what a user of the
// version may expect.
func (r release) check(ctx context.Context) error {
	if err := checkSums(r.out); err != nil {
		return err
	}
	binaries := map[string]binary{}
	for _, a := range architectures {
		b, err := r.checkBinary(a.name)
		if err == nil {
			err = b.check(ctx, a.name, a.machine, r.revision)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.archive(a.name), err)
		}
		binaries[a.name] = b
	}
	if err := checkImage(filepath.Join(r.out, r.image()), r.version, binaries, r.most); err != nil {
		return fmt.Errorf("%s: %w", r.image(), err)
	}
	if err := checkChart(filepath.Join(r.out, r.chart()), r.version); err != nil {
		return fmt.Errorf("%s: %w", r.chart(), err)
	}
	return nil
}

// checkBinary takes the binary out of its archive, and compares it with its bill of
// materials.
func (r release) checkBinary(architecture string) (binary, error) {
	entries, err := unpack(filepath.Join(r.out, r.archive(architecture)))
	if err != nil {
		return binary{}, err
	}
	name := r.folder(architecture) + "/" + program
	for _, e := range entries {
		if e.name != name || e.mode != 0o755 {
			continue
		}
		b, err := parse(e.content, r.version)
		if err != nil {
			return b, err
		}
		bill, err := os.ReadFile(filepath.Join(r.out, r.bill(architecture)))
		if err != nil {
			return b, err
		}
		if want, err := sbom(b, r.when); err != nil || string(bill) != string(want) {
			return b, errors.Join(err, fmt.Errorf("%s is of another binary", r.bill(architecture)))
		}
		return b, nil
	}
	return binary{}, fmt.Errorf("it has no program %s that can be run", name)
}

func (r release) save(name string, content []byte) error {
	return os.WriteFile(filepath.Join(r.out, name), content, 0o644) //nolint:gosec // everybody may read it
}

func (r release) copy(from, name string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return r.save(name, content)
}
