//go:build linux

package main

import (
	"context"
	"fmt"
	"net/textproto"
	"strings"
	"time"
)

const (
	probes      = 20
	probePause  = 100 * time.Millisecond
	probeBefore = 3 // probes that are not counted: connections and processes are made
	idleRest    = time.Second
)

// measureIdle sends a relay one message at a time, and looks at how much later than its 250 it is with the smarthost,
// and at what the relay has in memory when all is quiet again.
func (l *lab) measureIdle(ctx context.Context, c contender) (map[metric]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, runPatience)
	defer cancel()
	dir, remove, err := l.room()
	if err != nil {
		return nil, err
	}
	defer remove()
	to, err := startSink("", true)
	if err != nil {
		return nil, err
	}
	defer to.close()
	r, err := c.start(l, dir, setup{sink: to.addr()})
	if err != nil {
		return nil, err
	}
	defer r.stop()
	var times []float64
	for i := range probeBefore + l.most(probes) {
		if err := pause(ctx, probePause); err != nil {
			return nil, err
		}
		told := to.expect(to.count() + 1)
		taken, err := submit(r.addr())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		arrived, err := to.receive(ctx, told, i+1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		if i >= probeBefore {
			times = append(times, arrived.Sub(taken).Seconds()*1000)
		}
	}
	if err := pause(ctx, idleRest); err != nil {
		return nil, err
	}
	memory, err := r.memory()
	return map[metric]float64{latency: median(times), idle: float64(memory)}, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// submit hands a small message to a relay and returns when its 250 came.
func submit(addr string) (taken time.Time, err error) {
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		return taken, err
	}
	defer c.Close()
	if _, _, err := c.ReadResponse(220); err != nil {
		return taken, err
	}
	body := "Subject: probe\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 14) + "."
	for _, step := range []struct {
		line string
		code int
	}{
		{"EHLO probe.lan.example", 250}, {"MAIL FROM:<a@lan.example>", 250}, {"RCPT TO:<b@dest.example>", 250}, {"DATA", 354}, {body, 250},
	} {
		if err := c.PrintfLine("%s", step.line); err != nil {
			return taken, err
		}
		if _, _, err := c.ReadResponse(step.code); err != nil {
			return taken, err
		}
		taken = time.Now()
	}
	return taken, c.PrintfLine("QUIT")
}
