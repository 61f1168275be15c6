package simulator

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// On a clock of the test's own, so that an hour takes no time.
func TestADelayEndsWithItsRequest(t *testing.T) {
	right := saying(http.StatusOK, "right")

	t.Run("after its time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			got := httptest.NewRecorder()
			after(time.Hour, right).ServeHTTP(got, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
			if took := time.Since(begin); took != time.Hour || got.Body.String() != "right" {
				t.Errorf("got %q after %s, want the answer after an hour", got.Body, took)
			}
		})
	})
	t.Run("when the client goes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			ctx, gone := context.WithTimeout(t.Context(), time.Minute)
			defer gone()
			defer func() {
				if reason, _ := recover().(error); !errors.Is(reason, http.ErrAbortHandler) || time.Since(begin) != time.Minute {
					t.Errorf("got %v after %s, want an abort after a minute", reason, time.Since(begin))
				}
			}()
			after(time.Hour, right).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody))
		})
	})
}
