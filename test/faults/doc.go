// Package faults tests the exporter's binary in a hostile place: metadata servers, API
// servers, clients, files and a kernel that do what they should not. It has no code of
// its own, only tests. `make faults` runs them; without -faults the rows are skipped.
//
// Each row is an agent of its own that is well first, then has its fault, and is well
// again. docs/faults.md lists the rows with what came of them, and is written by
// -update. One of them:
//
//	go test ./test/faults -faults -run 'TestFaults/metadata/^email:_empty$' -v
package faults
