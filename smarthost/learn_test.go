package smarthost

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

func sized(n int64) envelope.Message {
	m := mail("Subject: big\r\n\r\n" + strings.Repeat("x", int(n)-18) + "\r\n")
	return m
}

// sizesOf is what an earlier run may have learnt of one:25 and two:25.
func sizesOf(sizes ...int64) map[string]HostFacts {
	learnt := make(map[string]HostFacts)
	for i, size := range sizes {
		learnt[[]string{"one:25", "two:25"}[i]] = HostFacts{Size: size, SizeAt: time.Now()}
	}
	return learnt
}

func TestSize_IsLearntAndToldOnlyWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		p.hosts["one:25"].answer = offering("SIZE 2000000")
		p.hosts["two:25"].answer = offering("SIZE 4000000")
		var told []string
		var r *Router
		r = p.router(t, func(o *Options) {
			o.Learnt = sizesOf(2000000, 1000000)
			o.Learn = func(addr string, f HostFacts) {
				r.MaxSize() // with no lock held
				told = append(told, fmt.Sprint(addr, " ", f.Size))
			}
		}, "one:25", "two:25")
		if got := r.MaxSize(); got != 2000000 {
			t.Errorf("before the first connection: %d", got)
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", sized(1800000)), "one:25")
		if len(told) != 0 {
			t.Error(told)
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", sized(3000000)), "two:25")
		if got := strings.Join(told, ","); got != "two:25 4000000" || r.MaxSize() != 4000000 {
			t.Errorf("%s; %d", got, r.MaxSize())
		}
		// The first host drops its limit; that shows in its next session.
		p.hosts["one:25"].set(func(h *peer) { h.answer = at("MAIL", "421 later") })
		wantDelivered(t, r.Deliver(t.Context(), "isp", sized(1800000)), "two:25")
		p.hosts["one:25"].set(func(h *peer) { h.answer = offering("SIZE") })
		r.ProbeNow()
		wantDelivered(t, r.Deliver(t.Context(), "isp", sized(10000000)), "one:25")
		if got := strings.Join(told, ","); got != "two:25 4000000,one:25 0" || r.MaxSize() != 0 {
			t.Errorf("%s; %d", got, r.MaxSize())
		}
	})
}

func TestSize_UnknownHostHasNoKnownLimit(t *testing.T) {
	for _, c := range []struct {
		learnt map[string]HostFacts
		want   int64
	}{
		{nil, 0}, {sizesOf(10), 0}, {sizesOf(10, 0), 0},
		{sizesOf(10, 30), 30},
	} {
		r := newTestRouter(t, Options{Learnt: c.learnt,
			Routes: []Route{{Name: "isp", Hosts: []string{"one:25", "two:25"}, TLS: ModeOff}}})
		if got := r.MaxSize(); got != c.want {
			t.Errorf("%v: %d, want %d", c.learnt, got, c.want)
		}
	}
	if got := newTestRouter(t, Options{}).MaxSize(); got != 0 {
		t.Errorf("without a host: %d", got)
	}
}

func TestSize_OfAnEarlierRunDecidesWhetherToWaitForAHost(t *testing.T) {
	for learnt, permanent := range map[int64]bool{0: false, 3000000: true, 6000000: false} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25", "two:25")
			p.hosts["one:25"].refuse = true
			p.hosts["two:25"].answer = offering("SIZE 2000000")
			r := p.router(t, func(o *Options) { o.Learnt = sizesOf(learnt) }, "one:25", "two:25")
			a := r.Deliver(t.Context(), "isp", sized(4000000))
			if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent != permanent {
				t.Errorf("learnt %d: %s", learnt, show(a))
			}
			// With nobody to ask it waits, whatever an earlier run learnt.
			p.hosts["two:25"].set(func(h *peer) { h.answer = at("MAIL", "421 later") })
			r.Deliver(t.Context(), "isp", sized(1000000))
			if a := r.Deliver(t.Context(), "isp", sized(4000000)); a.Site == nil {
				t.Errorf("learnt %d: %s", learnt, show(a))
			}
		})
	}
}

