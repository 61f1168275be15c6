package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// licenseFiles are those of the repository that are packed with each program, by the names
// that they have there.
var licenseFiles = []struct{ name, path string }{{"LICENSE", "LICENSE"}, {"THIRD_PARTY_LICENSES", "third_party/LICENSES"}}

func readLicenses(root string) ([]file, error) {
	var files []file
	for _, f := range licenseFiles {
		content, err := os.ReadFile(filepath.Join(root, f.path))
		if err != nil {
			return nil, err
		}
		files = append(files, file{f.name, 0o644, content})
	}
	return files, nil
}

// in puts the files into a folder of an archive.
func in(folder string, files []file) []file {
	moved := slices.Clone(files)
	for i := range moved {
		moved[i].name = folder + moved[i].name
	}
	return moved
}

// licensed fails if a folder of the archive lacks a licence of the repository.
func (r release) licensed(packed []byte, folder string) error {
	files, err := unzipped(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	return r.checkLicenses(files, folder)
}

// checkLicenses fails if the files lack a licence of the repository.
func (r release) checkLicenses(files []file, folder string) error {
	licenses, err := readLicenses(r.root)
	if err != nil {
		return err
	}
	for _, l := range in(folder, licenses) {
		if !slices.ContainsFunc(files, func(f file) bool { return f.name == l.name && f.mode == l.mode && bytes.Equal(f.content, l.content) }) {
			return fmt.Errorf("it lacks the repository's %s", l.name)
		}
	}
	return nil
}

// permissive are the licences that may be linked, as SPDX names them: they ask for no
// more than that their text goes along.
var permissive = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}

var gaps = regexp.MustCompile("\n{3,}")

var isLicense = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([-.].*)?$`)

// thirdParty collects the licences of what is linked into what is released.
func thirdParty(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("release licenses [flags]", flag.ContinueOnError)
	root := flags.String("root", "..", "the `FOLDER` of the repository")
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := licenses(ctx, *root)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, text)
	return err
}

// licenses are the texts, each once, with the modules that it is of.
func licenses(ctx context.Context, root string) (string, error) {
	texts := map[string][]string{} // the names of what has it, by its words
	all := map[string]string{}     // the kinds of licence, by the module
	for _, p := range platforms() {
		packages, err := linked(ctx, root, p)
		if err != nil {
			return "", err
		}
		for _, l := range packages {
			if err := l.collect(texts, all); err != nil {
				return "", fmt.Errorf("%s: %w", l.module, err)
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "What is linked into %s and %s, and the licences of it.\n\n", program, plugin)
	for _, module := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s: %s\n", module, all[module])
	}
	for _, text := range slices.SortedFunc(maps.Keys(texts), func(x, y string) int { return strings.Compare(texts[x][0]+x, texts[y][0]+y) }) {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("-", 80), strings.Join(texts[text], "\n"), text)
	}
	return b.String(), nil
}

// link is a package that is linked.
type link struct{ module, moduleFolder, folder string }

func linked(ctx context.Context, root string, p platform) ([]link, error) {
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Dir}}{{end}}{{else}}The Go standard library\t{{.Root}}\t{{.Root}}{{end}}{{with .Module}}\t{{$.Dir}}{{end}}", //nolint:gosec // ours
		"./cmd/"+program, "./cmd/kubectl-workload-identity")
	list.Dir, list.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.system, "GOARCH="+p.architecture)
	out, err := list.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		err = errors.New(string(failed.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	root, err = filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	var all []link
	for line := range strings.Lines(string(out)) {
		if f := strings.Split(strings.TrimSpace(line), "\t"); len(f) == 3 && f[0] != "" && !strings.HasPrefix(f[1], root+string(filepath.Separator)) { // what replaces a module is ours
			all = append(all, link{f[0], f[1], f[2]})
		}
	}
	return all, nil
}

// collect reads the licences in the folders from the package up to its module.
func (l link) collect(texts map[string][]string, all map[string]string) error {
	for folder := l.folder; ; folder = filepath.Dir(folder) {
		if folder != l.moduleFolder && !strings.HasPrefix(folder, l.moduleFolder+string(filepath.Separator)) {
			return fmt.Errorf("%s is outside of it", l.folder)
		}
		entries, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Type() == fs.ModeDir || !isLicense.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
				continue
			}
			content, err := os.ReadFile(filepath.Join(folder, e.Name()))
			if err != nil {
				return err
			}
			inside, _ := filepath.Rel(l.moduleFolder, filepath.Join(folder, e.Name())) // both are absolute
			name := l.module + "/" + filepath.ToSlash(inside)
			if text := plain(content); !slices.Contains(texts[text], name) {
				texts[text] = append(texts[text], name)
				slices.Sort(texts[text])
			}
			if !strings.HasPrefix(strings.ToLower(e.Name()), "licen") && !strings.HasPrefix(strings.ToLower(e.Name()), "copying") {
				continue
			}
			kinds, err := kindsOf(content)
			if err != nil {
				return fmt.Errorf("%s: %w", e.Name(), err)
			}
			for _, k := range kinds {
				if have := strings.Split(all[l.module], ", "); !slices.Contains(have, k) {
					all[l.module] = strings.TrimPrefix(all[l.module]+", "+k, ", ")
				}
			}
		}
		if folder == l.moduleFolder {
			break
		}
	}
	if all[l.module] == "" {
		return errors.New("it has no licence")
	}
	return nil
}

// plain is a text as it may be compared with others: of the same one there are many that
// differ in white space.
func plain(text []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
	return strings.TrimSpace(gaps.ReplaceAllString(b.String(), "\n\n"))
}

// kindsOf are the licences that the text is of, all of which have to be permissive.
func kindsOf(text []byte) ([]string, error) {
	const most = 75 // percent of the text: the rest is names and years
	coverage := licensecheck.Scan(text)
	if coverage.Percent < most || len(coverage.Match) == 0 {
		return nil, fmt.Errorf("%.0f %% of the text is a licence that is known, want %d %% at least", coverage.Percent, most)
	}
	var kinds []string
	for _, m := range coverage.Match {
		if !slices.Contains(permissive, m.ID) {
			return nil, fmt.Errorf("%s is not one of %s", m.ID, strings.Join(permissive, ", "))
		}
		if !slices.Contains(kinds, m.ID) {
			kinds = append(kinds, m.ID)
		}
	}
	return kinds, nil
}
