package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// entry is a file in an archive.
type entry struct {
	name    string // with "/", whatever the system
	mode    int64
	content []byte
}

// pack writes a .tar.gz with the entries in their order. All files are of the same
// time and of no owner, so the same entries give the same archive.
func pack(path string, when time.Time, entries []entry) error {
	var packed bytes.Buffer
	zipper, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(zipper)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.content)), ModTime: when, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(e.content); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), zipper.Close()); err != nil {
		return err
	}
	return os.WriteFile(path, packed.Bytes(), 0o644) //nolint:gosec // everybody may read it
}

// unpack reads what pack writes, and what Helm packs.
func unpack(path string) ([]entry, error) {
	packed, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	entries, err := untar(unzipped)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return entries, nil
}

// untar reads the files of an archive, in their order.
func untar(archive io.Reader) ([]entry, error) {
	var entries []entry
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{name: header.Name, mode: header.Mode, content: content})
	}
}
