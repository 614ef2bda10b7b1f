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
		quicken(r.committer.store)
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

// Whatever comes, goes, is taken out or waits out an outage: no item is lost, those of one source go as they became due,
// and no client and no sender waits for longer than it takes to serve the others once, with those that were favoured.
func TestLane_NoSourceStarves(t *testing.T) {
	const clients, senders = 4, 3
	const turns = 2 * (mostFavour + 1) * clients // of the fresh line and of the backlog
	rapid.Check(t, func(rt *rapid.T) {
		var l lane
		var ids ID
		in := map[ID]*item{}
		clientWaits, waits := map[uint16]int{}, map[source]int{} // messages served since its turn
		forget := func() {
			has, hasClient := map[source]bool{}, map[uint16]bool{}
			for _, it := range in {
				has[it.slot.Source], hasClient[it.slot.Source.client] = true, true
			}
			maps.DeleteFunc(waits, func(s source, _ int) bool { return !has[s] })
			maps.DeleteFunc(clientWaits, func(c uint16, _ int) bool { return !hasClient[c] })
		}
		enter := func(rt *rapid.T, from source, fresh bool) {
			ids++
			it := &item{slot: slot{ID: ids, Source: from}, fresh: fresh, due: time.Duration(rapid.IntRange(0, 3).Draw(rt, "due"))}
			in[ids] = it
			waits[from] += 0 // which begins to wait, if it did not
			clientWaits[from.client] += 0
			l.push(it, 0)
		}
		from := func(rt *rapid.T) source {
			return source{rapid.Uint16Range(1, clients).Draw(rt, "client"), rapid.Uint16Range(1, senders).Draw(rt, "sender")}
		}
		next := func(rt *rapid.T) *item {
			if l.ready() == 0 {
				rt.Skip("empty")
			}
			back := l.backlog.front.size()
			it := l.pop()
			mine := it.slot.Source
			for _, other := range in {
				if first := (dueHeap{other, it}).Less(0, 1) && other.slot.Source == mine && other.fresh == it.fresh; first && back == 0 {
					rt.Fatalf("%d of source %v came before %d", it.slot.ID, mine, other.slot.ID)
				}
			}
			for c := range clientWaits {
				if clientWaits[c]++; c == mine.client {
					clientWaits[c] = 0
				} else if clientWaits[c] > turns+back {
					rt.Fatalf("client %d has waited for %d others", c, clientWaits[c])
				}
			}
			for s := range waits {
				if s == mine {
					waits[s] = 0
				} else if s.client != mine.client {
					continue
				} else if waits[s]++; waits[s] > 2*(mostFavour+1)*senders+back {
					rt.Fatalf("sender %v has waited for %d others of its client", s, waits[s])
				}
			}
			delete(in, it.slot.ID)
			forget()
			return it
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				if l.ready() != len(in) {
					rt.Fatalf("%d are in the line of %d", l.ready(), len(in))
				}
			},
			"many of one source come": func(rt *rapid.T) {
				s, fresh := from(rt), rapid.Bool().Draw(rt, "fresh")
				for range rapid.IntRange(1, 40).Draw(rt, "messages") {
					enter(rt, s, fresh)
				}
			},
			"one comes": func(rt *rapid.T) { enter(rt, from(rt), rapid.Bool().Draw(rt, "fresh")) },
			"one goes":  func(rt *rapid.T) { next(rt) },
			"many go": func(rt *rapid.T) {
				next(rt)
				for range min(40, l.ready()) {
					next(rt)
				}
			},
			"it is down": func(rt *rapid.T) {
				it := next(rt)
				l.close(time.Minute, nil)
				l.pushFirst(it)
				in[it.slot.ID] = it
				waits[it.slot.Source], clientWaits[it.slot.Source.client] = 0, 0
				for s := range waits {
					waits[s], clientWaits[s.client] = 0, 0 // what was fresh begins again, behind the backlog
				}
				l.open()
			},
			"one is taken out": func(rt *rapid.T) {
				if len(in) == 0 {
					rt.Skip("empty")
				}
				it := in[rapid.SampledFrom(slices.Sorted(maps.Keys(in))).Draw(rt, "item")]
				l.remove(it)
				delete(in, it.slot.ID)
				forget()
			},
		})
		for l.ready() > 0 {
			next(rt)
		}
		if len(in) > 0 {
			rt.Fatalf("%d are lost", len(in))
		}
		for _, line := range []*fairLine{&l.fresh, &l.backlog} {
			for _, fl := range line.flows {
				if fl.size() > 0 {
					rt.Fatalf("an item is left in an empty line: %+v", line)
				}
			}
		}
	})
}

