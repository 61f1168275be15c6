package kube_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) {
	if os.Getenv("KUBECONFIG") != "" {
		klog.LogToStderr(false)
		klog.SetOutput(clientLog)
		os.Exit(m.Run())
	}
	if os.Getenv("CI") != "" {
		fmt.Fprintln(os.Stderr, "kube: KUBECONFIG is not set: this suite needs a cluster, and in CI it must not be skipped")
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "kube: KUBECONFIG is not set: this suite needs a cluster and is skipped")
}

// clientLog is what client-go logs by itself, which would stand between the
// exporter's own lines.
var clientLog = &lines{}

type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns what was written since the last time.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}
