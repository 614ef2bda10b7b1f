//go:build peers

package peers

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// chain is what most of the tests need: a Postfix as the provider's smarthost, and relayd before it.
type chain struct {
	room      room
	ca        authority
	smarthost *postfix
	relay     *relay
}

// newChain starts a smarthost and a relayd. adjust may change relayd's settings.
func newChain(t *testing.T, adjust func(*chain, *settings)) *chain {
	t.Helper()
	c := &chain{room: newRoom(t)}
	c.ca = newAuthority(t, c.room)
	c.smarthost = startSmarthost(t, c.room, c.ca.issue(t, "smarthost.example", postfixUser))
	s := settings{host: c.smarthost.addr(), username: username, password: password, ca: c.ca.file}
	if adjust != nil {
		adjust(c, &s)
	}
	c.relay = startRelay(t, c.room, s)
	return c
}

// box is a mailbox at the smarthost.
func (c *chain) box(address string) maildir { return c.smarthost.mailbox(address) }

// waitUntilEmpty waits until what relayd took is in the mailboxes, every copy of it.
func (c *chain) waitUntilEmpty(t *testing.T) {
	t.Helper()
	c.relay.waitUntilEmpty(t)
	c.smarthost.waitUntilEmpty(t)
}

// mustBeLoggedIn fails the test unless the smarthost says that d came by TLS and a login.
func mustBeLoggedIn(t *testing.T, d delivered) {
	t.Helper()
	d.mustTrace(t, "Received: from "+relayName, "using TLSv1.3", "Authenticated sender: "+username, "by smarthost.example")
}

func TestPostfix_EveryShapeArrivesUnchanged(t *testing.T) {
	t.Parallel()
	c := newChain(t, nil)
	lan := startLAN(t, c.room, c.relay, "")
	bySMTP, bySendmail := shapes("smtp"), shapes("sendmail")
	for _, m := range bySMTP {
		if err := submit(lan.addr(), m, ann); err != nil {
			t.Fatalf("%s: %v", m.id, err)
		}
	}
	for _, m := range bySendmail {
		lan.sendmail(t, m, ann)
	}
	for _, m := range append(bySMTP, bySendmail...) {
		d := waitForMail(t, c.box(ann), m)
		mustBeLoggedIn(t, d)
		d.mustTrace(t, "Received: from lan.example ([127.0.0.1])", "by "+relayName+" with ESMTP id ", "for <"+ann+">")
		d.mustTrace(t, "Return-Path: <"+sender+">")
	}
	c.waitUntilEmpty(t)
	c.box(ann).mustHold(t, len(bySMTP)+len(bySendmail))
	if log := c.smarthost.maillog(t); !strings.Contains(log, "sasl_method=PLAIN, sasl_username="+username) {
		t.Error("the smarthost's log knows no login")
	}
}

