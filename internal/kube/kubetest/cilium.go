package kubetest

import "time"

// ConfigMap is one of a cluster, whose values were changed last at this time. The API
// server notes that by the second.
func ConfigMap(data map[string]string, changed time.Time) any {
	owned := map[string]any{}
	for key := range data {
		owned["f:"+key] = map[string]any{}
	}
	return map[string]any{
		"metadata": map[string]any{"managedFields": []any{map[string]any{
			"manager": "helm", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
			"time": changed.UTC().Format(time.RFC3339), "fieldsV1": map[string]any{"f:data": owned},
		}}},
		"data": data,
	}
}

// CiliumPods is the list of the Pods of Cilium's agent on the Node: one, which started
// at this time.
func CiliumPods(image string, started time.Time) any {
	return map[string]any{"items": []any{map[string]any{
		"metadata": map[string]any{"name": "cilium-abcde", "labels": map[string]string{"k8s-app": "cilium"}},
		"spec":     ciliumAgent(image, Node),
		"status":   map[string]any{"startTime": started.UTC().Format(time.RFC3339)},
	}}}
}

// CiliumDaemonSet is that whose Pods they are.
func CiliumDaemonSet(image string) any {
	return map[string]any{"spec": map[string]any{"template": map[string]any{"spec": ciliumAgent(image, "")}}}
}

func ciliumAgent(image, node string) map[string]any {
	spec := map[string]any{"containers": []any{map[string]any{"name": "cilium-agent", "image": image}}}
	if node != "" {
		spec["nodeName"] = node
	}
	return spec
}
