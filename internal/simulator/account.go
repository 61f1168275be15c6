package simulator

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// account is the service account that a server hands out to the one who asks:
// the content of service-accounts/.
type account struct {
	email  string
	tokens Tokens
	// identity makes the JWT for an audience; nil where the server has none.
	identity func(audience, format string) string
}

// scopes of the tokens. GKE's documentation asks for cloud-platform on nodes,
// and gives both to workloads.
const scopes = "https://www.googleapis.com/auth/cloud-platform\nhttps://www.googleapis.com/auth/userinfo.email\n"

// find answers a path below service-accounts/. An account has two names there:
// "default" and its own email, and others do not exist.
func (a account) find(path string, query url.Values) answer {
	recursive := query.Get("recursive") == "true"
	if path == "" {
		if recursive {
			return encode(map[string]any{"default": a.describe(), a.email: a.describe()})
		}
		return listing("default/", a.email+"/")
	}
	name, ok := strings.CutPrefix(path, "default/")
	if !ok {
		// An email in the principal form has slashes of its own.
		name, ok = strings.CutPrefix(path, a.email+"/")
	}
	if !ok {
		return answer{status: http.StatusNotFound}
	}
	switch name {
	case "":
		if recursive {
			return encode(a.describe())
		}
		return listing("aliases", "email", "identity", "scopes", "token")
	case "aliases":
		return answer{http.StatusOK, leaf, "default\n"}
	case "email":
		return answer{http.StatusOK, leaf, a.email}
	case "scopes":
		return answer{http.StatusOK, leaf, scopes}
	case "token":
		return answer{http.StatusOK, document, a.tokens.document(a.email)}
	case "identity":
		return a.jwt(query.Get("audience"), query.Get("format"))
	default:
		return answer{status: http.StatusNotFound}
	}
}

func (a account) jwt(audience, format string) answer {
	switch {
	case a.identity == nil:
		return answer{status: http.StatusNotFound}
	case audience == "":
		return answer{http.StatusBadRequest, leaf, "non-empty audience parameter required\n"}
	default:
		return answer{http.StatusOK, leaf, a.identity(audience, format)}
	}
}

// describe is the account as a document, which client libraries ask for with
// ?recursive=true.
func (a account) describe() map[string]any {
	return map[string]any{
		"aliases": []string{"default"},
		"email":   a.email,
		"scopes":  strings.Fields(scopes),
	}
}

func encode(value any) answer {
	// Maps of strings and lists of strings always encode.
	text, _ := json.Marshal(value)
	return answer{http.StatusOK, document, string(text)}
}
