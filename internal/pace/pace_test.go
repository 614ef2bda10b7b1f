package pace

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var isp = Name{Username: "me@isp.example", Hosts: []string{"smtp.isp.example:587"}}

// machine is what a relay runs on: a file, and a boot.
type machine struct {
	path   string
	boot   string
	booted time.Time
}

func newMachine(t *testing.T) *machine {
	return &machine{path: filepath.Join(t.TempDir(), "pace.json"), boot: "first", booted: time.Now()}
}

func (m *machine) reboot(id string) { m.boot, m.booted = id, time.Now() }

// open starts a relay; without Close its end is a crash.
func (m *machine) open(t *testing.T, l Limits) (*Book, *Account) {
	t.Helper()
	b, err := Open(Options{Path: m.path, Boot: func() (string, time.Duration) { return m.boot, time.Since(m.booted) }})
	if err != nil {
		t.Fatal(err)
	}
	return b, b.Configure([]Spec{{isp, l}})[0]
}

func memory(t *testing.T, l Limits) *Account {
	t.Helper()
	b, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b.Configure([]Spec{{isp, l}})[0]
}

// send sends messages of n recipients while that is allowed, at most most of them, and returns how many recipients.
func send(a *Account, n, most int) (sent int) {
	for range most {
		turn, _ := a.Begin(n, false)
		if turn == nil {
			return sent
		}
		turn.End(1, turn.Recipients, false)
		sent += turn.Recipients
	}
	return sent
}

// No span shorter than the unit sees more than the rate says, and the long run comes close to it.
func TestRate_IsKeptInEverySpan(t *testing.T) {
	for _, tc := range []struct {
		name  string
		rate  Rate
		atOne int // messages that may go at once
		least int // of ten units
	}{
		{"30 a minute", Rate{30, time.Minute}, 3, 280},
		{"100 an hour", Rate{100, time.Hour}, 10, 910},
		{"2 a second", Rate{2, time.Second}, 1, 20},
		{"1 a minute", Rate{1, time.Minute}, 1, 10},
		{"1 an hour", Rate{1, time.Hour}, 1, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := memory(t, Limits{Rate: tc.rate})
				if got := send(a, 1, 1000); got != tc.atOne {
					t.Errorf("%d went at once, want %d", got, tc.atOne)
				}
				var at []time.Time
				for range tc.atOne {
					at = append(at, time.Now())
				}
				for end := time.Now().Add(10 * tc.rate.Per); !time.Now().After(end); {
					turn, next := a.Begin(1, false)
					if turn == nil {
						if !next.After(time.Now()) {
							t.Fatal("told to come again at once")
						}
						time.Sleep(time.Until(next))
						continue
					}
					turn.End(1, 1, false)
					at = append(at, time.Now())
				}
				for i := range at {
					if j := i + tc.rate.Messages; j < len(at) && at[j].Sub(at[i]) < tc.rate.Per-time.Millisecond {
						t.Fatalf("%d messages in %s", tc.rate.Messages+1, at[j].Sub(at[i]))
					}
				}
				if len(at) < tc.least {
					t.Errorf("only %d in ten units, want %d", len(at), tc.least)
				}
			})
		})
	}
}

func TestAdmit_WhatWasGivenBackCanBeGivenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := memory(t, Limits{Rate: Rate{1, time.Minute}, Recipients: 5})
		if _, ok := a.Admit(); !ok {
			t.Fatal("the first was not admitted")
		}
		at, ok := a.Admit()
		if ok || time.Until(at) != time.Minute {
			t.Fatalf("a second was: %v, in %s", ok, time.Until(at))
		}
		a.Forgo()
		if _, ok := a.Admit(); !ok {
			t.Fatal("what was given back is lost")
		}
		turn, _ := a.Begin(9, false)
		if turn == nil || turn.Recipients != 5 {
			t.Fatalf("began as %+v, want the 5 recipients of the day", turn)
		}
		turn.End(0, 0, false) // no host was reached
		if _, ok := a.Admit(); !ok || a.Status().UsedToday != 0 {
			t.Errorf("what was not sent is counted: %+v", a.Status())
		}
	})
}

