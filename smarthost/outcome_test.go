package smarthost

import (
	"fmt"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/sandbox"
)

func inject(t *testing.T, s *sandbox.Server, faults ...sandbox.Fault) {
	t.Helper()
	if err := s.Inject(faults...); err != nil {
		t.Fatal(err)
	}
}

// Account-level replies, wherever they come, cost the message nothing and name the remedy; the mail goes when they are over.
func TestOutcome_SitesRepliesMakeTheMailWait(t *testing.T) {
	for _, c := range []struct {
		stage sandbox.Stage
		reply string
		at    string
		state State
		words string
	}{
		{sandbox.StageAuth, "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.", "auth",
			StateLoginRefused, "Authenticated SMTP"},
		{sandbox.StageAuth, "451 Authentication failed: Maximum credits exceeded", "auth", StateThrottled, "in a day"},
		{sandbox.StageMail, "530 5.7.57 Client not authenticated to send mail.", "mail", StateLoginRefused, "set username"},
		{sandbox.StageMail, "550 5.7.1 Mail Refused - att.net_Dynamic_Range", "mail", StateRefused, "submission port 587"},
		{sandbox.StageRcpt, "550 5.7.1 dialup/DSL/cable host, please use your ISP's SMTP server", "rcpt", StateRefused,
			"provider's smarthost"},
		{sandbox.StageRcpt, "451 4.7.500 Server busy. Please try again later from [203.0.113.7].", "rcpt", StateThrottled,
			"more slowly"},
		{sandbox.StageData, "550-5.4.5 Daily user sending limit exceeded.\n550 5.4.5 - gsmtp", "data", StateThrottled, "in a day"},
		{sandbox.StageDot, "454 Throttling failure: Maximum sending rate exceeded.", "dot", StateThrottled, "more slowly"},
		{sandbox.StageDot, "432 4.3.2 Concurrent connections limit exceeded.", "dot", StateThrottled, "max_connections"},
		{sandbox.StageDot, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", "dot", StateThrottled,
			"in a day"},
		{sandbox.StageDot, "550 5.7.705 Access denied, tenant has exceeded threshold", "dot", StateRefused, "lift the block"},
	} {
		t.Run(c.reply, func(t *testing.T) {
			t.Parallel()
			s := startSandbox(t, strict(sandbox.Options{}))
			inject(t, s, sandbox.Fault{Stage: c.stage, Reply: c.reply})
			g := newRig(t, login(ModeStartTLS), s)
			wantSite(t, g.deliver(t, mail(hello)), c.at)
			wantSite(t, g.deliver(t, mail(hello)), c.at) // in the pause, from memory
			h := g.Status()[0].Hosts[0]
			if h.State != c.state || !contains(h.Problem, c.words) || h.NextProbe.IsZero() || h.Failures != 1 {
				t.Errorf("%+v", h)
			}
			s.Clear()
			g.ProbeNow()
			wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
			if n := len(s.Messages()); n != 1 {
				t.Errorf("%d messages came", n)
			}
		})
	}
}

