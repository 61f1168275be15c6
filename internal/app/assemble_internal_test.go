package app

import (
	"reflect"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

func TestHostNetworkIsToldByTheTwoAddresses(t *testing.T) {
	for _, tt := range []struct {
		pod, node string
		want      diagnose.Tristate
	}{
		{"", "", diagnose.Unknown},
		{"10.0.0.1", "", diagnose.Unknown},
		{"", "10.0.0.1", diagnose.Unknown},
		{"10.0.0.1", "10.0.0.1", diagnose.Yes},
		{"10.4.0.1", "10.0.0.1", diagnose.No},
	} {
		if got := hostNetwork(config.Config{PodAddress: tt.pod, NodeAddress: tt.node}); got != tt.want {
			t.Errorf("Pod %q, node %q: %v, want %v", tt.pod, tt.node, got, tt.want)
		}
	}
}

// The address of a proxy may hold a password.
func TestVariablesThatLeadElsewhereAreNamedWithoutTheirValues(t *testing.T) {
	c := config.Config{MetadataHost: "169.254.169.254"}
	e := config.Environment{"HTTP_PROXY": "http://user:password@proxy", "NO_PROXY": "", "GCE_METADATA_HOST": "x", "PATH": "/bin"}
	if got, want := environmentFacts(c, e), (diagnose.Environment{Variables: []string{"GCE_METADATA_HOST", "HTTP_PROXY"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	c.MetadataHost = "127.0.0.1:80"
	if got, want := environmentFacts(c, nil), (diagnose.Environment{MetadataHost: "127.0.0.1:80"}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := environmentWarnings(config.Config{MetadataHost: "169.254.169.254"}, config.Environment{"GCE_METADATA_HOST": "169.254.169.254"}); got != nil {
		t.Errorf("warnings %q where nothing is elsewhere", got)
	}
}
