package queue

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// large is content that goes to the spool.
func large() []byte { return bytes.Repeat([]byte("a line of text\r\n"), inlineLimit/8) }

// refused hands in a message that must be refused, and returns the code of the reply.
func (r *rig) refused(content []byte) int {
	r.t.Helper()
	w, err := r.Begin(testEnvelope("a@example.com"), envelope.Origin{})
	if err == nil {
		if _, err = w.Write(content); err == nil {
			err = w.Commit(context.Background())
		} else {
			_ = w.Abort()
		}
	}
	if err == nil {
		r.t.Fatal("the message was taken")
	}
	reply := envelope.Reply{Code: 451} // what the relay answers to an error without a reply
	_ = errors.As(err, &reply)
	return reply.Code
}

// Whatever has new mail refused is a trouble at once, before and after the first client met it, and none any more once it
// is over. The log says that it begins and that it ends, once each.
func TestIntake_WhatRefusesMailIsATrouble(t *testing.T) {
	for name, c := range map[string]struct {
		content []byte
		code    int
		begin   func(r *rig, p Policy) (end func())
		words   string
	}{
		"max_messages": {[]byte("x\r\n"), 452, func(r *rig, p Policy) func() {
			q := p
			q.MaxMessages = 1
			r.Configure(r.transport, "relay.example", q)
			return func() { r.Configure(r.transport, "relay.example", p) }
		}, "max_messages is 1"},
		"max_bytes": {[]byte("x\r\n"), 452, func(r *rig, p Policy) func() {
			q := p
			q.MaxBytes = 10
			r.Configure(r.transport, "relay.example", q)
			return func() { r.Configure(r.transport, "relay.example", p) }
		}, "max_bytes is 10"},
		"min_free": {[]byte("x\r\n"), 452, func(r *rig, p Policy) func() {
			q := p
			q.MinFree = 1 << 60
			r.Configure(r.transport, "relay.example", q)
			return func() { r.Configure(r.transport, "relay.example", p) }
		}, "nearly full and no mail is taken"},
		"no folder of large messages": {large(), 451, func(r *rig, _ Policy) func() {
			folder := filepath.Join(r.dir, "spool")
			aside := folder + ".aside"
			must(r.t, os.Rename(folder, aside))
			return func() { must(r.t, os.Rename(aside, folder)) }
		}, "messages over 64 KiB are refused"},
		"a disk that hangs": {[]byte("x\r\n"), 451, func(r *rig, _ Policy) func() {
			end := r.watch.begin("a call that hangs")
			time.Sleep(diskPatience)
			return end
		}, "has not answered since"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startRig(t, newFakeTransport(), testPolicy)
				r.transport.set(hostAway)
				r.send("waits@example.com")
				if said := r.Troubles(); len(said) != 0 {
					t.Fatalf("at first: %q", said)
				}
				end := c.begin(r, testPolicy)
				for range 3 {
					if said := strings.Join(r.Troubles(), "\n"); !strings.Contains(said, c.words) {
						t.Errorf("the troubles are %q", said)
					}
					if code := r.refused(c.content); code != c.code {
						t.Errorf("the reply is %d, want %d", code, c.code)
					}
					time.Sleep(time.Minute)
				}
				end()
				synctest.Wait() // for a look at the disk that began before
				if said := r.Troubles(); len(said) != 0 {
					t.Errorf("afterwards: %q", said)
				}
				time.Sleep(time.Minute)
				log := r.log.String()
				if n, m := strings.Count(log, "new mail is refused"), strings.Count(log, "new mail is taken again"); n != 1 || m != 1 {
					t.Errorf("the log says %d times that it begins and %d times that it ends:\n%s", n, m, log)
				}
				r.submit(c.content, testEnvelope("b@example.com"))
			})
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
