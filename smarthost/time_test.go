package smarthost

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeliver_HostThatHangsIsLeftAfterItsStagesTimeoutForTheNext(t *testing.T) {
	for _, c := range []struct {
		stage, prefix string
		after         time.Duration
	}{
		{"greeting", "", 5 * time.Minute},
		{"ehlo", "EHLO", 5 * time.Minute},
		{"mail", "MAIL", 5 * time.Minute},
		{"rcpt", "RCPT", 5 * time.Minute},
		{"data", "DATA", 2 * time.Minute},
	} {
		t.Run(c.stage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25", "two:25")
				p.hosts["one:25"].answer = at(c.prefix, hang)
				r := p.router(t, nil, "one:25", "two:25")
				start := time.Now()
				wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25")
				if took := time.Since(start); took != c.after {
					t.Errorf("left after %v, want %v", took, c.after)
				}
				first := r.Status()[0].Hosts[0]
				if first.State != StateDown || !contains(first.Problem, "did not answer in time at "+strings.ToUpper(c.stage)) {
					t.Errorf("%+v", first)
				}
				start = time.Now()
				wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25")
				if took := time.Since(start); took != 0 {
					t.Errorf("a host in its pause costs the next message %v", took)
				}
			})
		})
	}
}

// slowly reads n octets of a body, 8 KiB at a time, each after a pause.
func slowly(n int, pause time.Duration) func(io.Reader) {
	return func(r io.Reader) {
		for range n / 8192 {
			time.Sleep(pause)
			io.CopyN(io.Discard, r, 8192)
		}
	}
}

func TestDeliver_SlowLineCarriesABigMessageAndAStallEndsIt(t *testing.T) {
	big := strings.Repeat(strings.Repeat("x", 78)+"\r\n", 8192)
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].body = slowly(512<<10, 30*time.Second)
		r := p.router(t, nil, "one:25")
		start := time.Now()
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(big)), "one:25")
		if took := time.Since(start); took < 30*time.Minute {
			t.Errorf("the line was not slow: %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].body = slowly(1<<20, 4*time.Minute)
		r := p.router(t, nil, "one:25")
		start := time.Now()
		wantSite(t, r.Deliver(t.Context(), "isp", mail(big)), "data")
		if took := time.Since(start); took > 10*time.Minute {
			t.Errorf("a stall is noticed after %v", took)
		}
	})
}

func TestDeliver_CancelledReturnsAtOnceAndBlamesNobody(t *testing.T) {
	for _, prefix := range []string{"", "EHLO", "MAIL", "RCPT", "DATA"} {
		t.Run(prefix, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25", "two:25")
				p.hosts["one:25"].answer = at(prefix, hang)
				r := p.router(t, nil, "one:25", "two:25")
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				a := r.Deliver(ctx, "isp", mail(hello))
				if a.Site == nil || time.Since(start) != time.Second {
					t.Errorf("after %v: %s", time.Since(start), show(a))
				}
				if s := r.Status()[0].Hosts[0]; s.State == StateDown || s.Connections != 0 || p.hosts["two:25"].see().opened != 0 {
					t.Errorf("the host is blamed, or the next one asked: %+v", s)
				}
			})
		})
	}
}

func TestDeliver_CancelledInTheBodySendsNoDot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].body = slowly(1<<20, time.Second)
		r := p.router(t, nil, "one:25")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		a := r.Deliver(ctx, "isp", mail(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 8192)))
		if a.Site == nil || a.PossibleDuplicate {
			t.Error(show(a))
		}
		if n := p.hosts["one:25"].see().transactions; n != 0 {
			t.Error("the host took half a message for a whole one")
		}
	})
}

func TestDeliver_CancelledAfterTheDotWaitsForItsReply(t *testing.T) {
	for _, c := range []struct {
		reply     time.Duration
		delivered bool
		after     time.Duration
	}{{20 * time.Second, true, 20 * time.Second}, {time.Hour, false, 31 * time.Second}} {
		t.Run(fmt.Sprint(c.reply), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25", "two:25")
				p.hosts["one:25"].answer = func(line string) string {
					if line == "." {
						time.Sleep(c.reply)
					}
					return ""
				}
				r := p.router(t, nil, "one:25", "two:25")
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				a := r.Deliver(ctx, "isp", mail(hello))
				if took := time.Since(start); took != c.after {
					t.Errorf("took %v, want %v", took, c.after)
				}
				if c.delivered {
					wantDelivered(t, a, "one:25")
				} else if a.Site != nil || !a.PossibleDuplicate || a.Results[0].Failure == nil {
					t.Error(show(a))
				}
			})
		})
	}
}

func TestClose_EndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].answer = at("QUIT", hang)
		r := p.router(t, nil, "one:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := r.Close(ctx); err == nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		a := r.Deliver(t.Context(), "isp", mail(hello))
		if a.Site == nil || p.hosts["one:25"].see().opened != 1 {
			t.Error("a closed router delivers", show(a))
		}
	})
}

func TestClose_WhatIsUnderWayMayFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].answer = func(line string) string {
			if line == "." {
				time.Sleep(time.Minute)
			}
			return ""
		}
		r := p.router(t, limit(1), "one:25")
		var wg sync.WaitGroup
		wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25") })
		synctest.Wait()
		wg.Go(func() { // waits for the connection, and will not get it
			if a := r.Deliver(t.Context(), "isp", mail(hello)); a.Site == nil {
				t.Error(show(a))
			}
		})
		synctest.Wait()
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		p.open.Wait()
		if h := p.hosts["one:25"].see(); h.conns != 0 || h.opened != 1 {
			t.Errorf("%+v", h)
		}
	})
}

func TestClose_SaysQuitToAllAtOnceAndLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		h.answer = func(line string) string {
			time.Sleep(time.Second)
			return ""
		}
		r := p.router(t, nil, "one:25")
		deliverAll(t, r, 8)
		start := time.Now()
		if err := r.Close(t.Context()); err != nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		p.open.Wait()
		if h.see().quits != h.see().opened || h.see().conns != 0 {
			t.Errorf("%d of %d connections got QUIT, %d are open", h.see().quits, h.see().opened, h.see().conns)
		}
		// synctest fails the test if a goroutine is left when it ends.
	})
}
