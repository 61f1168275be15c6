package simulator

import (
	"net/http"
	"slices"
	"strings"
)

const (
	// root is the directory of all paths; the trees below leave it out.
	root = "/computeMetadata/v1/"
	// accounts is the directory whose content depends on who asks.
	accounts = "instance/service-accounts/"
)

// tree holds the leaves of a metadata server, by path below root. The
// directories and their listings follow from them.
type tree map[string]string

// answer is what a server has to say at a path. Each server adds its own
// headers, and says in its own way what it does not have.
type answer struct {
	status int
	form   form
	body   string
}

// form tells how an answer is to be labelled.
type form int

const (
	leaf form = iota
	directory
	document // JSON
)

// find answers a path below root: the value of a leaf, or the listing of a
// directory, one entry a line, as "name" or "name/".
func (t tree) find(path string) answer {
	if value, ok := t[path]; ok {
		return answer{http.StatusOK, leaf, value}
	}
	if path != "" && !strings.HasSuffix(path, "/") {
		return answer{status: http.StatusNotFound}
	}
	var entries []string
	for name := range t {
		below, ok := strings.CutPrefix(name, path)
		if !ok {
			continue
		}
		if i := strings.IndexByte(below, '/'); i >= 0 {
			below = below[:i+1]
		}
		entries = append(entries, below)
	}
	if len(entries) == 0 {
		return answer{status: http.StatusNotFound}
	}
	return listing(entries...)
}

func listing(entries ...string) answer {
	slices.Sort(entries)
	return answer{http.StatusOK, directory, strings.Join(slices.Compact(entries), "\n") + "\n"}
}
