package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// What an operator asked of a message in flight is done when the daemon stops before the attempt's end.
func TestOperators_DeleteInFlightIsDoneAtTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, dir := newFakeTransport(), t.TempDir()
		r := openRig(t, dir, tr, testPolicy)
		r.Start()
		tr.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			time.Sleep(10 * time.Second)
			return refused(route, m, 451, false)
		})
		id := r.send("a@example.com")
		synctest.Wait()
		if _, err := r.Apply(ActionDelete, []string{id}); err != nil {
			t.Fatal(err)
		}
		r.stop()
		tr.set(nil)
		second := openRig(t, dir, tr, testPolicy)
		second.Start()
		defer second.stop()
		time.Sleep(2 * time.Hour)
		if n := tr.deliveredTo("a@example.com"); n != 0 {
			t.Errorf("deleted by an operator, and delivered %d times after a restart", n)
		}
		if d, err := second.Show(id); err != nil || !d.Gone {
			t.Errorf("after the restart: %+v, %v", d.Entry, err)
		}
	})
}

// warningRig is a rig whose reports go through and whose mail waits for its smarthost.
func warningRig(t *testing.T) *rig {
	tr := newFakeTransport()
	tr.legs = byDomain
	r := startRig(t, tr, warningPolicy())
	r.answerMail(siteAway)
	return r
}

// A message that was held past the delay warning is warned about at its release, once.
func TestWarnings_ComeAtTheReleaseOfAHeldMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := warningRig(t)
		id := r.send("a@example.com")
		synctest.Wait()
		if _, err := r.Apply(ActionHold, []string{id}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Hour)
		if n := len(r.transport.reportsTo("sender@lan.example")); n != 0 {
			t.Fatalf("%d warnings about a message that an operator holds", n)
		}
		if _, err := r.Apply(ActionRelease, []string{id}); err != nil {
			t.Fatal(err)
		}
		for _, after := range []time.Duration{time.Minute, 24 * time.Hour} {
			time.Sleep(after)
			if n := len(r.transport.reportsTo("sender@lan.example")); n != 1 {
				t.Errorf("%d warnings %s after the release", n, after)
			}
		}
	})
}

// A clock that was ahead, and the ids given out by it, stop no warnings and do not make the queue look younger.
func TestWarnings_ComeAfterAClockThatWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := warningRig(t)
		synctest.Wait()
		r.ids.mu.Lock()
		r.ids.last = idAt(time.Now().Add(365 * 24 * time.Hour))
		r.ids.mu.Unlock()
		start := time.Now()
		r.send("a@example.com")
		time.Sleep(24 * time.Hour)
		if n := len(r.transport.reportsTo("sender@lan.example")); n != 1 {
			t.Errorf("%d warnings", n)
		}
		if oldest := r.Counts().Oldest; !oldest.Equal(start) {
			t.Errorf("the oldest message came at %s, and Counts says %s", start, oldest)
		}
	})
}

// A message that was received while the clock was ahead does not keep those behind it from being warned about.
func TestWarnings_ComeBehindAMessageFromAClockThatWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := warningRig(t)
		synctest.Wait()
		ahead := time.Now().Add(365 * 24 * time.Hour)
		rec := newRecord(r.ids.next(ahead), testEnvelope("a@example.com"), envelope.Origin{}, ahead)
		if err := r.admitNew(r.intake(rec, []byte("Subject: x\r\n\r\n"))); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		r.send("b@example.com")
		time.Sleep(24 * time.Hour)
		if n := len(r.transport.reportsTo("sender@lan.example")); n == 0 {
			t.Error("no warnings")
		}
		if oldest := r.Counts().Oldest; oldest.After(start) {
			t.Errorf("Counts says that the oldest message came at %s, and it is %s", oldest, time.Now())
		}
	})
}

// A failure under NOTIFY=NEVER is logged as unreported although another recipient of the attempt is reported on.
func TestReports_FailureThatNobodyIsToldOfIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.answerMail(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			a := refused(route, m, 550, true)
			a.Results[0] = envelope.Result{Reply: envelope.Reply{Code: 250}}
			return a
		})
		env := testEnvelope("ok@example.com", "told@example.com", "silent@example.com")
		env.Recipients[0].Notify = envelope.NotifySuccess
		env.Recipients[2].Notify = envelope.NotifyNever
		id := r.submit([]byte("Subject: x\r\n\r\n"), env)
		synctest.Wait()
		if want := "queue_id=" + id + " to=silent@example.com"; !strings.Contains(r.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, r.log)
		}
	})
}