// One message that took several transactions counts as so many.
func TestTurn_MoreTransactionsAreADebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := memory(t, Limits{Rate: Rate{1, time.Minute}})
		turn, _ := a.Begin(1, false)
		turn.End(3, 1, false)
		if at, ok := a.Admit(); ok || time.Until(at).Round(time.Second) != 3*time.Minute {
			t.Errorf("%v, next in %s", ok, time.Until(at))
		}
	})
}

func TestDay_IsOfTheLast24Hours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := memory(t, Limits{Recipients: 100})
		if got := send(a, 7, 10); got != 70 {
			t.Fatalf("sent %d", got)
		}
		time.Sleep(12 * time.Hour)
		if got := send(a, 7, 100); got != 30 { // the last of them to two of its seven
			t.Fatalf("sent %d more, want 30", got)
		}
		at, ok := a.Admit()
		if wait := time.Until(at); ok || wait < 12*time.Hour || wait > 12*time.Hour+time.Minute {
			t.Fatalf("admitted: %v; next in %s, want 12 hours", ok, wait)
		}
		time.Sleep(time.Until(at))
		if got := send(a, 1, 1000); got != 70 {
			t.Errorf("a day later there was room for %d, want 70", got)
		}
	})
}

// A turn has at most half of what is left while others wait, and never nothing.
func TestDay_AContendedTurnHasHalfOfWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := memory(t, Limits{Recipients: 20})
		for _, want := range []int{10, 5, 3, 1, 1} {
			turn, _ := a.Begin(1000, true)
			if turn == nil || turn.Recipients != want {
				t.Fatalf("a turn got %+v; want one of %d", turn, want)
			}
			turn.End(1, turn.Recipients, false)
		}
		if turn, _ := a.Begin(1000, true); turn != nil {
			t.Errorf("the day is used up, and a turn got %d", turn.Recipients)
		}
	})
}

// A turn that hangs for more than a day counts for as long as it does; meanwhile nobody is told to come at once, in vain.
func TestDay_ATurnThatHangsIsCountedAndNotAskedForWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := memory(t, Limits{Recipients: 3})
		hanging, _ := a.Begin(1, false)
		time.Sleep(2 * time.Minute)
		send(a, 1, 1)
		time.Sleep(25 * time.Hour)
		if n := send(a, 1, 10); n != 2 {
			t.Errorf("%d were sent beside the one under way; want 2, since what was sent a day ago counts no more", n)
		}
		at, ok := a.Admit()
		if ok || time.Until(at) < time.Second {
			t.Errorf("admitted: %v, next in %v; want to be told to wait", ok, time.Until(at))
		}
		time.Sleep(25 * time.Hour)
		if turn, _ := a.Begin(3, false); turn == nil || turn.Recipients != 2 {
			t.Errorf("a turn got %+v; want one of 2", turn)
		}
		at, ok = a.Admit()
		if ok || time.Until(at) < time.Second {
			t.Errorf("admitted: %v, next in %v; want to be told to wait", ok, time.Until(at))
		}
		hanging.End(1, 1, false)
		if used := a.Status().UsedToday; used != 3 {
			t.Errorf("%d used today, want 3", used)
		}
	})
}

// A message that was admitted and has not begun has its place in the day: nobody else is admitted to it.
func TestDay_AdmittedMessagesHaveTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := memory(t, Limits{Recipients: 2})
		for i, want := range []bool{true, true, false} {
			at, ok := a.Admit()
			if ok != want || !ok && time.Until(at) < time.Second {
				t.Fatalf("message %d of a day for 2 is admitted: %v, next in %v", i+1, ok, time.Until(at))
			}
		}
		a.Forgo()
		if _, ok := a.Admit(); !ok {
			t.Error("the place that was given back is not given out again")
		}
	})
}

