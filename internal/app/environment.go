package app

import (
	"fmt"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
)

// environmentFacts are the variables that send other clients than the prober elsewhere.
func environmentFacts(c config.Config, e config.Environment) diagnose.Environment {
	var facts diagnose.Environment
	if c.MetadataHost != metadata.DefaultHost {
		facts.MetadataHost = c.MetadataHost
	}
	for _, name := range []string{"GCE_METADATA_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"} {
		if e[name] != "" {
			facts.Variables = append(facts.Variables, name)
		}
	}
	return facts
}

// environmentWarnings lists what in the environment could make people believe
// something untrue.
func environmentWarnings(c config.Config, e config.Environment) []string {
	var warnings []string
	if c.MetadataHost != metadata.DefaultHost {
		warnings = append(warnings, fmt.Sprintf("WI_METADATA_HOST=%q: this server is probed instead of %s, which says nothing about the identity that Pods get", c.MetadataHost, metadata.DefaultHost))
	}
	if host := e["GCE_METADATA_HOST"]; host != "" && host != c.MetadataHost {
		warnings = append(warnings, fmt.Sprintf("GCE_METADATA_HOST=%q is ignored: remove it, or set WI_METADATA_HOST to the same if this server is to be probed", host))
	}
	for _, typo := range e.Typos() {
		warnings = append(warnings, "Unknown variable "+typo+": it has no effect")
	}
	return warnings
}
