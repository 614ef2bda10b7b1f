package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

func TestQueue_CommittedMessageIsDeliveredAndLeavesHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		id := r.send("a@example.com", "b@example.com")
		synctest.Wait()
		for _, to := range []string{"a@example.com", "b@example.com"} {
			if n := r.transport.deliveredTo(to); n != 1 {
				t.Errorf("%s was delivered to %d times", to, n)
			}
		}
		if c := r.Counts(); c != (Counts{}) {
			t.Errorf("the queue is not empty: %+v", c)
		}
		d, err := r.Show(id)
		if err != nil {
			t.Fatal(err)
		}
		if !d.Gone || len(d.Events) != 2 || d.Events[0].What != "received" || d.Events[1].What != "delivered" {
			t.Errorf("history: %+v", d)
		}
		for _, want := range []string{"msg=received queue_id=" + id, "msg=delivered queue_id=" + id} {
			if !strings.Contains(r.log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, r.log)
			}
		}
	})
}

// A message that was committed is there after a restart; one that was not is not, and leaves no file.
func TestQueue_RestartResumes(t *testing.T) {
	tr := newFakeTransport()
	dir := t.TempDir()
	first := openRig(t, dir, tr, testPolicy) // never started: nothing is delivered
	small := first.send("small@example.com")
	big := bytes.Repeat([]byte("0123456789abcdef\r\n"), 10_000)
	large := first.submit(big, testEnvelope("large@example.com"))
	w, err := first.Begin(testEnvelope("lost@example.com"), envelope.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(big); err != nil {
		t.Fatal(err)
	}
	first.stop() // the writer is neither committed nor aborted, as in a crash
	second := openRig(t, dir, tr, testPolicy)
	if files, _ := os.ReadDir(filepath.Join(dir, "spool")); len(files) != 1 || files[0].Name() != large {
		t.Errorf("spool after the restart: %v", files)
	}
	second.Start()
	defer second.stop()
	until(t, "both delivered", func() bool {
		return tr.deliveredTo("small@example.com") == 1 && tr.deliveredTo("large@example.com") == 1
	})
	if tr.deliveredTo("lost@example.com") != 0 {
		t.Error("a message that was never committed was delivered")
	}
	if !bytes.Equal(tr.bodies[large], big) || string(tr.bodies[small]) != "Subject: test\r\n\r\nbody\r\n" {
		t.Error("the content changed on its way through the store")
	}
	until(t, "the spool to be empty", func() bool {
		files, _ := os.ReadDir(filepath.Join(dir, "spool"))
		return len(files) == 0
	})
}

func TestQueue_SecondDaemonIsTurnedAway(t *testing.T) {
	r := startRig(t, newFakeTransport(), testPolicy)
	_, err := Open(Options{hasty: true, Dir: r.dir, Transport: r.transport, Policy: testPolicy, Log: r.Queue.log})
	if !errors.Is(err, ErrLocked) {
		t.Fatalf("second Open: %v", err)
	}
	if _, err := OpenReadOnly(r.dir); !errors.Is(err, ErrLocked) {
		t.Fatalf("OpenReadOnly beside a daemon: %v", err)
	}
}

func TestQueue_EmptiedDatabaseIsNotTakenForANewQueue(t *testing.T) {
	dir := t.TempDir()
	openRig(t, dir, newFakeTransport(), testPolicy).stop()
	for name, damage := range map[string]func(string) error{
		"missing": os.Remove,
		"empty":   func(p string) error { return os.Truncate(p, 0) },
	} {
		if err := damage(filepath.Join(dir, databaseName)); err != nil && name != "empty" {
			t.Fatal(err)
		}
		_, err := Open(Options{hasty: true, Dir: dir, Transport: newFakeTransport(), Policy: testPolicy})
		if err == nil || !strings.Contains(err.Error(), markerName) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQueue_RecipientsAreSeparate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if m.Envelope.ReversePath.IsNull() {
				return r.transport.accept(ctx, route, m)
			}
			a := envelope.Attempt{Host: "main:25"}
			for _, rc := range m.Envelope.Recipients {
				switch rc.Path {
				case "good@example.com":
					a.Results = append(a.Results, envelope.Result{Reply: envelope.Reply{Code: 250}})
				case "later@example.com":
					a.Results = append(a.Results, envelope.Result{Failure: failure(450, false)})
				case "never@example.com":
					a.Results = append(a.Results, envelope.Result{Failure: failure(550, true)})
				}
			}
			return a
		})
		id := r.send("good@example.com", "later@example.com", "never@example.com")
		synctest.Wait()
		d, err := r.Show(id)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{StatusDelivered, StatusWaiting, StatusFailed}
		for i, rc := range d.Recipients {
			if rc.Status != want[i] || rc.Attempts != 1 {
				t.Errorf("%s is %s after %d attempts; want %s", rc.Address, rc.Status, rc.Attempts, want[i])
			}
		}
		if d.State != StateDeferred || d.NextAttempt.Before(time.Now().Add(testPolicy.RetryMin)) {
			t.Errorf("state %s, next attempt %s", d.State, d.NextAttempt)
		}
		if n := r.transport.deliveredTo("sender@lan.example"); n != 1 {
			t.Fatalf("%d reports were sent", n)
		}
		report := string(r.transport.bodies[r.transport.delivered["sender@lan.example"][0]])
		if !strings.Contains(report, "Final-Recipient: rfc822; never@example.com") || !strings.Contains(report, "the peer's words") ||
			strings.Contains(report, "later@example.com") {
			t.Errorf("report:\n%s", report)
		}
		r.transport.set(nil)
		time.Sleep(2 * testPolicy.RetryMin)
		synctest.Wait()
		for to, n := range map[string]int{"good@example.com": 1, "later@example.com": 1, "never@example.com": 0} {
			if got := r.transport.deliveredTo(to); got != n {
				t.Errorf("%s was delivered to %d times, want %d", to, got, n)
			}
		}
	})
}

