package queue

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// contentRefused answers as a host does that does not like the content.
func contentRefused(route string, m envelope.Message) envelope.Attempt {
	a := refused(route, m, 554, true)
	for _, r := range a.Results {
		r.Failure.Scope, r.Failure.Stage = envelope.ScopeMessage, "dot"
	}
	return a
}

// longReport tells a report with quotation from one without.
func (r *rig) longReport(m envelope.Message) bool {
	r.t.Helper()
	body, err := read(m)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Contains(string(body), "text/rfc822-headers") || strings.Contains(string(body), "message/rfc822")
}

// A report that is refused for its content goes once more, without a word that may be the reason. Where there is no such
// reason the postmaster gets it at once.
func TestRetell_ReportThatIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		refuse              func(route string, m envelope.Message) envelope.Attempt
		short               bool // the short report is refused as well
		attempts            int
		sender, pm, waiting int
	}{
		"for its content":          {contentRefused, false, 3, 1, 0, 0},
		"for its recipient":        {func(route string, m envelope.Message) envelope.Attempt { return refused(route, m, 550, true) }, false, 3, 0, 1, 0},
		"twice for its content":    {contentRefused, true, 4, 0, 1, 0},
		"for good, and nobody has": {contentRefused, true, 3, 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPolicy
				if c.waiting == 0 {
					p.Postmaster = "postmaster@lan.example"
				}
				r := startRig(t, newFakeTransport(), p)
				r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
					switch to := m.Envelope.Recipients[0].Path; {
					case to == "postmaster@lan.example", to == "sender@lan.example" && !c.short && !r.longReport(m):
						return r.transport.accept(ctx, route, m)
					case to == "sender@lan.example":
						return c.refuse(route, m)
					}
					return contentRefused(route, m)
				})
				r.send("a@example.com", "b@example.com")
				synctest.Wait()
				got := [...]int{r.transport.callCount(), r.transport.deliveredTo("sender@lan.example"),
					r.transport.deliveredTo("postmaster@lan.example"), int(r.Counts().Unreported)}
				if want := [...]int{c.attempts, c.sender, c.pm, c.waiting}; got != want {
					t.Errorf("attempts, reports to the sender, to the postmaster, undeliverable: %v, want %v", got, want)
				}
				for _, text := range append(r.transport.reportsTo("sender@lan.example"), r.transport.reportsTo("postmaster@lan.example")...) {
					for _, want := range []string{"rfc822; a@example.com\r\n", "rfc822; b@example.com\r\n", "Status: 5.1.1\r\n", "X-Refused-Report: "} {
						if !strings.Contains(text, want) {
							t.Errorf("%q is missing in\n%s", want, text)
						}
					}
					if strings.Contains(text, "the peer's words") || strings.Contains(text, "Subject: test") {
						t.Errorf("it quotes:\n%s", text)
					}
				}
			})
		})
	}
}

// An undeliverable report is tried again when an operator releases it, and can be delivered then.
func TestRetell_UndeliverableReportIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			return refused(route, m, 550, true)
		})
		r.send("a@example.com")
		synctest.Wait()
		ids := r.Undeliverable()
		if len(ids) != 1 || r.Counts().Held != 1 {
			t.Fatalf("%v, %+v", ids, r.Counts())
		}
		if _, err := r.Apply(ActionRetry, ids); err != nil { // a hold is ended by a release alone
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(r.Undeliverable()); n != 1 || r.transport.callCount() != 2 {
			t.Errorf("%d undeliverable after %d attempts", n, r.transport.callCount())
		}
		for n := 1; n <= 2; n++ {
			if _, err := r.Apply(ActionRelease, ids); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := r.Undeliverable(); len(got) != 1 || got[0] != ids[0] || r.transport.callCount() != 2+n {
				t.Fatalf("undeliverable: %v after %d attempts", got, r.transport.callCount())
			}
		}
		r.transport.set(nil)
		if _, err := r.Apply(ActionRelease, ids); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(r.transport.reportsTo("sender@lan.example")); n != 1 || len(r.Undeliverable()) != 0 {
			t.Errorf("%d reports, undeliverable: %v", n, r.Undeliverable())
		}
	})
}

