package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kubeconform judges by JSON schemas, here those of the API server at hand: what
// it and the server's own look disagree about is worth knowing.
func TestKubeconformAgrees(t *testing.T) {
	kubeconform := tool(t, "KUBECONFORM")
	schemas := t.TempDir()
	writeSchemas(t, schemas)
	check := func(path string) string {
		return command(t, kubeconform, "-strict", "-summary", "-schema-location", schemas+"/{{ .ResourceKind }}.json", path)
	}
	if out := check(renderedFiles); !strings.Contains(out, "Invalid: 0, Errors: 0, Skipped: 0") {
		t.Error(out)
	}
}

// writeSchemas writes one for each kind, from the API server's description of itself.
func writeSchemas(t *testing.T, folder string) {
	t.Helper()
	text, err := shared.Discovery().RESTClient().Get().AbsPath("/openapi/v2").SetHeader("Accept", "application/json").DoRaw(t.Context())
	must(t, err)
	var description struct {
		Definitions map[string]map[string]any
	}
	must(t, json.Unmarshal(text, &description))
	kinds := map[string]string{}
	for _, file := range files(t) {
		for _, o := range rendered(t, file) {
			k := o.GroupVersionKind()
			kinds[k.Group+"/"+k.Version+"/"+k.Kind] = strings.ToLower(k.Kind)
		}
	}
	written := 0
	for id, d := range description.Definitions {
		closeTo(d)
		if strings.HasSuffix(id, ".intstr.IntOrString") {
			d["type"] = []string{"string", "integer"}
		}
	}
	for id, d := range description.Definitions {
		list, _ := d["x-kubernetes-group-version-kind"].([]any)
		for _, entry := range list {
			k, _ := entry.(map[string]any)
			kind, wanted := kinds[k["group"].(string)+"/"+k["version"].(string)+"/"+k["kind"].(string)]
			if !wanted {
				continue
			}
			schema, err := json.Marshal(map[string]any{"$ref": "#/definitions/" + id, "definitions": description.Definitions})
			must(t, err)
			must(t, os.WriteFile(filepath.Join(folder, kind+".json"), schema, 0o600))
			written++
		}
	}
	if written != len(kinds) {
		t.Errorf("%d schemas for %d kinds", written, len(kinds))
	}
}

// closeTo makes a field that a schema does not list an error, at any depth.
func closeTo(schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	if len(properties) > 0 {
		schema["additionalProperties"] = false
	}
	for _, p := range properties {
		if inner, ok := p.(map[string]any); ok {
			closeTo(inner)
		}
	}
	if items, ok := schema["items"].(map[string]any); ok {
		closeTo(items)
	}
}
