//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is a line of the kernel's table of processes (proc_pid_stat(5)).
type process struct {
	pid, parent int
	own         time.Duration // processor time, user and system
	reaped      time.Duration // that of children that ended and were waited for
	resident    int64         // octets
}

// tick is the unit of processor time in /proc; Linux has had no other on the machines that this runs on.
const tick = 10 * time.Millisecond

// parseStat reads the content of a /proc/PID/stat. A program's name may hold anything, so what counts begins after the
// last bracket.
func parseStat(text string) (process, error) {
	var p process
	name := strings.LastIndexByte(text, ')')
	if name < 0 {
		return p, errors.New("no name in it")
	}
	number, err := strconv.Atoi(strings.TrimSpace(text[:max(0, strings.IndexByte(text, '('))]))
	if err != nil {
		return p, err
	}
	// f[0] is field 3 of the manual page.
	f := strings.Fields(text[name+1:])
	if len(f) < 22 {
		return p, fmt.Errorf("%d fields are too few", len(f))
	}
	var n [22]int64
	for _, i := range []int{1, 11, 12, 13, 14, 21} {
		if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil {
			return p, err
		}
	}
	p.pid, p.parent = number, int(n[1])
	p.own, p.reaped = time.Duration(n[11]+n[12])*tick, time.Duration(n[13]+n[14])*tick
	p.resident = n[21] * int64(os.Getpagesize())
	return p, nil
}

// treeOf returns root and all processes below it, root first.
func treeOf(root int) ([]process, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]process)
	var tree []process
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		p, err := parseStat(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if p.pid == root {
			tree = append(tree, p)
		}
		children[p.parent] = append(children[p.parent], p)
	}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i].pid]...)
	}
	return tree, nil
}

// cpu returns the processor time of a relay so far, with that of its processes that have ended.
func (k *kept) cpu() (time.Duration, error) {
	tree, err := treeOf(k.keeper())
	if err != nil {
		return 0, err
	}
	if len(tree) < 2 {
		return 0, fmt.Errorf("%s has ended; %w", k.name, k.lastWords())
	}
	sum := tree[0].reaped // what the keeper itself takes is not the relay's
	for _, p := range tree[1:] {
		sum += p.own + p.reaped
	}
	return sum, nil
}

// memory returns what a relay has in memory, in octets: for one process its resident set, for several the sum of their
// proportional ones, which counts what they share once.
func (k *kept) memory() (int64, error) {
	tree, err := treeOf(k.keeper())
	if err != nil || len(tree) < 2 {
		return 0, err
	}
	if len(tree) == 2 {
		return tree[1].resident, nil
	}
	var sum int64
	for _, p := range tree[1:] {
		if n, err := field(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid), "Pss:"); err == nil { // else it has ended
			sum += n
		}
	}
	return sum, nil
}

// peakResident returns the largest resident set that a relay of one process ever had, in octets, as the kernel counts it.
func (k *kept) peakResident() (int64, error) {
	pid, err := k.main(false)
	if err != nil {
		return 0, err
	}
	return field(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
}

// field returns a number of KiB in a file of /proc, in octets.
func field(path, name string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}

// sampler notes the peak of a relay's memory until it is stopped.
type sampler struct {
	quit chan struct{}
	peak chan int64
}

// samplePause is between two looks, which cost the relay a little.
const samplePause = 200 * time.Millisecond

func (k *kept) sample() *sampler {
	s := &sampler{quit: make(chan struct{}), peak: make(chan int64, 1)}
	go func() {
		var peak int64
		for {
			if n, err := k.memory(); err == nil {
				peak = max(peak, n)
			}
			select {
			case <-time.After(samplePause):
			case <-s.quit:
				s.peak <- peak
				return
			}
		}
	}()
	return s
}

// stop returns the peak, in octets.
func (s *sampler) stop() int64 {
	close(s.quit)
	return <-s.peak
}
