package identity

import (
	"maps"
	"slices"
	"strings"
)

// MaxTypo is how many letters two words may differ in for one to be a misspelling of
// the other.
const MaxTypo = 2

// NearMiss is a key among the annotations that was likely meant to be the one of a
// service account, and is not; empty if there is none.
func NearMiss(annotations map[string]string) string {
	const meant = "gcp-service-account"
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		name := key[strings.LastIndexByte(key, '/')+1:]
		if key != AnnotationServiceAccount && Distance(strings.ToLower(name), meant) <= MaxTypo {
			return key
		}
	}
	return ""
}

// Distance is the number of characters to insert, delete or replace to get from
// a to b (Levenshtein).
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
