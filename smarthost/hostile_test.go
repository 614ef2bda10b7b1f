package smarthost

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// ordeal is a Router with a villain as its first host and, after it, a host that takes the mail.
type ordeal struct {
	*Router
	v    *villain
	good *villain
	log  safeBuffer
	open sync.WaitGroup
}

const (
	villainAddr = "villain:587"
	goodAddr    = "good:587"
)

// endure calls f, in a synctest bubble, with a Router over the villain and, unless alone is set, a good host.
func endure(t *testing.T, v *villain, alone bool, f func(t *testing.T, o *ordeal)) {
	if v.cert == nil {
		v.cert = goodCertificate()
	}
	good := &villain{cert: theAuthority().issue(certificate("good"), false)}
	synctest.Test(t, func(t *testing.T) {
		o := &ordeal{v: v, good: good}
		hosts := []string{villainAddr}
		if !alone {
			hosts = append(hosts, goodAddr)
		}
		var err error
		o.Router, err = New(Options{
			Hostname: "relay.example.com",
			Log:      slog.New(slog.NewTextHandler(&o.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Routes: []Route{{Name: "isp", Hosts: hosts, RootCAs: theAuthority().pool, Username: username, Password: password,
				MaxConnections: 1}},
			Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
				host := map[string]*villain{villainAddr: v, goodAddr: good}[addr]
				host.mu.Lock()
				host.opened++
				host.mu.Unlock()
				client, server := net.Pipe()
				o.open.Go(func() { host.play(newBuffered(server, &o.open)) })
				return client, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		f(t, o)
		if err := o.Close(t.Context()); err != nil {
			t.Error(err)
		}
		o.open.Wait()
		o.check(t)
		if t.Failed() {
			t.Log(o.log.String())
		}
	})
}

// mostTaken is more than a session with any host is worth reading, in octets.
const mostTaken = 1 << 20

// check looks for what must never be.
func (o *ordeal) check(t *testing.T) {
	t.Helper()
	for _, line := range o.v.clear {
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "AUTH", "MAIL", "RCPT", "DATA":
			t.Errorf("%q went in the clear", line)
		}
	}
	noSecret(t, "the clear", strings.Join(o.v.clear, "\n"))
	noSecret(t, "the log", o.log.String())
	noSecret(t, "the status", fmt.Sprintf("%+v", o.Status()))
	if o.v.sent > mostTaken {
		t.Errorf("%d octets were read from the host", o.v.sent)
	}
	if strings.Contains(o.log.String(), "panic") {
		t.Error(o.log.String())
	}
	for _, h := range o.Status()[0].Hosts {
		if h.Connections != 0 {
			t.Errorf("%d connections to %s are left", h.Connections, h.Address)
		}
	}
}

// wantKept fails the test if an attempt lost the message: everything but delivery, and a failure that is not final.
func wantKept(t *testing.T, a envelope.Attempt) {
	t.Helper()
	if a.Site != nil {
		if a.Site.Permanent {
			t.Errorf("the message is given up: %s", show(a))
		}
		noSecret(t, "the reason", show(a))
		return
	}
	if len(a.Results) == 0 {
		t.Error("an attempt without an outcome")
	}
	for _, r := range a.Results {
		if r.Failure == nil || r.Failure.Permanent {
			t.Errorf("the message is not kept: %s", show(a))
		}
	}
	noSecret(t, "the reason", show(a))
}

// on commits a misdeed at one act.
func on(act string, deed func(s *scene, line string)) func(*scene, string, string) bool {
	return func(s *scene, at, line string) bool {
		if at != act {
			return false
		}
		deed(s, line)
		return true
	}
}

// says answers the act with lines.
func says(act string, lines ...string) func(*scene, string, string) bool {
	return on(act, func(s *scene, _ string) { s.say(lines...) })
}

type trial struct {
	name    string
	misdeed func(*scene, string, string) bool
	cert    func() *tls.Certificate
	// after is how long it may hold a delivery; 16 minutes unless said.
	after time.Duration
	// noLogin: the host must not have got one.
	noLogin bool
	// inDoubt: the message may have arrived, so that no other host gets it.
	inDoubt bool
	// refuses: it refuses the login, which no other host is shown before the pause is over.
	refuses bool
}

func trials() []trial {
	list := []trial{
		{name: "354 to MAIL", misdeed: says(actMail, "354 go on")},
		{name: "354 to RCPT", misdeed: says(actRcpt, "354 go on")},
		{name: "250 to DATA", misdeed: says(actData, "250 ok")},
		{name: "354 to the final dot", misdeed: says(actDot, "354 more"), inDoubt: true},
		{name: "100 to the final dot", misdeed: says(actDot, "100 wait"), inDoubt: true},
		{name: "334 to EHLO", misdeed: says(actEHLO, "334 VXNlcm5hbWU6"), noLogin: true},
		{name: "235 before AUTH", misdeed: says(actEHLOAgain, "235 you are welcome as you are"), noLogin: true},
		{name: "replies ahead of all commands", noLogin: true,
			misdeed: says(actGreeting, "220 a", "250-b", "250-AUTH PLAIN", "250 STARTTLS", "220 c", "250 d", "250 e", "354 f", "250 g")},

		{name: "capabilities before TLS that vanish after", misdeed: func(s *scene, act, _ string) bool {
			switch act {
			case actEHLO:
				s.say("250-villain", "250-STARTTLS", "250-AUTH PLAIN LOGIN", "250 PIPELINING")
			case actEHLOAgain:
				s.say("250 villain")
			default:
				return false
			}
			return true
		}, noLogin: true},
		{name: "login offered in the clear and no STARTTLS", misdeed: says(actEHLO, "250-villain", "250 AUTH PLAIN LOGIN"), noLogin: true},
		{name: "STARTTLS stripped", misdeed: says(actEHLO, "250-villain", "250-XXXXXXXA", "250 AUTH PLAIN"), noLogin: true},
		{name: "STARTTLS refused for now", misdeed: says(actStartTLS, "454 4.7.0 TLS not available"), noLogin: true},
		{name: "STARTTLS refused for ever", misdeed: says(actStartTLS, "502 5.5.1 what"), noLogin: true},
		{name: "EHLO refused", misdeed: says(actEHLO, "502 5.5.1 what"), noLogin: true},
		{name: "only foreign logins", misdeed: says(actEHLOAgain, "250-villain", "250 AUTH NTLM GSSAPI XOAUTH2"), noLogin: true},
		{name: "STARTTLS offered again within TLS", misdeed: says(actEHLOAgain, "250-villain", "250 STARTTLS"), noLogin: true},

		{name: "plain text in the place of the handshake", noLogin: true,
			misdeed: on(actHandshake, func(s *scene, _ string) { s.say("220 let us talk in the clear", "250 AUTH PLAIN") })},
		{name: "octets at random in the place of the handshake", noLogin: true, misdeed: on(actHandshake, func(s *scene, _ string) {
			b := make([]byte, 4096)
			rand.Read(b)
			s.Write(b)
		})},
		{name: "a TLS alert", misdeed: on(actHandshake, func(s *scene, _ string) { s.Write([]byte("\x15\x03\x03\x00\x02\x02\x28")) }), noLogin: true},
		{name: "an expired certificate", noLogin: true, cert: func() *tls.Certificate {
			c := certificate("villain")
			c.NotAfter = c.NotBefore.AddDate(1, 0, 0)
			return theAuthority().issue(c, false)
		}},
		{name: "a certificate of the future", noLogin: true, cert: func() *tls.Certificate {
			c := certificate("villain")
			c.NotBefore = c.NotAfter.AddDate(-1, 0, 0)
			return theAuthority().issue(c, false)
		}},
		{name: "the certificate of another", noLogin: true, cert: func() *tls.Certificate {
			return theAuthority().issue(certificate("good"), false)
		}},
		{name: "a self-signed certificate", noLogin: true, cert: func() *tls.Certificate {
			return theAuthority().issue(certificate("villain"), true)
		}},
		{name: "a certificate that is no server's", noLogin: true, cert: func() *tls.Certificate {
			c := certificate("villain")
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			return theAuthority().issue(c, false)
		}},

		{name: "a login that asks on without end", misdeed: func(s *scene, act, line string) bool {
			if act == actAuth || act == "" && line != "RSET" {
				s.say("334 VXNlcm5hbWU6")
				return true
			}
			return false
		}},
		{name: "a refusal that repeats the password", refuses: true, misdeed: on(actAuth, func(s *scene, line string) {
			s.say("535-5.7.8 you said "+line, "535-5.7.8 that is "+password, "535 5.7.8 or "+b64(password))
		})},
		{name: "a capability that repeats nothing but fills the reply", noLogin: true,
			misdeed: on(actEHLOAgain, func(s *scene, _ string) {
				for range 99 {
					s.say("250-AUTH " + strings.Repeat("X ", 2000))
				}
				s.say("250 end")
			})},
		{name: "a body read by the octet", inDoubt: true, misdeed: on(actData, func(s *scene, _ string) {
			s.say("354 slowly")
			for one := make([]byte, 1); !s.dropped; time.Sleep(time.Minute) {
				if _, err := s.Read(one); err != nil {
					s.dropped = true
				}
			}
		})},
	}
	for _, act := range []string{actGreeting, actEHLO, actStartTLS, actEHLOAgain, actAuth, actMail, actRcpt, actData, actDot} {
		before := map[string]bool{actGreeting: true, actEHLO: true, actStartTLS: true, actEHLOAgain: true}[act]
		add := func(name string, deed func(s *scene)) {
			list = append(list, trial{name: name + " at " + act, noLogin: before, inDoubt: act == actDot,
				misdeed: on(act, func(s *scene, _ string) { deed(s) })})
		}
		add("lines without end", func(s *scene) { s.drone("250-" + strings.Repeat("x", 500) + "\r\n") })
		add("empty lines without end", func(s *scene) { s.drone("250-\r\n") })
		add("a line without end", func(s *scene) { s.drone("250 xxxxxxxxxxxxxxxx") })
		add("line ends without end", func(s *scene) { s.drone("\r\n") })
		add("CRs without end", func(s *scene) { s.drone("\r\r\r\r") })
		add("zeros without end", func(s *scene) { s.drone(strings.Repeat("\x00", 100)) })
		add("garbage of several lines", func(s *scene) { s.say("250-a", "251-b", "hello", "250 c") })
		add("HTTP", func(s *scene) { s.say("HTTP/1.1 400 Bad Request", "", "<html>") })
		add("an octet a second", func(s *scene) { s.drip("250-slow\r\n", time.Second) })
		add("an octet each four minutes", func(s *scene) { s.drip("250-slow\r\n", 4*time.Minute) })
		add("a code that is none", func(s *scene) { s.say("999 what") })
		add("silence", func(s *scene) { s.hang() })
		add("the end", func(s *scene) { s.Close(); s.dropped = true })
	}
	return list
}

// A hostile or broken smarthost can delay mail, by what is said here at most, and no more than that: the message is kept
// or goes to the next host, the password is not seen without verified TLS, a bounded part of what it sends is read, and
// the delivery ends.
func TestHostileHost_DelaysAndNoMore(t *testing.T) {
	for _, c := range trials() {
		t.Run(c.name, func(t *testing.T) {
			for _, alone := range []bool{true, false} {
				v := &villain{misdeed: c.misdeed}
				if c.cert != nil {
					v.cert = c.cert()
				}
				endure(t, v, alone, func(t *testing.T, o *ordeal) { c.judge(t, o, alone) })
			}
		})
	}
}

func (c trial) judge(t *testing.T, o *ordeal, alone bool) {
	start := time.Now()
	a := o.Deliver(t.Context(), "isp", mail(hello))
	most := max(c.after, 16*time.Minute)
	if took := time.Since(start); took > most {
		t.Errorf("the delivery was held for %v", took)
	}
	switch {
	case alone || c.inDoubt:
		wantKept(t, a)
		if a.PossibleDuplicate != c.inDoubt {
			t.Errorf("possible duplicate: %v: %s", a.PossibleDuplicate, show(a))
		}
	case c.refuses:
		wantKept(t, a)
		time.Sleep(time.Until(a.RetryAt))
		wantDelivered(t, o.Deliver(t.Context(), "isp", mail(hello)), goodAddr)
	default:
		wantDelivered(t, a, goodAddr)
	}
	if logins := strings.Count(strings.Join(o.v.see().secret, "\n"), "AUTH "); c.noLogin && logins > 0 || logins > 1 {
		t.Errorf("%d logins were tried", logins)
	}
	if alone {
		return
	}
	for _, id := range []string{"q2", "q3"} { // a host that never answers a dot is left after three messages
		if c.inDoubt {
			m := mail(hello)
			m.ID = id
			wantKept(t, o.Deliver(t.Context(), "isp", m))
		}
	}
	start = time.Now()
	m := mail(hello)
	m.ID = "next"
	if wantDelivered(t, o.Deliver(t.Context(), "isp", m), goodAddr); time.Since(start) > 0 {
		t.Errorf("the next message was held for %v", time.Since(start))
	}
}

// Wherever a host falls silent or hangs up, octet by octet of what it says in the clear, and in steps of a few octets
// through its TLS records, the message is kept and the worker is free again within the timeouts.
func TestHostileHost_StallsOrEndsAtEachOctet(t *testing.T) {
	whole := &villain{}
	endure(t, whole, true, func(t *testing.T, o *ordeal) {
		wantDelivered(t, o.Deliver(t.Context(), "isp", mail(hello)), villainAddr)
	})
	const inTheClear = 100
	step, stepWithin := 1, 5
	if underRace || testing.Short() {
		step, stepWithin = 7, 41
	}
	tried := 0
	for most := 1; most < whole.sent-60; most += step {
		if most > inTheClear {
			step = stepWithin
		}
		for _, closes := range []bool{false, true} {
			tried++
			v := &villain{most: most, closes: closes}
			endure(t, v, true, func(t *testing.T, o *ordeal) {
				start := time.Now()
				a := o.Deliver(t.Context(), "isp", mail(hello))
				took := time.Since(start)
				if delivered := a.Site == nil && a.Results[0].Failure == nil; delivered {
					if v.see().takes == 0 {
						t.Error("delivered to a host that took nothing")
					}
				} else if wantKept(t, a); a.PossibleDuplicate != (v.see().takes > 0) {
					t.Errorf("possible duplicate: %v, and the host took %d messages", a.PossibleDuplicate, v.see().takes)
				}
				if took > 16*time.Minute {
					t.Errorf("held for %v", took)
				}
			})
			if t.Failed() {
				t.Fatalf("with %d of %d octets, closes %v", most, whole.sent, closes)
			}
		}
	}
	t.Logf("%d ways to stop within %d octets", tried, whole.sent)
}

// A host that stays within each timeout is left after a time in all.
func TestHostileHost_CannotCrawlForEver(t *testing.T) {
	almost := func(s *scene, line string) { time.Sleep(4*time.Minute + 50*time.Second); s.say(line) }
	for _, c := range []struct {
		name    string
		misdeed func(*scene, string, string) bool
		to      int
		body    string
		least   time.Duration
		most    time.Duration
	}{
		{name: "opening", to: 1, least: 10 * time.Minute, most: 16 * time.Minute, misdeed: func(s *scene, act, _ string) bool {
			switch act {
			case actGreeting:
				almost(s, "220 hello")
			case actEHLO:
				almost(s, "250-v\r\n250 STARTTLS")
			case actStartTLS:
				almost(s, "220 go")
			case actEHLOAgain:
				almost(s, "250-v\r\n250 AUTH LOGIN")
			default:
				almost(s, "334 VXNlcm5hbWU6")
			}
			return true
		}},
		{name: "recipients", to: 500, least: 90 * time.Minute, most: 100 * time.Minute, // 500 * 5 minutes are two days
			misdeed: on(actRcpt, func(s *scene, _ string) { almost(s, "250 ok") })},
		{name: "body", to: 1, body: strings.Repeat(strings.Repeat("x", 78)+"\r\n", 26214), // 2 MiB
			least: 20 * time.Minute, most: 30 * time.Minute, // it would take three hours
			misdeed: on(actData, func(s *scene, _ string) {
				s.say("354 go")
				for { // 32 KiB in each three minutes but a little
					time.Sleep(2*time.Minute + 50*time.Second)
					if _, err := io.CopyN(io.Discard, s.br, writeBlock); err != nil {
						s.dropped = true
						return
					}
				}
			})},
	} {
		t.Run(c.name, func(t *testing.T) {
			endure(t, &villain{misdeed: c.misdeed}, true, func(t *testing.T, o *ordeal) {
				to := make([]string, c.to)
				for i := range to {
					to[i] = fmt.Sprintf("r%d@example.net", i)
				}
				m := mail(c.body+hello, to...)
				start := time.Now()
				wantKept(t, o.Deliver(t.Context(), "isp", m))
				if took := time.Since(start); took > c.most || took < c.least {
					t.Errorf("held for %v, want %v to %v", took, c.least, c.most)
				}
			})
		})
	}
}

// A host that hangs up at once, for hours, costs no memory, no goroutine and no more than a probe in each pause.
func TestHostileHost_ThatIsAlwaysThereAndNeverWorksIsProbedSeldom(t *testing.T) {
	v := &villain{misdeed: says(actGreeting, "421 4.3.2 not now")}
	endure(t, v, true, func(t *testing.T, o *ordeal) {
		for range 24 * 60 * 6 {
			wantKept(t, o.Deliver(t.Context(), "isp", mail(hello)))
			time.Sleep(10 * time.Second)
		}
		if n := v.see().opened; n > 24*60/2+10 {
			t.Errorf("%d connections in a day", n)
		}
	})
}
