package smarthost

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"relayd/internal/envelope"
)

var testPlace = place{route: "isp", addr: "smtp.isp.example:587", username: "me@isp.example", mode: ModeStartTLS,
	login: true, general: true}

const (
	site      = envelope.ScopeSite
	sender    = envelope.ScopeSender
	message   = envelope.ScopeMessage
	recipient = envelope.ScopeRecipient
)

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
		{&stageError{stage: "mail", reply: envelope.Reply{Code: 550, Text: "no RSET here"}}, unreachable, ""},
		{&stageError{stage: "dial", err: &loopError{}}, looping, "is this relay itself"},
		{&stageError{stage: "ehlo", err: &loopError{name: "relay.example.com"}}, looping, "a hostname of its own"},
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
