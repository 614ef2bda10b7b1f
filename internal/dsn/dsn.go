// Package dsn composes delivery status notifications (RFC 3461, RFC 3464): what the relay writes to a sender when it
// gives up on a recipient. It is pure: everything it says is in the Report it is given, and the same Report gives the
// same octets.
//
// A notification is a multipart/report (RFC 6522) of three parts: words for a person, message/delivery-status for
// programs, and the original message or its header. Foreign text, such as a peer's reply, is reduced to printable
// characters before it is put anywhere, so that it can add neither a header nor a line.
package dsn

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"relayd/internal/envelope"
)

// Action is the Action field of RFC 3464 section 2.3.3.
type Action string

const (
	Failed Action = "failed"
)

// Report is what one notification says.
type Report struct {
	ID        string        // the notification's own queue id
	Reporter  string        // host name of the relay, the Reporting-MTA
	To        envelope.Path // the reverse-path of the message that it is about
	Now       time.Time
	Action    Action
	Arrival   time.Time // when the relay took the message
	MessageID string    // the queue id of the message
	EnvID     string    // as in the MAIL command, xtext-encoded, or ""
	// Recipients that it reports, at least one.
	Recipients []Recipient
	// Original is the message's content, or its start; HeaderOnly makes the notification carry only its header.
	Original   []byte
	HeaderOnly bool
}

// Recipient is one recipient's part of a Report.
type Recipient struct {
	envelope.Recipient
	Host  string         // host:port whose reply it was, or "" when no host was reached
	Reply envelope.Reply // that reply; zero when there was none
	Words string         // what happened, in the relay's or the peer's words
}

// Compose returns the notification as message content with CRLF line ends.
func Compose(r Report) []byte {
	var b bytes.Buffer
	boundary := "=_" + r.ID + "_" + r.MessageID
	original := r.Original
	if r.HeaderOnly {
		original = header(original)
	}
	eightBit := !ascii(original) || !ascii([]byte(r.To))

	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("From: Mail delivery at %s <postmaster@%s>", r.Reporter, r.Reporter)
	line("To: %s", r.To)
	line("Date: %s", r.Now.Format(time.RFC1123Z))
	line("Message-ID: <%s@%s>", r.ID, r.Reporter)
	line("Subject: %s", subject(r))
	line("Auto-Submitted: auto-replied")
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=delivery-status;")
	line("\tboundary=%q", boundary)
	if eightBit {
		line("Content-Transfer-Encoding: 8bit")
	}
	line("")
	line("This is a delivery status notification in MIME format.")
	line("")
	line("--%s", boundary)
	line("Content-Type: text/plain; charset=utf-8")
	line("Content-Transfer-Encoding: 8bit")
	line("")
	writeWords(&b, r)
	line("")
	line("--%s", boundary)
	line("Content-Type: message/delivery-status")
	line("")
	writeStatus(&b, r)
	line("--%s", boundary)
	if r.HeaderOnly {
		line("Content-Type: text/rfc822-headers")
	} else {
		line("Content-Type: message/rfc822")
	}
	if eightBit {
		line("Content-Transfer-Encoding: 8bit")
	}
	line("")
	b.Write(original)
	if !bytes.HasSuffix(original, []byte("\r\n")) {
		line("")
	}
	line("--%s--", boundary)
	return b.Bytes()
}

func subject(r Report) string {
	if len(r.Recipients) == 1 {
		return "Your message to " + clean(string(r.Recipients[0].Path)) + " was not delivered"
	}
	return fmt.Sprintf("Your message to %d recipients was not delivered", len(r.Recipients))
}

// writeWords writes the part for a person: what happened, to whom, what the other side said, what to do.
func writeWords(b *bytes.Buffer, r Report) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\r\n", args...) }
	line("Your message could not be delivered to the following address%s.", plural(len(r.Recipients), "", "es"))
	line("It has not been delivered there, and no further attempt will be made.")
	for _, rc := range r.Recipients {
		line("")
		line("  %s", clean(string(rc.Path)))
		words := clean(rc.Words)
		if rc.Host != "" {
			line("    The mail server %s answered:", clean(hostOnly(rc.Host)))
		}
		for _, w := range wrap(words, 68) {
			line("    %s", w)
		}
	}
	line("")
	line("What you can do: check the address for typing errors and send the message again.")
	line("If the address is right, show this report to whoever looks after your mail")
	line("system; the details below are for them. The message was taken by %s", r.Reporter)
	line("on %s under the queue id %s.", r.Arrival.Format(time.RFC1123Z), r.MessageID)
}

// writeStatus writes the message/delivery-status part (RFC 3464 section 2).
func writeStatus(b *bytes.Buffer, r Report) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\r\n", args...) }
	if r.EnvID != "" {
		line("Original-Envelope-Id: %s", clean(decodeXtext(r.EnvID)))
	}
	line("Reporting-MTA: dns; %s", r.Reporter)
	line("X-Queue-ID: %s", r.MessageID)
	line("Arrival-Date: %s", r.Arrival.Format(time.RFC1123Z))
	line("")
	for _, rc := range r.Recipients {
		if rc.ORcpt != "" {
			kind, addr, _ := strings.Cut(rc.ORcpt, ";")
			line("Original-Recipient: %s; %s", clean(kind), clean(decodeXtext(addr)))
		}
		line("Final-Recipient: %s; %s", addressType(rc.Path), clean(string(rc.Path)))
		line("Action: %s", r.Action)
		line("Status: %s", status(rc.Reply))
		if rc.Host != "" {
			line("Remote-MTA: dns; %s", clean(hostOnly(rc.Host)))
		}
		if !rc.Reply.IsZero() {
			folded(b, "Diagnostic-Code: smtp; "+clean(rc.Reply.String()))
		}
		line("")
	}
}

// status returns the Status field: the peer's own enhanced code where it is a failure's, else what the reply's class
// says. A temporary reply that was given up on is an expiry (RFC 3463 section 3.5, X.4.7).
func status(r envelope.Reply) string {
	switch {
	case r.Permanent() && r.Enhanced[0] == 5:
		return r.Enhanced.String()
	case r.Permanent():
		return "5.0.0"
	case r.IsZero():
		return "5.4.7"
	}
	return "4.4.7"
}

func addressType(p envelope.Path) string {
	if p.NeedsUTF8() {
		return "utf-8" // RFC 6533 section 3
	}
	return "rfc822"
}

func hostOnly(hostport string) string {
	if i := strings.LastIndexByte(hostport, ':'); i > 0 {
		return strings.Trim(hostport[:i], "[]")
	}
	return hostport
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
