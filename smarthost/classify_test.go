package smarthost

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"relayd/internal/envelope"
)

var testPlace = place{route: "isp", addr: "smtp.isp.example:587", username: "me@isp.example", mode: ModeStartTLS}

const (
	site      = envelope.ScopeSite
	sender    = envelope.ScopeSender
	message   = envelope.ScopeMessage
	recipient = envelope.ScopeRecipient
)

// Each row is a reply as some host gives it. Every rule has a row.
func TestClassifyReply(t *testing.T) {
	met := make(map[int]bool)
	for _, c := range []struct {
		stage, line string
		scope       envelope.Scope
		permanent   bool
		trouble     trouble
		rest        bool
		words       string // that an operator must see
	}{
		{"greeting", "421 4.7.0 Too many connections", site, false, unreachable, false, "tried again after a pause"},
		{"rcpt", "421 4.7.0 Try again later", site, false, unreachable, false, ""},
		{"dot", "421 4.3.0 closing", site, false, unreachable, false, ""},
		{"auth", "421 4.7.0 Try again later, closing connection", site, false, unreachable, false, ""},

		{"mail", "530 5.7.0 Must issue a STARTTLS command first", site, false, tlsFailed, false, `set tls = "starttls"`},
		{"mail", "530 5.7.57 Client not authenticated to send mail", site, false, loginRefused, false, "set username"},
		{"mail", "530 5.7.0 Authentication Required", site, false, loginRefused, false, "[[smarthost]] isp"},
		{"rcpt", "530 Authentication required", site, false, loginRefused, false, ""},
		{"mail", "550 5.7.1 Authentication is required before sending", site, false, loginRefused, false, "username"},
		{"mail", "553 5.7.1 You must authenticate first", site, false, loginRefused, false, ""},
		{"rcpt", "550 5.7.1 authentication required", site, false, loginRefused, false, ""},

		{"auth", "454 4.7.0 Too many login attempts", site, false, loginRefused, false, "tried seldom"},
		{"auth", "454 4.7.0 Temporary authentication failure", site, false, unreachable, false, "cannot check the login"},
		{"auth", "451 Authentication failed: server is down", site, false, unreachable, false, "me@isp.example"},
		{"auth", "535 5.7.8 Error: authentication failed", site, false, loginRefused, false,
			"check username and password of [[smarthost]] isp"},
		{"auth", "535 5.7.139 Authentication unsuccessful, basic authentication is disabled", site, false, loginRefused,
			false, "Mail waits"},
		{"auth", "534 5.7.9 Application-specific password required", site, false, loginRefused, false, "app password"},
		{"auth", "538 Encryption required for requested mechanism", site, false, loginRefused, false, "stronger"},
		{"auth", "504 unrecognized authentication type", site, false, loginRefused, false, ""},
		{"auth", "501 5.5.2 cannot decode", site, false, loginRefused, false, ""},

		{"starttls", "454 4.7.0 TLS not available due to local problem", site, false, tlsFailed, false, "STARTTLS"},
		{"starttls", "502 not implemented", site, false, tlsFailed, false, ""},
		{"greeting", "554 5.7.1 dialup/DSL/cable host, please use your ISP's SMTP server", site, false, unreachable, false,
			"submission port 587"},
		{"greeting", "450 4.3.2 not now", site, false, unreachable, false, ""},
		{"ehlo", "550 5.7.1 bad name", site, false, unreachable, false, ""},

		{"mail", "550 5.1.8 Sender rejected", sender, true, noTrouble, false, ""},
		{"mail", "451 4.7.1 greylisted", sender, false, noTrouble, false, ""},
		{"mail", "501 5.1.7 bad syntax", sender, true, noTrouble, false, ""},
		{"mail", "552 Message size exceeds fixed limit", message, true, noTrouble, false, ""},
		{"mail", "523 5.3.4 too large for you", message, true, noTrouble, false, ""},
		{"mail", "452 4.3.4 too large just now", message, false, noTrouble, false, ""},

		{"rcpt", "550 5.1.1 no such user", recipient, true, noTrouble, false, ""},
		{"rcpt", "450 4.2.1 busy", recipient, false, noTrouble, false, ""},
		{"rcpt", "452 4.5.3 Too many recipients", recipient, false, noTrouble, true, ""},
		{"rcpt", "552 5.5.3 Too many recipients", recipient, false, noTrouble, true, ""},
		{"rcpt", "452 Too many recipients", recipient, false, noTrouble, true, ""},
		{"rcpt", "552 Error: too many recipients", recipient, false, noTrouble, true, ""},
		{"rcpt", "452 4.2.2 The recipient's mailbox is full", recipient, false, noTrouble, false, ""},
		{"rcpt", "552 5.2.2 over quota", recipient, true, noTrouble, false, ""},

		{"data", "554 5.5.1 no", message, true, noTrouble, false, ""},
		{"data", "451 4.3.1 disk", message, false, noTrouble, false, ""},
		{"dot", "554 5.7.1 spam", message, true, noTrouble, false, ""},
		{"dot", "452 4.3.1 disk", message, false, noTrouble, false, ""},
		{"dot", "552 5.3.4 too big", message, true, noTrouble, false, ""},
		{"data", "250 fine", site, false, unreachable, false, "out of place"},
	} {
		reply, err := readReply(bufio.NewReaderSize(strings.NewReader(c.line+"\r\n"), maxReplyLine))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range rules {
			if r.matches(c.stage, reply) {
				met[i] = true
				break
			}
		}
		v := classifyReply(testPlace, c.stage, reply)
		if v.Scope != c.scope || v.Permanent != c.permanent || v.trouble != c.trouble || v.rest != c.rest ||
			v.Stage != c.stage || v.Reply != reply {
			t.Errorf("%s at %s: got %+v", c.line, c.stage, v)
		}
		if !contains(v.Reason, c.words) || c.scope == site && v.Reason == "" || strings.Contains(v.Reason, "%") {
			t.Errorf("%s at %s: the reason is %q, want %q in it", c.line, c.stage, v.Reason, c.words)
		}
	}
	for i, r := range rules {
		if !met[i] {
			t.Errorf("no row meets rule %d: %+v", i, r)
		}
	}
}