// One that was tried, and may be what the route failed at, does not come again before the others have.
func TestLane_WhatMayBeToBlameGoesBehindAllOthers(t *testing.T) {
	var l lane
	l.close(time.Minute, nil)
	bad := &item{slot: slot{ID: 100, Source: source{client: 2}}}
	l.push(bad, 0)
	for id := range ID(20) {
		l.push(&item{slot: slot{ID: id, Source: source{client: 1}}}, 0)
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
	put := func(id ID, client uint16) *item {
		it := &item{slot: slot{ID: id, Routes: "main", Source: source{client: client}}, fresh: true}
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
	if len(l.fresh.flows) != 0 || len(l.fresh.clients) != 0 || l.fresh.n != 0 {
		t.Errorf("left over: %+v", l.fresh)
	}
}

// Sources whose messages were taken out, while nothing goes, cost no memory for long.
func TestFairLine_ForgetsSourcesWithoutMail(t *testing.T) {
	var l lane
	for id := range ID(10_000) {
		it := &item{slot: slot{ID: id, Source: source{uint16(id % 300), uint16(id % maxSenders)}}, fresh: id%2 == 0}
		l.push(it, 0)
		if id%10 > 0 {
			l.remove(it)
		}
	}
	for name, line := range map[string]*fairLine{"fresh": &l.fresh, "backlog": &l.backlog} {
		if n := len(line.flows); n > 2*line.n+100 || len(line.clients) > n {
			t.Errorf("%s: %d sources and %d clients for %d messages", name, n, len(line.clients), line.n)
		}
	}
	for n := l.ready(); n > 0; n-- {
		l.pop()
	}
	if l.ready() != 0 {
		t.Errorf("%d are left", l.ready())
	}
}

func originAt(client string) envelope.Origin {
	return envelope.Origin{Addr: netip.MustParseAddr(client)}
}

func TestSourceOf(t *testing.T) {
	at := originAt
	base := sourceOf(at("192.168.1.2"), "bounce+1@lan.example")
	for _, same := range []source{sourceOf(at("192.168.1.2"), "bounce+ann=x.example@LAN.example"), sourceOf(at("192.168.1.2"), "bounce2@lan.example"),
		sourceOf(at("::ffff:192.168.1.2"), "bounce@lan.example")} {
		if same != base {
			t.Error("the senders of one mailing are many sources")
		}
	}
	if other := sourceOf(at("192.168.1.2"), "scan@lan.example"); other.client != base.client || other.sender == base.sender {
		t.Errorf("another sender of the client is %v, beside %v", other, base)
	}
	if other := sourceOf(at("192.168.1.3"), "bounce+1@lan.example"); other.client == base.client || other.sender != base.sender {
		t.Errorf("the sender at another client is %v, beside %v", other, base)
	}
	if own := sourceOf(envelope.Origin{}, ""); own.client == base.client {
		t.Error("the relay's own mail shares the turns of a client")
	}
	net := sourceOf(at("2001:db8:1:2::7"), "a@lan.example")
	if sourceOf(at("2001:db8:1:2:abcd::9"), "a@lan.example") != net || sourceOf(at("2001:db8:1:3::7"), "a@lan.example") == net {
		t.Error("a client is not the /64 of an IPv6 address")
	}
	if sourceOf(at("fe80::1%eth0"), "a@lan.example") != sourceOf(at("fe80::2%eth1"), "a@lan.example") {
		t.Error("the zone counts for a client")
	}
}
