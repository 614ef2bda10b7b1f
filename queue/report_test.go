package queue

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// byDomain routes each recipient by its domain, so that reports can take a route of their own.
func byDomain(env envelope.Envelope) []envelope.Leg {
	var legs []envelope.Leg
recipients:
	for i, rc := range env.Recipients {
		for j := range legs {
			if legs[j].Route == rc.Path.Domain() {
				legs[j].Recipients = append(legs[j].Recipients, i)
				continue recipients
			}
		}
		legs = append(legs, envelope.Leg{Route: rc.Path.Domain(), Recipients: []int{i}})
	}
	return legs
}

func (f *fakeTransport) reportsTo(addr string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, id := range f.delivered[addr] {
		out = append(out, string(f.bodies[id]))
	}
	return out
}

func warningPolicy() Policy {
	p := testPolicy
	p.DelayWarning = 4 * time.Hour
	return p
}

func TestReports_DelayIsToldOnce(t *testing.T) {
	for name, answer := range map[string]func(string, envelope.Message) envelope.Attempt{
		"deferred by an answer": func(route string, m envelope.Message) envelope.Attempt { return refused(route, m, 451, false) },
		"smarthost away":        func(string, envelope.Message) envelope.Attempt { return siteDown(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				tr.legs = byDomain
				r := startRig(t, tr, warningPolicy())
				tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
					if route == "lan.example" {
						return tr.accept(ctx, route, m)
					}
					return answer(route, m)
				})
				env := testEnvelope("a@example.com", "quiet@example.com")
				env.Recipients[1].Notify = envelope.NotifyFailure
				r.submit([]byte("Subject: late\r\n\r\nbody\r\n"), env)
				time.Sleep(4*time.Hour - time.Second)
				if n := len(tr.reportsTo("sender@lan.example")); n != 0 {
					t.Fatalf("%d reports before the time", n)
				}
				time.Sleep(30 * time.Hour)
				reports := tr.reportsTo("sender@lan.example")
				if len(reports) != 1 {
					t.Fatalf("%d reports", len(reports))
				}
				if !strings.Contains(reports[0], "Action: delayed") || !strings.Contains(reports[0], "a@example.com") ||
					strings.Contains(reports[0], "quiet@example.com") || strings.Contains(reports[0], "\r\nbody\r\n") {
					t.Errorf("report:\n%s", reports[0])
				}
			})
		})
	}
}

// A restart does not tell twice.
func TestReports_DelayIsToldOnceAcrossARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = byDomain
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if route == "lan.example" {
				return tr.accept(ctx, route, m)
			}
			return siteDown(time.Minute)
		})
		dir := t.TempDir()
		first := openRig(t, dir, tr, warningPolicy())
		first.Start()
		first.send("a@example.com")
		time.Sleep(5 * time.Hour)
		first.stop()
		second := openRig(t, dir, tr, warningPolicy())
		second.Start()
		defer second.stop()
		time.Sleep(5 * time.Hour)
		if n := len(tr.reportsTo("sender@lan.example")); n != 1 {
			t.Errorf("%d reports", n)
		}
	})
}

// A warning that could only arrive together with the message, by the same smarthost, is not written.
func TestReports_NoWarningThatWaitsForTheSameSmarthost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), warningPolicy())
		r.transport.set(func(context.Context, string, envelope.Message) envelope.Attempt { return siteDown(time.Minute) })
		for range 3 {
			r.send("a@example.com")
		}
		time.Sleep(20 * time.Hour)
		if c := r.Counts(); c.Active+c.Deferred != 3 {
			t.Errorf("%+v; the queue filled with warnings", c)
		}
		// Once the smarthost answers again, but defers, the warning is due.
		r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if m.Envelope.ReversePath.IsNull() {
				return r.transport.accept(ctx, route, m)
			}
			return refused(route, m, 451, false)
		})
		time.Sleep(time.Hour)
		if n := len(r.transport.reportsTo("sender@lan.example")); n != 3 {
			t.Errorf("%d warnings for 3 messages", n)
		}
	})
}

func TestReports_SuccessIsReportedWhereTheHostDoesNot(t *testing.T) {
	for offered, want := range map[bool]int{false: 1, true: 0} {
		synctest.Test(t, func(t *testing.T) {
			r := startRig(t, newFakeTransport(), testPolicy)
			r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
				a := r.transport.accept(ctx, route, m)
				a.DSNOffered = offered
				return a
			})
			env := testEnvelope("a@example.com", "b@example.com")
			env.Recipients[0].Notify = envelope.NotifySuccess | envelope.NotifyFailure
			r.submit([]byte("Subject: x\r\n\r\nbody\r\n"), env)
			synctest.Wait()
			reports := r.transport.reportsTo("sender@lan.example")
			if len(reports) != want {
				t.Fatalf("DSN offered %v: %d reports", offered, len(reports))
			}
			if want == 1 && (!strings.Contains(reports[0], "Action: relayed") || strings.Contains(reports[0], "b@example.com")) {
				t.Errorf("report:\n%s", reports[0])
			}
		})
	}
}

// A report that cannot be delivered goes to the postmaster; one to the postmaster is the end.
func TestReports_UndeliverableOnesGoToThePostmaster(t *testing.T) {
	for name, postmasterWorks := range map[string]bool{"who gets it": true, "who cannot be reached either": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPolicy
				p.Postmaster = "postmaster@lan.example"
				r := startRig(t, newFakeTransport(), p)
				r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
					if m.Envelope.Recipients[0].Path == "postmaster@lan.example" && postmasterWorks {
						return r.transport.accept(ctx, route, m)
					}
					return refused(route, m, 550, true)
				})
				r.send("a@example.com")
				synctest.Wait()
				reports := r.transport.reportsTo("postmaster@lan.example")
				if postmasterWorks && (len(reports) != 1 || !strings.Contains(reports[0], "sender@lan.example")) {
					t.Errorf("the postmaster got %q", reports)
				}
				c := r.Counts()
				if want := int64(1); !postmasterWorks && c.Unreported != want {
					t.Errorf("%d unreported, want %d", c.Unreported, want)
				}
				if postmasterWorks && c.Unreported != 0 {
					t.Errorf("%d unreported", c.Unreported)
				}
				if c.Active+c.Deferred > 0 || r.transport.callCount() != 3 {
					t.Errorf("%+v after %d attempts; a message, its report and the postmaster's are three", c, r.transport.callCount())
				}
			})
		})
	}
}
