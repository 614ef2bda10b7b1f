package queue

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
	"relayd/internal/envelope"
	"relayd/internal/pace"
)

// A scan is not stuck behind ten thousand messages of a mailing that came before it, whatever has held both up.
func TestFair_ThreePagesDoNotWaitForTenThousandOfAMailing(t *testing.T) {
	const many = 10_000
	mailing := func(r *rig) {
		quicken(r.committer.store)
		for i := range many {
			r.from("192.168.1.2", fmt.Sprintf("news+%d@lan.example", i), "a@example.com")
		}
	}
	scan := func(r *rig) {
		for range 3 {
			r.from("192.168.1.3", "scanner@lan.example", "boss@example.com")
		}
	}
	restart := func(r *rig) *rig {
		r.stop()
		again := openRig(r.t, r.dir, r.transport, testPolicy)
		again.Start()
		r.t.Cleanup(again.stop)
		return again
	}
	away := func(t *testing.T, tr *fakeTransport) (back func()) {
		paceBy(t, tr, oneAMinute, 100)
		paced := tr.deliver
		tr.set(siteAway)
		return func() { tr.set(paced) }
	}
	start := func(t *testing.T, tr *fakeTransport) *rig {
		r := openRig(t, t.TempDir(), tr, testPolicy)
		r.Start()
		t.Cleanup(r.stop)
		return r
	}
	for _, tc := range []struct {
		name    string
		waiting func(t *testing.T, tr *fakeTransport) // has both wait, and go on later as the pace allows
		after   time.Duration                         // by when the scan must be out
		most    int                                   // of the mailing by then
	}{
		{"in an outage", func(t *testing.T, tr *fakeTransport) {
			back := away(t, tr)
			r := start(t, tr)
			mailing(r)
			scan(r)
			back()
		}, 10 * time.Minute, 10},
		{"at a restart", func(t *testing.T, tr *fakeTransport) {
			paceBy(t, tr, oneAMinute, 100)
			r := start(t, tr)
			mailing(r)
			scan(r)
			restart(r)
		}, 7 * time.Minute, 6},
		{"in an outage with a restart in it", func(t *testing.T, tr *fakeTransport) {
			back := away(t, tr)
			r := start(t, tr)
			mailing(r)
			r = restart(r)
			scan(r)
			restart(r)
			back()
		}, 10 * time.Minute, 10},
		{"for the day to end", func(t *testing.T, tr *fakeTransport) {
			paceBy(t, tr, pace.Limits{Recipients: 20}, 100)
			r := start(t, tr)
			mailing(r)
			scan(r)
		}, 24*time.Hour + 2*time.Minute, 40},
		{"for the day to end, with a restart in it", func(t *testing.T, tr *fakeTransport) {
			paceBy(t, tr, pace.Limits{Recipients: 20}, 100)
			r := start(t, tr)
			mailing(r)
			scan(r)
			restart(r)
		}, 24*time.Hour + 2*time.Minute, 40},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				tr.concurrency = 1
				tc.waiting(t, tr)
				time.Sleep(tc.after)
				if n := tr.deliveredTo("boss@example.com"); n != 3 {
					t.Errorf("%d of 3 pages are out", n)
				}
				if n := tr.deliveredTo("a@example.com"); n == 0 || n > tc.most {
					t.Errorf("%d of the mailing are out, want up to %d", n, tc.most)
				}
			})
		})
	}
}

