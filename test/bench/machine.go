//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// describe says what the figures were had on.
func (l *lab) describe() (string, error) {
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return "", err
	}
	release := unix.ByteSliceToString(kernel.Release[:])
	one, err := flushRate(l.dir, 1)
	if err != nil {
		return "", err
	}
	many, err := flushRate(l.dir, 16)
	if err != nil {
		return "", err
	}
	version, err := exec.Command(l.relayd, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", l.relayd, err)
	}
	return fmt.Sprintf("%s; %s, %d cores; Linux %s; %s; fdatasync of 4 KiB appended: %.0f a second by one writer, %.0f by 16 "+
		"with a file each. %s%s, %s.\n", time.Now().UTC().Format("2006-01-02 15:04 MST"), cpuModel(), runtime.NumCPU(), release,
		filesystem(l.dir), one, many, strings.TrimSpace(string(version)), commit(), l.peers.version()), nil
}

// commit returns which commit of the repository this is, in words, where git knows.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return " at commit " + strings.TrimSpace(string(out))
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// filesystem returns the kind of file system that holds dir (proc_pid_mounts(5)).
func filesystem(dir string) string {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "unknown file system"
	}
	kind, longest := "unknown file system", 0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < longest {
			continue
		}
		if rest, ok := strings.CutPrefix(dir, strings.TrimSuffix(f[1], "/")); ok && (rest == "" || rest[0] == '/') {
			kind, longest = f[2], len(f[1])
		}
	}
	return kind
}

const flushTime = time.Second

// flushRate returns how many blocks of 4 KiB a second can be appended and flushed in dir by so many writers.
func flushRate(dir string, writers int) (float64, error) {
	var n atomic.Int64
	var all sync.WaitGroup
	failed := make([]error, writers)
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	begun := time.Now()
	for i := range writers {
		all.Go(func() {
			f, err := os.CreateTemp(dir, "flush")
			if err != nil {
				failed[i] = err
				return
			}
			defer os.Remove(f.Name())
			defer f.Close()
			block := make([]byte, 4<<10)
			for ctx.Err() == nil && failed[i] == nil {
				if _, failed[i] = f.Write(block); failed[i] == nil {
					failed[i] = unix.Fdatasync(int(f.Fd()))
				}
				n.Add(1)
			}
		})
	}
	all.Wait()
	return float64(n.Load()) / time.Since(begun).Seconds(), errors.Join(failed...)
}

// ceiling is how fast the generator can be: smtp-source into smtp-sink, with no relay between.
type ceiling struct {
	title string
	rate  float64
}

// measureCeiling has each of the loads sent straight to smtp-sink.
func (l *lab) measureCeiling(ctx context.Context) ([]ceiling, error) {
	ctx, cancel := context.WithTimeout(ctx, runPatience)
	defer cancel()
	dir, remove, err := l.room()
	if err != nil {
		return nil, err
	}
	defer remove()
	to, err := l.startSMTPSink(dir)
	if err != nil {
		return nil, err
	}
	defer to.close()
	var results []ceiling
	for _, w := range workloads() {
		if w.login {
			continue
		}
		w.load.messages = l.most(w.load.messages * 4)
		took, err := l.send(ctx, to.addr(), w.load)
		if err != nil {
			return nil, fmt.Errorf("ceiling: %w", err)
		}
		results = append(results, ceiling{w.title, float64(w.load.messages) / took.Seconds()})
	}
	return results, nil
}