// However the relay ends and for how long, no 24 hours see more than the cap; and an end loses no more than a block.
func TestDay_SurvivesStopsAndCrashes(t *testing.T) {
	for _, closed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine(t)
			l := Limits{Recipients: 1000} // a block is 10
			type shot struct {
				at time.Time
				n  int
			}
			var shots []shot
			total := 0
			for i := range 60 {
				b, a := m.open(t, l)
				n := send(a, 3, 20)
				shots, total = append(shots, shot{time.Now(), n}), total+n
				if closed {
					if err := b.Close(); err != nil {
						t.Fatal(err)
					}
				}
				if i%7 == 6 {
					time.Sleep(5 * time.Hour)
				} else {
					time.Sleep(13 * time.Minute)
				}
				if i%10 == 9 {
					m.reboot(m.boot + "+")
				}
			}
			for i, s := range shots {
				sum := 0
				for _, later := range shots[i:] {
					if later.at.Sub(s.at) < 24*time.Hour {
						sum += later.n
					}
				}
				if sum > 1000 {
					t.Fatalf("closed %v: %d recipients in 24 hours from %s on", closed, sum, s.at)
				}
			}
			if least := 2000; total < least {
				t.Errorf("closed %v: %d in all, want at least %d", closed, total, least)
			}
		})
	}
}

func TestDay_ACrashCountsAtMostABlockTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		l := Limits{Recipients: 1000}
		_, a := m.open(t, l)
		sent := send(a, 1, 123)
		_, a = m.open(t, l)
		if used := a.Status().UsedToday; used < sent || used > sent+10 {
			t.Errorf("%d were sent, %d count", sent, used)
		}
	})
}

// A block that was counted ahead is not what is sent hours later.
func TestDay_ABlockIsGoodForMinutesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		l := Limits{Recipients: 1000}
		_, a := m.open(t, l)
		send(a, 1, 1)
		time.Sleep(20 * time.Hour)
		send(a, 1, 5) // within the block of the first
		_, a = m.open(t, l)
		time.Sleep(6 * time.Hour)
		if used := a.Status().UsedToday; used < 5 {
			t.Errorf("5 were sent 6 hours ago, %d count", used)
		}
	})
}

// What a wall clock says while the relay is off frees nothing of the last twelve hours and blocks for no more than a day.
func TestDay_AWrongClockNeitherBlocksForDaysNorFreesTheDay(t *testing.T) {
	const spent = 100
	for _, tc := range []struct {
		name         string
		boot         string
		wall, uptime time.Duration // since the file was written, as the clocks say
		used         int           // at the start
		free         time.Duration // until all is free again, at most
	}{
		{"the same boot, and a clock ahead by a year", "first", 365 * 24 * time.Hour, time.Hour, spent, 23*time.Hour + time.Minute},
		{"the same boot, and a clock back by a year", "first", -365 * 24 * time.Hour, time.Hour, spent, 23*time.Hour + time.Minute},
		{"another boot, and a clock ahead by a year", "second", 365 * 24 * time.Hour, 0, spent, 12*time.Hour + time.Minute},
		{"another boot, and a clock back by a year", "second", -365 * 24 * time.Hour, 0, spent, 24*time.Hour + time.Minute},
		{"another boot, 5 hours later", "second", 5 * time.Hour, 0, spent, 19*time.Hour + time.Minute},
		{"the same boot, 25 hours later", "first", 0, 25 * time.Hour, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, err := Open(Options{Boot: func() (string, time.Duration) { return tc.boot, time.Hour + tc.uptime }})
				if err != nil {
					t.Fatal(err)
				}
				st := &state{Boot: "first", Uptime: time.Hour, Wall: time.Now().Add(-tc.wall)}
				a := &Account{book: b, bucket: newBucket(Rate{}, 0), day: day{limit: spent}}
				a.day.restore(shareState{Age: -grain, N: spent}, b.offFor(st))
				if used := a.Status().UsedToday; used != tc.used {
					t.Fatalf("%d count, want %d", used, tc.used)
				}
				time.Sleep(tc.free)
				if used := a.Status().UsedToday; used != 0 {
					t.Errorf("%d still count after %s", used, tc.free)
				}
			})
		})
	}
}