func TestOutcome_RefusalsOfTheMailStopNobodyElse(t *testing.T) {
	for _, c := range []struct {
		stage sandbox.Stage
		reply string
		scope envelope.Scope
	}{
		{sandbox.StageMail, "550 5.1.8 <bad@example.com>: Sender address rejected: Domain not found", sender},
		{sandbox.StageRcpt, "553 5.7.1 <bad@example.com>: Sender address rejected: not owned by user", sender},
		{sandbox.StageRcpt, "550 5.7.1 <b@example.net>: we think that this is spam", recipient},
		{sandbox.StageRcpt, "450 4.2.1 The user you are trying to contact is receiving mail too quickly.", recipient},
		{sandbox.StageData, "554 5.7.1 not this", message},
		{sandbox.StageDot, "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied", sender},
		{sandbox.StageDot, "554 Message rejected: Email address is not verified.", sender},
		{sandbox.StageDot, "550 5.7.1 Our system has detected that this message is likely unsolicited mail.", message},
	} {
		t.Run(c.reply, func(t *testing.T) {
			t.Parallel()
			two := startSandboxes(t, strict(sandbox.Options{}), strict(sandbox.Options{}))
			inject(t, two[0], sandbox.Fault{Stage: c.stage, Match: "bad", Reply: c.reply})
			g := newRig(t, login(ModeStartTLS), two...)
			bad := mail(hello, "bad@example.net")
			bad.Envelope.ReversePath = "bad@example.com"
			a := g.deliver(t, bad)
			if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Scope != c.scope ||
				a.Results[0].Failure.Permanent != (c.reply[0] == '5') {
				t.Error(show(a))
			}
			wantDelivered(t, g.deliver(t, mail(hello)), two[0].Addr())
			if st := two[1].Stats(); st.Connections != 0 {
				t.Error("the next host was asked")
			}
		})
	}
}

func TestOutcome_RowOfTheUsersDecides(t *testing.T) {
	two := startSandboxes(t, strict(sandbox.Options{}), strict(sandbox.Options{}))
	inject(t, two[0], sandbox.Fault{Stage: sandbox.StageDot, Reply: "550 5.7.1 Vertrag gekündigt"})
	g := newRigWith(t, func(o *Options) {
		o.Replies = []ReplyRule{{Code: "55x", Words: "vertrag GEKÜNDIGT", Scope: site, Advice: "pay the bill of %ROUTE"}}
	}, login(ModeStartTLS), two...)
	wantDelivered(t, g.deliver(t, mail(hello)), two[1].Addr())
	if h := g.Status()[0].Hosts[0]; h.State != StateRefused || h.Problem != "pay the bill of isp" {
		t.Errorf("%+v", h)
	}
}

// Whatever a table says: a message that meets a site's reply while others get through is the trouble itself.
func TestOutcome_MessageThatAloneMeetsTheSitesReplyDoesNotStopTheOthers(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	inject(t, s, sandbox.Fault{Stage: sandbox.StageRcpt, Match: "odd@", Reply: "550 5.7.1 Relay access denied"})
	g := newRig(t, login(ModeStartTLS), s)
	odd := mail(hello, "b@example.net", "odd@example.net")
	odd.ID = "odd"
	// Nothing is known of the host yet. The other recipient gets it; this one waits.
	a := g.deliver(t, odd)
	if a.Site != nil || a.Results[0].Failure != nil || a.Results[1].Failure == nil || a.Results[1].Failure.Scope != site {
		t.Fatal(show(a))
	}
	g.ProbeNow()
	wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
	odd.Envelope.Recipients = odd.Envelope.Recipients[1:]
	for range 3 {
		if a := g.deliver(t, odd); a.Site != nil || a.Results[0].Failure.Scope != recipient || a.Results[0].Failure.Permanent {
			t.Fatal(show(a))
		}
		wantDelivered(t, g.deliver(t, mail(hello)), s.Addr()) // with no pause in between
	}
	if h := g.Status()[0].Hosts[0]; h.State != StateUp {
		t.Errorf("%+v", h)
	}
}

