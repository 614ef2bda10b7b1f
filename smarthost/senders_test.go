package smarthost

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// from returns a message of the given sender, and an ID of its own.
func from(sender string) envelope.Message {
	m := mail(hello)
	m.ID = "q-" + sender
	m.Envelope.ReversePath = envelope.Path(sender)
	return m
}

// refuseAllBut answers MAIL of all senders but those that begin with good.
func refuseAllBut(good, reply string) func(string) string {
	return func(line string) string {
		if strings.HasPrefix(line, "MAIL") && !strings.HasPrefix(line, "MAIL FROM:<"+good) {
			return reply
		}
		return ""
	}
}

func wantSender(t *testing.T, a envelope.Attempt, permanent bool) {
	t.Helper()
	if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Scope != sender ||
		a.Results[0].Failure.Permanent != permanent {
		t.Fatalf("got %s, want the sender refused", show(a))
	}
}

func TestSenders_SeveralRefusedInARowAreTheSitesFailure(t *testing.T) {
	for _, code := range []string{"550 5.7.1 no", "450 4.7.1 no"} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25", "two:25")
			one := p.hosts["one:25"]
			one.answer = refuseAllBut("good", code)
			r := p.router(t, nil, "one:25")
			wantSender(t, r.Deliver(t.Context(), "isp", from("a@example.com")), code[0] == '5')
			wantSender(t, r.Deliver(t.Context(), "isp", from("b@example.com")), code[0] == '5')
			a := r.Deliver(t.Context(), "isp", from("c@example.com"))
			wantSite(t, a, "mail")
			if h := r.Status()[0].Hosts[0]; h.State != StateRefused || !contains(h.Problem, "one sender after the other") ||
				h.LastReply != code {
				t.Errorf("%+v", h)
			}
			// The pauses stay short, and whoever is refused in one waits like the third.
			for range 10 {
				time.Sleep(DefaultProbeMax + DefaultProbeMax/10 + time.Second)
				wantSite(t, r.Deliver(t.Context(), "isp", from("a@example.com")), "mail")
			}
			wantSite(t, r.Deliver(t.Context(), "isp", from("good@example.com")), "mail") // in the pause
			time.Sleep(DefaultProbeMax + DefaultProbeMax/10 + time.Second)
			wantDelivered(t, r.Deliver(t.Context(), "isp", from("good@example.com")), "one:25")
			wantSender(t, r.Deliver(t.Context(), "isp", from("a@example.com")), code[0] == '5')
		})
	}
}

func TestSenders_SiteThatRefusesThemAllIsLeftForTheNextHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		p.hosts["one:25"].answer = refuseAllBut("good", "550 5.7.1 no")
		r := p.router(t, nil, "one:25", "two:25")
		wantSender(t, r.Deliver(t.Context(), "isp", from("a@example.com")), true)
		wantSender(t, r.Deliver(t.Context(), "isp", from("b@example.com")), true)
		wantDelivered(t, r.Deliver(t.Context(), "isp", from("c@example.com")), "two:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", from("a@example.com")), "two:25")
	})
}

func TestSenders_FewBadOnesAreRefusedForThemselves(t *testing.T) {
	for name, senders := range map[string][]string{
		"one that tries often":          {"a@x", "a@x", "a@x", "a@x", "a@x"},
		"two":                           {"a@x", "b@x", "a@x", "b@x", "b@x", "a@x"},
		"good ones between":             {"a@x", "b@x", "good@x", "c@x", "d@x", "good@x", "e@x"},
		"reports, which are not wanted": {"a@x", "b@x", "", "", "a@x", ""},
		"over hours":                    {"a@x", "b@x", "later", "c@x", "d@x", "later", "e@x"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25")
				p.hosts["one:25"].answer = refuseAllBut("good", "550 5.7.1 no")
				r := p.router(t, nil, "one:25")
				for i, s := range senders {
					switch s {
					case "later":
						time.Sleep(11 * time.Minute)
					case "good@x":
						wantDelivered(t, r.Deliver(t.Context(), "isp", from(s)), "one:25")
					default:
						m := from(s)
						m.ID = fmt.Sprint(i)
						wantSender(t, r.Deliver(t.Context(), "isp", m), true)
					}
				}
				if h := r.Status()[0].Hosts[0]; h.State != StateUp {
					t.Errorf("%+v", h)
				}
			})
		})
	}
}

func TestSenders_RowOfTheUsersSaysThatItIsTheSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].answer = refuseAllBut("good", "550 5.7.1 no")
		r := p.router(t, func(o *Options) {
			o.Replies = []ReplyRule{{Stage: "mail", Code: "550", Scope: sender}}
		}, "one:25")
		for i := range 10 {
			wantSender(t, r.Deliver(t.Context(), "isp", from(fmt.Sprintf("u%d@example.com", i))), true)
		}
	})
}