func TestQueue_ExpiredMessageIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if m.Envelope.ReversePath.IsNull() {
				return r.transport.accept(ctx, route, m)
			}
			return refused(route, m, 451, false)
		})
		start := time.Now()
		r.send("a@example.com")
		for r.transport.deliveredTo("sender@lan.example") == 0 && time.Since(start) < 7*24*time.Hour {
			time.Sleep(time.Hour)
		}
		if age := time.Since(start); age < testPolicy.MaxAge || age > testPolicy.MaxAge+3*time.Hour {
			t.Errorf("reported after %s", age)
		}
		time.Sleep(48 * time.Hour)
		if n := r.transport.deliveredTo("sender@lan.example"); n != 1 {
			t.Errorf("%d reports", n)
		}
		if c := r.Counts(); c.Active+c.Deferred != 0 {
			t.Errorf("left in the queue: %+v", c)
		}
	})
}

// No report for a null reverse-path, for NOTIFY=NEVER, or about a report.
func TestQueue_QuietFailures(t *testing.T) {
	cases := map[string]envelope.Envelope{
		"null reverse-path": {Recipients: []envelope.Recipient{{Path: "a@example.com"}}},
		"NOTIFY=NEVER":      {ReversePath: "s@lan.example", Recipients: []envelope.Recipient{{Path: "a@example.com", Notify: envelope.NotifyNever}}},
		"NOTIFY=DELAY":      {ReversePath: "s@lan.example", Recipients: []envelope.Recipient{{Path: "a@example.com", Notify: envelope.NotifyDelay}}},
	}
	for name, env := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startRig(t, newFakeTransport(), testPolicy)
				r.transport.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
					return refused(route, m, 550, true)
				})
				r.submit([]byte("x\r\n"), env)
				synctest.Wait()
				if n := r.transport.callCount(); n != 1 {
					t.Errorf("%d attempts; a report was sent", n)
				}
				if !strings.Contains(r.log.String(), "not reported") {
					t.Error("the log does not say that nobody was told")
				}
			})
		})
	}
	t.Run("report about a report", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := startRig(t, newFakeTransport(), testPolicy)
			r.transport.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
				return refused(route, m, 550, true)
			})
			r.send("a@example.com")
			synctest.Wait()
			if n := r.transport.callCount(); n != 2 {
				t.Errorf("%d attempts, want one for the message and one for its report", n)
			}
			if !strings.Contains(r.log.String(), "level=ERROR msg=\"undeliverable report") {
				t.Errorf("the undeliverable report is not loud:\n%s", r.log)
			}
		})
	})
}