// The rate, too, is kept over stops: an orderly one keeps what there was, a crash begins with nothing.
func TestRate_OverStopsAndCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		l := Limits{Rate: Rate{60, time.Hour}} // 6 at once, 55 an hour
		b, a := m.open(t, l)
		if got := send(a, 1, 4); got != 4 {
			t.Fatalf("sent %d", got)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		_, a = m.open(t, l)
		if got := send(a, 1, 100); got != 2 {
			t.Errorf("%d went after a stop, want the 2 that were left", got)
		}
		time.Sleep(time.Hour)
		_, a = m.open(t, l)
		if got := send(a, 1, 100); got != 0 {
			t.Errorf("%d went at once after a crash", got)
		}
		time.Sleep(67 * time.Second)
		if got := send(a, 1, 100); got != 1 {
			t.Errorf("%d went after a minute, want 1", got)
		}
	})
}

func TestBook_AFileThatCannotBeReadIsToldAndBeginsAnew(t *testing.T) {
	m := newMachine(t)
	if err := os.WriteFile(m.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Open(Options{Path: m.path})
	if err == nil || b == nil {
		t.Fatalf("%v, %v", b, err)
	}
	a := b.Configure([]Spec{{isp, Limits{Recipients: 2}}})[0]
	if send(a, 1, 9) != 2 {
		t.Error("the day is not counted")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, a = m.open(t, Limits{Recipients: 2}); send(a, 1, 9) != 0 {
		t.Error("what was written in its place is not read")
	}
}

// A disk that fails does not stop the mail; the count in memory holds.
func TestBook_AFailingDiskStopsNoMail(t *testing.T) {
	b, err := Open(Options{Path: filepath.Join(t.TempDir(), "missing", "pace.json")})
	if err != nil {
		t.Fatal(err)
	}
	if got := send(b.Configure([]Spec{{isp, Limits{Recipients: 3}}})[0], 1, 9); got != 3 {
		t.Errorf("%d were sent, want 3", got)
	}
}

// What could not be counted on disk is counted there with the next message, once the disk works again.
func TestBook_CountsOnDiskAgainWhenTheDiskIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		folder := filepath.Dir(m.path)
		if err := os.Remove(folder); err != nil {
			t.Fatal(err)
		}
		_, a := m.open(t, Limits{Recipients: 10_000}) // a block is 100
		send(a, 1, 20)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		send(a, 1, 1)
		_, a = m.open(t, Limits{Recipients: 10_000})
		if used := a.Status().UsedToday; used < 21 {
			t.Errorf("21 were sent, %d count after a crash", used)
		}
	})
}

func TestConfigure_SharesAnAccountAndTheStricterLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		other := Name{"ME@isp.example", []string{"backup.isp.example:587", "SMTP.isp.example:587"}}
		stranger := Name{"you@isp.example", isp.Hosts}
		got := b.Configure([]Spec{{isp, Limits{Rate{30, time.Minute}, 100}}, {other, Limits{Rate{1, time.Second}, 50}}, {stranger, Limits{}}})
		if got[0] != got[1] || got[1] == got[2] {
			t.Fatalf("accounts %p %p %p", got[0], got[1], got[2])
		}
		if s := got[0].Status(); s.Rate != 30 || s.RateSeconds != 60 || s.DailyRecipients != 50 {
			t.Errorf("the limits are %+v", s)
		}
		send(got[0], 1, 3)
		// It goes on counting where its hosts change, and while no table names it.
		b.Configure([]Spec{{stranger, Limits{}}})
		again := b.Configure([]Spec{{Name{isp.Username, []string{"new.isp.example:587", isp.Hosts[0]}}, Limits{Recipients: 50}}})
		if used := again[0].Status().UsedToday; used != 3 {
			t.Errorf("%d count, want 3", used)
		}
	})
}

