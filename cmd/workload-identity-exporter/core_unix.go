//go:build unix

package main

import "syscall"

// noCores keeps the kernel from writing the memory of this process to a file when it
// crashes: a token may be in it.
func noCores() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
