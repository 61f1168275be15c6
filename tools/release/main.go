// Command release makes the files of a release of the commit that is checked out:
// binaries, bills of materials, image, chart, rules and dashboards, notes, checksums.
// It reads them again before it says that it is done. It uploads nothing.
//
//	cd tools && go run ./release            fails if the commit cannot be released
//	cd tools && go run ./release -dry-run   makes the files, and says what would fail
//
// The same tag, built with the same Go, gives the same files, byte for byte. Without
// a tag the version counts commits, so a shallow clone gives other ones.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("release [flags]", flag.ContinueOnError)
	root := flags.String("root", "..", "the repository's `FOLDER`")
	out := flags.String("out", "../dist", "the `FOLDER` for the files; what is in it is removed")
	asked := flags.String("tag", "", "the `TAG` to release, of those at the commit; none is the highest version")
	most := flags.Int64("max", 0, "fail if an image has more `BYTES` in its files")
	dry := flags.Bool("dry-run", false, "do the same for a commit that cannot be released")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *most <= 0 {
		return fmt.Errorf("want -max BYTES and no arguments, got -max %d and %q", *most, flags.Args())
	}
	c, err := read(ctx, *root)
	if err != nil {
		return err
	}
	r := release{root: *root, out: *out, version: c.version(c.tag(*asked)), revision: c.Hash, when: time.Unix(c.Time, 0), most: *most}
	refusals, err := r.prepare(c, *asked)
	if err != nil {
		return err
	}
	if len(refusals) > 0 && !*dry {
		return fmt.Errorf("this cannot be released (DRY_RUN=1 makes the files all the same):\n%w", errors.Join(refusals...))
	}
	for _, refusal := range refusals {
		fmt.Fprintln(stdout, "release: dry run; a release would refuse:", refusal)
	}
	if err := r.write(ctx, stdout); err != nil {
		return err
	}
	if err := r.check(ctx); err != nil {
		return fmt.Errorf("what was written to %s is wrong: %w", *out, err)
	}
	return r.table(stdout)
}

// prepare sets the notes, and returns why the commit cannot be released.
func (r *release) prepare(c commit, asked string) ([]error, error) {
	refusals := c.refusals(asked)
	name := unreleased
	if tag := c.tag(asked); tag == "v"+r.version {
		name = r.version
		others, err := outdated(r.root, r.version)
		if err != nil {
			return nil, err
		}
		refusals = append(refusals, others...)
	}
	changelog, err := os.ReadFile(filepath.Join(r.root, "CHANGELOG.md"))
	if err != nil {
		return nil, err
	}
	if r.notes, err = section(string(changelog), name); err != nil {
		refusals = append(refusals, err)
		r.notes = "There are no notes: " + err.Error() + ".\n"
	}
	return refusals, nil
}

// table prints what was made.
func (r release) table(w io.Writer) error {
	names, err := files(r.out)
	if err != nil {
		return err
	}
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(columns, "%s of %s\tbytes\tsha256\n", r.version, r.revision[:12])
	for _, name := range append(names, sumsName) {
		content, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(columns, "%s\t%d\t%s\n", name, len(content), digest(content))
	}
	return columns.Flush()
}
