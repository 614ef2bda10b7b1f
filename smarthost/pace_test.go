package smarthost

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/pace"
)

func manyTo(n int) (to []string) {
	for i := range n {
		to = append(to, fmt.Sprintf("r%d@example.net", i))
	}
	return to
}

// A message to more recipients than a transaction may have goes in parts, without an error for anybody.
func TestPace_MaxRecipientsSplits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		r := p.router(t, func(o *Options) { o.Routes[0].MaxRecipients = 4 }, "one:25")
		m := mail(hello, manyTo(10)...)
		var parts []int
		for len(m.Envelope.Recipients) > 0 {
			a := r.Deliver(t.Context(), "isp", m)
			for i, res := range a.Results {
				if res.Failure != nil {
					t.Fatalf("recipient %d: %v", i, res.Failure)
				}
			}
			parts = append(parts, len(a.Results))
			m.Envelope.Recipients = m.Envelope.Recipients[len(m.Envelope.Recipients)-a.Left:]
		}
		if !slices.Equal(parts, []int{4, 4, 2}) {
			t.Errorf("parts of %v", parts)
		}
	})
}

// Without room there is no attempt and no failure: the rest is left, and the time says when to come again.
func TestPace_WhatIsOverTheLimitsIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		r := p.router(t, func(o *Options) {
			o.Routes[0].DailyRecipients = 5
			o.Routes[0].Rate = pace.Rate{Messages: 2, Per: time.Minute}
		}, "one:25")
		if a := r.Deliver(t.Context(), "isp", mail(hello, manyTo(3)...)); len(a.Results) != 3 || a.Left != 0 {
			t.Fatalf("%d results, %d left", len(a.Results), a.Left)
		}
		a := r.Deliver(t.Context(), "isp", mail(hello, manyTo(3)...))
		if a.Left != 3 || a.Site != nil || len(a.Results) != 0 || time.Until(a.RetryAt) != 30*time.Second {
			t.Fatalf("%+v", a)
		}
		if _, ok := r.Admit("isp"); ok {
			t.Error("admitted beyond the rate")
		}
		time.Sleep(30 * time.Second)
		if a := r.Deliver(t.Context(), "isp", mail(hello, manyTo(3)...)); len(a.Results) != 2 || a.Left != 1 {
			t.Errorf("%d results, %d left; the day has room for 2", len(a.Results), a.Left)
		}
		if s := r.Status()[0].Pace; s == nil || s.UsedToday != 5 || s.DailyRecipients != 5 || time.Until(s.NextSlot) < 23*time.Hour {
			t.Errorf("%+v", s)
		}
	})
}

// Only what a host took, or may have, counts: neither a host that is away nor a recipient who is refused.
func TestPace_CountsWhatAHostTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		one := p.hosts["one:25"]
		r := p.router(t, func(o *Options) { o.Routes[0].DailyRecipients = 10 }, "one:25")
		used := func() int { return r.Status()[0].Pace.UsedToday }
		one.set(func(h *peer) { h.answer = at("RCPT TO:<r0@", "550 5.1.1 no such user") })
		r.Deliver(t.Context(), "isp", mail(hello, manyTo(3)...))
		if used() != 2 {
			t.Errorf("%d count, want the 2 that were taken", used())
		}
		one.set(func(h *peer) { h.answer = at("MAIL", "421 4.3.0 closing") })
		r.Deliver(t.Context(), "isp", mail(hello, manyTo(3)...))
		if used() != 2 {
			t.Errorf("%d count after a site failure", used())
		}
	})
}

// A throttling reply lowers the pace for a while.
func TestPace_ThrottlingLowersThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		one := p.hosts["one:25"]
		r := p.router(t, func(o *Options) { o.Routes[0].Rate = pace.Rate{Messages: 60, Per: time.Minute} }, "one:25")
		full := r.Status()[0].Pace.PerMinute
		one.set(func(h *peer) { h.answer = at("MAIL", "451 4.7.500 Server busy. Please try again later") })
		if a := r.Deliver(t.Context(), "isp", mail(hello)); a.Site == nil {
			t.Fatal(show(a))
		}
		if s := r.Status()[0].Pace; s.PerMinute != full/2 || !s.Slowed {
			t.Errorf("%+v, want half of %v", s, full)
		}
		one.set(func(h *peer) { h.answer = nil })
		time.Sleep(time.Hour)
		if s := r.Status()[0].Pace; s.PerMinute != full || s.Slowed {
			t.Errorf("an hour later: %+v", s)
		}
	})
}

