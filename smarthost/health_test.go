package smarthost

import (
	"testing"
	"time"
)

var testPauses = pauses{probeMin: 5 * time.Second, probeMax: 2 * time.Minute, loginMin: time.Minute, loginMax: time.Hour}

func TestPauses_DoubleUpToTheirBound(t *testing.T) {
	for _, c := range []struct {
		trouble trouble
		n       int
		want    time.Duration
	}{
		{unreachable, 1, 5 * time.Second}, {unreachable, 2, 10 * time.Second}, {unreachable, 5, 80 * time.Second},
		{unreachable, 6, 2 * time.Minute}, {unreachable, 1 << 30, 2 * time.Minute}, {tlsFailed, 3, 20 * time.Second},
		{loginRefused, 1, time.Minute}, {loginRefused, 6, 32 * time.Minute}, {loginRefused, 7, time.Hour},
		{loginRefused, 100, time.Hour},
	} {
		if got := testPauses.after(c.trouble, c.n); got != c.want {
			t.Errorf("pause after %d failures of kind %d: %v, want %v", c.n, c.trouble, got, c.want)
		}
	}
	for range 1000 {
		if d := jitter(time.Minute); d < time.Minute || d > 66*time.Second {
			t.Fatalf("jitter made %v of a minute", d)
		}
	}
}

func TestHealth_OneProbeAtATimeAndOnlyAfterThePause(t *testing.T) {
	now := time.Now()
	h := health{state: StateUp, pauses: testPauses}
	a, _ := h.admit(now)
	b, _ := h.admit(now)
	if counts, news := h.fail(a, verdict{trouble: unreachable}, now); !counts || !news || h.state != StateDown {
		t.Fatal("the first failure does not count")
	}
	// b was under way before: its failure is the same event, and its success comes from a better time.
	if counts, _ := h.fail(b, verdict{trouble: unreachable}, now); counts || h.fails[unreachable] != 1 {
		t.Error("one outage counts twice")
	}
	if h.well(b, now) {
		t.Error("what began before the failure ends the pause")
	}
	if _, got := h.admit(now.Add(4 * time.Second)); got != turnedAway {
		t.Error("the pause is not kept")
	}
	now = now.Add(6 * time.Second)
	probe, got := h.admit(now)
	if got != admitted || !probe.probe {
		t.Fatal("no probe after the pause")
	}
	if _, got := h.admit(now); got != turnedAway {
		t.Error("two probes at a time")
	}
	if _, news := h.fail(probe, verdict{trouble: unreachable}, now); news || h.next.Sub(now) < 10*time.Second {
		t.Error("the pause has not grown, or the same state is news")
	}
	now = now.Add(time.Minute)
	probe, _ = h.admit(now)
	h.end(probe)
	if probe, got = h.admit(now); got != admitted {
		t.Error("a probe that showed nothing leaves the place taken")
	}
	if !h.well(probe, now) || h.state != StateUp {
		t.Error("not up after a good probe")
	}
	if _, got := h.admit(now); got != admitted {
		t.Error("up, and not for all")
	}
}

func TestHealth_PauseGrowsUntilAWholeTransactionWentThrough(t *testing.T) {
	now := time.Now()
	h := health{state: StateUnknown, pauses: testPauses}
	for n := 1; n <= 3; n++ {
		tk, got := h.admit(now)
		if got != admitted {
			t.Fatal(n)
		}
		h.well(tk, now) // it takes the envelope and fails in the body
		h.fail(tk, verdict{trouble: unreachable}, now)
		if h.fails[unreachable] != n {
			t.Fatalf("%d failures are counted as %d", n, h.fails[unreachable])
		}
		now = h.next
	}
	tk, _ := h.admit(now)
	h.well(tk, now)
	h.finished(tk)
	if h.failuresInARow() != 0 {
		t.Error("the count does not begin anew")
	}
}

func TestHealth_UnknownHostIsFoundOutByOneWhileTheOthersWait(t *testing.T) {
	now := time.Now()
	h := health{state: StateUnknown, pauses: testPauses}
	first, _ := h.admit(now)
	if _, got := h.admit(now); got != mustWait {
		t.Fatal("the second does not wait")
	}
	shown := h.shown
	h.fail(first, verdict{trouble: loginRefused}, now)
	select {
	case <-shown:
	default:
		t.Error("nobody tells those that wait")
	}
	if _, got := h.admit(now); got != turnedAway {
		t.Error("a refused login is tried again at once")
	}
}

func TestHealth_ForgettingThePauseKeepsTheCount(t *testing.T) {
	now := time.Now()
	h := health{state: StateUp, pauses: testPauses}
	tk, _ := h.admit(now)
	h.fail(tk, verdict{trouble: loginRefused}, now)
	h.forget()
	tk, got := h.admit(now)
	if got != admitted {
		t.Fatal("still in its pause")
	}
	h.fail(tk, verdict{trouble: loginRefused}, now)
	if h.next.Sub(now) < 2*time.Minute {
		t.Error("an operator who asks often gets the account locked")
	}
}
