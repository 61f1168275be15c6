package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sumsName is the file with the checksums of all others, in the format that
// `sha256sum -c` reads.
const sumsName = "SHA256SUMS"

// sums returns its text for the files that are in a folder now.
func sums(folder string) (string, error) {
	names, err := files(folder)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&text, "%s  %s\n", digest(content), name)
	}
	return text.String(), nil
}

// checkSums fails if a file is not what SHA256SUMS says, is missing or is not in it.
func checkSums(folder string) error {
	content, err := os.ReadFile(filepath.Join(folder, sumsName))
	if err != nil {
		return err
	}
	now, err := sums(folder)
	if err != nil {
		return err
	}
	was, is := slices.Collect(strings.Lines(string(content))), slices.Collect(strings.Lines(now))
	for _, line := range was {
		if !slices.Contains(is, line) {
			return fmt.Errorf("%s: the file was changed or is gone since %s was written", strings.Fields(line)[1], sumsName)
		}
	}
	for _, line := range is {
		if !slices.Contains(was, line) {
			return fmt.Errorf("%s is not in %s", strings.Fields(line)[1], sumsName)
		}
	}
	return nil
}

// files are the names in a folder, sorted, but for SHA256SUMS.
func files(folder string) ([]string, error) {
	all, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range all {
		if f.Name() != sumsName {
			names = append(names, f.Name())
		}
	}
	return names, nil
}

// digest is the SHA-256 of a content, in 64 hex digits.
func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
