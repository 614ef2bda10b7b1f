package smarthost

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

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
		learnt[[]string{"one:25", "two:25"}[i]] = HostFacts{Size: size}
	}
	return learnt
}

func TestSize_IsLearntAndToldOnlyWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		p.hosts["one:25"].answer = offering("SIZE 1000")
		p.hosts["two:25"].answer = offering("SIZE 2000")
		var told []string
		var r *Router
		r = p.router(t, func(o *Options) {
			o.Learnt = sizesOf(1000, 500)
			o.Learn = func(addr string, f HostFacts) {
				r.MaxSize() // with no lock held
				told = append(told, fmt.Sprint(addr, " ", f.Size))
			}
		}, "one:25", "two:25")
		if got := r.MaxSize(); got != 1000 {
			t.Errorf("before the first connection: %d", got)
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", sized(900)), "one:25")
		if len(told) != 0 {
			t.Error(told)
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", sized(1500)), "two:25")
		if got := strings.Join(told, ","); got != "two:25 2000" || r.MaxSize() != 2000 {
			t.Errorf("%s; %d", got, r.MaxSize())
		}
		// The first host drops its limit; that shows in its next session.
		p.hosts["one:25"].set(func(h *peer) { h.answer = at("MAIL", "421 later") })
		wantDelivered(t, r.Deliver(t.Context(), "isp", sized(900)), "two:25")
		p.hosts["one:25"].set(func(h *peer) { h.answer = offering("SIZE") })
		r.ProbeNow()
		wantDelivered(t, r.Deliver(t.Context(), "isp", sized(5000)), "one:25")
		if got := strings.Join(told, ","); got != "two:25 2000,one:25 0" || r.MaxSize() != 0 {
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
	for learnt, permanent := range map[int64]bool{0: false, 1500: true, 3000: false} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25", "two:25")
			p.hosts["one:25"].refuse = true
			p.hosts["two:25"].answer = offering("SIZE 1000")
			r := p.router(t, func(o *Options) { o.Learnt = sizesOf(learnt) }, "one:25", "two:25")
			a := r.Deliver(t.Context(), "isp", sized(2000))
			if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent != permanent {
				t.Errorf("learnt %d: %s", learnt, show(a))
			}
			// With nobody to ask it waits, whatever an earlier run learnt.
			p.hosts["two:25"].set(func(h *peer) { h.answer = at("MAIL", "421 later") })
			r.Deliver(t.Context(), "isp", sized(500))
			if a := r.Deliver(t.Context(), "isp", sized(2000)); a.Site == nil {
				t.Errorf("learnt %d: %s", learnt, show(a))
			}
		})
	}
}
