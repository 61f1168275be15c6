package plugin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

// synthetic is the API server of a big cluster. It makes objects when they are asked for, so
// that it takes little memory beside what is measured.
type synthetic map[string]struct {
	count int
	make  func(i int) string
}

func (s synthetic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	of, ok := s[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	first, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		http.Error(w, "no limit", http.StatusBadRequest)
		return
	}
	more, last := "", min(first+limit, of.count)
	if last < of.count {
		more = strconv.Itoa(last)
	}
	fmt.Fprintf(w, `{"metadata":{"continue":%q},"items":[`, more)
	for i := first; i < last; i++ {
		if i > first {
			_, _ = w.Write([]byte(","))
		}
		_, _ = w.Write([]byte(of.make(i)))
	}
	_, _ = w.Write([]byte("]}"))
}

// big has the sizes of real objects: a Pod is 7 kB, half of it managedFields and status.
func big(b testing.TB) synthetic {
	w := healthy()
	env := []object{}
	for i := range 12 {
		env = append(env, object{"name": fmt.Sprintf("SETTING_%d", i), "value": strings.Repeat("v", 24)})
	}
	container := func(name string) object {
		return object{
			"name": name, "image": "europe-docker.pkg.dev/demo-project/images/" + name + "@sha256:" + strings.Repeat("0", 64), "env": env,
			"args":         []string{"--port=8080", "--log-level=info"},
			"resources":    object{"limits": object{"cpu": "1", "memory": "1Gi"}, "requests": object{"cpu": "100m", "memory": "128Mi"}},
			"volumeMounts": []object{{"name": "config", "mountPath": "/etc/app"}, {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}},
		}
	}
	w.spec["containers"] = []object{container("main"), container("helper")}
	w.spec["volumes"] = []object{{"name": "config", "configMap": object{"name": "app"}}, {"name": "token", "projected": object{"sources": []object{{"serviceAccountToken": object{"expirationSeconds": 3607, "path": "token"}}}}}}
	w.meta(w.pod, "annotations", object{"prometheus.io/scrape": "true", "checksum/config": strings.Repeat("0", 64)})
	w.pod["metadata"].(object)["managedFields"] = []object{{"manager": "kubelet", "fieldsV1": object{"f:status": object{"f:text": strings.Repeat("f", 3000)}}}}
	w.pod["status"] = object{"phase": "Running", "conditions": []object{{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}}, "message": strings.Repeat("m", 600)}
	template := func(o object) func(i int) string {
		text := string(mustJSON(b, o))
		return func(i int) string {
			return strings.NewReplacer("KSA", fmt.Sprintf("app-%d", i%10_000), "NODE", fmt.Sprintf("n%d", i%5000), "INDEX", strconv.Itoa(i)).Replace(text)
		}
	}
	w.spec["serviceAccountName"], w.spec["nodeName"] = "KSA", "NODE"
	w.pod["metadata"].(object)["name"] = "app-INDEX-x"
	w.account["metadata"].(object)["name"] = "KSA"
	w.meta(w.account, "annotations", object{"iam.gke.io/gcp-service-account": "KSA@demo-project.iam.gserviceaccount.com"})
	w.node["metadata"].(object)["name"] = "NODE"
	w.node["status"] = object{"conditions": []object{{"type": "Ready", "status": "True"}}, "images": strings.Repeat("i", 8000)}
	return synthetic{
		"/api/v1/pods":            {150_000, template(w.pod)},
		"/api/v1/serviceaccounts": {10_000, template(w.account)},
		"/api/v1/nodes":           {5000, template(w.node)},
		"/apis/networking.k8s.io/v1/networkpolicies": {1000, template(policy("pINDEX", object{"app": "INDEX"}, nil))},
	}
}

// BenchmarkAudit is of a cluster of 5,000 nodes, 150,000 Pods and 10,000 ServiceAccounts. The
// peak is that of this process, with the API server in it.
func BenchmarkAudit(b *testing.B) {
	api := big(b)
	server := httptest.NewServer(api)
	defer server.Close()
	c, err := plugin.NewCluster(&rest.Config{Host: server.URL})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		i, err := plugin.ReadCluster(b.Context(), c, "")
		if err != nil {
			b.Fatal(err)
		}
		if found := plugin.Audit(i); len(found) != 0 || len(i.Pods) != 150_000 {
			b.Fatalf("%d Pods, %v", len(i.Pods), found)
		}
	}
	b.ReportMetric(float64(len(api["/api/v1/pods"].make(0))), "B/Pod")
	status, err := os.ReadFile("/proc/self/status")
	if peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); err == nil && peak != nil {
		kB, _ := strconv.Atoi(string(peak[1]))
		b.ReportMetric(float64(kB)/1024, "peak-MiB")
	}
}

// The stand-in answers as the real one: what it gives is JSON, in pages.
func TestTheSyntheticClusterIsOne(t *testing.T) {
	for path, of := range big(t) {
		for _, i := range []int{0, of.count - 1} {
			if !json.Valid([]byte(of.make(i))) {
				t.Errorf("%s %d: %s", path, i, of.make(i))
			}
		}
	}
}