// Undeliverable reports do not fill the queue: the oldest go to the history, and the log says so.
func TestRetell_UndeliverableReportsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			return refused(route, m, 550, true)
		})
		for range maxUndeliverable + 5 {
			r.send("a@example.com")
		}
		synctest.Wait()
		before := r.Undeliverable()
		if len(before) != maxUndeliverable+5 {
			t.Fatalf("%d undeliverable", len(before))
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if after := r.Undeliverable(); len(after) != maxUndeliverable || after[0] != before[5] {
			t.Errorf("%d are kept", len(after))
		}
		d, err := r.Show(before[0])
		if err != nil || !d.Gone || !strings.Contains(d.Events[len(d.Events)-1].Words, "too many") ||
			!strings.Contains(r.log.String(), "too many undeliverable reports") {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

// A report carries the whole message only where RET=FULL asks for it, the message is small, and no host refused its content.
func TestReports_QuoteTheHeaderUnlessAskedForMore(t *testing.T) {
	byRecipient := func(route string, m envelope.Message) envelope.Attempt { return refused(route, m, 550, true) }
	deferred := func(route string, m envelope.Message) envelope.Attempt { return refused(route, m, 451, false) }
	for name, c := range map[string]struct {
		ret    string
		answer func(string, envelope.Message) envelope.Attempt // nil: it is delivered
		size   int
		whole  bool
	}{
		"failed":                  {"", byRecipient, 10, false},
		"failed, HDRS":            {"HDRS", byRecipient, 10, false},
		"failed, FULL":            {"FULL", byRecipient, 10, true},
		"failed, FULL, largest":   {"FULL", byRecipient, reportContent, true},
		"failed, FULL, too large": {"FULL", byRecipient, reportContent + 1, false},
		"content refused, FULL":   {"FULL", contentRefused, 10, false},
		"delayed, FULL":           {"FULL", deferred, 10, false},
		"relayed, FULL":           {"FULL", nil, 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startRig(t, newFakeTransport(), warningPolicy())
				r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
					if c.answer == nil || m.Envelope.ReversePath.IsNull() {
						return r.transport.accept(ctx, route, m)
					}
					return c.answer(route, m)
				})
				env := testEnvelope("a@example.com")
				env.Ret, env.Recipients[0].Notify = c.ret, envelope.NotifySuccess|envelope.NotifyFailure|envelope.NotifyDelay
				body := "Subject: x\r\n\r\nwhole\r\n"
				for len(body) < c.size {
					body += strings.Repeat("y", min(76, c.size-len(body)-2)) + "\r\n"
					if rest := c.size - len(body); rest > 0 && rest < 3 {
						body = body[:len(body)-2] + strings.Repeat("y", rest) + "\r\n"
					}
				}
				r.submit([]byte(body), env)
				time.Sleep(6 * time.Hour)
				reports := r.transport.reportsTo("sender@lan.example")
				if len(reports) != 1 || strings.Contains(reports[0], "whole") != c.whole || !strings.Contains(reports[0], "Subject: x") {
					t.Errorf("%d reports of a message of %d octets: %.3000s", len(reports), len(body), strings.Join(reports, "\n"))
				}
			})
		})
	}
}

// A report about mail of the postmaster's own is not told to him twice.
func TestRetell_ThePostmasterIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy
		p.Postmaster = "sender@lan.example"
		r := startRig(t, newFakeTransport(), p)
		r.transport.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			return refused(route, m, 550, true)
		})
		r.send("a@example.com")
		synctest.Wait()
		if n := len(r.Undeliverable()); n != 1 || r.transport.callCount() != 2 {
			t.Errorf("%d undeliverable after %d attempts", n, r.transport.callCount())
		}
	})
}
