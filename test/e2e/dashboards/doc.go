// Package dashboards asks a real Prometheus every query of every dashboard, as
// Grafana would: once on the series of real agents in every state, and once on
// those of 15,000 nodes, where each must be answered within a second.
//
// PROMETHEUS is the path of the program.
package dashboards