// The first message to meet such a reply is blamed at once when others got through; the second in a row shows that it is the
// site. The next host is asked either way.
func TestOutcome_FirstToMeetTheSitesReplyIsBlamedAtOnce(t *testing.T) {
	for _, reply := range []string{"550 5.7.1 Daily sending quota exceeded", "550 5.7.705 Access denied, tenant has exceeded threshold",
		"450 sending rate exceeded", "530 5.7.0 Authentication required"} {
		t.Run(reply, func(t *testing.T) {
			two := startSandboxes(t, strict(sandbox.Options{}), strict(sandbox.Options{}))
			inject(t, two[0], sandbox.Fault{Stage: sandbox.StageMail, Match: "odd", Reply: reply})
			g := newRig(t, login(ModeStartTLS), two[0])
			for i := range 5 {
				wantDelivered(t, g.deliver(t, from(fmt.Sprintf("good%d@example.com", i))), two[0].Addr())
				a := g.deliver(t, from(fmt.Sprintf("odd%d@example.com", i)))
				if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent || a.Results[0].Failure.Scope != sender {
					t.Fatal(show(a))
				}
			}
			wantSite(t, g.deliver(t, from("odd9@example.com")), "mail")

			both := newRig(t, login(ModeStartTLS), two...)
			wantDelivered(t, both.deliver(t, from("good@example.com")), two[0].Addr())
			wantDelivered(t, both.deliver(t, from("odd@example.com")), two[1].Addr())
			wantDelivered(t, both.deliver(t, from("good@example.com")), two[0].Addr())
		})
	}
}

// The same where the host hangs up with its reply: whoever sends such a message must not pause a host for all others for
// ever.
func TestOutcome_MessageThatAloneMeets421DoesNotStopTheOthers(t *testing.T) {
	for _, stage := range []sandbox.Stage{sandbox.StageRcpt, sandbox.StageData, sandbox.StageDot} {
		s := startSandbox(t, strict(sandbox.Options{}))
		inject(t, s, sandbox.Fault{Stage: stage, Match: "odd@", Reply: "421 4.3.0 not that one"})
		g := newRig(t, login(ModeStartTLS), s)
		odd := mail(hello, "odd@example.net")
		odd.ID = "odd"
		for range repliesToBlame - 1 {
			wantSite(t, g.deliver(t, odd), string(stage))
			g.ProbeNow()
			wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
		}
		for range 3 {
			if a := g.deliver(t, odd); a.Site != nil || a.Results[0].Failure.Permanent || a.PossibleDuplicate {
				t.Fatalf("%s: %s", stage, show(a))
			}
			wantDelivered(t, g.deliver(t, mail(hello)), s.Addr()) // with no pause in between
		}

		// A host that says so to all is what it was: away.
		s.Clear()
		inject(t, s, sandbox.Fault{Stage: stage, Reply: "421 4.3.0 closing"})
		for range 3 * repliesToBlame {
			g.ProbeNow()
			other := mail(hello)
			other.ID = "other"
			wantSite(t, g.deliver(t, other), string(stage))
		}
	}
}

func TestOutcome_QuotaIsProbedAtLongIntervalsAndARateAtShortOnes(t *testing.T) {
	for reply, want := range map[string][2]time.Duration{
		"454 Throttling failure: Maximum sending rate exceeded.":   {DefaultProbeMin, DefaultProbeMax},
		"454 Throttling failure: Daily message quota exceeded.":    {DefaultQuotaProbeMin, DefaultQuotaProbeMax},
		"550 5.7.705 Access denied, tenant has exceeded threshold": {DefaultAuthProbeMin, DefaultAuthProbeMax},
	} {
		v := classifyReply(testPlace, "dot", parseReply(t, reply))
		o, err := Options{Hostname: "relay.example.com"}.orDefaults()
		if err != nil {
			t.Fatal(err)
		}
		h := newHost(o, Route{MaxConnections: 1}, "one:25", nil, nil)
		if first, last := h.health.after(v.trouble, 1), h.health.after(v.trouble, 50); first != want[0] || last != want[1] {
			t.Errorf("%s: from %v to %v", reply, first, last)
		}
	}
}

func TestOutcome_SendersRefusedInARow(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	inject(t, s, sandbox.Fault{Stage: sandbox.StageMail, Reply: "553 5.7.1 account suspended"})
	g := newRig(t, login(ModeStartTLS), s)
	for i := 1; i <= sendersInARow+2; i++ {
		a := g.deliver(t, from(fmt.Sprintf("u%d@example.com", i)))
		if i < sendersInARow {
			wantSender(t, a, true)
		} else {
			wantSite(t, a, "mail")
		}
	}
	s.Clear()
	g.ProbeNow()
	wantDelivered(t, g.deliver(t, from("u1@example.com")), s.Addr())
}