// A site that is down costs a message nothing, however long it lasts; when it is back all flows at once.
func TestQueue_SiteFailureCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.set(func(context.Context, string, envelope.Message) envelope.Attempt { return siteDown(30 * time.Second) })
		const n = 50
		var ids []string
		for i := range n {
			ids = append(ids, r.send(fmt.Sprintf("u%d@example.com", i)))
		}
		time.Sleep(10*24*time.Hour + time.Second) // twice MaxAge, and not just when a probe is under way
		synctest.Wait()
		calls := r.transport.callCount()
		if most := 10*24*3600/30 + n; calls > most {
			t.Errorf("%d attempts in ten days of outage; one probe each 30 s makes at most %d", calls, most)
		}
		d, err := r.Show(ids[0])
		if err != nil {
			t.Fatal(err)
		}
		if d.State != StateDeferred || d.Attempts != 0 || d.LastError != "connection refused" || len(d.Events) != 1 {
			t.Errorf("after the outage: %+v", d.Entry)
		}
		r.transport.set(nil)
		time.Sleep(31 * time.Second)
		synctest.Wait()
		for i := range n {
			if got := r.transport.deliveredTo(fmt.Sprintf("u%d@example.com", i)); got != 1 {
				t.Errorf("u%d was delivered to %d times", i, got)
			}
		}
	})
}

// While a route is down one message at a time probes it.
func TestQueue_OneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.set(func(context.Context, string, envelope.Message) envelope.Attempt {
			time.Sleep(5 * time.Second)
			return siteDown(time.Second)
		})
		for i := range 20 {
			r.send(fmt.Sprintf("u%d@example.com", i))
		}
		time.Sleep(10 * time.Second) // the first ones have failed and the gate is closed
		r.transport.mu.Lock()
		r.transport.maxRunning = 0
		r.transport.mu.Unlock()
		time.Sleep(10 * time.Minute)
		r.transport.mu.Lock()
		defer r.transport.mu.Unlock()
		if r.transport.maxRunning != 1 {
			t.Errorf("%d probes at once", r.transport.maxRunning)
		}
	})
}

func TestQueue_RoutesDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = func(env envelope.Envelope) []envelope.Leg {
			by := map[string]*envelope.Leg{}
			var legs []envelope.Leg
			for i, rc := range env.Recipients {
				name := rc.Path.Domain()
				if by[name] == nil {
					legs = append(legs, envelope.Leg{Route: name})
					by[name] = &legs[len(legs)-1]
				}
				by[name].Recipients = append(by[name].Recipients, i)
			}
			return legs
		}
		r := startRig(t, tr, testPolicy)
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if route == "down.example" {
				return siteDown(time.Minute)
			}
			return tr.accept(ctx, route, m)
		})
		r.send("a@down.example")
		r.send("b@down.example", "c@up.example")
		r.send("d@up.example", "e@down.example")
		r.send("f@up.example")
		synctest.Wait()
		for to, n := range map[string]int{"a@down.example": 0, "b@down.example": 0, "c@up.example": 1, "d@up.example": 1, "e@down.example": 0, "f@up.example": 1} {
			if got := tr.deliveredTo(to); got != n {
				t.Errorf("%s was delivered to %d times, want %d", to, got, n)
			}
		}
		tr.set(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for _, to := range []string{"a@down.example", "b@down.example", "c@up.example", "d@up.example", "e@down.example"} {
			if got := tr.deliveredTo(to); got != 1 {
				t.Errorf("in the end %s was delivered to %d times", to, got)
			}
		}
	})
}

func TestQueue_FreshMailDoesNotWaitBehindTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.concurrency = 1
		r := startRig(t, tr, testPolicy)
		var down atomic.Bool
		down.Store(true)
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if down.Load() {
				return siteDown(time.Minute)
			}
			time.Sleep(time.Second)
			return tr.accept(ctx, route, m)
		})
		for i := range 100 {
			r.send(fmt.Sprintf("old%d@example.com", i))
		}
		synctest.Wait()
		down.Store(false)
		time.Sleep(65 * time.Second) // the backlog flows, a message a second
		r.send("fresh@example.com")
		time.Sleep(4 * time.Second)
		if r.transport.deliveredTo("fresh@example.com") != 1 {
			t.Error("fresh mail waits behind the backlog")
		}
	})
}

