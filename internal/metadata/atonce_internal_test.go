package metadata

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// A panic in a goroutine of its own would end the process, so the caller must
// get it; but not its value, which may hold a part of an answer.
func TestAPanicReachesTheCallerWithoutItsValue(t *testing.T) {
	var nothing []int
	for name, tt := range map[string]struct {
		f    func()
		says string
	}{
		"a value of somebody's": {func() { panic("ya29.secret") }, "a string"},
		"an error":              {func() { panic(errors.New("ya29.secret")) }, "a *"},
		"the runtime":           {func() { _ = nothing[3] }, "index out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			done := 0
			defer func() {
				r := fmt.Sprint(recover())
				if !strings.Contains(r, tt.says) || strings.Contains(r, "secret") {
					t.Errorf("panic %q, want one with %q and without the value", r, tt.says)
				}
				if done != 1 {
					t.Error("the other request was not waited for")
				}
			}()
			atOnce([]func(){tt.f, func() { done++ }})
		})
	}
	atOnce([]func(){func() {}}) // no panic
}
