//go:build linux

package main

import (
	"context"
	"fmt"
	"time"
)

// large is what large messages do to relayd.
type large struct {
	messages int
	in, out  float64 // octets a second
	peak     int64
}

const (
	largeMessages = 64
	largeSize     = 25_000_000
)

// measureLarge has relayd take and hand on many large messages at once.
func (l *lab) measureLarge(ctx context.Context) (res large, err error) {
	ctx, cancel := context.WithTimeout(ctx, runPatience)
	defer cancel()
	dir, remove, err := l.room()
	if err != nil {
		return res, err
	}
	defer remove()
	to, err := startSink("", true)
	if err != nil {
		return res, err
	}
	defer to.close()
	r, err := l.startRelayd(dir, setup{sink: to.addr(), connections: largeMessages})
	if err != nil {
		return res, err
	}
	defer r.stop()
	res.messages = l.most(largeMessages)
	octets := float64(res.messages) * largeSize
	begun := time.Now()
	took, err := l.send(ctx, r.addr(), load{res.messages, res.messages, largeSize, true})
	if err != nil {
		return res, fmt.Errorf("large: %w; %w", err, r.lastWords())
	}
	at, err := to.wait(ctx, res.messages)
	if err != nil {
		return res, fmt.Errorf("large: %w; %w", err, r.lastWords())
	}
	if got := float64(to.octets.Load()); got < octets {
		return res, fmt.Errorf("large: the smarthost has %.0f octets of %.0f", got, octets)
	}
	res.in, res.out = octets/took.Seconds(), octets/at.Sub(begun).Seconds()
	res.peak, err = r.peakResident()
	l.say("large: %.0f MB/s in, %.0f MB/s in and out, peak %s MiB", res.in/1e6, res.out/1e6, peak.show(float64(res.peak)))
	return res, err
}