// A wall clock that is set back does not stall what is due, and a restart with a clock that is behind waits no longer
// than the longest pause.
func TestQueue_ClockSetBackStallsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		tr := newFakeTransport()
		first := openRig(t, dir, tr, testPolicy)
		id := first.send("a@example.com")
		n, _ := ParseID(id)
		r, err := first.committer.store.record(n)
		if err != nil {
			t.Fatal(err)
		}
		old := slot{ID: n, Due: r.ReceivedAt.UnixNano(), Size: r.Size, Routes: "main"}
		future := old
		r.Recipients[0].Next = time.Now().Add(1000 * time.Hour)
		future.Due = r.Recipients[0].Next.UnixNano()
		if err := first.committer.commit(true, &change{id: n, put: r, oldSlot: old, hasOld: true, newSlot: future, hasNew: true}); err != nil {
			t.Fatal(err)
		}
		first.stop()
		second := openRig(t, dir, tr, testPolicy)
		second.Start()
		defer second.stop()
		time.Sleep(testPolicy.RetryMax + testPolicy.RetryMax/4 + time.Second)
		synctest.Wait()
		if tr.deliveredTo("a@example.com") != 1 {
			t.Error("the message waits for a clock that was set")
		}
	})
}

func TestQueue_Operators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			return refused(route, m, 451, false)
		})
		a, b := r.send("a@example.com"), r.send("b@example.com")
		synctest.Wait()
		if _, err := r.Apply(ActionHold, []string{a, "0000000000000"}); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "0000000000000") {
			t.Errorf("an unknown id: %v", err)
		}
		if d, _ := r.Show(a); d.State != StateDeferred {
			t.Error("something was done though an id was unknown")
		}
		if _, err := r.Apply(ActionHold, []string{a}); err != nil {
			t.Fatal(err)
		}
		calls := r.transport.callCount()
		if n, err := r.ApplyAll(ActionRetry); len(n.Done) != 2 || err != nil {
			t.Fatalf("retry of all: %+v, %v", n, err)
		}
		synctest.Wait()
		if n := r.transport.callCount() - calls; n != 1 {
			t.Errorf("retry made %d attempts; the held message must stay", n)
		}
		if c := r.Counts(); c.Held != 1 || c.Deferred != 1 || c.Active != 0 {
			t.Errorf("counts %+v", c)
		}
		r.transport.set(nil)
		if _, err := r.Apply(ActionRelease, []string{strings.ToLower(a)}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Apply(ActionDelete, []string{b}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if r.transport.deliveredTo("a@example.com") != 1 || r.transport.deliveredTo("b@example.com") != 0 {
			t.Error("released and not delivered, or deleted and delivered")
		}
		d, err := r.Show(b)
		if err != nil || !d.Gone || d.Events[len(d.Events)-1].What != "deleted" {
			t.Errorf("a deleted message's history: %+v, %v", d, err)
		}
	})
}

// What an operator asks of a message under way is done when the attempt has ended.
func TestQueue_OperatorsReachAMessageInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			time.Sleep(time.Minute)
			return refused(route, m, 451, false)
		})
		id := r.send("a@example.com")
		synctest.Wait()
		if d, _ := r.Show(id); d.State != StateActive {
			t.Fatalf("state %s", d.State)
		}
		if _, err := r.Apply(ActionHold, []string{id}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if d, _ := r.Show(id); d.State != StateHeld || d.Attempts != 1 {
			t.Errorf("after the attempt: %s, %d attempts", d.State, d.Attempts)
		}
	})
}

