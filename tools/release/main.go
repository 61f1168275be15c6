// Command release makes the files of a release of the commit that is checked out,
// and packs images. It uploads nothing.
//
//	cd tools && go run ./release            fails if the commit cannot be released
//	cd tools && go run ./release -dry-run   makes the files, and says what would fail
//	cd tools && go run ./release licenses
//	cd tools && go run ./release image -tag NAME:TAG -out FILE ARCHITECTURE=BINARY...
//
// The same tag, built with the same Go, gives the same files, byte for byte: nothing
// in them is of the machine or of the time when they were made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// program is the name of what is released, and of its chart.
const program = "workload-identity-exporter"

var architectures = []string{"amd64", "arm64"}

func main() {
	var err error
	ctx, args := context.Background(), os.Args[1:]
	switch {
	case len(args) > 0 && args[0] == "image":
		err = packImage(args[1:], os.Stdout)
	case len(args) > 0 && args[0] == "licenses":
		err = thirdParty(ctx, args[1:], os.Stdout)
	default:
		err = run(ctx, args, os.Stdout)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is what is made of a commit: a folder of files.
type release struct {
	root, out, repository string
	commit
	most int64 // bytes of an image
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	r := release{}
	flags := flag.NewFlagSet("release [flags]", flag.ContinueOnError)
	flags.StringVar(&r.root, "root", "..", "the repository's `FOLDER`")
	flags.StringVar(&r.out, "out", "../dist", "the `FOLDER` for the files; what is in it is removed")
	flags.StringVar(&r.repository, "repository", "", "`NAME` of the image that the chart takes, without a tag")
	asked := flags.String("tag", "", "fail unless it is this `TAG` that is released")
	flags.Int64Var(&r.most, "max", 0, "fail if an image has more `BYTES` in its files")
	dry := flags.Bool("dry-run", false, "make the files of a commit that cannot be released, too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || r.most <= 0 || r.repository == "" {
		return fmt.Errorf("want -max BYTES, -repository NAME and no arguments, got %q", args)
	}
	var err error
	if r.commit, err = read(ctx, r.root); err != nil {
		return err
	}
	notes, refusals, err := r.refusals(r.root, *asked)
	if err != nil {
		return err
	}
	if len(refusals) > 0 && !*dry {
		return fmt.Errorf("this cannot be released (DRY_RUN=1 makes the files all the same):\n%w", errors.Join(refusals...))
	}
	for _, refusal := range refusals {
		fmt.Fprintln(stdout, "release: dry run; a release would refuse:", refusal)
	}
	if err := r.write(ctx, notes, stdout); err != nil {
		return err
	}
	if err := r.check(ctx, stdout); err != nil {
		return fmt.Errorf("what was written to %s is wrong: %w", r.out, err)
	}
	return nil
}

// The names of the files, by the version. The chart's is Helm's.
func (r release) name(suffix string) string { return program + "_" + r.version + "_" + suffix }
func (r release) chart() string             { return program + "-" + r.version + ".tgz" }

// write builds everything, and writes the files into an emptied folder.
func (r release) write(ctx context.Context, notes string, log io.Writer) error {
	// The Makefile's flags are those of everybody who builds the same tag.
	build := exec.CommandContext(ctx, "make", "--no-print-directory", "-C", r.root, "image-tar", "plugins", //nolint:gosec // the arguments are ours
		"VERSION="+r.version, "REVISION="+r.revision, "IMAGE="+r.repository+":"+r.version)
	build.Stdout, build.Stderr = log, log
	if err := build.Run(); err != nil {
		return fmt.Errorf("make image-tar plugins: %w", err)
	}
	licenses, err := readLicenses(r.root)
	if err != nil {
		return err
	}
	files := map[string][]byte{"RELEASE_NOTES.md": []byte(notes)}
	for _, a := range architectures {
		path := filepath.Join(r.root, "bin/linux-"+a, program)
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if files[r.name("linux_"+a+".cdx.json")], err = sbom(path, r.version, r.when); err != nil {
			return err
		}
		folder := r.name("linux_" + a)
		if files[folder+".tar.gz"], err = zipped(r.when, append(in(folder+"/", licenses), file{folder + "/" + program, 0o755, content})); err != nil {
			return err
		}
	}
	if err := r.plugins(files, licenses); err != nil {
		return err
	}
	if files[r.name("monitoring.tar.gz")], err = r.monitoring(licenses[:1]); err != nil {
		return err
	}
	image, err := os.ReadFile(filepath.Join(r.root, "bin/images", program+".tar"))
	if err != nil {
		return err
	}
	files[r.name("image.tar")] = image
	folder, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // it is temporary
	index, err := readImage(image, folder, r.version)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if files[r.chart()], err = packChart(filepath.Join(r.root, "deploy/chart"), r.version, r.repository, digest.String(), r.when); err != nil {
		return fmt.Errorf("chart: %w", err)
	}
	files[sumsName] = sums(files)
	if err := errors.Join(os.RemoveAll(r.out), os.MkdirAll(r.out, 0o750)); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(r.out, name), content, 0o644); err != nil { //nolint:gosec // everybody may read it
			return err
		}
	}
	return nil
}

// monitoring packs what Prometheus, Alertmanager and Grafana read without Kubernetes
// in between. The chart has the rules, too.
func (r release) monitoring(license []file) ([]byte, error) {
	folder := r.name("monitoring") + "/"
	files := in(folder, license)
	for _, pattern := range []string{"alerts/workload-identity.rules.yaml", "alerts/alertmanager.yaml", "dashboards/*.json", "deploy/dashboards-gmp/*.json", "dashboards/provisioning.yaml"} {
		paths, err := filepath.Glob(filepath.Join(r.root, pattern))
		if err != nil || len(paths) == 0 {
			return nil, fmt.Errorf("%s: no such file: %w", pattern, err)
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			files = append(files, file{folder + strings.TrimPrefix(strings.TrimPrefix(filepath.ToSlash(path), filepath.ToSlash(filepath.Clean(r.root))+"/"), "deploy/"), 0o644, content})
		}
	}
	return zipped(r.when, files)
}