// Tables that a new configuration makes one account have sent what all of them sent. What is on its way meanwhile ends in
// that count, as does what still begins by one of the accounts that there were.
func TestConfigure_AccountsThatBecomeOneCountTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		west, east := Name{"me@isp.example", []string{"west:587"}}, Name{"ME@isp.example", []string{"east:587"}}
		limits := Limits{Recipients: 10}
		open := func(specs ...Spec) (*Book, []*Account) {
			b, err := Open(Options{Path: m.path, Boot: func() (string, time.Duration) { return m.boot, time.Since(m.booted) }})
			if err != nil {
				t.Fatal(err)
			}
			return b, b.Configure(specs)
		}
		b, were := open(Spec{west, limits}, Spec{east, limits})
		if were[0] == were[1] {
			t.Fatal("they are one already")
		}
		send(were[0], 1, 3)
		send(were[1], 1, 2)
		open0, _ := were[0].Begin(1, false)
		open1, _ := were[1].Begin(2, false)
		is := b.Configure([]Spec{{Name{"me@isp.example", []string{"new:587", "east:587", "west:587"}}, limits}})[0]
		if used := is.Status().UsedToday; used != 8 {
			t.Errorf("%d count, want 8", used)
		}
		open0.End(1, 1, false)
		open1.End(1, 1, false)
		if used := is.Status().UsedToday; used != 7 {
			t.Errorf("%d count when what was on its way has ended, want 7", used)
		}
		if sent := send(were[1], 1, 9) + send(were[0], 1, 9) + send(is, 1, 9); sent != 3 {
			t.Errorf("%d more were sent, want 3", sent)
		}
		time.Sleep(time.Hour)
		_, again := open(Spec{west, limits}, Spec{Name{"me@isp.example", []string{"west:587", "east:587"}}, limits}) // after a crash
		if used := again[0].Status().UsedToday; again[0] != again[1] || used < 10 || used > 11 {
			t.Errorf("%d count after a crash, want 10 and at most a block", used)
		}
		time.Sleep(23*time.Hour + 13*time.Minute)
		if used := again[0].Status().UsedToday; used != 0 {
			t.Errorf("%d count a day later", used)
		}
		if used := is.Status().UsedToday; used != 0 {
			t.Errorf("of what had been on its way %d count a day later", used)
		}
	})
}

// Two accounts of the file become one at a start with a configuration that says so, and never send more than it allows.
func TestConfigure_AccountsOfTheFileBecomeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		open := func(specs ...Spec) (*Book, []*Account) {
			b, err := Open(Options{Path: m.path, Boot: func() (string, time.Duration) { return m.boot, time.Since(m.booted) }})
			if err != nil {
				t.Fatal(err)
			}
			return b, b.Configure(specs)
		}
		west, east := Name{"me@isp.example", []string{"west:587"}}, Name{"me@isp.example", []string{"east:587"}}
		limits := Limits{Recipients: 10, Rate: Rate{100, time.Hour}}
		b, were := open(Spec{west, limits}, Spec{east, limits})
		if n := send(were[0], 1, 4) + send(were[1], 1, 5); n != 9 {
			t.Fatalf("sent %d", n)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		_, is := open(Spec{Name{"me@isp.example", []string{"west:587", "east:587"}}, limits})
		if n := send(is[0], 1, 9); n != 0 {
			t.Errorf("%d went at once; what the two had left is not theirs", n)
		}
		time.Sleep(time.Hour)
		if n := send(is[0], 1, 9); n != 1 {
			t.Errorf("%d went, want the one that the day has left", n)
		}
	})
}

