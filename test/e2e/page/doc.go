// Package page proves what people are woken by: a real Prometheus with the
// committed rules and a real Alertmanager with the example's routes scrape real
// exporters, at the shipped intervals, which probe simulators; a receiver in the
// suite gets the pages and the tickets.
//
// PROMETHEUS and ALERTMANAGER are the paths of the two programs. Each scenario
// is a cluster of its own, so that all can run at once.
package page
