package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLicensesAreThoseOfWhatIsLinked(t *testing.T) {
	want, err := licenses(t.Context(), "../..")
	if err != nil {
		t.Fatal(err)
	}
	if got := (repository{t, "../.."}).read("third_party/LICENSES"); got != want {
		t.Error("third_party/LICENSES is out of date: run `make generate`")
	}
	for _, part := range []string{"\nk8s.io/client-go: Apache-2.0\n", "\ngithub.com/beorn7/perks: MIT\n", "\nThe Go standard library: BSD-3-Clause\n", "\ngithub.com/inconshreveable/mousetrap: Apache-2.0\n"} {
		if !strings.Contains(want, part) {
			t.Errorf("the licences lack %q", part)
		}
	}
}

func TestALicenseThatIsNotPermissiveIsRefused(t *testing.T) {
	apache := (repository{t, "../.."}).read("LICENSE")
	const mpl = "This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0. If a copy of the MPL was not distributed with this file, You can obtain one at http://mozilla.org/MPL/2.0/."
	for _, tt := range []struct {
		name  string
		files map[string]string
		says  string
	}{
		{"one that is", map[string]string{"LICENSE": apache, "NOTICE": "of somebody"}, ""},
		{"none", map[string]string{"README": apache}, "it has no licence"},
		{"words of their own", map[string]string{"LICENSE": "Do what you want with it, on Sundays."}, "LICENSE: 0 %"},
		{"another", map[string]string{"COPYING": mpl}, "COPYING: MPL-2.0 is not one of"},
		{"another below", map[string]string{"LICENSE": apache, "sub/LICENSE.txt": mpl}, "LICENSE.txt: MPL-2.0 is not one of"},
	} {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range tt.files {
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := link{"example.com/m", root, filepath.Join(root, "sub")}.collect(map[string][]string{}, map[string]string{})
		if (err == nil) != (tt.says == "") || err != nil && !strings.HasPrefix(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
}