func TestPostfix_TwentyAtOnceArriveOnceEach(t *testing.T) {
	t.Parallel()
	c := newChain(t, func(c *chain, s *settings) {
		withSTARTTLS(t)(c, s)
		s.route = "auth = \"login\""
	})
	// The whole way is encrypted here, and this Postfix checks relayd's certificate.
	lan := startLAN(t, c.room, c.relay,
		"smtp_tls_security_level = secure\nsmtp_tls_CAfile = "+c.ca.file+"\nsmtp_tls_secure_cert_match = "+relayName+"\n")
	const count = 20
	var all sync.WaitGroup
	errs := make([]error, count)
	for i := range count {
		all.Go(func() { errs[i] = submit(lan.addr(), numbered(i), ann, bob) })
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	for i := range count {
		for _, address := range []string{ann, bob} {
			d := waitForMail(t, c.box(address), numbered(i))
			mustBeLoggedIn(t, d)
			d.mustTrace(t, "Received: from lan.example", "by "+relayName+" with ESMTPS", "tls TLS_")
		}
	}
	c.waitUntilEmpty(t)
	for _, address := range []string{ann, bob} {
		c.box(address).mustHold(t, count)
	}
	if log := c.smarthost.maillog(t); !strings.Contains(log, "sasl_method=LOGIN") {
		t.Error("the smarthost's log knows no AUTH LOGIN")
	}
}

// numbered returns messages of which every third goes through the spool.
func numbered(i int) message {
	body := fmt.Sprintf("Message %d.\r\n", i)
	if i%3 == 0 {
		body += attachment(80 << 10)
	}
	return compose(fmt.Sprintf("numbered-%d", i), "Subject: one of many\r\n", body)
}

func TestPostfix_AWrongPasswordHoldsTheMailAndBouncesNothing(t *testing.T) {
	t.Parallel()
	c := newChain(t, func(_ *chain, s *settings) { s.password = "of-last-year" })
	lan := startLAN(t, c.room, c.relay, "")
	m := plain("wrong-password")
	lan.sendmail(t, m, ann)

	waiting := c.relay.waitForError(t)
	if waiting.Attempts != 0 {
		t.Errorf("the message spent %d attempts on a refused login", waiting.Attempts)
	}
	poll(t, "relayctl status --check tells of the login", func() string {
		out, code := c.relay.ctl(t, "status", "--check")
		if code == 1 && strings.Contains(out, "LOGIN REFUSED") && strings.Contains(out, username) && strings.Contains(out, "535") {
			return ""
		}
		return fmt.Sprintf("exit code %d:\n%s", code, out)
	})
	poll(t, "the login is tried again", func() string {
		if n := strings.Count(c.smarthost.maillog(t), "authentication failed"); n < 2 {
			return fmt.Sprintf("it was tried %d times", n)
		}
		return ""
	})
	if n := len(c.relay.queue(t)); n != 1 {
		t.Errorf("the queue holds %d messages", n)
	}
	c.box(sender).mustHold(t, 0)
	for _, secret := range []string{"of-last-year", "b2YtbGFzdC15ZWFy"} {
		if strings.Contains(c.relay.said(t), secret) {
			t.Errorf("relayd's log has the password as %s", secret)
		}
	}

	c.relay.setPassword(t, password)
	c.relay.reload(t)
	mustBeLoggedIn(t, waitForMail(t, c.box(ann), m))
	c.waitUntilEmpty(t)
	if out, code := c.relay.ctl(t, "status", "--check"); code != 0 {
		t.Errorf("relayctl status --check still fails with %d:\n%s", code, out)
	}
	c.box(sender).mustHold(t, 0)
}

func TestPostfix_MailWaitsForASmarthostThatIsAway(t *testing.T) {
	t.Parallel()
	c := newChain(t, nil)
	lan := startLAN(t, c.room, c.relay, "")
	first, second, third := plain("before"), plain("while-away"), plain("while-away-too")
	lan.sendmail(t, first, ann)
	waitForMail(t, c.box(ann), first)

	c.smarthost.daemon.stop(t)
	lan.sendmail(t, second, ann)
	lan.sendmail(t, third, ann)
	c.relay.waitForError(t)
	poll(t, "both messages wait in relayd's queue", func() string {
		if waiting := c.relay.queue(t); len(waiting) != 2 {
			return fmt.Sprintf("%+v", waiting)
		}
		return ""
	})
	if out, code := c.relay.ctl(t, "status", "--check"); code != 1 {
		t.Errorf("relayctl status --check ends with %d while no smarthost is there:\n%s", code, out)
	}

	c.smarthost.start(t)
	waitForMail(t, c.box(ann), second)
	waitForMail(t, c.box(ann), third)
	c.waitUntilEmpty(t)
	c.box(ann).mustHold(t, 3)
}

func TestPostfix_MailSurvivesARestartOfRelayd(t *testing.T) {
	t.Parallel()
	c := newChain(t, nil)
	c.smarthost.daemon.stop(t)
	m := plain("restart")
	if err := submit("127.0.0.1:"+c.relay.port, m, ann); err != nil {
		t.Fatal(err)
	}
	c.relay.waitForError(t)
	c.relay.stop(t)
	c.smarthost.start(t)
	c.relay.launch(t)
	waitForMail(t, c.box(ann), m)
	c.waitUntilEmpty(t)
	c.box(ann).mustHold(t, 1)
}

func TestPostfix_ACertificateOfAnotherAuthorityHoldsTheMail(t *testing.T) {
	t.Parallel()
	c := newChain(t, func(c *chain, s *settings) { s.ca = newAuthority(t, newRoom(t)).file })
	m := plain("certificate")
	if err := submit("127.0.0.1:"+c.relay.port, m, ann); err != nil {
		t.Fatal(err)
	}
	c.relay.waitForError(t)
	if out, code := c.relay.ctl(t, "status", "--check"); code != 1 || !strings.Contains(out, "TLS FAILED") || !strings.Contains(out, "ca_file") {
		t.Errorf("relayctl status --check ends with %d and does not say what to do about the certificate:\n%s", code, out)
	}
	if strings.Contains(c.smarthost.maillog(t), "sasl_") {
		t.Error("there was a login before the certificate was verified")
	}
	s := c.relay.settings
	s.ca = c.ca.file
	c.relay.configure(t, s)
	c.relay.reload(t)
	mustBeLoggedIn(t, waitForMail(t, c.box(ann), m))
	c.waitUntilEmpty(t)
	c.box(ann).mustHold(t, 1)
}
