package main

import (
	"runtime"
	"runtime/debug"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
)

// tuneRuntime fits the runtime to a program that makes three small requests every
// ten seconds, on every node (`make bench` shows what it is worth). The heap may
// grow by half instead of doubling before it is collected, and one thread at a
// time runs Go code: the collector would otherwise wake one for each core.
func tuneRuntime(e config.Environment) {
	if e["GOGC"] == "" {
		debug.SetGCPercent(50)
	}
	if e["GOMAXPROCS"] == "" {
		runtime.GOMAXPROCS(1)
	}
}