func TestOutcome_8BitContentArrivesEncodedWhereItMustBe(t *testing.T) {
	plain := sandbox.Options{Extensions: []string{"-8BITMIME", "-SMTPUTF8"}}
	body := "Subject: hi\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n.grüße\r\n--b--\r\n"
	t.Run("no host has 8BITMIME", func(t *testing.T) {
		s := startSandbox(t, strict(plain))
		g := newRig(t, login(ModeStartTLS), s)
		for range 2 {
			wantDelivered(t, g.deliver(t, mail(body)), s.Addr())
		}
		got := string(s.Messages()[1].Data)
		_, part, _ := strings.Cut(got, "\r\n\r\n.")
		if part == "" {
			_, part, _ = strings.Cut(got, "quoted-printable\r\n\r\n")
		}
		decoded, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(part)))
		if err != nil || !contains(string(decoded), "grüße") || contains(got, "ü") || len(s.Violations()) > 0 {
			t.Errorf("%q %v %v", got, err, s.Violations())
		}
		if v, ok := s.Messages()[1].MailParam("SIZE"); !ok || v != fmt.Sprint(len(got)) {
			t.Errorf("SIZE=%s for %d octets", v, len(got))
		}
	})
	t.Run("the second has it", func(t *testing.T) {
		two := startSandboxes(t, strict(plain), strict(sandbox.Options{}))
		g := newRig(t, login(ModeStartTLS), two...)
		wantDelivered(t, g.deliver(t, mail(body)), two[1].Addr())
		wantDelivered(t, g.deliver(t, mail(hello)), two[0].Addr())
		if got := two[1].Messages()[0]; string(got.Data) != body || len(two[1].Violations()) > 0 {
			t.Errorf("%q %v", got.Data, two[1].Violations())
		}
	})
}

func TestOutcome_MessageTooLargeForOneHostGoesToAnother(t *testing.T) {
	two := startSandboxes(t, strict(sandbox.Options{MaxSize: 2000000}), strict(sandbox.Options{MaxSize: 10000000}))
	learnt := make(map[string]int64)
	g := newRigWith(t, func(o *Options) { o.Learn = func(addr string, f HostFacts) { learnt[addr] = f.Size } },
		login(ModeStartTLS), two...)
	wantDelivered(t, g.deliver(t, sized(4000000)), two[1].Addr())
	wantDelivered(t, g.deliver(t, sized(1800000)), two[0].Addr())
	a := g.deliver(t, sized(12000000))
	if a.Site != nil || !a.Results[0].Failure.Permanent || a.Results[0].Failure.Reply.Enhanced != [3]int{5, 3, 4} {
		t.Error(show(a))
	}
	if learnt[two[0].Addr()] != 2000000 || learnt[two[1].Addr()] != 10000000 || g.MaxSize() != 10000000 {
		t.Errorf("%v %d", learnt, g.MaxSize())
	}
}

func TestOutcome_MessageIsNotToBlameWhileNothingGetsThrough(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	inject(t, s, sandbox.Fault{Stage: sandbox.StageDot, Reply: "550 5.4.5 Daily user sending limit exceeded."},
		sandbox.Fault{Stage: sandbox.StageRcpt, Match: "nobody@", Reply: "550 5.1.1 no such user"})
	g := newRig(t, login(ModeStartTLS), s)
	for range 3 * repliesToBlame {
		g.ProbeNow()
		wantSite(t, g.deliver(t, mail(hello)), "dot")
		g.ProbeNow()
		nobody := mail(hello, "nobody@example.net")
		nobody.ID = "q2"
		if a := g.deliver(t, nobody); a.Site != nil { // a refusal, which costs no quota
			t.Fatal(show(a))
		}
	}
}
