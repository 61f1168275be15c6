package plugin

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// The parts of SARIF 2.1.0 that are written (OASIS, "Static Analysis Results Interchange
// Format"). Code scanning of GitHub wants a file for each result: it is named after the object.
type (
	sarifText struct {
		Text string `json:"text"`
	}
	sarifConfig struct {
		Level string `json:"level"`
	}
	sarifRule struct {
		ID      string      `json:"id"`
		Short   sarifText   `json:"shortDescription"`
		Help    sarifText   `json:"help"`
		HelpURI string      `json:"helpUri"`
		Default sarifConfig `json:"defaultConfiguration"`
	}
	sarifPhysical struct {
		Artifact sarifURI    `json:"artifactLocation"`
		Region   sarifRegion `json:"region"`
	}
	sarifURI struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		Line int `json:"startLine"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations"`
	}
	sarifResult struct {
		Rule         string            `json:"ruleId"`
		Index        int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
		Properties   map[string]string `json:"properties"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		URI   string      `json:"informationUri"`
		Rules []sarifRule `json:"rules"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
)

// level is the severity in SARIF's words.
func (s Severity) level() string {
	if s == Info {
		return "note"
	}
	return string(s)
}

// PrintSARIF writes the findings for code scanning.
func PrintSARIF(w io.Writer, found []Finding) error {
	repository, _, _ := strings.Cut(diagnose.Runbooks, "/blob/")
	run := sarifRun{Tool: sarifTool{sarifDriver{Name: "kubectl-workload-identity", URI: repository}}, Results: []sarifResult{}}
	for _, c := range Checks() {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{c.Code, sarifText{c.What}, sarifText{c.Do}, c.Link(), sarifConfig{c.Severity.level()}})
	}
	same := map[string]int{}
	for _, f := range found {
		// The evidence is left out: a finding whose words change is the same one. Several
		// of one object are told apart by their order.
		id := f.Code + "\n" + f.Object
		same[id]++
		sum := sha256.Sum256([]byte(id + "\n" + strconv.Itoa(same[id])))
		kind, name, _ := strings.Cut(f.Object, " ")
		run.Results = append(run.Results, sarifResult{
			Rule: f.Code, Index: slices.IndexFunc(Checks(), func(c Check) bool { return c.Code == f.Code }), Level: f.Severity.level(),
			Message: sarifText{f.Object + ": " + f.What + ": " + f.Evidence + " " + f.Do},
			Locations: []sarifLocation{{
				sarifPhysical{sarifURI{"kubernetes/" + strings.ToLower(kind) + "/" + escaped(name)}, sarifRegion{1}},
				[]sarifLogical{{f.Object}},
			}},
			Fingerprints: map[string]string{"object/v1": hex.EncodeToString(sum[:16])},
			Properties:   map[string]string{"link": f.Link},
		})
	}
	return object(w, sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}}, "json")
}

// escaped is a name as a path of a URI.
func escaped(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@", r) {
			return r
		}
		return '_'
	}, name)
}