func TestQueue_DamagedMessageIsSetAsideAndTheRestFlows(t *testing.T) {
	dir := t.TempDir()
	tr := newFakeTransport()
	first := openRig(t, dir, tr, testPolicy)
	inline := first.send("inline@example.com")
	large := first.submit(bytes.Repeat([]byte("line\r\n"), 50_000), testEnvelope("spooled@example.com"))
	missing := first.submit(bytes.Repeat([]byte("line\r\n"), 50_000), testEnvelope("missing@example.com"))
	first.send("good@example.com")
	first.stop()
	damageBody(t, dir, inline)
	f, err := os.OpenFile(filepath.Join(dir, "spool", large), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("X"), 1000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Remove(filepath.Join(dir, "spool", missing)); err != nil {
		t.Fatal(err)
	}
	second := openRig(t, dir, tr, testPolicy)
	second.Start()
	defer second.stop()
	until(t, "the good message to be delivered", func() bool { return tr.deliveredTo("good@example.com") == 1 })
	until(t, "three messages in quarantine", func() bool { return second.Counts().Quarantined == 3 })
	for _, to := range []string{"inline@example.com", "spooled@example.com", "missing@example.com"} {
		if tr.deliveredTo(to) != 0 {
			t.Errorf("%s got a damaged message", to)
		}
	}
	until(t, "the log to name them", func() bool { return strings.Count(second.log.String(), "message quarantined") == 3 })
}

func TestQueue_FullQueueAnswers452(t *testing.T) {
	p := testPolicy
	p.MaxMessages = 2
	r := openRig(t, t.TempDir(), newFakeTransport(), p)
	defer r.stop()
	r.send("a@example.com")
	w, err := r.Begin(testEnvelope("b@example.com"), envelope.Origin{}) // counts while it arrives
	if err != nil {
		t.Fatal(err)
	}
	assertReply(t, second(r.Begin(testEnvelope("c@example.com"), envelope.Origin{})), 452)
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	if w, err = r.Begin(testEnvelope("c@example.com"), envelope.Origin{}); err != nil {
		t.Fatalf("after an abort there is room: %v", err)
	}
	w.Abort()
	p.MaxMessages, p.MinFree = 0, 1<<60
	r.Configure(r.transport, "relay.example", p)
	assertReply(t, second(r.Begin(testEnvelope("d@example.com"), envelope.Origin{})), 452)
}

func TestQueue_CloseLetsAttemptsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			time.Sleep(3 * time.Second)
			return r.transport.accept(ctx, route, m)
		})
		r.send("a@example.com")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if r.transport.deliveredTo("a@example.com") != 1 {
			t.Fatal("the attempt was cut short")
		}
		rd, err := OpenReadOnly(r.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer rd.Close()
		if list, _, err := rd.List("", 0); err != nil || len(list) != 0 {
			t.Errorf("the outcome was not recorded before the end: %v, %v", list, err)
		}
	})
}

func TestReader_ShowsTheQueueOfAStoppedDaemon(t *testing.T) {
	dir := t.TempDir()
	q := openRig(t, dir, newFakeTransport(), testPolicy)
	id := q.send("a@example.com")
	q.stop()
	rd, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	list, _, err := rd.List("", 0)
	if err != nil || len(list) != 1 || list[0].ID != id {
		t.Fatalf("List: %v, %v", list, err)
	}
	if next, _, err := rd.List(id, 10); err != nil || len(next) != 0 {
		t.Errorf("List after the last id: %v, %v", next, err)
	}
	body, err := rd.Body(id)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(body)
	if string(text) != "Subject: test\r\n\r\nbody\r\n" {
		t.Errorf("Body: %q", text)
	}
	c, err := rd.Counts()
	if err != nil || c.Active != 1 || c.Bytes != int64(len(text)) || c.Oldest.IsZero() {
		t.Errorf("Counts: %+v, %v", c, err)
	}
}

func second(_ *Writer, err error) error { return err }

func assertReply(t *testing.T, err error, code int) {
	t.Helper()
	var reply envelope.Reply
	if !errors.As(err, &reply) || reply.Code != code {
		t.Errorf("error %v holds reply %q; want %d", err, reply, code)
	}
}

func damageBody(t *testing.T, dir, id string) {
	t.Helper()
	st, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	n, _ := ParseID(id)
	if err := st.commit([]*change{{id: n, body: []byte("something else")}}); err != nil {
		t.Fatal(err)
	}
}
