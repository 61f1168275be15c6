// Package contract holds the agent to what people rely on when something breaks:
// the parts of the program are put together in one process, with the simulator as
// the metadata servers and kubetest as the API server, and what Kubernetes is told
// is read where it is written.
package contract
