package metadata_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
)

// A server that answers nobody has no more of our connections than one that does.
func TestThreeConnectionsAreOpenAtMost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var serving sync.WaitGroup
	open, most, all := 0, 0, 0
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open++
			all++
			most = max(most, open)
			mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				for b := make([]byte, 1024); ; { // until the client closes
					if _, err := c.Read(b); err != nil {
						break
					}
				}
				mu.Lock()
				open--
				mu.Unlock()
			})
		}
	})
	p := metadata.New(l.Addr().String(), 300*time.Millisecond, "test/1")
	for range 3 {
		p.Probe(t.Context(), true)
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) { // the server notices a little later
			mu.Lock()
			none := open == 0
			mu.Unlock()
			if none {
				break
			}
		}
	}
	l.Close()
	serving.Wait()
	if most != 3 || all != 9 {
		t.Errorf("%d connections in three probes, %d of them at once; want 9 and 3", all, most)
	}
}