// Routes of one account share its count and the stricter limits; another user at the same host does not.
func TestPace_RoutesOfOneAccountShareIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		r := p.router(t, func(o *Options) {
			first := o.Routes[0]
			first.DailyRecipients = 4
			second := first
			second.Name, second.Hosts, second.DailyRecipients = "second", []string{"two:25", "one:25"}, 0
			o.Routes = []Route{first, second}
		}, "one:25")
		r.Deliver(t.Context(), "isp", mail(hello, manyTo(3)...))
		if a := r.Deliver(t.Context(), "second", mail(hello, manyTo(3)...)); len(a.Results) != 1 || a.Left != 2 {
			t.Errorf("%d results, %d left", len(a.Results), a.Left)
		}
		st := r.StatusWith(map[string]Waiting{"isp": {3, 3, 2}, "second": {2, 6, 0}})
		if st[0].Pace == nil || st[0].Pace.Messages != 3 || st[0].Pace.Paced != 2 || st[1].Pace.Recipients != 6 ||
			st[0].Pace.EmptiesAt.IsZero() || !st[0].Pace.EmptiesAt.Equal(st[1].Pace.EmptiesAt) {
			t.Errorf("%+v %+v", st[0].Pace, st[1].Pace)
		}
	})
}

// A reload keeps the count, and takes the new limits over.
func TestPace_ReconfigureKeepsTheCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		var options Options
		r := p.router(t, func(o *Options) { o.Routes[0].DailyRecipients = 4; options = *o }, "one:25")
		r.Deliver(t.Context(), "isp", mail(hello, manyTo(3)...))
		options.Routes = slices.Clone(options.Routes)
		options.Routes[0].DailyRecipients = 5
		if err := r.Reconfigure(options); err != nil {
			t.Fatal(err)
		}
		if a := r.Deliver(t.Context(), "isp", mail(hello, manyTo(3)...)); len(a.Results) != 2 {
			t.Errorf("%d went, want 2", len(a.Results))
		}
	})
}

// A leave that is given and given back while a route changes its account is lost on neither: not before, amid or after.
func TestPace_ReconfigureLosesNoLeave(t *testing.T) {
	p := newPeers("one:25", "two:25")
	var options Options
	r := p.router(t, func(o *Options) {
		stays := o.Routes[0]
		stays.Name, stays.DailyRecipients = "stays", 2
		o.Routes = append(o.Routes, stays)
		for i := range 100 { // so that the change takes a while
			stays.Name, stays.Hosts = fmt.Sprint("other", i), []string{fmt.Sprintf("other%d:25", i)}
			o.Routes = append(o.Routes, stays)
		}
		options = *o
	}, "one:25")
	moved := options
	moved.Routes = slices.Clone(options.Routes)
	moved.Routes[0].Hosts = []string{"two:25"}
	for n := range 100 {
		var asking sync.WaitGroup
		var changed atomic.Bool
		asking.Go(func() {
			for !changed.Load() {
				if _, ok := r.Admit("isp"); ok {
					r.Forgo("isp")
				}
			}
		})
		next := moved
		if n%2 == 1 {
			next = options
		}
		err := r.Reconfigure(next)
		changed.Store(true)
		asking.Wait()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if _, ok := r.Admit("stays"); !ok {
				t.Fatalf("after the change %d of the routes the account has leave for %d of 2", n, i)
			}
		}
		r.Forgo("stays")
		r.Forgo("stays")
	}
}

