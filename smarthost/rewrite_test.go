package smarthost

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/rewrite"
)

const office = "office@example.com"

func cameFrom(client string, m envelope.Message) envelope.Message {
	m.Origin.Addr = netip.MustParseAddr(client)
	return m
}

// rewriting is a router with rules for a route and for clients, on one host, whose lines and body it keeps.
func rewriting(t *testing.T, route rewrite.Rules, clients ...ClientRules) (*Router, *peer, *bytes.Buffer) {
	p := newPeers("one:25")
	var log bytes.Buffer
	r := p.router(t, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		o.Routes[0].Rewrite, o.Clients = route, clients
	}, "one:25")
	return r, p.hosts["one:25"], &log
}

func (h *peer) sender() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range slices.Backward(h.lines) {
		if strings.HasPrefix(l, "MAIL") {
			return l
		}
	}
	return ""
}

func TestRewrite_TheFirstClientThenTheRoute(t *testing.T) {
	client := func(network, to string) ClientRules {
		return ClientRules{Networks: []netip.Prefix{netip.MustParsePrefix(network)}, Rewrite: rewrite.Rules{Name: "client " + network, EnvelopeFrom: envelope.Path(to)}}
	}
	synctest.Test(t, func(t *testing.T) {
		r, h, log := rewriting(t, rewrite.Rules{EnvelopeFrom: "route@example.com"},
			client("192.168.1.50/32", "one@example.com"), client("192.168.0.0/16", "two@example.com"), client("fd00::/8", "three@example.com"))
		for addr, want := range map[string]string{"192.168.1.50": "one@", "::ffff:192.168.1.50": "one@", "192.168.1.51": "two@", "fd00::1": "three@", "10.0.0.1": "route@"} {
			wantDelivered(t, r.Deliver(t.Context(), "isp", cameFrom(addr, mail(hello))), "one:25")
			if got := h.sender(); !contains(got, "<"+want+"example.com>") {
				t.Errorf("%s: %s", addr, got)
			}
			m := cameFrom(addr, mail(hello))
			if got := r.Outgoing(m.Origin, "a@example.com"); len(got) != 1 || string(got[0]) != want+"example.com" {
				t.Errorf("%s: outgoing %s", addr, got)
			}
		}
		if got := r.Outgoing(envelope.Origin{}, envelope.Null); len(got) != 1 || got[0] != envelope.Null {
			t.Errorf("outgoing of reports: %s", got)
		}
		if !contains(log.String(), "(client 192.168.1.50/32: envelope_from)") || !contains(log.String(), "(smarthost isp: envelope_from)") {
			t.Error(log.String())
		}
	})
}

func TestOutgoing_IsWhatEachRouteOfTheSenderMakesOfIt(t *testing.T) {
	hosts := []string{"one:25"}
	r := newTestRouter(t, Options{Routes: []Route{
		{Name: "a", Hosts: hosts, TLS: ModeOff, Senders: []string{"@other.example"}, Rewrite: rewrite.Rules{EnvelopeFrom: "never@example.com"}},
		{Name: "lan", Hosts: hosts, TLS: ModeOff, Recipients: []string{"@lan.example"}},
		{Name: "b", Hosts: hosts, TLS: ModeOff, Recipients: []string{"@b.example"}, Rewrite: rewrite.Rules{EnvelopeFrom: office}},
		{Name: "c", Hosts: hosts, TLS: ModeOff, Senders: []string{"@lan.example"}, Rewrite: rewrite.Rules{Map: map[string]string{"*": office}}},
	}})
	for path, want := range map[envelope.Path]string{"x@lan.example": "x@lan.example " + office, "x@other.example": "never@example.com x@other.example " + office} {
		var got []string
		for _, p := range r.Outgoing(envelope.Origin{}, path) {
			got = append(got, string(p))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	if got := newTestRouter(t, Options{}).Outgoing(envelope.Origin{}, "x@y"); len(got) != 1 || got[0] != "x@y" {
		t.Errorf("without a route: %s", got)
	}
}

// The rules in force at the attempt count, and the message itself stays as it was.
func TestRewrite_EachAttemptTakesTheRulesInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		var options Options
		r := p.router(t, func(o *Options) { options = *o }, "one:25")
		m := mail(hello)
		for _, to := range []string{"", "one@example.com", "two@example.com"} {
			options.Routes = slices.Clone(options.Routes)
			options.Routes[0].Rewrite.EnvelopeFrom = envelope.Path(to)
			if err := r.Reconfigure(options); err != nil {
				t.Fatal(err)
			}
			wantDelivered(t, r.Deliver(t.Context(), "isp", m), "one:25")
			if to == "" {
				to = "a@example.com"
			}
			if got := p.hosts["one:25"].sender(); !contains(got, "<"+to+">") || m.Envelope.ReversePath != "a@example.com" {
				t.Errorf("%s, want %s; the message has %s", got, to, m.Envelope.ReversePath)
			}
		}
		if p.hosts["one:25"].opened != 1 {
			t.Errorf("%d connections were opened for rules alone", p.hosts["one:25"].opened)
		}
		options.Routes = slices.Clone(options.Routes)
		options.Routes[0].Rewrite.HeaderFrom = "no address"
		if err := r.Reconfigure(options); err == nil || !contains(err.Error(), `smarthost isp: header_from: "no address"`) {
			t.Error(err)
		}
	})
}