func TestClassifyError_IsTheSitesAndNamesTheRemedy(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, c := range []struct {
		err     error
		trouble trouble
		words   string
	}{
		{&stageError{stage: "dial", err: refused}, unreachable, "smtp.isp.example:587 refuses connections"},
		{&stageError{stage: "dial", err: &net.DNSError{IsNotFound: true}}, unreachable, "does not exist in DNS: check hosts"},
		{&stageError{stage: "dial", err: &net.DNSError{IsTimeout: true}}, unreachable, "cannot be looked up now"},
		{&stageError{stage: "dial", err: context.DeadlineExceeded}, unreachable, "does not answer"},
		{&stageError{stage: "dial", err: syscall.ENETUNREACH}, unreachable, "check this machine's line"},
		{&stageError{stage: "dial", err: errors.New("odd")}, unreachable, "odd"},
		{refused, unreachable, "refuses connections"},
		{&stageError{stage: "tls", err: x509.UnknownAuthorityError{}}, tlsFailed, "ca_file in [[smarthost]] isp"},
		{&stageError{stage: "tls", err: fmt.Errorf("x: %w", x509.HostnameError{Certificate: &x509.Certificate{
			DNSNames: []string{"mx.isp.example"}}, Host: "smtp.isp.example"})}, tlsFailed,
			`is for mx.isp.example and not for "smtp.isp.example": write the name`},
		{&stageError{stage: "tls", err: x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired}},
			tlsFailed, "check this machine's clock"},
		{&stageError{stage: "tls", err: errors.New("tls: protocol version not supported")}, tlsFailed, "min_tls"},
		{&stageError{stage: "tls", err: io.EOF}, unreachable, "closed the connection during the TLS handshake"},
		{&stageError{stage: "starttls", err: errNoStartTLS}, tlsFailed, "not sent in the clear"},
		{&stageError{stage: "starttls", err: errInjected}, tlsFailed, "inserted"},
		{&stageError{stage: "auth", err: &noMechanismError{wanted: "auto"}}, loginRefused, "it offers no AUTH"},
		{&stageError{stage: "auth", err: &noMechanismError{wanted: "plain", offered: []string{"LOGIN", "NTLM"}}}, loginRefused,
			`it offers AUTH LOGIN NTLM, and auth is "plain"`},
		{&stageError{stage: "auth", err: errChallenges}, loginRefused, "asks on without end"},
		{&stageError{stage: "auth", err: io.EOF}, unreachable, "during the login"},
		{&stageError{stage: "greeting", err: &notSMTPError{"SSH-2.0"}}, unreachable, `"SSH-2.0"`},
		{&stageError{stage: "mail", err: io.EOF}, unreachable, "closed the connection at MAIL"},
		{&stageError{stage: "dot", reply: envelope.Reply{Code: 421}}, unreachable, "after a pause"},
	} {
		v := classifyError(testPlace, c.err)
		if v.Scope != site || v.Permanent || v.trouble != c.trouble {
			t.Errorf("%v: got %+v", c.err, v)
		}
		if !contains(v.Reason, c.words) || contains(v.Reason, "%") {
			t.Errorf("%v: the reason is %q, want %q in it", c.err, v.Reason, c.words)
		}
	}
	at465 := place{route: "isp", addr: "smtp.isp.example:465", mode: ModeStartTLS}
	v := classifyError(at465, &stageError{stage: "greeting", err: context.DeadlineExceeded})
	if !contains(v.Reason, `port 465 wants tls = "implicit"`) {
		t.Error(v.Reason)
	}
}
