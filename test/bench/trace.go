//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// flushes is how often a relay has the disk flush, and how often it calls the kernel at all.
type flushes struct {
	name     string
	sessions int
	flushes  float64 // fsync, fdatasync and the like, per message
	calls    float64 // all system calls, per message; 0 where they were not counted
}

const traceMessages = 500

// measureFlushes runs relayd and Postfix under strace. It returns nothing where there is no strace.
func (l *lab) measureFlushes(ctx context.Context) ([]flushes, error) {
	if _, err := exec.LookPath("strace"); err != nil {
		l.say("flushes: left out, there is no strace")
		return nil, nil
	}
	kinds := contenders()
	var results []flushes
	for _, c := range []struct {
		kind     contender
		sessions int
	}{{kinds[0], 1}, {kinds[0], 16}, {kinds[0], 64}, {kinds[2], 1}, {kinds[2], 16}} {
		f := flushes{name: c.kind.name, sessions: c.sessions}
		var err error
		if f.flushes, err = l.traced(ctx, c.kind, c.sessions, "fsync,fdatasync,sync_file_range,msync"); err == nil {
			f.calls, err = l.traced(ctx, c.kind, c.sessions, "all")
		}
		if err != nil {
			return nil, fmt.Errorf("flushes: %s: %w", f.name, err)
		}
		l.say("flushes: %s, %d sessions: %.2f flushes and %.0f system calls a message", f.name, f.sessions, f.flushes, f.calls)
		results = append(results, f)
	}
	return results, nil
}

// traced returns how many of the system calls a contender makes for each message.
func (l *lab) traced(ctx context.Context, c contender, sessions int, calls string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, runPatience)
	defer cancel()
	dir, remove, err := l.room()
	if err != nil {
		return 0, err
	}
	defer remove()
	to, err := startSink("", true)
	if err != nil {
		return 0, err
	}
	defer to.close()
	log := filepath.Join(dir, "calls")
	tracer := []string{"strace", "-f", "-qq", "-ttt", "-e", "signal=none", "-o", log, "-e", "trace=" + calls}
	if calls != "all" {
		tracer = append(tracer, "--seccomp-bpf") // others are not slowed down
	}
	if tracer[0], err = exec.LookPath("strace"); err != nil {
		return 0, err
	}
	r, err := c.start(l, dir, setup{sink: to.addr(), tracer: tracer})
	if err != nil {
		return 0, err
	}
	defer r.stopTraced()
	n := l.most(traceMessages)
	begun := time.Now()
	if _, err := l.send(ctx, r.addr(), load{sessions, n, 2 << 10, true}); err != nil {
		return 0, err
	}
	ended, err := to.wait(ctx, n)
	if err != nil {
		return 0, err
	}
	r.stopTraced()
	made, err := countCalls(log, begun, ended)
	return float64(made) / float64(n), err
}

// stopTraced ends the program beneath the tracer, which lets itself not be stopped before it.
func (r *relay) stopTraced() {
	if pid, err := r.main(true); err == nil {
		syscall.Kill(pid, syscall.SIGTERM) // an error means that it has ended
	}
	select {
	case <-r.done:
	case <-time.After(stopPatience):
	}
	r.stop()
}

// countCalls counts the lines of an strace log that begin a call between two times: "PID TIME NAME(...". A call that
// was interrupted by another thread's has a second line, which begins with "<...".
func countCalls(path string, from, to time.Time) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n := 0
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if n == 0 {
				err = errors.New("strace has seen nothing")
			} else {
				err = nil
			}
			return n, err
		}
		words := strings.Fields(line)
		if len(words) < 3 || strings.HasPrefix(words[2], "<...") || strings.HasPrefix(words[2], "+++") || strings.HasPrefix(words[2], "---") {
			continue
		}
		at, err := strconv.ParseFloat(words[1], 64)
		if err == nil && at >= seconds(from) && at <= seconds(to) {
			n++
		}
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }
