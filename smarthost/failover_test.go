package smarthost

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

func TestFailover_InOrderAndBackToTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25", "three:25")
		p.hosts["one:25"].refuse = true
		p.hosts["two:25"].answer = at("MAIL", "421 4.3.2 no")
		r := p.router(t, nil, "one:25", "two:25", "three:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "three:25")
		p.hosts["one:25"].set(func(h *peer) { h.refuse = false })
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "three:25")
		if p.hosts["one:25"].see().opened != 0 || p.hosts["two:25"].see().opened != 1 {
			t.Error("a host in its pause was asked")
		}
		time.Sleep(6 * time.Second)
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
	})
}

func TestFailover_AllDownIsSaidAtOnceWithTheTimeOfTheNextProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		p.hosts["one:25"].refuse = true
		p.hosts["two:25"].answer = at("", "554 5.7.1 go away")
		r := p.router(t, nil, "one:25", "two:25")
		a := r.Deliver(t.Context(), "isp", mail(hello))
		if a.Site == nil || a.RetryAt.Before(time.Now().Add(5*time.Second)) || a.RetryAt.After(time.Now().Add(6*time.Second)) {
			t.Error(show(a))
		}
		for range 1000 {
			if again := r.Deliver(t.Context(), "isp", mail(hello)); !again.RetryAt.Equal(a.RetryAt) || again.Site.Reason == "" {
				t.Fatal(show(again))
			}
		}
		if p.hosts["two:25"].see().opened != 1 {
			t.Error("the network was touched in the pause")
		}
		if r.Concurrency("isp") != 1 {
			t.Error("many deliveries at once are asked for while all hosts are down")
		}
		r.ProbeNow()
		p.hosts["one:25"].set(func(h *peer) { h.refuse = false })
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
	})
}

func TestFailover_OneProbeAtATimeWhileTheOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		one := p.hosts["one:25"]
		one.refuse = true
		r := p.router(t, nil, "one:25", "two:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25")
		time.Sleep(6 * time.Second)
		one.set(func(h *peer) {
			h.refuse = false
			h.answer = func(line string) string {
				if line == "" {
					time.Sleep(time.Minute)
				}
				return ""
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25") })
		synctest.Wait()
		for range 20 {
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25")
		}
		if one.see().opened != 1 {
			t.Errorf("%d connections while one probes", one.see().opened)
		}
		wg.Wait()
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
	})
}

func TestFailover_BigMessageThatProbesDoesNotHoldTheOthersUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		one := p.hosts["one:25"]
		one.refuse = true
		r := p.router(t, nil, "one:25")
		wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "dial")
		one.set(func(h *peer) { h.refuse = false; h.body = slowly(64<<10, 10*time.Second) })
		time.Sleep(6 * time.Second)
		var wg sync.WaitGroup
		wg.Go(func() {
			big := strings.Repeat(strings.Repeat("x", 78)+"\r\n", 2048)
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(big)), "one:25")
		})
		synctest.Wait()
		one.set(func(h *peer) { h.body = nil })
		start := time.Now()
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v for the other's body", took)
		}
		wg.Wait()
	})
}

func TestFailover_ConnectionsFromBeforeAnOutageAreNotTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		one := p.hosts["one:25"]
		one.answer = func(line string) string {
			if line == "." {
				time.Sleep(time.Second)
			}
			return ""
		}
		r := p.router(t, limit(3), "one:25")
		deliverAll(t, r, 3)
		one.set(func(h *peer) { h.answer = at("RCPT", "421 4.7.0 throttled") })
		wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "rcpt")
		synctest.Wait()
		if n := r.Status()[0].Hosts[0].Connections; n != 0 {
			t.Errorf("%d connections are kept", n)
		}
	})
}

func TestFailover_FlappingHostGetsLongerPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].answer = at(".", "421 4.7.0 throttled")
		r := p.router(t, nil, "one:25")
		start := time.Now()
		for range 6 {
			a := r.Deliver(t.Context(), "isp", mail(hello))
			wantSite(t, a, "dot")
			time.Sleep(time.Until(a.RetryAt))
		}
		// The first two are short, since one message may be all that the host fails at.
		if took := time.Since(start); took < (5+10+20+40)*time.Second {
			t.Errorf("six pauses take %v", took)
		}
		if n := r.Status()[0].Hosts[0].Failures; n != 4 {
			t.Errorf("%d failures in a row", n)
		}
	})
}

