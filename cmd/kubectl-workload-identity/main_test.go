package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const dump = `{"kind": "List", "items": [
	{"kind": "ServiceAccount", "metadata": {"name": "app", "namespace": "shop", "annotations": {"iam.gke.io/gcp-service-account": "app@demo-project.iam.gserviceaccount.com"}}},
	{"kind": "Pod", "metadata": {"name": "app", "namespace": "shop"}, "spec": {"serviceAccountName": "app", "containers": [
		{"name": "main", "env": [{"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": "/key.json"}]}]}, "status": {"phase": "Running"}}
]}`

func TestCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dump.json")
	if err := os.WriteFile(file, []byte(dump), 0o600); err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "none")
	for args, want := range map[string]struct {
		code          int
		out, problems string
	}{
		"":                                   {2, "", "Usage:"},
		"help":                               {0, "kubectl workload-identity audit", ""},
		"version":                            {0, "dev", ""},
		"pods":                               {2, "", "there is no such command: want nodes, audit or version"},
		"nodes -h":                           {0, "", "-watch"},
		"nodes n1":                           {2, "", `"n1" is no flag`},
		"nodes -o xml":                       {2, "", `-o="xml": want one of table, wide, json, yaml`},
		"nodes --kubeconfig " + kubeconfig:   {2, "", kubeconfig},
		"audit -f " + file:                   {0, "0 errors, 1 warnings, 0 for information", ""},
		"audit --fail-on warning -f " + file: {1, "WI102", ""},
		"audit --fail-on never -f " + file:   {0, "WI102", ""},
		"audit --fail-on often -f " + file:   {2, "", `--fail-on="often": want error, warning, info or never`},
		"audit -o json --fail-on error -f " + file: {0, `"evidence": "container main: \"/key.json\""`, ""},
		"audit -o wide -f " + file:                 {0, "remedy: Remove the variable", ""},
		"audit -f " + kubeconfig:                   {2, "", kubeconfig},
	} {
		var out, problems bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), &out, &problems); code != want.code {
			t.Errorf("%s: exit code %d, want %d", args, code, want.code)
		}
		if !strings.Contains(out.String(), want.out) || !strings.Contains(problems.String(), want.problems) {
			t.Errorf("%s says %q and %q, want %q and %q", args, out.String(), problems.String(), want.out, want.problems)
		}
	}
}