// A table with hosts of two others makes them one account, whichever comes first.
func TestConfigure_ATableCanJoinTwoOthers(t *testing.T) {
	west, east := Name{"me", []string{"west"}}, Name{"me", []string{"east"}}
	both := Name{"me", []string{"west", "east"}}
	for _, names := range [][]Name{{west, east, both}, {both, west, east}, {west, both, east}} {
		b, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		var specs []Spec
		for i, n := range names {
			specs = append(specs, Spec{n, Limits{Recipients: 10 + i}})
		}
		got := b.Configure(append(specs, Spec{Name{"you", both.Hosts}, Limits{}}))
		if got[0] != got[1] || got[1] != got[2] || got[0] == got[3] || got[2].Status().DailyRecipients != 10 {
			t.Errorf("%v: %p %p %p and %p, %+v", names, got[0], got[1], got[2], got[3], got[2].Status())
		}
	}
}

func TestSlow_HalvesOnceAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := memory(t, Limits{Rate: Rate{10, time.Minute}})
		slow := func() { turn, _ := a.Begin(1, false); turn.End(1, 0, true) }
		rate := func() float64 { return a.Status().PerMinute }
		slow()
		if rate() != 5 || !a.Status().Slowed {
			t.Fatalf("after a throttling reply: %v", rate())
		}
		time.Sleep(15 * time.Second)
		slow() // under way at the same time
		if rate() != 5 {
			t.Errorf("two replies at once made it %v", rate())
		}
		time.Sleep(time.Minute)
		slow()
		if rate() != 2.5 {
			t.Errorf("a later one made it %v", rate())
		}
		time.Sleep(5 * time.Minute)
		if got := rate(); got < 3.4 || got > 3.6 {
			t.Errorf("five minutes later it is %v, want 3.5", got)
		}
		time.Sleep(40 * time.Minute)
		if rate() != 10 || a.Status().Slowed {
			t.Errorf("it did not recover: %+v", a.Status())
		}
	})
}

// Where no rate is set, what went in the last minute is halved, for a while.
func TestSlow_LearnsARateWhereNoneIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := memory(t, Limits{})
		if a.Status().Limited() {
			t.Fatal("limited without limits")
		}
		send(a, 1, 39)
		turn, _ := a.Begin(1, false)
		turn.End(1, 0, true)
		if got := a.Status().PerMinute; got != 20 {
			t.Fatalf("slowed to %v a minute, want half of 40", got)
		}
		if got := send(a, 1, 100); got > 1 {
			t.Errorf("%d went at once", got)
		}
		time.Sleep(30 * time.Minute)
		if got := send(a, 1, 100); got != 100 || a.Status().Limited() {
			t.Errorf("half an hour later %d went, %+v", got, a.Status())
		}
	})
}

// A pace that was learnt from a throttling reply is kept, in an account without any limit too: over an orderly stop and over
// a crash. What the relay was off counts for the recovery.
func TestSlow_SurvivesStopsAndCrashes(t *testing.T) {
	for name, limits := range map[string]Limits{"no limit": {}, "a rate": {Rate: Rate{40, time.Minute}}, "a day": {Recipients: 10_000}} {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, crash %v", name, crash), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMachine(t)
					b, a := m.open(t, limits)
					for range 39 {
						for turn, _ := a.Begin(1, false); ; turn, _ = a.Begin(1, false) {
							if turn != nil {
								turn.End(1, 1, false)
								break
							}
							time.Sleep(time.Second)
						}
					}
					time.Sleep(2 * time.Second)
					turn, _ := a.Begin(1, false)
					turn.End(1, 0, true)
					was := a.Status().PerMinute
					if !a.Status().Slowed {
						t.Fatal("not slowed")
					}
					stop := func() {
						if crash {
							return
						}
						if err := b.Close(); err != nil {
							t.Fatal(err)
						}
					}
					stop()
					b, a = m.open(t, limits)
					if s := a.Status(); !s.Slowed || s.PerMinute != was {
						t.Fatalf("%v a minute after a restart (slowed: %v), was %v", s.PerMinute, s.Slowed, was)
					}
					if n := send(a, 1, 100); n > 1 {
						t.Errorf("%d went at once", n)
					}
					stop()
					time.Sleep(11 * time.Minute)
					b, a = m.open(t, limits)
					if s := a.Status(); !s.Slowed || s.PerMinute < was*1.39 || s.PerMinute > was*1.41 {
						t.Errorf("%v a minute after two steps of recovery while it was off, was %v", s.PerMinute, was)
					}
					stop()
					time.Sleep(time.Hour)
					if _, a = m.open(t, limits); a.Status().Slowed {
						t.Errorf("an hour later: %+v", a.Status())
					}
				})
			})
		}
	}
}

