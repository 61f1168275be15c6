// Command apiserver measures what many agents are for a Kubernetes API server:
// the real loop, schedule and client of each, with its own connections, against the
// server of KUBECONFIG, while the metadata server is made up.
//
// The agents begin as a rolling update starts them. Then nothing happens for a while;
// all nodes fail at once, stay so, and recover; nobody reaches the API server; it is
// restarted, if a command for that is given; and all fail again while it rejects their
// requests (429).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"
)

func main() {
	o := options{}
	flag.IntVar(&o.agents, "agents", 1500, "how many agents")
	flag.Float64Var(&o.starts, "starts", 10, "how many of them start each second")
	flag.DurationVar(&o.settle, "settle", 30*time.Minute+30*time.Second, "from the last start until all is steady")
	flag.DurationVar(&o.steady, "steady", 15*time.Minute, "how long nothing happens, and how long all nodes stay wrong")
	flag.DurationVar(&o.failure, "failure", time.Minute, "how long each change is looked at")
	flag.StringVar(&o.restart, "restart", "", "shell `command` that restarts the API server")
	flag.StringVar(&o.picture, "picture", "", "file for the requests over time, as SVG")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

type options struct {
	agents                  int
	starts                  float64
	settle, steady, failure time.Duration
	restart, picture        string
}

func run(ctx context.Context, o options) error {
	c, err := newCluster(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	f, err := newFleet(c)
	if err != nil {
		return err
	}
	m := newMeasurement(ctx, c, f)
	m.phase("rollout", func() error { return f.start(ctx, o.agents, o.starts) })
	m.phase("until all have read the settings", func() error { return wait(ctx, o.settle) })
	m.phase("nothing happens", func() error { return wait(ctx, o.steady) })
	m.phase("all nodes fail", func() error { f.fails(true); return wait(ctx, o.failure) })
	m.phase("all stay wrong", func() error { return wait(ctx, o.steady) })
	m.phase("all recover", func() error { f.fails(false); return wait(ctx, o.failure) })
	m.phase("nobody reaches the API server", func() error { c.cut(true); return wait(ctx, o.failure) })
	m.phase("it is back", func() error { c.cut(false); return wait(ctx, o.failure) })
	if o.restart != "" {
		m.restarted("it is restarted", func() error { return errors.Join(restart(ctx, o.restart), wait(ctx, o.failure)) })
	}
	m.phase("it rejects all requests (429)", func() error { return errors.Join(c.reject(ctx, true), wait(ctx, 10*time.Second)) })
	m.phase("all nodes fail then", func() error { f.fails(true); return wait(ctx, o.failure) })
	m.phase("it answers again", func() error { return errors.Join(c.reject(ctx, false), wait(ctx, o.failure)) })
	if m.err != nil {
		return m.err
	}
	m.table(os.Stdout)
	if o.picture == "" {
		return nil
	}
	return m.draw(o.picture)
}

func restart(ctx context.Context, command string) error {
	out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput() //nolint:gosec // it is this program's own argument
	if err != nil {
		return fmt.Errorf("restart the API server: %w: %s", err, out)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
