package kube

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// maxNodeConfigs is more than a cluster has node pools.
const maxNodeConfigs = "200"

// readNodeConfigs lists the CiliumNodeConfigs, and keeps those that may be of this node.
// The kind is in v2 since Cilium 1.16, and in v2alpha1 before.
func (r *settingsReader) readNodeConfigs(ctx context.Context) {
	r.NodeConfigs = diagnose.NodeConfigs{}
	var list struct {
		Metadata struct {
			Continue string `json:"continue"`
		} `json:"metadata"`
		Items []struct {
			Metadata object `json:"metadata"`
			Spec     struct {
				Selector *metav1.LabelSelector `json:"nodeSelector"`
				Defaults map[string]string     `json:"defaults"`
			} `json:"spec"`
		} `json:"items"`
	}
	var err error
	for _, version := range []string{"v2", "v2alpha1"} {
		path := "/apis/cilium.io/" + version + "/namespaces/" + r.Cilium.Namespace + "/ciliumnodeconfigs"
		if _, err = r.client.get(ctx, CiliumNodeConfigs, path, url.Values{"limit": {maxNodeConfigs}}, &list); reasonOf(err) != NotFound {
			break
		}
	}
	if err != nil {
		r.NodeConfigs.State = r.failed(diagnose.ObjectNodeConfigs, err)
		return
	}
	if list.Metadata.Continue != "" {
		return // there are more, which may be of this node
	}
	r.NodeConfigs.State = diagnose.Read
	for _, item := range list.Items {
		n := diagnose.NodeConfig{Name: item.Metadata.Name, Defaults: item.Spec.Defaults, Changed: item.Metadata.changedBelow("f:spec")}
		selector, err := metav1.LabelSelectorAsSelector(item.Spec.Selector)
		switch {
		case item.Spec.Selector == nil:
			n.Selects = diagnose.No
		case err != nil: // the API server accepts none of these
		case r.NodeLabels == nil && !selector.Empty():
		case selector.Matches(labels.Set(r.NodeLabels)):
			n.Selects = diagnose.Yes
		default:
			n.Selects = diagnose.No
		}
		if n.Selects != diagnose.No {
			r.NodeConfigs.Items = append(r.NodeConfigs.Items, n)
		}
	}
	slices.SortFunc(r.NodeConfigs.Items, func(a, b diagnose.NodeConfig) int { return strings.Compare(a.Name, b.Name) })
}

// readCiliumPod reads when Cilium's agent on this node started, and which version it is.
func (r *settingsReader) readCiliumPod(ctx context.Context) {
	r.CiliumAgent = diagnose.CiliumAgent{}
	if r.self.Node == "" {
		return
	}
	var list struct {
		Items []struct {
			Metadata struct {
				Deletion *time.Time `json:"deletionTimestamp"`
			} `json:"metadata"`
			Spec   podSpec `json:"spec"`
			Status struct {
				Started *time.Time `json:"startTime"`
			} `json:"status"`
		} `json:"items"`
	}
	query := url.Values{"limit": {"10"}, "labelSelector": {"k8s-app=cilium"}, "fieldSelector": {"spec.nodeName=" + r.self.Node}}
	if _, err := r.client.get(ctx, Pods, "/api/v1/namespaces/"+r.Cilium.Namespace+"/pods", query, &list); err != nil {
		r.CiliumAgent.State = r.failed(diagnose.ObjectCiliumPod, err)
		return
	}
	r.CiliumAgent.State = diagnose.Absent
	for _, pod := range list.Items {
		if pod.Metadata.Deletion == nil && pod.Status.Started != nil && pod.Status.Started.After(r.CiliumAgent.Started) {
			r.CiliumAgent = diagnose.CiliumAgent{State: diagnose.Read, Started: *pod.Status.Started, Version: pod.Spec.version()}
		}
	}
}

// readCiliumVersion reads the version from the DaemonSet, whose Pods it may be that of.
func (r *settingsReader) readCiliumVersion(ctx context.Context) {
	var o struct {
		Spec struct {
			Template struct {
				Spec podSpec `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	if _, err := r.client.get(ctx, DaemonSets, "/apis/apps/v1/namespaces/"+r.Cilium.Namespace+"/daemonsets/cilium", nil, &o); err == nil {
		r.CiliumAgent.Version = o.Spec.Template.Spec.version()
	}
}

// podSpec is as much of a Pod's as tells the version of Cilium.
type podSpec struct {
	Containers []struct {
		Name  string `json:"name"`
		Image string `json:"image"`
	} `json:"containers"`
}

// version is the tag of the agent's image, such as v1.20.2.
func (s podSpec) version() string {
	for _, c := range s.Containers {
		if c.Name == "cilium-agent" {
			image, _, _ := strings.Cut(c.Image, "@")
			return tag(image)
		}
	}
	return ""
}

// tag is what follows the last colon of an image's name, unless that is of a port.
func tag(image string) string {
	i := strings.LastIndexByte(image, ':')
	if i < 0 || strings.Contains(image[i:], "/") {
		return ""
	}
	return image[i+1:]
}
