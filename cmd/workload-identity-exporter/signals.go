package main

import (
	"os"
	"os/signal"
	"syscall"
)

// stopOnSignal asks the program to stop at the first signal, and ends it at the
// second.
func stopOnSignal(stop func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	<-signals
	stop()
	<-signals
	os.Exit(exitError)
}