// However mail, faults and operators meet, once the queue is empty all that it counts is zero and its folder is bare.
func TestQueue_AccountsEndAtZero(t *testing.T) {
	tr := newFakeTransport()
	tr.legs = byDomain
	r := startRig(t, tr, Policy{RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond, MaxAge: time.Hour, History: time.Hour,
		DelayWarning: 50 * time.Millisecond})
	var tries atomic.Int32
	tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
		switch tries.Add(1) % 7 {
		case 0:
			return siteDown(time.Millisecond)
		case 1:
			return refused(route, m, 451, false)
		case 2:
			return refused(route, m, 550, true)
		case 3:
			panic("injected")
		}
		return tr.accept(ctx, route, m)
	})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		operateAtRandom(t, r, stop)
	}()
	var clients sync.WaitGroup
	for n := range 10 {
		clients.Go(func() {
			body := []byte("Subject: x\r\n\r\nbody\r\n")
			if n == 0 {
				body = bytes.Repeat([]byte("line\r\n"), 20_000)
			}
			for i := range 6 {
				r.submit(body, testEnvelope(fmt.Sprintf("a%d@up.example", i), fmt.Sprintf("b%d@other.example", i), fmt.Sprintf("c%d@third.example", i)))
			}
		})
	}
	clients.Wait()
	close(stop)
	<-stopped
	until(t, "the queue to be empty", func() bool {
		if _, err := r.ApplyAll(ActionRelease); err != nil { // those that panicked were held
			t.Fatal(err)
		}
		return r.total.Load() == 0
	})
	r.scheduler.do(func() {
		s := r.scheduler
		got := fmt.Sprintln(len(s.items), len(s.waiting), s.held, s.busy, r.Queue.bytes.Load(), r.pending.Load(), r.cache.used.Load())
		if got != "0 0 0 0 0 0 0\n" {
			t.Error("items, waiting, held, busy, octets, arriving and cached are", got)
		}
		for _, l := range s.lanes {
			if l.ready() != 0 || l.inFlight != 0 || l.several != 0 {
				t.Errorf("before %s stand %d; %d are in flight, %d have several routes", l.name, l.ready(), l.inFlight, l.several)
			}
		}
	})
	_ = r.committer.read(func(s *store) error {
		if n := dueLines(t, s); n != 0 {
			t.Errorf("%d lines are left in the due index", n)
		}
		return nil
	})
	if files, err := os.ReadDir(filepath.Join(r.dir, "spool")); err != nil || len(files) != 0 {
		t.Errorf("left in the spool: %v, %v", files, err)
	}
}

// operateAtRandom has an operator do all there is to do, until stop.
func operateAtRandom(t *testing.T, r *rig, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if _, err := r.ApplyAll([]Action{ActionHold, ActionRelease, ActionRetry}[i%3]); err != nil {
			t.Error(err)
		}
		if list, _, err := r.List("", 0); err == nil && len(list) > 0 && i%4 == 0 {
			_, _ = r.Apply(ActionDelete, []string{list[i%len(list)].ID}) // it may have left the queue since
		}
	}
}

// Close ends in bounded time when the store has gone and nobody has noticed yet.
func TestClose_EndsWhenTheStoreHasGoneUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRig(t, t.TempDir(), newFakeTransport(), testPolicy)
		r.Start()
		synctest.Wait()
		c := r.committer
		c.mu.Lock()
		if err := sever(c.store); err != nil {
			t.Fatal(err)
		}
		c.open = func(string) (*store, error) { return nil, errors.New("injected: the disk is away") }
		c.mu.Unlock()
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.Close(ctx) // the store is away: that it ends is all that counts
		if took := time.Since(start); took > time.Minute {
			t.Errorf("Close took %s", took)
		}
	})
}

// What an operator asked of a message in flight is done at the stop, also when the sender is being warned just then.
func TestClose_OperatorsWordOutlivesAWarningUnderWay(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			tr := newFakeTransport()
			tr.legs = byDomain
			tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
				if route == "lan.example" {
					return tr.accept(ctx, route, m)
				}
				<-ctx.Done()
				return siteDown(time.Minute)
			})
			r := openRig(t, t.TempDir(), tr, warningPolicy())
			r.Start()
			id := r.send("a@example.com")
			time.Sleep(4*time.Hour - time.Minute)
			synctest.Wait()
			if _, err := r.Apply(ActionDelete, []string{id}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := r.Close(ctx); err != nil {
				t.Fatal(err)
			}
			rd, err := OpenReadOnly(r.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer rd.Close()
			if d, err := rd.Show(id); err != nil || !d.Gone {
				t.Fatalf("a deleted message is back: %v", err)
			}
		})
	}
}

// What an operator asked of a message in flight is done also when its last attempt ends in a fault of the relay.
func TestOperator_WordOutlivesTheFaultThatHoldsTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		var calls atomic.Int32
		tr.legs = func(env envelope.Envelope) []envelope.Leg {
			if calls.Add(1) == 1 { // at intake
				return byDomain(env)
			}
			time.Sleep(time.Minute)
			panic("injected: a fault in the relay")
		}
		r := startRig(t, tr, testPolicy)
		id := r.send("poison@example.com")
		for calls.Load() < 1+maxPanics {
			time.Sleep(time.Second)
		}
		if _, err := r.Apply(ActionDelete, []string{id}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if d, err := r.Show(id); err != nil || !d.Gone {
			t.Errorf("the deleted message is still there: %+v, %v", d.Entry, err)
		}
	})
}
