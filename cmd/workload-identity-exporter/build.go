package main

import (
	"runtime"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
)

// Set by the linker, see the Makefile.
var (
	version  = "dev"
	revision = "unknown"
)

func buildInfo() exporter.Build {
	return exporter.Build{Version: version, Revision: revision, GoVersion: runtime.Version()}
}
