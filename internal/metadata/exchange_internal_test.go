package metadata

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestWhoseTroubleANetworkErrorIs(t *testing.T) {
	for errno, want := range map[syscall.Errno]identity.Reason{
		syscall.EMFILE:        identity.LocalResources,
		syscall.ENFILE:        identity.LocalResources,
		syscall.ENOMEM:        identity.LocalResources,
		syscall.ENOBUFS:       identity.LocalResources,
		syscall.EADDRNOTAVAIL: identity.LocalResources,
		syscall.ECONNREFUSED:  identity.Unreachable,
		syscall.ECONNRESET:    identity.Unreachable,
		syscall.EHOSTUNREACH:  identity.Unreachable,
		syscall.EACCES:        identity.Unreachable,
		syscall.ETIMEDOUT:     identity.Timeout,
	} {
		err := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)}
		got := networkFailure(err, false)
		if got.Reason != want {
			t.Errorf("%v is %v, want %s", err, got, want)
		}
		if want == identity.LocalResources && !strings.Contains(got.Detail, errno.Error()) {
			t.Errorf("the detail of %v is %q, which does not say what is missing", err, got.Detail)
		}
	}
}
