package report

import (
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Exit codes of the subcommand check. 2 is a wrong flag or setting, as elsewhere.
const (
	ExitMatch        = 0
	ExitWrong        = 1
	ExitInconclusive = 3
	ExitNoToken      = 4
)

// ExitCode is what a script is to make of the state.
func ExitCode(s identity.State) int {
	switch s {
	case identity.Match:
		return ExitMatch
	case identity.NodeFallback, identity.Mismatch, identity.Unbound:
		return ExitWrong
	case identity.TokenDenied:
		return ExitNoToken
	case identity.Unavailable, identity.UnknownExpectation, identity.Stale, identity.Starting:
	}
	return ExitInconclusive
}

// Runbook is a link to what to do about the state, empty if there is nothing to do.
func Runbook(s identity.State) string {
	switch s {
	case identity.NodeFallback:
		return diagnose.Runbooks + "WorkloadIdentityNodeFallback.md"
	case identity.Mismatch:
		return diagnose.Runbooks + "WorkloadIdentityMismatch.md"
	case identity.Unbound:
		return diagnose.Runbooks + "WorkloadIdentityUnbound.md"
	case identity.TokenDenied:
		return diagnose.Runbooks + "WorkloadIdentityTokenDenied.md"
	case identity.Unavailable:
		return diagnose.Runbooks + "WorkloadIdentityMetadataUnavailable.md"
	case identity.UnknownExpectation:
		return diagnose.Runbooks + "WorkloadIdentityExpectationUnknown.md"
	case identity.Stale:
		return diagnose.Runbooks + "WorkloadIdentityProbeStale.md"
	case identity.Starting, identity.Match:
	}
	return ""
}