// A host that answers again and then breaks off transactions is not away for as long as the outage before was.
func TestFailover_FailureAmidATransactionBeginsThePausesAnew(t *testing.T) {
	for _, stage := range []string{"RCPT", "DATA"} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25")
			one := p.hosts["one:25"]
			one.refuse = true
			r := p.router(t, nil, "one:25")
			for range 5 {
				a := r.Deliver(t.Context(), "isp", mail(hello))
				wantSite(t, a, "dial")
				time.Sleep(time.Until(a.RetryAt))
			}
			one.set(func(h *peer) { h.refuse, h.answer = false, at(stage, hangUp) })
			start := time.Now()
			for range 3 { // two of them are short
				a := r.Deliver(t.Context(), "isp", mail(hello))
				wantSite(t, a, strings.ToLower(stage))
				time.Sleep(time.Until(a.RetryAt))
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("%s: three pauses take %v", stage, took)
			}
			one.set(func(h *peer) { h.refuse = true })
			for range 2 {
				wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "dial")
				time.Sleep(time.Minute)
			}
			one.set(func(h *peer) { h.refuse = false })
			a := r.Deliver(t.Context(), "isp", mail(hello))
			if pause := time.Until(a.RetryAt); pause < 20*time.Second {
				t.Errorf("%s: nothing went through, and the pause is %v", stage, pause)
			}
		})
	}
}

func TestFailover_SuccessBeginsThePausesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		one := p.hosts["one:25"]
		r := p.router(t, nil, "one:25")
		outage := func() (a envelope.Attempt) {
			one.set(func(h *peer) { h.answer = at("MAIL", "421 no") })
			for range 3 {
				a = r.Deliver(t.Context(), "isp", mail(hello))
				wantSite(t, a, "mail")
				if s := r.Status()[0].Hosts[0]; s.State != StateDown || s.Problem == "" || !s.NextProbe.Equal(a.RetryAt) {
					t.Errorf("%+v", s)
				}
				time.Sleep(time.Until(a.RetryAt))
			}
			one.set(func(h *peer) { h.answer = nil })
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
			return a
		}
		outage()
		s := r.Status()[0].Hosts[0]
		if s.State != StateUp || s.Failures != 0 || s.Problem != "" || !s.NextProbe.IsZero() || s.LastReply != "250 queued" {
			t.Errorf("%+v", s)
		}
		start := time.Now()
		outage()
		if took := time.Since(start); took > 40*time.Second {
			t.Errorf("three pauses take %v", took)
		}
	})
}

func TestFailover_ProbeThatIsCancelledLeavesItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		one := p.hosts["one:25"]
		one.refuse = true
		r := p.router(t, nil, "one:25")
		a := r.Deliver(t.Context(), "isp", mail(hello))
		one.set(func(h *peer) { h.refuse = false; h.answer = at("EHLO", hang) })
		time.Sleep(time.Until(a.RetryAt))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a := r.Deliver(ctx, "isp", mail(hello)); a.Site == nil {
			t.Error(show(a))
		}
		one.set(func(h *peer) { h.answer = nil })
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
	})
}

func TestFailover_TheFailureThatWantsAPersonIsTheOneThatIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25", "three:25")
		p.hosts["one:25"].refuse = true
		p.hosts["two:25"].answer = at("MAIL", "530 5.7.0 Authentication Required")
		p.hosts["three:25"].refuse = true
		r := p.router(t, nil, "one:25", "two:25", "three:25")
		for range 2 {
			a := r.Deliver(t.Context(), "isp", mail(hello))
			if wantSite(t, a, "mail"); a.Host != "two:25" || !a.RetryAt.Before(time.Now().Add(10*time.Second)) {
				t.Error(show(a))
			}
		}
	})
}

func TestDeliver_DamagedEnvelopeDoesNotReachTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].pipelining = true
		r := p.router(t, nil, "one:25")
		m := mail(hello, "b@example.net", "c@example.net>\r\nRSET\r\nRCPT TO:<d@example.net")
		a := r.Deliver(t.Context(), "isp", m)
		if a.Site != nil || a.Results[0].Failure == nil || a.Results[1].Failure == nil || a.Results[1].Failure.Scope != message {
			t.Error(show(a))
		}
		synctest.Wait()
		if lines := p.hosts["one:25"].see().lines; len(lines) != 1 {
			t.Errorf("the host got %q", lines)
		}
		if s := r.Status()[0].Hosts[0]; s.State == StateDown {
			t.Errorf("the host is blamed: %+v", s)
		}
	})
}

func TestFailover_RestOfTheRecipientsGoesToTheNextHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		one := p.hosts["one:25"]
		one.answer = func(line string) string {
			switch {
			case strings.HasPrefix(line, "RCPT TO:<c@"):
				return "452 4.5.3 too many recipients"
			case strings.HasPrefix(line, "MAIL") && one.see().transactions == 1:
				return "530 5.7.0 log in again"
			}
			return ""
		}
		r := p.router(t, nil, "one:25", "two:25")
		a := r.Deliver(t.Context(), "isp", mail(hello, "b@example.net", "c@example.net"))
		wantDelivered(t, a, "two:25")
		rcpts := func(h *peer) (out []string) {
			for _, l := range h.see().lines {
				if strings.HasPrefix(l, "RCPT") {
					out = append(out, l)
				}
			}
			return out
		}
		if fmt.Sprint(rcpts(p.hosts["two:25"])) != "[RCPT TO:<c@example.net>]" {
			t.Error("somebody gets it twice", rcpts(p.hosts["two:25"]))
		}
		p.hosts["two:25"].set(func(h *peer) { h.answer = at("MAIL", "421 no") })
		time.Sleep(2 * time.Minute)
		one.set(func(h *peer) { h.transactions = 0 })
		a = r.Deliver(t.Context(), "isp", mail(hello, "b@example.net", "c@example.net"))
		if a.Site != nil || a.Results[0].Failure != nil || a.Results[1].Failure == nil || a.Results[1].Failure.Scope != site {
			t.Error("half delivered, and told otherwise:", show(a))
		}
	})
}

