package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Environment is a copy of a process's variables, by name. It is taken once, so
// that nobody who changes one of them changes what others find.
type Environment map[string]string

// EnvironmentOf reads a list such as that of os.Environ, NAME=VALUE each.
func EnvironmentOf(variables []string) Environment {
	e := Environment{}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		e[name] = value
	}
	return e
}

// Typos are the variables that have the prefix but are none of ours, each with
// the one that it resembles most. They are not errors: for a Service named wi-x,
// Kubernetes itself sets WI_X_PORT and others.
func (e Environment) Typos() []string {
	var known []string
	for _, v := range Variables() {
		known = append(known, v.Name)
	}
	var typos []string
	for _, name := range slices.Sorted(maps.Keys(e)) {
		if !strings.HasPrefix(name, Prefix+"_") || slices.Contains(known, name) {
			continue
		}
		nearest := slices.MinFunc(known, func(a, b string) int { return identity.Distance(name, a) - identity.Distance(name, b) })
		if identity.Distance(name, nearest) <= 3 {
			name += " (did you mean " + nearest + "?)"
		}
		typos = append(typos, name)
	}
	return typos
}
