package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// read asks git for the commit that is checked out in the folder.
func read(ctx context.Context, root string) (commit, error) {
	g := git{ctx: ctx, root: root}
	c := commit{Hash: g.line("rev-parse", "--verify", "HEAD")}
	seconds := g.line("log", "-1", "--format=%ct")
	c.Tags = g.lines("tag", "--points-at", "HEAD")
	// Files that git does not know of are a part of what is built, too.
	for _, line := range g.lines("status", "--porcelain", "--untracked-files=all") {
		c.Changed = append(c.Changed, strings.TrimSpace(line))
	}
	// Of all tags before it that are versions, the nearest, and of several at one
	// commit the highest. None is no error.
	var last *semver.Version
	for _, t := range g.lines("tag", "--merged", "HEAD") {
		v, ok := released(t)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(g.line("rev-list", "--count", "refs/tags/"+t+"..HEAD"))
		if err == nil && (last == nil || n < c.Distance || n == c.Distance && v.GreaterThan(last)) {
			c.Last, c.Distance, last = t, n, v
		}
	}
	if last == nil {
		c.Distance, _ = strconv.Atoi(g.line("rev-list", "--count", "HEAD"))
	}
	if g.err != nil {
		return commit{}, fmt.Errorf("the version comes from git: %w", g.err)
	}
	var err error
	c.Time, err = strconv.ParseInt(seconds, 10, 64)
	return c, err
}

// git runs commands until one fails, and keeps that error.
type git struct {
	ctx  context.Context // of the one function that it lives as long as
	root string
	err  error
}

func (g *git) line(args ...string) string { return strings.Join(g.lines(args...), "\n") }

func (g *git) lines(args ...string) []string {
	if g.err != nil {
		return nil
	}
	out, err := exec.CommandContext(g.ctx, "git", append([]string{"-C", g.root}, args...)...).Output() //nolint:gosec // the arguments are ours
	if err != nil {
		said := ""
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			said = strings.TrimSpace(string(failed.Stderr))
		}
		g.err = fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, said)
		return nil
	}
	text := strings.TrimRight(string(out), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