func TestFailover_MessageThatBreaksTheConnectionDoesNotStopTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].body = func(r io.Reader) {
			if first, _ := r.(*bufio.Reader).Peek(1); string(first) == "!" {
				time.Sleep(5 * time.Minute)
			}
		}
		r := p.router(t, nil, "one:25")
		poison := mail("!"+strings.Repeat(strings.Repeat("x", 78)+"\r\n", 2048), "b@example.net")
		poison.ID = "poison"
		a := r.Deliver(t.Context(), "isp", poison)
		wantSite(t, a, "data")
		time.Sleep(time.Until(a.RetryAt))
		a = r.Deliver(t.Context(), "isp", poison)
		wantSite(t, a, "data") // nothing else got through meanwhile: it may still be the host
		time.Sleep(time.Until(a.RetryAt))
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		a = r.Deliver(t.Context(), "isp", poison)
		if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Scope != message || a.Results[0].Failure.Permanent {
			t.Error(show(a))
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
	})
}

// A host hangs up on one recipient: that message must not stop the route for ever, nor wait for ever.
func TestFailover_RecipientThatBreaksTheConnectionDoesNotStopTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].answer = at("RCPT TO:<odd@", hangUp)
		r := p.router(t, nil, "one:25")
		odd := mail(hello, "odd@example.net")
		odd.ID = "odd"
		for try := 1; ; try++ {
			a := r.Deliver(t.Context(), "isp", odd)
			if try == repliesToBlame {
				if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent {
					t.Error(show(a))
				}
				break
			}
			wantSite(t, a, "rcpt")
			time.Sleep(time.Until(a.RetryAt))
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
	})
}

func TestDeliver_NoRouteMakesTheMailWaitAndSaysWhatToAdd(t *testing.T) {
	r := newTestRouter(t, Options{})
	a := r.Deliver(t.Context(), "", mail(hello))
	if a.Site == nil || !contains(a.Site.Reason, "no [[smarthost]] takes mail from <a@example.com> to <b@example.net>: add one") {
		t.Error(show(a))
	}
	if a := r.Deliver(t.Context(), "gone", mail(hello)); a.Site == nil || !a.RetryAt.After(time.Now()) {
		t.Error(show(a))
	}
}

func TestReconfigure_KeepsWhatIsTheSameAndDropsWhatIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25", "three:25")
		p.hosts["one:25"].refuse = true
		options := Options{Hostname: "relay.example.com", Dial: p.dial, Routes: []Route{
			{Name: "isp", Hosts: []string{"one:25", "two:25"}, TLS: ModeOff, MaxConnections: 2}}}
		r, err := New(options)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { r.Close(context.Background()); p.open.Wait() }()
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25")

		bad := options
		bad.Routes = []Route{{Name: "isp"}}
		if r.Reconfigure(bad) == nil {
			t.Error("a bad configuration is taken")
		}
		options.Routes = []Route{{Name: "isp", Hosts: []string{"one:25", "two:25", "three:25"}, TLS: ModeOff, MaxConnections: 1,
			Senders: []string{"@example.com"}}}
		if err := r.Reconfigure(options); err != nil {
			t.Fatal(err)
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25")
		if p.hosts["two:25"].see().opened != 1 || r.Status()[0].Hosts[0].State != StateDown {
			t.Error("connections or health were lost")
		}
		options.ProbeMin = time.Second
		if err := r.Reconfigure(options); err != nil {
			t.Fatal(err)
		}
		if r.Status()[0].Hosts[0].State != StateUnknown {
			t.Error("the new pauses do not count")
		}
		options.Routes[0].Hosts = []string{"three:25"}
		if err := r.Reconfigure(options); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p.hosts["two:25"].see().quits != 1 {
			t.Error("a host that is gone keeps its connection")
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "three:25")
	})
}

func TestLog_EachChangeOfAHostOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		one := p.hosts["one:25"]
		one.refuse = true
		var out bytes.Buffer
		r := p.router(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&out, nil)) }, "one:25")
		for range 10 {
			time.Sleep(3 * time.Minute)
			wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "dial")
		}
		one.set(func(h *peer) { h.refuse = false })
		for range 3 {
			time.Sleep(3 * time.Minute)
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !contains(lines[0], `level=WARN msg="host down" route=isp host=one:25 queue_id=q1`) ||
			!contains(lines[0], "refuses connections") ||
			!contains(lines[1], `level=INFO msg="host back" route=isp host=one:25 queue_id=q1 was=down after=30m0s`) {
			t.Errorf("the log is\n%s", out.String())
		}
	})
}
