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
	contexts := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(contexts, []byte(`{"apiVersion": "v1", "kind": "Config", "contexts": [{"name": "staging", "context": {}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", contexts)
	for args, want := range map[string]struct {
		code          int
		out, problems string
	}{
		"":                                    {2, "kubectl workload-identity [command]", "which command?"},
		"help":                                {0, "what-if", ""},
		"version":                             {0, "dev", ""},
		"--version":                           {0, "dev", ""},
		"pods":                                {2, "", `unknown command "pods" for "kubectl workload-identity"`},
		"audti":                               {2, "", "\taudit"},
		"nodes -h":                            {0, "--watch", ""},
		"nodes -h --x":                        {2, "", "unknown flag: --x"},
		"nodes n1":                            {2, "", `unknown command "n1" for "kubectl workload-identity nodes"`},
		"nodes -oxml":                         {2, "", `--output="xml": want one of table, wide, json, yaml`},
		"nodes -A --kubeconfig " + kubeconfig: {2, "", kubeconfig},
		"exposed -h":                          {0, "--prometheus", ""},
		"exposed -o xml":                      {2, "", `want one of table, wide, json, yaml, name`},
		"nodes -o name":                       {2, "", `want one of table, wide, json, yaml`},
		"exposed --since 0s":                  {2, "", "--since=0s: want a duration above 0s"},
		"exposed --match x=1":                 {2, "", "--match is for --prometheus"},
		"exposed --kubeconfig " + kubeconfig:  {2, "", kubeconfig},
		"check -h":                            {0, "kubectl workload-identity check POD|KIND/NAME [flags]", ""},
		"check":                               {2, "", "want one POD or KIND/NAME"},
		"check a b":                           {2, "", "want one POD or KIND/NAME"},
		"check -A a --image x":                {2, "", "a Pod is in one namespace"},
		"check deploy/app -o json":            {2, "", "this is version dev, for which no image was released"},
		"check app --image x --timeout 0s":    {2, "", "--timeout=0s: want a duration above 0s"},
		"check --pods 0 app --image x":        {2, "", "--pods=0: want 1 or more"},
		"check app --image x --kubeconfig " + kubeconfig: {2, "", kubeconfig},
		"audit -f " + file:                                             {0, "0 errors, 1 warning, 0 for information", ""},
		"audit --fail-on warning -f " + file:                           {1, "WI102", ""},
		"audit --fail-on never -f " + file:                             {0, "WI102", ""},
		"audit --fail-on often -f " + file:                             {2, "", `--fail-on="often": want error, warning, info or never`},
		"audit -o json --fail-on error -f " + file:                     {0, `"evidence": "container main: \"/key.json\""`, ""},
		"audit -o wide -f " + file:                                     {0, "remedy: Remove the variable", ""},
		"audit -f " + kubeconfig:                                       {2, "", kubeconfig},
		"audit -h":                                                     {0, "audit -o sarif > findings.sarif", ""},
		"audit -o sarif -f " + file:                                    {0, `"ruleId": "WI102"`, ""},
		"nodes -o sarif":                                               {2, "", `--output="sarif": want one of table, wide, json, yaml`},
		"audit --iam -f " + file:                                       {2, "", "--iam: there are no Application Default Credentials"},
		"what-if -h":                                                   {0, "what-if --set bpf.masquerade=true", ""},
		"what-if -f " + file:                                           {2, "", "it wants a change"},
		"what-if --set a=b -f " + file:                                 {2, "", "no key of cilium-config"},
		"what-if --cilium-config " + kubeconfig:                        {2, "", kubeconfig},
		"what-if --cilium-config " + values + " -f " + broken:          {1, `enable-bpf-masquerade: not set becomes "true"`, ""},
		"what-if --set bpf.masquerade=false -o json -f " + broken:      {0, `"then": "own"`, ""},
		"what-if --set bpf.masquerade=true --kubeconfig " + kubeconfig: {2, "", kubeconfig},
		// What kubectl asks for when somebody presses Tab.
		"__complete ":                                       {0, "audit\t", ""},
		"__complete nodes -o ":                              {0, "wide\n", ""},
		"__complete audit -o ":                              {0, "sarif\n", ""},
		"__complete audit --fail-on ":                       {0, "never\n", ""},
		"__complete nodes --conte":                          {0, "--context\t", ""},
		"__complete nodes --context ":                       {0, "staging\n", ""},
		"__complete check --kubeconfig " + kubeconfig + " ": {0, ":1\n", ""},
	} {
		var out, problems bytes.Buffer
		if code := run(t.Context(), words(args), &out, &problems); code != want.code {
			t.Errorf("%s: exit code %d, want %d", args, code, want.code)
		}
		if !strings.Contains(out.String(), want.out) || !strings.Contains(problems.String(), want.problems) {
			t.Errorf("%s says %q and %q, want %q and %q", args, out.String(), problems.String(), want.out, want.problems)
		}
	}
}

func TestTheImageOfCheckIsThatOfTheChart(t *testing.T) {
	values, err := os.ReadFile("../../deploy/chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(values), "\n  repository: "+imageRepository+"\n") {
		t.Errorf("the chart has another image than %s", imageRepository)
	}
	for version, want := range map[string]bool{"0.1.0": true, "1.2.3-rc.1": true, "0.1.0-12-gabcdef0": false, "dev": false, "0.1.0-dirty": false} {
		if released.MatchString(version) != want {
			t.Errorf("released(%s) is not %v", version, want)
		}
	}
}

// words are those of a command line. A space at its end begins an empty one, as for Tab.
func words(line string) []string {
	all := strings.Fields(line)
	if strings.HasSuffix(line, " ") {
		all = append(all, "")
	}
	return all
}