func TestRewrite_ContentThatCannotBeReadIsTheMessagesTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, h, _ := rewriting(t, rewrite.Rules{HeaderFrom: office})
		m := mail(hello)
		m.Open = func() (io.ReadCloser, error) { return nil, errors.New("the disk is broken") }
		a := r.Deliver(t.Context(), "isp", m)
		if a.Site != nil || a.Decided() || a.Results[0].Failure.Scope != envelope.ScopeMessage || !contains(a.Results[0].Failure.Reason, "the disk is broken") {
			t.Error(show(a))
		}
		if h.opened != 0 {
			t.Error("a host was asked")
		}
	})
}

func TestRewrite_LogSaysWhatWasDoneOnceAHostWasShownIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, h, log := rewriting(t, rewrite.Rules{Map: map[string]string{"*": office}})
		h.refuse = true
		m := mail("DKIM-Signature: v=1; h=from\r\nFrom: a@b.example\r\nSender: nobody\r\n\r\nhello\r\n")
		r.Deliver(t.Context(), "isp", m)
		if contains(log.String(), "rewritten") {
			t.Errorf("no host answered:\n%s", log.String())
		}
		h.set(func(h *peer) { h.refuse = false })
		r.ProbeNow()
		wantDelivered(t, r.Deliver(t.Context(), "isp", m), "one:25")
		for _, words := range []string{`msg="sender rewritten" queue_id=q1 route=isp changes="reverse-path <a@example.com> to <office@example.com> ` +
			`(smarthost isp: map \"*\"); From <a@b.example> to <office@example.com>`, `msg="signature removed" queue_id=q1 route=isp fields=DKIM-Signature`,
			`msg="no address found in a header field that was to be rewritten" queue_id=q1 route=isp fields=Sender`} {
			if !contains(log.String(), words) {
				t.Errorf("%s is missing in\n%s", words, log.String())
			}
		}
	})
}

// BenchmarkDeliver with and without rules shows what the rewriting adds to a delivery on loopback.
func BenchmarkDeliverRewritten(b *testing.B) {
	body := "Date: x\r\nFrom: scanner@printer.lan\r\nMessage-ID: y\r\nSubject: z\r\n\r\n" + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 24)
	for _, c := range []struct {
		name    string
		rules   rewrite.Rules
		arrived time.Time
	}{
		{"head not read", rewrite.Rules{}, time.Time{}},
		{"no rule", rewrite.Rules{}, time.Unix(1, 0)},
		{"matching rule", rewrite.Rules{Map: map[string]string{"scanner@*": office}}, time.Unix(1, 0)},
	} {
		b.Run(c.name, func(b *testing.B) {
			r, err := New(Options{Hostname: "relay.example.com",
				Routes: []Route{{Name: "isp", Hosts: []string{sink(b, true)}, TLS: ModeOff, Rewrite: c.rules}}})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close(b.Context())
			m := mail(body)
			m.ReceivedAt = c.arrived
			b.ReportAllocs()
			for b.Loop() {
				if a := r.Deliver(b.Context(), "isp", m); a.Site != nil || a.Results[0].Failure != nil {
					b.Fatal(show(a))
				}
			}
		})
	}
}
