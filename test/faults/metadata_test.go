package faults_test

import "slices"

var endpoints = []string{"email", "token", "machine-type", "identity"}

// kind is a wrong answer that any endpoint can give.
type kind struct {
	name   string
	answer answer
	// reason is that of each request that gets it.
	reason string
	// at are the endpoints of which a row is made; empty for all of them, and "all".
	at []string
	// atAccept: the request is not read, so that no endpoint is known.
	atAccept bool
	// states are right instead of those that the endpoint implies.
	states map[string]string
	sends  string
}

func metadataRows() []row {
	var rows []row
	for _, k := range kinds() {
		at := k.at
		switch {
		case k.atAccept:
			at = []string{"all"}
		case at == nil:
			at = slices.Concat([]string{"all"}, endpoints)
		}
		for _, e := range at {
			rows = append(rows, k.row(e))
		}
	}
	return rows
}

// row is the kind at the endpoint.
func (k kind) row(at string) row {
	asked, names, needed := []string{at}, []string{at}, 4
	r := row{name: at + ": " + k.name, sends: k.sends}
	switch at {
	case "all":
		asked, names = endpoints[:3], []string{"email", "token", "server"}
		r.states = "unavailable"
	case "email", "token":
		r.states = "unavailable"
	case "machine-type":
		r.states, names = "match", []string{"server"}
	case "identity":
		// It is asked once about each wrong identity.
		r.states, names, needed = "mismatch", nil, 1
	}
	if s := k.states[at]; s != "" {
		r.states = s
	}
	if k.reason != "" {
		r.failures = []string{}
		for _, n := range names {
			r.failures = append(r.failures, n+"/"+k.reason)
		}
	}
	r.begins = func(s *stage) {
		switch {
		case k.atAccept:
			s.metadata.interrupts(k.answer)
		case at == "identity":
			s.metadata.becomes(k.answer, at)
			s.metadata.gives(other)
		case at == "all":
			s.metadata.becomes(k.answer, endpoints...)
		default:
			s.metadata.becomes(k.answer, at)
		}
	}
	r.enough = func(s *stage) bool { return s.metadata.probed(needed, asked...) }
	return r
}

func kinds() []kind {
	const head = "HTTP/1.1 200 OK\r\n"
	return []kind{
		{name: "silence", answer: held(""), reason: "timeout"},
		{name: "reset in the body", answer: reset(head + "Content-Length: 1000\r\n\r\nBODY"), reason: "unreachable"},
		{name: "500", answer: code("500 Oops"), reason: "server_error", at: []string{"all", "email"}},
	}
}
