package queue

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// A clock that was set warns nobody of a delay that there was not, and keeps no warning back.
func TestWarnings_GoByNoClockThatCanBeSet(t *testing.T) {
	for name, answer := range map[string]func(string, envelope.Message) envelope.Attempt{
		"deferred by an answer": func(route string, m envelope.Message) envelope.Attempt { return refused(route, m, 451, false) },
		"smarthost away":        func(string, envelope.Message) envelope.Attempt { return siteDown(time.Minute) },
	} {
		for _, set := range []time.Duration{-365 * 24 * time.Hour, 365 * 24 * time.Hour} {
			t.Run(name+", received "+set.String()+" off", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr := newFakeTransport()
					tr.legs = byDomain
					tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
						if route == "lan.example" {
							return tr.accept(ctx, route, m)
						}
						return answer(route, m)
					})
					r := startRig(t, tr, warningPolicy())
					id := r.send("a@example.com")
					time.Sleep(2 * time.Minute)
					r.receivedAt(id, time.Now().Add(set))
					time.Sleep(4*time.Hour - 3*time.Minute)
					if n := len(tr.reportsTo("sender@lan.example")); n != 0 {
						t.Fatalf("%d warnings before the time", n)
					}
					time.Sleep(time.Hour + 5*time.Minute) // a deferred message is looked at when it is tried
					if n := len(tr.reportsTo("sender@lan.example")); n != 1 {
						t.Errorf("%d warnings", n)
					}
				})
			})
		}
	}
}

// receivedAt gives a stored message another time of arrival, as one has that came while the clock was wrong.
func (r *rig) receivedAt(id string, at time.Time) {
	r.t.Helper()
	var rec *record
	if err := r.committer.read(func(s *store) (err error) { rec, err = s.record(mustID(r.t, id)); return err }); err != nil {
		r.t.Fatal(err)
	}
	rec = rec.clone()
	rec.ReceivedAt = at
	r.change(&change{id: rec.ID, put: rec})
}

// After a restart what was there counts from the start, or by its pauses: the time before may be any.
func TestWarnings_AfterARestart(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(string, envelope.Message) envelope.Attempt
		none   time.Duration // for so long after the restart
		one    time.Duration
	}{
		"smarthost away": {func(string, envelope.Message) envelope.Attempt { return siteDown(time.Minute) }, 239 * time.Minute, 242 * time.Minute},
		"deferred by an answer": {func(route string, m envelope.Message) envelope.Attempt { return refused(route, m, 451, false) },
			30 * time.Minute, 140 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, dir := newFakeTransport(), t.TempDir()
				tr.legs = byDomain
				tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
					if route == "lan.example" {
						return tr.accept(ctx, route, m)
					}
					return c.answer(route, m)
				})
				first := openRig(t, dir, tr, warningPolicy())
				first.Start()
				first.send("a@example.com")
				time.Sleep(3 * time.Hour)
				first.stop()
				time.Sleep(30 * 24 * time.Hour) // switched off
				second := openRig(t, dir, tr, warningPolicy())
				second.Start()
				defer second.stop()
				time.Sleep(c.none)
				if n := len(tr.reportsTo("sender@lan.example")); n != 0 {
					t.Fatalf("%d warnings %s after the restart", n, c.none)
				}
				time.Sleep(c.one - c.none)
				if n := len(tr.reportsTo("sender@lan.example")); n != 1 {
					t.Errorf("%d warnings %s after the restart", n, c.one)
				}
			})
		})
	}
}

func TestAges_SayWhatIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := ages{began: time.Now()}
		const d = 4 * time.Hour
		for minute := range ID(1000) {
			a.mark(minute, d) // message n came in minute n, before its mark
			for _, id := range []ID{0, minute / 2, minute - min(minute, 241), minute - min(minute, 239), minute} {
				if waited := time.Duration(minute-id) * time.Minute; id > 0 && a.isOld(id) != (waited >= d) {
					t.Fatalf("in minute %d, of one that has waited for %s: %v", minute, waited, a.isOld(id))
				}
			}
			if len(a.marks) > ageMarks+2 {
				t.Fatalf("%d marks", len(a.marks))
			}
			time.Sleep(time.Minute)
		}
		a.mark(1000, 2*d) // a longer one: what is known to have waited for it
		if !a.isOld(1) && a.isOld(800) {
			t.Error("a message of the last three hours has waited for eight")
		}
		a.mark(1000, 0)
		if a.isOld(1) {
			t.Error("without a warning something is old")
		}
		a.mark(1000, d)
		time.Sleep(d - time.Second)
		if a.mark(1001, d); a.isOld(1) {
			t.Error("a message is old before its time can be known")
		}
		time.Sleep(time.Second)
		if a.mark(1001, d); !a.isOld(1000) || a.isOld(1001) {
			t.Errorf("%v, %v", a.isOld(1000), a.isOld(1001))
		}
	})
}

// However long the warning, the marks stay few.
func TestAges_AreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := ages{began: time.Now()}
		for minute := range ID(20_000) {
			a.mark(minute, 5*24*time.Hour)
			time.Sleep(time.Minute)
		}
		if len(a.marks) > ageMarks+2 || !a.isOld(20_000-7260) || a.isOld(20_000-7100) {
			t.Errorf("%d marks, old is up to %d", len(a.marks), a.old.Load())
		}
	})
}