// max_size is as if the host had said so: known before the first connection, and a message that is larger fails for good.
func TestPace_MaxSizeIsAsIfOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		var learnt []int64
		r := p.router(t, func(o *Options) {
			o.Routes[0].MaxSize = 70_000
			o.Learn = func(_ string, f HostFacts) { learnt = append(learnt, f.Size) }
		}, "one:25")
		if r.MaxSize() != 70_000 {
			t.Errorf("largest: %d", r.MaxSize())
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", sized(60_000)), "one:25")
		a := r.Deliver(t.Context(), "isp", sized(80_000))
		if len(a.Results) != 1 || a.Results[0].Failure == nil || !a.Results[0].Failure.Permanent ||
			a.Results[0].Failure.Reply.Enhanced != [3]int{5, 3, 4} {
			t.Error(show(a))
		}
		if slices.Contains(learnt, 70_000) {
			t.Errorf("learnt %v: the limit of the file is not what the host offers", learnt)
		}
	})
}

func TestExplain_SaysWhyEachRouteDoesOrDoesNot(t *testing.T) {
	route := func(name string, f func(*Route)) Route {
		r := Route{Name: name, Hosts: []string{name + ":25"}, TLS: ModeOff}
		f(&r)
		return r
	}
	r, err := New(Options{Hostname: "relay.example", Routes: []Route{
		route("lan", func(r *Route) { r.Clients = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }),
		route("office", func(r *Route) {
			r.Senders, r.Recipients = []string{"@office.example", "boss@x.example"}, []string{"@a.example"}
		}),
		route("rest", func(r *Route) { r.Senders = []string{"*"} }),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ client, from, to, want string }{
		{"10.1.2.3", "a@x.example", "b@y.example", "lan clients: 10.1.2.3 is in 10.0.0.0/8"},
		{"::ffff:10.1.2.3", "", "b@y.example", "lan clients: 10.1.2.3 is in 10.0.0.0/8"},
		{"192.168.1.1", "Boss@X.example", "b@A.example", "!clients: 192.168.1.1 is in none of 10.0.0.0/8|" +
			"office senders: <Boss@X.example> fits boss@x.example; recipients: <b@A.example> fits @a.example"},
		{"", "a@office.example", "b@y.example", "!clients: mail of the relay itself comes from no client|" +
			"!recipients: <b@y.example> fits none of @a.example|rest it takes all mail"},
		{"192.168.1.1", "", "b@a.example", "!clients: 192.168.1.1 is in none of 10.0.0.0/8|" +
			"!senders: <> fits none of boss@x.example, @office.example|rest it takes all mail"},
	} {
		o := envelope.Origin{}
		if tc.client != "" {
			o.Addr = netip.MustParseAddr(tc.client)
		}
		var got []string
		for _, s := range r.Explain(o, envelope.Path(tc.from), envelope.Path(tc.to)) {
			if s.Takes {
				got = append(got, s.Route+" "+s.Why)
			} else {
				got = append(got, "!"+s.Why)
			}
		}
		if words := strings.Join(got, "|"); words != tc.want {
			t.Errorf("%+v:\n%s", tc, words)
		}
		// What is explained is what is done.
		env := envelope.Envelope{ReversePath: envelope.Path(tc.from), Recipients: []envelope.Recipient{{Path: envelope.Path(tc.to)}}}
		last := got[len(got)-1]
		if leg := r.Legs(o, env)[0]; !strings.HasPrefix(last, leg.Route+" ") {
			t.Errorf("%+v goes by %s", tc, leg.Route)
		}
	}
}

// BenchmarkLegs is the decision of the routes of a message: of 10 tables with 10 conditions each the last takes it.
func BenchmarkLegs(b *testing.B) {
	var routes []Route
	for i := range 10 {
		r := Route{Name: fmt.Sprintf("r%d", i), Hosts: []string{"h:25"}, TLS: ModeOff}
		for j := range 10 {
			r.Senders = append(r.Senders, fmt.Sprintf("@s%d-%d.example", i, j))
		}
		routes = append(routes, r)
	}
	routes = append(routes, Route{Name: "rest", Hosts: []string{"h:25"}, TLS: ModeOff})
	r, err := New(Options{Hostname: "relay.example", Routes: routes})
	if err != nil {
		b.Fatal(err)
	}
	env := mail(hello, "a@example.net").Envelope
	b.ReportAllocs()
	for b.Loop() {
		if legs := r.Legs(envelope.Origin{}, env); legs[0].Route != "rest" {
			b.Fatal(legs)
		}
	}
}
