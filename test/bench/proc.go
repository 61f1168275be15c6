package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// memory is how much physical memory a process has, in bytes, as
// /proc/PID/status says (proc_pid_status(5)). Pages of files are shared by all
// processes that run the same binary, and the kernel decides how much it maps
// around each access; anonymous ones are the process's own.
type memory struct {
	rss, anonymous, file, peak int64
}

func readMemory(pid int) (memory, error) {
	status, err := os.ReadFile(proc(pid, "status"))
	if err != nil {
		return memory{}, err
	}
	return parseMemory(string(status))
}

func parseMemory(status string) (memory, error) {
	var m memory
	fields := map[string]*int64{"VmRSS": &m.rss, "RssAnon": &m.anonymous, "RssFile": &m.file, "VmHWM": &m.peak}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		field := fields[name]
		if field == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return memory{}, fmt.Errorf("read %s: %w", name, err)
		}
		*field = kib << 10
		delete(fields, name)
	}
	if len(fields) > 0 {
		return memory{}, errors.New("the status of the process says nothing of its memory")
	}
	return m, nil
}

// cpuTime is the time for which a process had a CPU, from two sources.
type cpuTime struct {
	// threads is the sum over all threads that live, in nanoseconds, from
	// /proc/PID/task/*/schedstat (Documentation/scheduler/sched-stats.rst). A
	// thread that ends takes its time with it.
	threads time.Duration
	// ticks is user and system time from /proc/PID/stat, with that of ended
	// threads, but in units of 10 ms: some percent of what a run takes.
	ticks time.Duration
}

// since is the time from an earlier reading to this one.
func (c cpuTime) since(earlier cpuTime) cpuTime {
	return cpuTime{threads: c.threads - earlier.threads, ticks: c.ticks - earlier.ticks}
}

// exact reports whether no thread has ended, so that the finer source is to be
// believed. User and system time are each rounded down to a tick, and the
// scheduler counts the running thread up to one more tick later.
func (c cpuTime) exact() bool { return c.threads > c.ticks-3*tick }

// total is the time by the finer source if it is whole. Go's runtime ends
// threads rarely, and a kernel without scheduler statistics has none.
func (c cpuTime) total() time.Duration {
	if c.exact() {
		return c.threads
	}
	return c.ticks
}

// tick is USER_HZ, which is 100 for user space on all of Go's architectures.
const tick = 10 * time.Millisecond

func readCPU(pid int) (cpuTime, error) {
	var c cpuTime
	tasks, err := filepath.Glob(proc(pid, "task/*/schedstat"))
	if err != nil {
		return c, err
	}
	for _, name := range tasks {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // ended meanwhile
		}
		if err != nil {
			return c, err
		}
		thread, err := parseSchedstat(string(text))
		if err != nil {
			return c, fmt.Errorf("%s: %w", name, err)
		}
		c.threads += thread
	}
	stat, err := os.ReadFile(proc(pid, "stat"))
	if err != nil {
		return c, err
	}
	c.ticks, err = parseStat(string(stat))
	return c, err
}

// parseSchedstat reads the time that a thread had a CPU, the first of three numbers.
func parseSchedstat(text string) (time.Duration, error) {
	first, _, _ := strings.Cut(text, " ")
	ns, err := strconv.ParseInt(first, 10, 64)
	return time.Duration(ns), err
}

// parseStat reads utime and stime, the fields 14 and 15 (proc_pid_stat(5)). They
// are counted from the name's parenthesis, because the name may hold blanks.
func parseStat(text string) (time.Duration, error) {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const utime, stime = 14 - 3, 15 - 3
	if len(fields) <= stime {
		return 0, errors.New("the stat of the process is cut off")
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[stime], 10, 64)
	return time.Duration(user+system) * tick, err
}

func proc(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }
