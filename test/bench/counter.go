//go:build linux

package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// counter counts the messages that a smarthost took, and tells when there were so many.
type counter struct {
	mu   sync.Mutex
	n    int
	want int
	told chan time.Time // set while somebody waits
}

// set notes that there were n by now.
func (c *counter) set(n int) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = n
	c.tell(now)
}

func (c *counter) add() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.tell(now)
}

// tell tells who waits. c.mu is held.
func (c *counter) tell(now time.Time) {
	if c.told != nil && c.n >= c.want {
		c.told <- now
		c.told = nil
	}
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// expect returns a channel that gets the time at which there were n messages. One at a time may wait.
func (c *counter) expect(n int) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := make(chan time.Time, 1)
	c.told, c.want = told, n
	c.tell(time.Now())
	return told
}

// wait returns when there were n messages.
func (c *counter) wait(ctx context.Context, n int) (time.Time, error) {
	return c.receive(ctx, c.expect(n), n)
}

// receive waits for what expect(n) returned.
func (c *counter) receive(ctx context.Context, told <-chan time.Time, n int) (time.Time, error) {
	select {
	case at := <-told:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("the smarthost has %d messages of %d: %w", c.count(), n, context.Cause(ctx))
	}
}