// Whatever comes, goes, is taken out or waits out an outage: no item is lost, those of one source stay in order, and none
// of the sources waits for longer than it takes to serve the others once, with those that were favoured.
func TestLane_NoSourceStarves(t *testing.T) {
	const sources = 5
	const turns = 2 * (mostFavour + 1) * sources // of the fresh line and of the backlog
	rapid.Check(t, func(rt *rapid.T) {
		var l lane
		var ids ID
		var came int
		at := map[ID]int{} // its place among those of its source in its line
		in := map[ID]*item{}
		waits := map[uint16]int{} // messages served since the source's turn
		leave := func(it *item) {
			delete(in, it.slot.ID)
			for _, other := range in {
				if other.slot.Source == it.slot.Source {
					return
				}
			}
			delete(waits, it.slot.Source)
		}
		enter := func(source uint16, fresh bool) *item {
			ids++
			it := &item{slot: slot{ID: ids, Source: source}, fresh: fresh}
			came++
			in[ids], at[ids] = it, came
			if _, ok := waits[source]; !ok {
				waits[source] = 0
			}
			return it
		}
		source := func(rt *rapid.T) uint16 { return rapid.Uint16Range(0, sources-1).Draw(rt, "source") }
		next := func(rt *rapid.T) *item {
			if l.ready() == 0 {
				rt.Skip("empty")
			}
			back := l.backlog.front.n > 0
			it := l.pop()
			for _, other := range in {
				if first := at[other.slot.ID] < at[it.slot.ID] && other.slot.Source == it.slot.Source && other.fresh == it.fresh; first && !back {
					rt.Fatalf("%d of source %d came before %d", it.slot.ID, it.slot.Source, other.slot.ID)
				}
			}
			for s := range waits {
				if waits[s]++; s == it.slot.Source {
					waits[s] = 0
				} else if waits[s] > turns+int(l.backlog.front.n) {
					rt.Fatalf("source %d has waited for %d others", s, waits[s])
				}
			}
			leave(it)
			return it
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				if l.ready() != len(in) {
					rt.Fatalf("%d are in the line of %d", l.ready(), len(in))
				}
			},
			"many of one source come": func(rt *rapid.T) {
				s, fresh := source(rt), rapid.Bool().Draw(rt, "fresh")
				for range rapid.IntRange(1, 40).Draw(rt, "messages") {
					l.push(enter(s, fresh), 0)
				}
			},
			"one comes": func(rt *rapid.T) { l.push(enter(source(rt), rapid.Bool().Draw(rt, "fresh")), 0) },
			"one goes":  func(rt *rapid.T) { next(rt) },
			"many go": func(rt *rapid.T) {
				next(rt)
				for range min(40, l.ready()) {
					next(rt)
				}
			},
			"it is down": func(rt *rapid.T) {
				it := next(rt)
				for _, id := range slices.SortedFunc(maps.Keys(in), func(a, b ID) int { return at[a] - at[b] }) {
					if in[id].fresh { // it joins the backlog
						came++
						at[id] = came
					}
				}
				l.close(time.Minute, nil)
				l.pushFirst(it)
				at[it.slot.ID] = 0
				in[it.slot.ID] = it
				waits[it.slot.Source] = 0
				for s := range waits {
					waits[s] = 0 // what was fresh begins again, behind the backlog
				}
				l.open()
			},
			"one is taken out": func(rt *rapid.T) {
				if len(in) == 0 {
					rt.Skip("empty")
				}
				all := slices.Sorted(maps.Keys(in))
				it := in[rapid.SampledFrom(all).Draw(rt, "item")]
				l.remove(it)
				leave(it)
			},
		})
		for l.ready() > 0 {
			next(rt)
		}
		if len(in) > 0 {
			rt.Fatalf("%d are lost", len(in))
		}
	})
}

// One that was tried, and may be what the route failed at, does not come again before the others have.
func TestLane_WhatMayBeToBlameGoesBehindAllOthers(t *testing.T) {
	var l lane
	l.close(time.Minute, nil)
	bad := &item{slot: slot{ID: 100, Source: 2}}
	l.push(bad, 0)
	for id := range ID(20) {
		l.push(&item{slot: slot{ID: id, Source: 1}}, 0)
	}
	again := false
	for range 20 {
		it := l.pop()
		if it == bad && again {
			t.Fatal("it came again")
		}
		if again = it == bad; again {
			l.push(it, 0)
		}
	}
}

func TestFairLine_TakesTurnsAndForgetsNothing(t *testing.T) {
	var l lane
	put := func(id ID, source uint16) *item {
		it := &item{slot: slot{ID: id, Routes: "main", Source: source}, fresh: true}
		l.push(it, 0)
		return it
	}
	for id := range ID(5) {
		put(id, 1)
	}
	if l.pop().slot.ID != 0 { // and so the first source is no new one
		t.Fatal("not in order")
	}
	put(10, 2)
	gone := put(20, 3)
	put(30, 4)
	l.remove(gone)
	var got []ID
	for l.ready() > 0 {
		got = append(got, l.pop().slot.ID)
	}
	// 20 was taken out; after two new ones, of which 0 was the first, an old one has its turn.
	if want := []ID{10, 1, 30, 2, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
	if len(l.fresh.flows) != 0 || l.fresh.n != 0 {
		t.Errorf("left over: %+v", l.fresh)
	}
}

func TestSourceOf(t *testing.T) {
	at := func(client string) envelope.Origin { return envelope.Origin{Addr: netip.MustParseAddr(client)} }
	base := sourceOf(at("192.168.1.2"), "bounce+1@lan.example")
	if sourceOf(at("192.168.1.2"), "bounce+ann=x.example@LAN.example") != base || sourceOf(at("192.168.1.2"), "bounce2@lan.example") != base {
		t.Error("the senders of one mailing are many sources")
	}
	for _, other := range []uint16{sourceOf(at("192.168.1.3"), "bounce+1@lan.example"), sourceOf(at("192.168.1.2"), "scan@lan.example"),
		sourceOf(envelope.Origin{}, "")} {
		if other == base {
			t.Error("two sources are one")
		}
	}
}
