package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// file is one in an archive.
type file struct {
	name    string // with "/", whatever the system
	mode    int64
	content []byte
}

// tarred is an archive of the files in their order, all of one time and no owner.
func tarred(when time.Time, files []file) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: when, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return archive.Bytes(), err
}

// zipped is a .tar.gz.
func zipped(when time.Time, files []file) ([]byte, error) {
	archive, err := tarred(when, files)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(archive); err != nil {
		return nil, err
	}
	err = w.Close()
	return packed.Bytes(), err
}

// untarred are the regular files of an archive, in their order.
func untarred(archive io.Reader) ([]file, error) {
	var files []file
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if header.Typeflag == tar.TypeReg {
			files = append(files, file{header.Name, header.Mode, content})
		}
	}
}

func unzipped(packed io.Reader) ([]file, error) {
	archive, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	return untarred(archive)
}

// sumsName is the file with the checksums of all others, as sha256sum reads it.
const sumsName = "SHA256SUMS"

func sums(files map[string][]byte) []byte {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(files[name]), name)
	}
	return []byte(text.String())
}
