package smarthost

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

const eightBitMail = "Subject: hi\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\ngrüße\r\n"

// offering answers EHLO with the given extensions.
func offering(extensions ...string) func(string) string {
	return at("EHLO", "250-peer\r\n250 "+strings.Join(extensions, "\r\n250 "))
}

func TestEightBit_WhatCannotBeEncodedIsReportedAndNotSent(t *testing.T) {
	for body, code := range map[string]envelope.EnhancedCode{
		"Subject: grüße\r\n\r\nhello\r\n": {5, 6, 7},
		"MIME-Version: 1.0\r\nContent-Type: message/partial; id=a; number=1; total=2\r\n\r\ngrüße\r\n": {5, 6, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25")
			r := p.router(t, nil, "one:25")
			a := r.Deliver(t.Context(), "isp", mail(body))
			if a.Site != nil || a.Host != "one:25" {
				t.Fatal(show(a))
			}
			f := a.Results[0].Failure
			if f == nil || f.Scope != message || !f.Permanent || f.Reply.Enhanced != code || f.Reply.Code != 554 {
				t.Error(show(a))
			}
			if p.hosts["one:25"].see().transactions != 0 || r.Status()[0].Hosts[0].State != StateUp {
				t.Error("it was sent, or the host is blamed")
			}
		})
	}
}

func TestEightBit_WaitsAWhileForTheHostThatTakesItAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		one, two := p.hosts["one:25"], p.hosts["two:25"]
		one.answer = offering("8BITMIME")
		r := p.router(t, nil, "one:25", "two:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		one.set(func(h *peer) {
			h.answer = func(line string) string {
				return offering("8BITMIME")(line) + at("MAIL", "421 closed")(line)
			}
		})
		a := r.Deliver(t.Context(), "isp", mail(eightBitMail))
		if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent ||
			!contains(a.Results[0].Failure.Reason, "waits a while") {
			t.Fatal(show(a))
		}
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25") // others do not wait
		time.Sleep(eightBitPatience + time.Minute)
		one.set(func(h *peer) { h.refuse = true })
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(eightBitMail)), "two:25")
		if lines := two.see().lines; !contains(strings.Join(lines, "\n"), "MAIL FROM:<a@example.com>") {
			t.Error(lines)
		}
	})
}

func TestEightBit_HostThatIsAwayAndUnknownIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		p.hosts["one:25"].refuse = true
		w := newWork(mail(eightBitMail))
		if err := w.planEncoding(); err != nil {
			t.Fatal(err)
		}
		var body strings.Builder
		p.hosts["two:25"].body = func(r io.Reader) { io.CopyN(&body, r, w.eight.size) }
		r := p.router(t, nil, "one:25", "two:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(eightBitMail)), "two:25")
		if got := body.String(); !contains(got, "gr=C3=BC=C3=9Fe") {
			t.Errorf("%q", got)
		}
	})
}

func TestEightBit_ContentIsReadForAHostWithout8BITMIMEOnly(t *testing.T) {
	for extensions, want := range map[string]int{"8BITMIME": 1, "SIZE": 2} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25")
			p.hosts["one:25"].answer = offering(extensions)
			r := p.router(t, nil, "one:25")
			m := mail(hello)
			open, opened := m.Open, 0
			m.Open = func() (io.ReadCloser, error) { opened++; return open() }
			wantDelivered(t, r.Deliver(t.Context(), "isp", m), "one:25")
			if opened != want {
				t.Errorf("with %s the content was read %d times", extensions, opened)
			}
		})
	}
}

func TestEightBit_ContentThatCannotBeReadIsNoHostsFault(t *testing.T) {
	for failing := 1; failing <= 4; failing++ {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25")
			r := p.router(t, nil, "one:25")
			m := mail(eightBitMail)
			open, opened := m.Open, 0
			m.Open = func() (io.ReadCloser, error) {
				if opened++; opened == failing {
					return nil, errors.New("input/output error")
				}
				return open()
			}
			a := r.Deliver(t.Context(), "isp", m)
			if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent ||
				!contains(a.Results[0].Failure.Reason, "input/output error") {
				t.Errorf("reading %d fails: %s", failing, show(a))
			}
			if s := r.Status()[0].Hosts[0].State; s != StateUp && s != StateUnknown {
				t.Errorf("reading %d fails: the host is %s", failing, s)
			}
		})
	}
}

func TestEightBit_HostThatIsAwayAndHasNo8BITMIMEEitherIsNotWaitedFor(t *testing.T) {
	body := "MIME-Version: 1.0\r\n\r\n" + strings.Repeat("üüü\r\n", 150_000) // 1.2 MB, and 3 MB encoded
	for size, want := range map[string]string{"SIZE 1300000": "permanent", "SIZE 9000000": "temporary", "8BITMIME": "temporary"} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25", "two:25")
			one := p.hosts["one:25"]
			one.answer = offering(size)
			p.hosts["two:25"].answer = offering("SIZE 1250000")
			r := p.router(t, nil, "one:25", "two:25")
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
			one.set(func(h *peer) {
				h.answer = func(line string) string { return offering(size)(line) + at("MAIL", "421 closed")(line) }
			})
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25")
			a := r.Deliver(t.Context(), "isp", mail(body))
			if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent != (want == "permanent") {
				t.Errorf("%s: %s", size, show(a))
			}
			p.hosts["two:25"].set(func(h *peer) { h.answer = nil })
			time.Sleep(DefaultProbeMin / 2)
			r = p.router(t, nil, "two:25")
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(body)), "two:25")
		})
	}
}

func TestEightBit_ContentIsLookedAtOnceForAllHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25", "three:25")
		p.hosts["two:25"].answer = at("DATA", "421 later")
		p.hosts["one:25"].answer = offering("SIZE 60") // too small for it when it is encoded
		r := p.router(t, nil, "one:25", "two:25", "three:25")
		m := mail("MIME-Version: 1.0\r\n\r\ngrüße\r\n")
		open, opened := m.Open, 0
		m.Open = func() (io.ReadCloser, error) { opened++; return open() }
		wantDelivered(t, r.Deliver(t.Context(), "isp", m), "three:25")
		if opened != 5 { // is it 8-bit, what is to be done, how large will it be; and once for each of two hosts
			t.Errorf("the content was read %d times", opened)
		}
	})
}

func TestEightBit_WhatCannotBeEncodedWaitsForAHostThatMayTakeItAsItIs(t *testing.T) {
	for extensions, permanent := range map[string]bool{"8BITMIME": false, "SIZE": true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25", "two:25")
			one := p.hosts["one:25"]
			one.answer = offering(extensions)
			r := p.router(t, nil, "one:25", "two:25")
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
			one.set(func(h *peer) { h.refuse = true })
			r.table.Load().routes[0].hosts[0].pool.desert()
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25")
			time.Sleep(eightBitPatience + time.Minute)
			a := r.Deliver(t.Context(), "isp", mail("Subject: grüße\r\n\r\nhello\r\n"))
			if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent != permanent {
				t.Errorf("%s: %s", extensions, show(a))
			}
		})
	}
}
