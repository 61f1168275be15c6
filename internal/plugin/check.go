package plugin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

const (
	// binary is the exporter in its image.
	binary = "/workload-identity-exporter"
	// uid is not root, and is that of the image.
	uid = 65532
	// look is how often it is looked whether the container has ended, and longestLog how
	// many bytes of its log are read.
	look, longestLog = 500 * time.Millisecond, 256 << 10
)

// PodCheck is how Pods are checked.
type PodCheck struct {
	// Image is the exporter's.
	Image string
	// Expect are the right identities; those of each Pod's ServiceAccount if empty.
	Expect []string
	// Timeout is how long the container may take, from its creation to its end.
	Timeout time.Duration
	// Say is told what goes on.
	Say func(string)
}

// Checked is what there is to say of one Pod.
type Checked struct {
	Namespace      string `json:"namespace"`
	Pod            string `json:"pod"`
	Node           string `json:"node,omitempty"`
	ServiceAccount string `json:"service_account,omitempty"`
	Expected       string `json:"expected,omitempty"`
	// Container is the ephemeral one, which stays listed in the Pod; empty if there is none.
	Container string `json:"container,omitempty"`
	// ExitCode is that of the exporter's check, and ExitInconclusive where there is none.
	ExitCode int `json:"exit_code"`
	// Problem is why there is no verdict, empty if there is one.
	Problem string `json:"problem,omitempty"`
	// Report is the verdict, and Log what was said in its place, if it is none.
	Report *report.Report `json:"report,omitempty"`
	Log    string         `json:"log,omitempty"`
}

