package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
)

// switches is the HTTP API by which faults are switched while clients ask:
//
//	PUT, POST /fault/{name}?every=5s&of=snat&delay=4s   switches; answers like GET /fault
//	GET       /fault                                    the fault that is set, in JSON
//	GET       /faults                                   what there is: a table, or JSON if accepted
//	GET       /stats                                    Stats in JSON
func (s *Simulator) switches() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /fault/{name}", s.putFault)
	mux.HandleFunc("POST /fault/{name}", s.putFault)
	mux.HandleFunc("GET /fault", func(w http.ResponseWriter, _ *http.Request) { sayJSON(w, s.Fault()) })
	mux.HandleFunc("GET /faults", s.listFaults)
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { sayJSON(w, s.Stats()) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, switchesUsage) })
	// A page in the developer's browser must not switch a demo on loopback.
	return http.NewCrossOriginProtection().Handler(mux)
}

const switchesUsage = `switches of gke-metadata-simulator

PUT /fault/NAME?every=5s&of=NAME&delay=4s   switch to a fault
GET /fault                                  the fault that is set
GET /faults                                 the faults that there are
GET /stats                                  what clients did
`

func (s *Simulator) putFault(w http.ResponseWriter, r *http.Request) {
	parameters, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fault, err := ParseFault(r.PathValue("name"), parameters)
	if err == nil {
		err = s.SetFault(fault)
	}
	switch {
	case err == nil:
		sayJSON(w, s.Fault())
	case errors.Is(err, ErrParameter):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, ErrUnknownFault):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, ErrNotServed):
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (s *Simulator) listFaults(w http.ResponseWriter, r *http.Request) {
	list := faultsOf(s.serve)
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		sayJSON(w, list)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = WriteTable(w, list) // fails only when the client has gone
}

// WriteTable prints faults for people, one a line.
func WriteTable(w io.Writer, faults []FaultKind) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range faults {
		description := f.Description
		if len(f.Parameters) > 0 {
			description += " (takes " + strings.Join(f.Parameters, ", ") + ")"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\n", f.Name, description) // Flush reports
	}
	return table.Flush()
}

func sayJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // fails only when the client has gone
}