// What an orderly end has left of the bucket is not there again after a crash, in an account without a rate either.
func TestSlow_ACrashBeginsWithAnEmptyBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		b, a := m.open(t, Limits{})
		turn, _ := a.Begin(1, false)
		turn.End(1, 0, true)
		time.Sleep(time.Minute)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		_, a = m.open(t, Limits{})
		if n := send(a, 1, 9); n != 1 {
			t.Fatalf("%d went after a stop, want the 1 that was left", n)
		}
		_, a = m.open(t, Limits{})
		if n := send(a, 1, 9); n != 0 {
			t.Errorf("%d went after a crash", n)
		}
	})
}

// An account that a configuration leaves out for a moment is still slowed when the next names it again.
func TestSlow_SurvivesAConfigurationWithoutTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		turn, _ := b.Configure([]Spec{{isp, Limits{}}})[0].Begin(1, false)
		turn.End(1, 0, true)
		b.Configure(nil)
		if s := b.Configure([]Spec{{isp, Limits{}}})[0].Status(); !s.Slowed {
			t.Errorf("%+v", s)
		}
	})
}

func TestSpan_SaysWhenABacklogIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := memory(t, Limits{Rate: Rate{1, time.Minute}})
		if got := a.Span(61, 61); got != time.Hour {
			t.Errorf("61 messages at one a minute take %s", got)
		}
		a = memory(t, Limits{Recipients: 500})
		for n, want := range map[int]time.Duration{500: 0, 501: 24 * time.Hour, 10_000: 19 * 24 * time.Hour} {
			if got := a.Span(n, n); got != want {
				t.Errorf("%d recipients take %s, want %s", n, got, want)
			}
		}
		send(a, 500, 1)
		if got := a.Span(1, 1); got < 24*time.Hour || got > 24*time.Hour+time.Minute {
			t.Errorf("one more takes %s", got)
		}
		if got := memory(t, Limits{}).Span(1e6, 1e6); got != 0 {
			t.Errorf("without limits it takes %s", got)
		}
	})
}

// Many at once never get more than there is.
func TestAccount_ManyAtOnce(t *testing.T) {
	a := memory(t, Limits{Recipients: 100})
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for range 8 {
		wg.Go(func() {
			n := send(a, 3, 50)
			mu.Lock()
			total += n
			mu.Unlock()
		})
	}
	wg.Wait()
	if total != 100 {
		t.Errorf("%d recipients, want 100", total)
	}
}

func BenchmarkAdmitBeginEnd(b *testing.B) {
	book, err := Open(Options{})
	if err != nil {
		b.Fatal(err)
	}
	a := book.Configure([]Spec{{isp, Limits{Rate: Rate{1 << 30, time.Second}, Recipients: 1 << 30}}})[0]
	for b.Loop() {
		a.Admit()
		turn, _ := a.Begin(1, false)
		turn.End(1, 1, false)
	}
}

// With a file, a recipient costs a hundredth of a write of it where the cap is large.
func BenchmarkBeginEnd_OnDisk(b *testing.B) {
	book, err := Open(Options{Path: filepath.Join(b.TempDir(), "pace.json")})
	if err != nil {
		b.Fatal(err)
	}
	a := book.Configure([]Spec{{isp, Limits{Recipients: 1 << 30}}})[0]
	for b.Loop() {
		turn, _ := a.Begin(1, false)
		turn.End(1, 1, false)
	}
}
