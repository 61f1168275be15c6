package main

import (
	"fmt"
	"io"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
)

func usage(w io.Writer) {
	fmt.Fprint(w, `workload-identity-exporter tells which Google identity Pods on a GKE node really
get, and whether it is the one they should get. In a Pod under an annotated
ServiceAccount it needs no configuration.

Usage:
  workload-identity-exporter            probe and serve metrics until SIGTERM
  workload-identity-exporter check      judge once: check -help tells more
  workload-identity-exporter redact     tell the hashes of names: redact -help tells more
  workload-identity-exporter -version   print the version
  workload-identity-exporter -help      print this text

Exit codes: 0 after SIGTERM or SIGINT, 1 if it cannot run or is ended by a second
signal, 2 for a wrong setting.

Environment variables:
`)
	config.WriteText(w)
}
