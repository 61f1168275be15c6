package report

import "github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"

// maxShown is how many bytes of one text are shown. The agent's own are far shorter.
const maxShown = 4 << 10

// shown is a text that may quote others, such as a metadata server or an API
// server, as it may be shown. Every such text of a Report has gone through it.
func shown(s string) string { return foreign.Text(s, maxShown) }

func eachShown(texts []string) []string {
	var all []string
	for _, t := range texts {
		all = append(all, shown(t))
	}
	return all
}
