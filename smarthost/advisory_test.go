package smarthost

import (
	"bytes"
	"strings"
	"testing"
)

// The tests of this file bear the names of the advisories, about other programs, whose mistakes they look for here.

// Exim's client took, within TLS, what a server or somebody between had sent in the clear behind the reply to STARTTLS.
func TestCVE_2021_38371_RepliesBehindSTARTTLS(t *testing.T) {
	for name, behind := range map[string][]string{
		"whole replies": {"250-evil", "250 AUTH PLAIN LOGIN", "235 logged in"},
		"a part":        {"250-ev"},
		"an empty line": {""},
	} {
		for _, apart := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				v := &villain{misdeed: on(actStartTLS, func(s *scene, _ string) {
					if apart { // in a segment of its own
						s.say("220 go ahead")
						s.say(behind...)
						return
					}
					s.say("220 go ahead\r\n" + strings.Join(behind, "\r\n"))
				})}
				endure(t, v, true, func(t *testing.T, o *ordeal) {
					a := o.Deliver(t.Context(), "isp", mail(hello))
					wantKept(t, a)
					if a.Site == nil || len(v.see().secret) > 0 {
						t.Errorf("%s; within TLS the relay said %q", show(a), v.see().secret)
					}
				})
			})
		}
	}
}

// What was offered in the clear does not count within TLS ("NO STARTTLS"; RFC 3207 section 4.2).
func TestNoSTARTTLS_WhatWasOfferedInTheClearIsForgotten(t *testing.T) {
	v := &villain{misdeed: func(s *scene, act, _ string) bool {
		switch act {
		case actEHLO:
			s.say("250-villain", "250-STARTTLS", "250-SIZE 1", "250-8BITMIME", "250-DSN", "250-SMTPUTF8", "250 AUTH LOGIN")
		case actEHLOAgain:
			s.say("250-villain", "250 AUTH PLAIN")
		default:
			return false
		}
		return true
	}}
	endure(t, v, true, func(t *testing.T, o *ordeal) {
		wantDelivered(t, o.Deliver(t.Context(), "isp", mail(hello)), villainAddr)
		said := strings.Join(v.see().secret, "\n")
		if !strings.HasPrefix(said, "EHLO relay.example.com\nAUTH PLAIN ") || !strings.Contains(said, "\nMAIL FROM:<a@example.com>\n") {
			t.Errorf("within TLS the relay said\n%s", said)
		}
	})
}

// No answer to STARTTLS or EHLO makes the relay go on in the clear ("NO STARTTLS", stripping), whatever login is offered
// there.
func TestNoSTARTTLS_StrippingMakesMailWait(t *testing.T) {
	for name, misdeed := range map[string]func(*scene, string, string) bool{
		"not offered":      says(actEHLO, "250-villain", "250 AUTH PLAIN LOGIN"),
		"masked":           says(actEHLO, "250-villain", "250-XXXXXXXX", "250 AUTH PLAIN LOGIN"),
		"offered as HELO":  says(actEHLO, "502 5.5.1 say HELO"),
		"454":              says(actStartTLS, "454 4.7.0 not now"),
		"500":              says(actStartTLS, "500 5.5.1 unknown"),
		"250 in its place": says(actStartTLS, "250 ok"),
		"354 in its place": says(actStartTLS, "354 go on"),
		"235 in its place": says(actStartTLS, "235 logged in"),
		"a reply ahead":    says(actEHLO, "250-villain", "250 STARTTLS", "220 go ahead"),
	} {
		t.Run(name, func(t *testing.T) {
			endure(t, &villain{misdeed: misdeed}, true, func(t *testing.T, o *ordeal) {
				a := o.Deliver(t.Context(), "isp", mail(hello))
				wantKept(t, a)
				if d := o.v.see(); a.Site == nil || len(d.secret) > 0 || d.takes > 0 {
					t.Errorf("%s; within TLS the relay said %q", show(a), d.secret)
				}
			})
		})
	}
}

// readLoosely returns the messages that a server sees in what comes after DATA, if it takes every LF and every CR for a
// line end, and drops NULs when told to.
func readLoosely(wire string, dropNULs bool) int {
	if dropNULs {
		wire = strings.ReplaceAll(wire, "\x00", "")
	}
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(wire), "\n")
	ends := 0
	for _, l := range lines {
		if l == "." {
			ends++
		}
	}
	return ends
}

// Of content that leaves the loosest reader sees one end of data, the last line. What has bare LFs does not leave.
func TestCVE_2023_51766_OutboundHasOneEndOfData(t *testing.T) {
	for _, content := range []string{
		"", ".\r\n", "..\r\n", "a\r\n.\r\nMAIL FROM:<x@y>\r\n", ".\r\n.\r\n.\r\n", "a", "a\r\n.", "\x00\r\n.\r\n.\r\n\x00",
	} {
		for size := 1; size <= max(1, len(content)); size++ {
			var wire bytes.Buffer
			d := newDotWriter(&wire)
			for rest := content; rest != ""; {
				n := min(size, len(rest))
				if _, err := d.Write([]byte(rest[:n])); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := d.close(); err != nil {
				t.Fatal(err)
			}
			if n := readLoosely("\r\n"+wire.String(), true); n != 1 || !strings.HasSuffix("\r\n"+wire.String(), "\r\n.\r\n") {
				t.Errorf("%q in pieces of %d: %d ends of data in %q", content, size, n, wire.String())
			}
		}
	}
}
