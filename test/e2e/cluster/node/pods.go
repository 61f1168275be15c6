package main

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// byAddress is the index of Pods by their address.
const byAddress = "address"

// pods are those of the node, with their ServiceAccounts, as GKE's metadata
// server keeps them. Without the API server it stays with what it knows.
type pods struct {
	index    cache.Indexer
	accounts listers.ServiceAccountLister
}

func watchPods(ctx context.Context, node string) (*pods, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	here := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
	}))
	everywhere := informers.NewSharedInformerFactory(client, 0)
	informer := here.Core().V1().Pods().Informer()
	if err := informer.AddIndexers(cache.Indexers{byAddress: addresses}); err != nil {
		return nil, err
	}
	p := &pods{index: informer.GetIndexer(), accounts: everywhere.Core().V1().ServiceAccounts().Lister()}
	for _, f := range []informers.SharedInformerFactory{here, everywhere} {
		f.Start(ctx.Done())
		for what, synced := range f.WaitForCacheSync(ctx.Done()) {
			if !synced {
				return nil, fmt.Errorf("list %s: %w", what, context.Cause(ctx))
			}
		}
	}
	return p, nil
}

// addresses of a Pod that has its own, and still runs.
func addresses(o any) ([]string, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok || pod.Spec.HostNetwork || pod.Status.PodIP == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil, nil
	}
	return []string{pod.Status.PodIP}, nil
}

// lookup finds the Pod of a source address.
func (p *pods) lookup(source netip.Addr) (simulator.Pod, bool) {
	found, err := p.index.ByIndex(byAddress, source.String())
	if err != nil || len(found) == 0 {
		return simulator.Pod{}, false
	}
	pod := found[0].(*corev1.Pod)
	account, err := p.accounts.ServiceAccounts(pod.Namespace).Get(pod.Spec.ServiceAccountName)
	if err != nil {
		return simulator.Pod{}, false
	}
	return simulator.Pod{
		Namespace: pod.Namespace, ServiceAccount: account.Name,
		GSA:             account.Annotations[identity.AnnotationServiceAccount],
		ReturnPrincipal: account.Annotations[identity.AnnotationReturnPrincipal] == "true",
	}, true
}