// A host that once offers a SIZE that is too small to be true gets the message all the same, and intake goes on.
func TestSize_SlipIsAskedForAgainAndNotRemembered(t *testing.T) {
	for name, c := range map[string]struct {
		slip    string
		learnt  int64
		size    int64
		maxSize int64
	}{
		"one octet, of a new host":      {"SIZE 1", 0, 5000, 0},
		"one octet, of a host of 50 MB": {"SIZE 1", 50_000_000, 5000, 50_000_000},
		"below a mebibyte":              {"SIZE 1048575", 0, 2_000_000, 0},
		"far below what it was":         {"SIZE 2000000", 50_000_000, 3_000_000, 50_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25")
				one := p.hosts["one:25"]
				one.answer = offering(c.slip)
				var learnt []int64
				options := Options{}
				r := p.router(t, func(o *Options) {
					o.Learn = func(_ string, f HostFacts) { learnt = append(learnt, f.Size) }
					if c.learnt > 0 {
						o.Learnt = sizesOf(c.learnt)
					}
					options = *o
				}, "one:25")
				// Said in each session: it waits, and nothing is remembered, also over a retry and a reload.
				for range 3 {
					a := r.Deliver(t.Context(), "isp", sized(c.size))
					if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent || a.Results[0].Failure.Reply.Code != 452 {
						t.Fatal(show(a))
					}
					if r.MaxSize() != c.maxSize || len(learnt) != 0 {
						t.Errorf("intake takes %d, learnt %v", r.MaxSize(), learnt)
					}
					r.ProbeNow()
					options.Timeouts.Greeting += time.Second // so that the host is another one
					if err := r.Reconfigure(options); err != nil {
						t.Fatal(err)
					}
				}
				// Said once: the next session, in the same attempt, decides.
				opened := one.see().opened
				one.set(func(h *peer) {
					h.answer = func(line string) string {
						if h.see().opened > opened+1 {
							return offering("SIZE 50000000")(line)
						}
						return offering(c.slip)(line)
					}
				})
				wantDelivered(t, r.Deliver(t.Context(), "isp", sized(c.size)), "one:25")
				if r.MaxSize() != 50_000_000 {
					t.Errorf("intake takes %d", r.MaxSize())
				}
			})
		})
	}
}

// What a host repeats for a day is so, however unlikely it is.
func TestSize_DoubtsEndWithADay(t *testing.T) {
	for offer, learnt := range map[string]int64{"SIZE 2000000": 2_000_000, "SIZE 1000": 50_000_000} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25")
			p.hosts["one:25"].answer = offering(offer)
			r := p.router(t, func(o *Options) { o.Learnt = sizesOf(50_000_000) }, "one:25")
			for _, permanent := range []bool{false, false, true} {
				a := r.Deliver(t.Context(), "isp", sized(3_000_000))
				if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent != permanent {
					t.Fatalf("%s: %s, want permanent %v", offer, show(a), permanent)
				}
				time.Sleep(sizeLife/2 + time.Minute)
			}
			if h := r.table.Load().routes[0].hosts[0]; h.facts.Size != learnt {
				t.Errorf("%s: learnt %d, want %d", offer, h.facts.Size, learnt)
			}
		})
	}
}

// What is remembered expires: intake refuses by it for an hour, whoever learnt it.
func TestSize_IsAskedAnewBeforeIntakeRefusesByIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].answer = offering("SIZE 2000000")
		noted := 0
		r := p.router(t, func(o *Options) {
			o.Learnt = sizesOf(2_000_000)
			o.Learn = func(string, HostFacts) { noted++ }
		}, "one:25")
		for range 3 {
			if got := r.MaxSize(); got != 2_000_000 {
				t.Errorf("intake takes %d", got)
			}
			time.Sleep(sizeAsk + time.Minute)
			if got := r.MaxSize(); got != 0 {
				t.Errorf("intake takes %d by what is old", got)
			}
			// The message that intake takes finds out.
			a := r.Deliver(t.Context(), "isp", sized(3_000_000))
			if a.Site != nil || a.Results[0].Failure == nil || !a.Results[0].Failure.Permanent {
				t.Fatal(show(a))
			}
		}
		if noted != 3 {
			t.Errorf("noted %d times", noted)
		}
		time.Sleep(sizeLife + time.Minute)
		p.hosts["one:25"].set(func(h *peer) { h.refuse = true })
		r.Deliver(t.Context(), "isp", sized(1000))
		if h := r.table.Load().routes[0].hosts[0]; h.facts.size(sizeLife, time.Now()) != 0 {
			t.Error("it does not expire")
		}
	})
}
