//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// workload is a load that the relays are compared by.
type workload struct {
	name, title string
	load        load
	login       bool // the smarthost demands STARTTLS and a login
	// factor is how many times as many messages relayd gets as Postfix, so that both are looked at for about as long.
	factor  int
	targets map[metric]float64
}

// metric is a figure of a run.
type metric int

const (
	intake  metric = iota // messages a second, until the last had its 250
	drain                 // messages a second, until the smarthost had the last
	cpuCost               // milliseconds of processor time a message, user and system, while the load lasted
	peak                  // octets of memory at most
	idle                  // octets of memory when there is nothing to do
	latency               // milliseconds from the 250 to the smarthost's last octet
)

// The targets are ratios to Postfix, but for memory and latency, which are what they are.
const (
	peakTarget = 80 << 20
	idleTarget = 20 << 20
	lateTarget = 2
)

func workloads() []workload {
	small := func(sessions, messages int) load { return load{sessions, messages, 2 << 10, true} }
	anew := small(16, 2000)
	anew.keepOpen = false
	return []workload{
		{"kept1", "2 KiB, 1 session kept open", small(1, 1200), false, 4, map[metric]float64{intake: 3, cpuCost: 0.25}},
		{"kept16", "2 KiB, 16 sessions kept open", small(16, 2500), false, 6, map[metric]float64{intake: 5, drain: 5, cpuCost: 0.25}},
		{"kept64", "2 KiB, 64 sessions kept open", small(64, 2500), false, 6, map[metric]float64{intake: 5, cpuCost: 0.25}},
		{"new16", "2 KiB, 16 sessions, a connection each message", anew, false, 3, map[metric]float64{cpuCost: 0.25}},
		{"tls16", "2 KiB, 16 sessions kept open, STARTTLS+AUTH smarthost", small(16, 1500), true, 6, map[metric]float64{drain: 5, cpuCost: 0.25}},
		{"100k", "100 KiB, 16 sessions kept open", load{16, 800, 100 << 10, true}, false, 2, map[metric]float64{intake: 1.3, drain: 1.3, cpuCost: 1}},
		{"1m", "1 MiB, 16 sessions kept open", load{16, 160, 1 << 20, true}, false, 2, map[metric]float64{intake: 1.3, drain: 1.3, cpuCost: 1}},
	}
}

// figures are what one run came to.
type figures struct {
	values   map[metric]float64
	sessions int64 // of TLS, and how many of them were resumed
	resumed  int64
}

const (
	warmUp      = 64
	runPatience = 2 * time.Minute
	settle      = 300 * time.Millisecond
)

// measure lets one contender carry one workload, from an empty queue.
func (l *lab) measure(ctx context.Context, c contender, w workload) (f figures, err error) {
	ctx, cancel := context.WithTimeout(ctx, runPatience)
	defer cancel()
	dir, remove, err := l.room()
	if err != nil {
		return f, err
	}
	defer remove()
	to, ca, err := l.smarthostFor(dir, w)
	if err != nil {
		return f, err
	}
	defer to.close()
	r, err := c.start(l, dir, setup{sink: to.addr(), ca: ca})
	if err != nil {
		return f, err
	}
	defer r.stop()
	if w.load.messages = l.most(w.load.messages); c.name == "relayd" {
		w.load.messages *= w.factor
	}
	before := load{w.load.sessions, warmUp, 2 << 10, true}
	if _, err = l.send(ctx, r.addr(), before); err == nil {
		_, err = to.wait(ctx, warmUp)
	}
	if err == nil {
		f.values, err = l.carry(ctx, r, to, w.load)
	}
	if s, ok := to.(*sink); ok {
		f.sessions, f.resumed = s.handshakes.Load(), s.resumed.Load()
	}
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", w.name, c.name, errors.Join(err, r.lastWords()))
	}
	return f, err
}

func (l *lab) smarthostFor(dir string, w workload) (to smarthost, ca string, err error) {
	if !w.login {
		s, err := l.startSMTPSink(dir)
		return s, "", err
	}
	s, err := startSink(dir, true)
	if err != nil {
		return nil, "", err
	}
	return s, s.ca, nil
}

// carry measures a load from its first octet until the smarthost has all of it.
func (l *lab) carry(ctx context.Context, r *relay, to smarthost, what load) (map[metric]float64, error) {
	if err := pause(ctx, settle); err != nil { // what the warm-up still costs is not the load's
		return nil, err
	}
	before, err := r.cpu()
	if err != nil {
		return nil, err
	}
	goal := to.count() + what.messages
	told := to.expect(goal)
	memory := r.sample()
	begun := time.Now()
	took, err := l.send(ctx, r.addr(), what)
	var ended time.Time
	if err == nil {
		ended, err = to.receive(ctx, told, goal)
	}
	most := memory.stop()
	if err != nil {
		return nil, err
	}
	after, err := r.cpu()
	if err != nil {
		return nil, err
	}
	if n, err := r.peakResident(); err == nil && r.single() {
		most = n
	}
	n := float64(what.messages)
	return map[metric]float64{
		intake: n / took.Seconds(), drain: n / ended.Sub(begun).Seconds(),
		cpuCost: (after - before).Seconds() * 1000 / n, peak: float64(most),
	}, nil
}

// single reports whether the relay is one process, so that the kernel's own note of its peak can be used.
func (r *relay) single() bool { return r.config != "" && !r.traced }
