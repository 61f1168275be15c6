package metadata

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// A panic in a goroutine of its own would end the process, so the caller must
// get it, with the place that panicked; but not its value, which may hold a part of
// an answer.
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
				p, ok := recover().(Panic)
				if says := fmt.Sprint(p); !ok || !strings.Contains(says, tt.says) || strings.Contains(fmt.Sprintf("%s %+v %s", says, p, p.Stack()), "secret") {
					t.Errorf("panic %q, want one with %q and without the value", says, tt.says)
				}
				if stack := string(p.Stack()); !strings.Contains(stack, "thePlaceThatPanics(") {
					t.Errorf("the stack does not show the place that panicked:\n%s", stack)
				}
				if done != 1 {
					t.Error("the other request was not waited for")
				}
			}()
			atOnce([]func(){func() { thePlaceThatPanics(tt.f) }, func() { done++ }})
		})
	}
	atOnce([]func(){func() {}}) // no panic
}

//go:noinline
func thePlaceThatPanics(f func()) { f() }
