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
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "none"))
	file := filepath.Join(t.TempDir(), "dump.json")
	if err := os.WriteFile(file, []byte(dump), 0o600); err != nil {
		t.Fatal(err)
	}
	values, broken := filepath.Join(t.TempDir(), "values.yaml"), filepath.Join(t.TempDir(), "cilium.json")
	for name, text := range map[string]string{
		values: "bpf: {masquerade: true}",
		broken: dump + `{"kind": "List", "items": [
			{"kind": "Node", "metadata": {"name": "n1", "labels": {"iam.gke.io/gke-metadata-server-enabled": "true"}}},
			{"kind": "ConfigMap", "metadata": {"name": "cilium-config", "namespace": "kube-system"}, "data": {"kube-proxy-replacement": "true"}}]}`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubeconfig := filepath.Join(t.TempDir(), "none")
	for args, want := range map[string]struct {
		code          int
		out, problems string
	}{
		"":                                   {2, "", "Usage:"},
		"help":                               {0, "kubectl workload-identity audit", ""},
		"version":                            {0, "dev", ""},
		"pods":                               {2, "", "there is no such command: want nodes, audit, what-if or version"},
		"nodes -h":                           {0, "", "-watch"},
		"nodes n1":                           {2, "", `"n1" is no flag`},
		"nodes -o xml":                       {2, "", `-o="xml": want one of table, wide, json, yaml`},
		"nodes --kubeconfig " + kubeconfig:   {2, "", kubeconfig},
		"audit -f " + file:                   {0, "0 errors, 1 warnings, 0 for information", ""},
		"audit --fail-on warning -f " + file: {1, "WI102", ""},
		"audit --fail-on never -f " + file:   {0, "WI102", ""},
		"audit --fail-on often -f " + file:   {2, "", `--fail-on="often": want error, warning, info or never`},
		"audit -o json --fail-on error -f " + file:                     {0, `"evidence": "container main: \"/key.json\""`, ""},
		"audit -o wide -f " + file:                                     {0, "remedy: Remove the variable", ""},
		"audit -h":                                                     {0, "", "audit -o sarif > findings.sarif"},
		"audit -o sarif -f " + file:                                    {0, `"ruleId": "WI102"`, ""},
		"nodes -o sarif":                                               {2, "", `-o="sarif": want one of table, wide, json, yaml`},
		"audit --iam -f " + file:                                       {2, "", "--iam: there are no Application Default Credentials"},
		"what-if -h":                                                   {0, "", "what-if --set bpf.masquerade=true"},
		"what-if -f " + file:                                           {2, "", "it wants a change"},
		"what-if --set a=b -f " + file:                                 {2, "", "no key of cilium-config"},
		"what-if --cilium-config " + kubeconfig:                        {2, "", kubeconfig},
		"what-if --cilium-config " + values + " -f " + broken:          {1, `enable-bpf-masquerade: not set becomes "true"`, ""},
		"what-if --set bpf.masquerade=false -o json -f " + broken:      {0, `"then": "own"`, ""},
		"what-if --set bpf.masquerade=true --kubeconfig " + kubeconfig: {2, "", kubeconfig},
		"audit -f " + kubeconfig:                                       {2, "", kubeconfig},
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