// livePod is what check must know of a Pod.
type livePod struct {
	Metadata struct {
		Name              string       `json:"name"`
		Namespace         string       `json:"namespace"`
		DeletionTimestamp *metav1.Time `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		NodeName           string `json:"nodeName"`
		ServiceAccountName string `json:"serviceAccountName"`
		HostNetwork        bool   `json:"hostNetwork"`
		RuntimeClassName   string `json:"runtimeClassName"`
		OS                 struct {
			Name string `json:"name"`
		} `json:"os"`
		NodeSelector map[string]string `json:"nodeSelector"`
	} `json:"spec"`
	Status struct {
		Phase                      string      `json:"phase"`
		PodIP                      string      `json:"podIP"`
		HostIP                     string      `json:"hostIP"`
		Conditions                 []condition `json:"conditions"`
		EphemeralContainerStatuses []struct {
			Name  string `json:"name"`
			State struct {
				Waiting *struct {
					Reason  string `json:"reason"`
					Message string `json:"message"`
				} `json:"waiting"`
				Terminated *struct {
					ExitCode int    `json:"exitCode"`
					Reason   string `json:"reason"`
					Message  string `json:"message"`
				} `json:"terminated"`
			} `json:"state"`
		} `json:"ephemeralContainerStatuses"`
	} `json:"status"`
}

// liveNode is what check must know of a node.
type liveNode struct {
	Metadata struct {
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		ProviderID string `json:"providerID"`
	} `json:"spec"`
}

// workloads are the kinds whose Pods can be checked, by the names that kubectl knows.
var workloads = []struct{ group, resource, names string }{
	{"/apis/apps/v1", "deployments", "deploy deployment deployments"},
	{"/apis/apps/v1", "statefulsets", "sts statefulset statefulsets"},
	{"/apis/apps/v1", "daemonsets", "ds daemonset daemonsets"},
	{"/apis/apps/v1", "replicasets", "rs replicaset replicasets"},
	{"/apis/batch/v1", "jobs", "job jobs"},
}

// Pods finds the Pod, or at most so many ready ones of a workload, of different nodes if
// there are. What is POD or KIND/NAME, as kubectl takes it.
func (c *Cluster) Pods(ctx context.Context, namespace, what string, most int) ([]string, error) {
	kind, name, found := strings.Cut(what, "/")
	if !found {
		kind, name = "pod", what
	}
	kind, _, _ = strings.Cut(strings.ToLower(kind), ".") // of deployment.apps/NAME
	if name == "" || strings.ContainsAny(name, "/?#%") || name[0] == '.' {
		return nil, fmt.Errorf("%q: want POD or KIND/NAME, such as deploy/app", what)
	}
	if slices.Contains([]string{"pod", "pods", "po"}, kind) {
		return []string{name}, nil
	}
	for _, w := range workloads {
		if slices.Contains(strings.Fields(w.names), kind) {
			return c.ready(ctx, namespace, w.group+"/namespaces/"+namespace+"/"+w.resource+"/"+name, what, most)
		}
	}
	return nil, fmt.Errorf("%q: want a pod, deploy, statefulset, daemonset, replicaset or job", what)
}

func (c *Cluster) ready(ctx context.Context, namespace, path, what string, most int) ([]string, error) {
	var workload struct {
		Spec struct {
			Selector *metav1.LabelSelector `json:"selector"`
		} `json:"spec"`
	}
	if err := c.read(ctx, path, &workload); err != nil {
		return nil, err
	}
	selector := metav1.FormatLabelSelector(workload.Spec.Selector)
	var pods []livePod
	all := 0
	for p, err := range list[livePod](ctx, c, "/api/v1/namespaces/"+namespace+"/pods", selector, "") {
		if err != nil {
			return nil, err
		}
		all++
		if is(p.Status.Conditions, "Ready") && p.Metadata.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("none of the %d Pods of %s in the namespace %s is ready", all, what, namespace)
	}
	slices.SortFunc(pods, func(a, b livePod) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	before, of := map[string]int{}, map[string]int{} // how many of the same node come before a Pod, and how many a node has
	for _, p := range pods {
		before[p.Metadata.Name] = of[p.Spec.NodeName]
		of[p.Spec.NodeName]++
	}
	slices.SortStableFunc(pods, func(a, b livePod) int { return cmp.Compare(before[a.Metadata.Name], before[b.Metadata.Name]) })
	var names []string
	for _, p := range pods[:min(most, len(pods))] {
		names = append(names, p.Metadata.Name)
	}
	return names, nil
}

// Check asks the metadata server in the network of the Pod, by an ephemeral container
// that it adds to it. It fails if the cluster does not let it; where the Pod is the
// reason, that is the Problem. It ends with the context, and leaves the container alone.
func (c *Cluster) Check(ctx context.Context, namespace, name string, o PodCheck) (Checked, error) {
	done := Checked{Namespace: namespace, Pod: name, ExitCode: report.ExitInconclusive}
	path := "/api/v1/namespaces/" + namespace + "/pods/" + name
	var pod livePod
	if err := c.read(ctx, path, &pod); err != nil {
		return done, err
	}
	done.Node, done.ServiceAccount = pod.Spec.NodeName, cmp.Or(pod.Spec.ServiceAccountName, "default")
	var node liveNode
	if err := c.read(ctx, "/api/v1/nodes/"+pod.Spec.NodeName, &node); err != nil && ctx.Err() != nil {
		return done, err
	} // many may not read Nodes, and the Pod tells most of it
	if done.Problem = unfit(pod, node); done.Problem != "" {
		return done, nil
	}
	expected := o.Expect
	if len(expected) == 0 {
		e, err := c.expectation(ctx, namespace, done.ServiceAccount)
		if err != nil {
			return done, err
		}
		if e == "" {
			done.Problem = noExpectation(namespace, done.ServiceAccount, node)
			return done, nil
		}
		expected = []string{e}
	}
	done.Expected = strings.Join(expected, ",")
	for _, note := range notes(pod, node) {
		o.Say(note)
	}

	container := "workload-identity-" + rand.String(5)
	command := []string{binary, "check", "-expect=" + done.Expected, "-output=json"}
	if err := c.add(ctx, path, pod, container, command, o.Image); err != nil {
		return done, refused(err, namespace, name, container, o.Image, done.Expected)
	}
	done.Container = container
	o.Say(fmt.Sprintf("the ephemeral container %s asks in Pod %s/%s on %s, expecting %s", container, namespace, name, done.Node, done.Expected))
	if err := c.ended(ctx, path, &done, o.Timeout); err != nil {
		return done, fmt.Errorf("%w; what it finds is in kubectl logs -n %s %s -c %s", err, namespace, name, container)
	}
	if done.Problem != "" {
		return done, nil
	}
	log, err := c.get(ctx, path+"/log", map[string]string{"container": container, "limitBytes": strconv.Itoa(longestLog)}, "", patience)
	if err != nil {
		done.Problem = fmt.Sprintf("check ended with %d, and its log cannot be read: %s", done.ExitCode, shown(err.Error()))
		return done, nil
	}
	done.Report, done.Log = reported(log)
	return done, nil
}

func (c *Cluster) read(ctx context.Context, path string, v any) error {
	body, err := c.get(ctx, path, nil, "", patience)
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// unfit says why the Pod cannot be checked, empty if it can.
func unfit(p livePod, n liveNode) string {
	switch {
	case p.Metadata.DeletionTimestamp != nil:
		return "the Pod is being deleted"
	case p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed":
		return "the Pod has finished (" + p.Status.Phase + "), and its network is gone with it"
	case p.Status.Phase != "Running":
		return "the Pod does not run yet (" + shown(cmp.Or(p.Status.Phase, "it has no status")) + "), so it has no network to ask in"
	case p.Spec.OS.Name == "windows" || p.Spec.NodeSelector["kubernetes.io/os"] == "windows" || n.Metadata.Labels["kubernetes.io/os"] == "windows":
		return "the Pod runs on Windows, and the image is for Linux: ask the metadata server in the Pod itself"
	case p.Spec.HostNetwork:
		return "the Pod is hostNetwork, so it gets the identity of its node at any time, whatever its ServiceAccount is"
	}
	return ""
}

// notes are what somebody should know about this Pod.
func notes(p livePod, n liveNode) []string {
	var all []string
	if p.Spec.RuntimeClassName == "gvisor" {
		all = append(all, "the Pod runs in gVisor: the check runs in the same sandbox, so its answer is about this Pod and not about others on the node")
	}
	if n.Metadata.Labels != nil && n.Metadata.Labels["iam.gke.io/gke-metadata-server-enabled"] != "true" {
		all = append(all, "the node has no GKE metadata server (its pool is not in the mode GKE_METADATA)")
	}
	return all
}

// expectation is what GKE gives to Pods of the ServiceAccount, empty if it cannot be told.
func (c *Cluster) expectation(ctx context.Context, namespace, name string) (string, error) {
	var account ServiceAccount
	if err := c.read(ctx, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name, &account); err != nil {
		return "", fmt.Errorf("%w; --expect says what is right without it", err)
	}
	e, err := identity.FromAnnotations(account.Metadata.Annotations, namespace, name, "")
	if err != nil {
		return "", err
	}
	if near := identity.NearMiss(account.Metadata.Annotations); near != "" && e.Source != identity.SourceAnnotation {
		return "", fmt.Errorf("ServiceAccount %s/%s has no annotation %s, and %s looks as if it was meant to be that", namespace, name, identity.AnnotationServiceAccount, shown(near))
	}
	// What is right is one identity, and no pattern, which check does not take.
	if e.Source != identity.SourceAnnotation || len(e.Accepted) != 1 {
		return "", nil
	}
	return string(e.Accepted[0]), nil
}

func noExpectation(namespace, account string, n liveNode) string {
	pool := cmp.Or(shown(identity.PoolOf(projectOfNode(n.Spec.ProviderID))), "PROJECT.svc.id.goog")
	return fmt.Sprintf("ServiceAccount %s/%s names no Google service account by the annotation %s alone, so its Pods are a principal, which the metadata server calls %s, "+
		"or that of the fleet's host project: name what is right by --expect", namespace, account, identity.AnnotationServiceAccount, pool)
}

// add puts the ephemeral container into the Pod. It passes Pod Security "restricted".
func (c *Cluster) add(ctx context.Context, path string, p livePod, name string, command []string, image string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	env := []map[string]any{}
	for key, value := range map[string]string{ // for causes and commands in its answer
		"WI_POD_ADDRESS": p.Status.PodIP, "WI_NODE_ADDRESS": p.Status.HostIP,
		"WI_POD_NAMESPACE": p.Metadata.Namespace, "WI_POD_NAME": p.Metadata.Name,
		"WI_NODE_NAME": p.Spec.NodeName, "WI_SERVICE_ACCOUNT": p.Spec.ServiceAccountName,
	} {
		env = append(env, map[string]any{"name": key, "value": value})
	}
	body, err := json.Marshal(map[string]any{"spec": map[string]any{"ephemeralContainers": []map[string]any{{
		"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": command, "env": env,
		"securityContext": map[string]any{
			"runAsNonRoot": true, "runAsUser": uid, "runAsGroup": uid, "privileged": false,
			"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
			"capabilities":   map[string]any{"drop": []string{"ALL"}},
			"seccompProfile": map[string]any{"type": "RuntimeDefault"},
		},
	}}}})
	if err != nil {
		return err
	}
	return c.api.Verb(http.MethodPatch).AbsPath(path+"/ephemeralcontainers").SetHeader("Content-Type", string(types.StrategicMergePatchType)).
		SetHeader("Accept", "application/json").Body(body).Do(ctx).Error()
}

// refused says what to do about an API server that does not take the container. Forbidden
// is both what RBAC does not allow, and what an admission plugin does not.
func refused(err error, namespace, pod, container, image, expected string) error {
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot patch resource"):
		return fmt.Errorf("%[1]w\nSomebody who may patch pods/ephemeralcontainers can run this instead, and gets the same answer some seconds later:\n"+
			// Not with --attach, which sees nothing of what was said before it.
			"  kubectl debug -n %[2]s %[3]s --profile=restricted --image=%[4]s -c %[5]s -- %[6]s check -expect=%[7]s\n"+
			"  kubectl logs -n %[2]s %[3]s -c %[5]s", err, namespace, pod, image, container, binary, expected)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: the Pod has just gone, or the API server has no ephemeral containers", err)
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fmt.Errorf("the cluster does not admit the ephemeral container, which has no privileges and runs as uid %d: %w", uid, err)
	}
	return fmt.Errorf("add the ephemeral container: %w", err)
}

// ended waits until the container has ended, and keeps its exit code, or why it did not
// run.
func (c *Cluster) ended(ctx context.Context, path string, done *Checked, timeout time.Duration) error {
	end := time.NewTimer(timeout)
	defer end.Stop()
	last := "the kubelet has not said anything about it"
	for {
		var pod livePod
		err := c.read(ctx, path, &pod)
		switch {
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case apierrors.IsNotFound(err):
			done.Problem = "the Pod was deleted meanwhile"
			return nil
		case err != nil:
			last = shown(err.Error())
		}
		for _, s := range pod.Status.EphemeralContainerStatuses {
			if s.Name != done.Container {
				continue
			}
			if t := s.State.Terminated; t != nil {
				switch t.ExitCode {
				case report.ExitMatch, report.ExitWrong, 2, report.ExitInconclusive, report.ExitNoToken:
					done.ExitCode = t.ExitCode
				default:
					done.Problem = fmt.Sprintf("the container did not run the check: it ended with %d, %s", t.ExitCode, shown(t.Reason+" "+t.Message))
				}
				return nil
			}
			last = "it runs, and has not ended"
			if w := s.State.Waiting; w != nil {
				last = shown(w.Reason + " " + w.Message)
				if slices.Contains([]string{"ErrImagePull", "ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"}, w.Reason) {
					done.Problem = "the container does not start: " + last
					if w.Reason != "CreateContainerConfigError" {
						done.Problem += "; name an image that the node can pull by --image, such as that of the agents, for the kubelet goes on trying this one"
					}
					return nil
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-end.C:
			done.Problem = fmt.Sprintf("no answer within %s: %s", timeout, last)
			return nil
		case <-time.After(look):
		}
	}
}

// reported is the report in the log, or else the log as text: the image is whatever
// somebody named.
func reported(log []byte) (*report.Report, string) {
	text := string(log)
	if i := strings.Index("\n"+text, "\n{"); i >= 0 { // after warnings
		var r report.Report
		if err := json.NewDecoder(strings.NewReader(text[i:])).Decode(&r); err == nil && slices.Contains(identity.States(), r.State) {
			return &r, ""
		}
	}
	return nil, printable(text)
}

// printable is a foreign text of several lines without what a terminal acts upon.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// PrintChecks writes what was found in one of the Formats. Wide is as the table.
func PrintChecks(w io.Writer, all []Checked, format string) error {
	if format == "json" || format == "yaml" {
		return object(w, struct {
			Checks []Checked `json:"checks"`
		}{all}, format)
	}
	for i, c := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		var b strings.Builder
		switch {
		case c.Problem != "":
			fmt.Fprintln(&b, "no verdict:", c.Problem)
		case c.Report != nil:
			c.Report.Text(&b, false)
		default:
			fmt.Fprintf(&b, "check ended with %d and said no report:\n%s\n", c.ExitCode, c.Log)
		}
		fmt.Fprintf(w, "%-9s %s/%s on %s, ServiceAccount %s\n%s", "pod", c.Namespace, c.Pod, or(c.Node), or(c.ServiceAccount), printable(b.String()))
		if c.Container != "" {
			fmt.Fprintf(w, "%-9s the ephemeral container %s has ended or ends by itself, and stays listed in the Pod until the Pod goes: nothing can remove it\n", "note", c.Container)
		}
	}
	return nil
}

// WorstCheck is the exit code of several: a wrong identity first.
func WorstCheck(all []Checked) int {
	for _, code := range []int{report.ExitWrong, 2, report.ExitInconclusive, report.ExitNoToken} {
		if slices.ContainsFunc(all, func(c Checked) bool { return c.ExitCode == code }) {
			return code
		}
	}
	return report.ExitMatch
}
