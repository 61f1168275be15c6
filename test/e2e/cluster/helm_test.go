package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// People take the chart by Helm itself: it installs, its test Pod finds the right
// identity, it upgrades one node after the other, and leaves nothing but the
// namespace. Who changes from Kustomize to it takes that away before.
func TestHelmInstallsTestsUpgradesAndUninstalls(t *testing.T) {
	helm := tool(t, "HELM")
	c := shared
	c.healthy(t)
	must(t, c.uninstall(t.Context(), byKustomize))
	t.Cleanup(func() {
		// The release may be gone already.
		_ = exec.CommandContext(context.Background(), helm, "uninstall", exporter, "--namespace", namespace, "--ignore-not-found", "--wait").Run()
		err := c.install(context.Background(), byKustomize)
		if err == nil {
			err = c.rolledOut(context.Background(), namespace, exporter, 2)
		}
		if err != nil {
			t.Error(err)
		}
	})
	c.nothingIsLeft(t)

	run := func(args ...string) string {
		t.Helper()
		args = append(args, "--namespace", namespace, "--timeout", patience.String())
		out, err := exec.CommandContext(t.Context(), helm, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("helm %s: %v\n%s\n%s", strings.Join(args, " "), err, out, c.trouble(t.Context(), namespace))
		}
		return string(out)
	}
	const chart = "../../../deploy/chart"
	values := []string{
		"--wait", "--set", "googleServiceAccount=" + exporterEmail,
		"--set", "image.repository=workload-identity-exporter.local/exporter", "--set", "image.tag=test",
		"--set", "settings.WI_STARTUP_GRACE=10s",
	}
	run(append([]string{"install", exporter, chart}, values...)...)
	c.healthy(t)
	if said := run("test", exporter); !regexp.MustCompile(`Phase: +Succeeded`).MatchString(said) || !strings.Contains(said, "verdict   match") {
		t.Errorf("helm test says\n%s\nwant that it succeeded, and the verdict", said)
	}
	for _, n := range c.nodes { // wherever the test's Pod runs
		c.plan(t, n, "bypass", 0, 100*time.Second, nil) // longer than the test waits for a match, and this loop lasts
		c.awaits(t, n, "node_fallback", time.Now())
	}
	out, err := exec.CommandContext(t.Context(), helm, "test", exporter, "--namespace", namespace, "--timeout", patience.String()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "verdict   node_fallback") {
		t.Errorf("helm test in a cluster that is broken: %v\n%s\nwant an error, and the verdict", err, out)
	}
	c.healthy(t)
	run(append([]string{"upgrade", exporter, chart, "--set", "settings.WI_LOG_LEVEL=debug"}, values...)...)
	must(t, c.rolledOut(t.Context(), namespace, exporter, 2))
	c.healthy(t)
	run("uninstall", exporter, "--wait")
	c.nothingIsLeft(t)
}

// nothingIsLeft waits until the cluster has no object that was installed, and no Pod.
func (c *cluster) nothingIsLeft(t *testing.T) {
	t.Helper()
	must(t, eventually(t.Context(), func(ctx context.Context) error {
		left, err := c.left(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("there are still %s", strings.Join(left, ", "))
		}
		return err
	}))
}
