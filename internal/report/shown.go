package report

import "github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"

// maxShown is how many bytes of one text are shown. The agent's own are far shorter.
const maxShown = 4 << 10

// shown is a text that may quote others, such as a metadata server or an API
// server, as it may be shown. Every such text of a Report has gone through it. An
// identity has not: nothing passes for one that could not be shown.
func shown(s string) string { return foreign.Text(s, maxShown) }
