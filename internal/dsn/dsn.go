// Package dsn composes delivery status notifications (RFC 3461, RFC 3464): what the relay writes to a sender when it
// gives up on a recipient. It is pure: everything it says is in the Report it is given, and the same Report gives the
// same octets.
//
// A notification is a multipart/report (RFC 6522) of three parts: words for a person, message/delivery-status for
// programs, and the original's header, or the whole original. Foreign text, such as a peer's reply, is reduced to printable
// characters before it is put anywhere, so that it can add neither a header nor a line.
//
// A host that refused a message may refuse the report that quotes it. So a report is 7-bit, with short lines: what is not,
// of the words and of the original's header, is quoted-printable. Only [QuoteAll] may make it 8-bit. [Retell] writes
// a report that was refused once more, without a word of the original or of a host.
package dsn

import (
	"bytes"
	"fmt"
	"mime"
	"net/netip"
	"slices"
	"strings"
	"time"

	"relayd/internal/envelope"
)

// Action is the Action field of RFC 3464 section 2.3.3.
type Action string

const (
	// Failed: given up.
	Failed Action = "failed"
	// Delayed: not delivered yet, and still being tried.
	Delayed Action = "delayed"
	// Relayed: handed on to a host that does not send reports itself (RFC 3461 section 6.2.5.2).
	Relayed Action = "relayed"
)

// Report is what one notification says.
type Report struct {
	ID        string        // the notification's own queue id
	Reporter  string        // host name of the relay, the Reporting-MTA
	To        envelope.Path // the reverse-path of the message that it is about
	Now       time.Time
	Action    Action
	Arrival   time.Time // when the relay took the message
	Until     time.Time // for Delayed: when the relay gives up; zero when that is not known
	MessageID string    // the queue id of the message
	EnvID     string    // as in the MAIL command, xtext-encoded, or ""
	// Recipients that it reports, at least one.
	Recipients []Recipient
	// Original is the message's content, or its start. Quote is how much of it the notification carries.
	Original []byte
	Quote    Quote
}

// Recipient is one recipient's part of a Report.
type Recipient struct {
	envelope.Recipient
	Host  string         // host:port whose reply it was, or "" when no host was reached
	Reply envelope.Reply // that reply; zero when there was none
	Words string         // what happened, in the relay's or the peer's words
	// Expired is set when it was given up after being refused for the time being for too long.
	Expired bool
	// Local is set when Reply is the relay's own and no host was asked.
	Local bool
	// Doubtful is set when it was given up because connections broke after the message had been handed over, so that it
	// may have arrived (RFC 1047).
	Doubtful bool
}

// answered reports whether Words are what the host said.
func (rc Recipient) answered() bool { return rc.Host != "" && !rc.Expired && !rc.Local && !rc.Doubtful }

// Compose returns the notification as message content with CRLF line ends. It is ASCII whatever the recipients are, except
// for a To that can only travel with SMTPUTF8 anyway, and for an original of which [QuoteAll] carries the whole.
func Compose(r Report) []byte {
	var words, status bytes.Buffer
	writeWords(&words, r)
	writeStatus(&status, r)
	quoted := quote(r.Original, r.Quote)
	n := notification{id: r.ID, reporter: r.Reporter, to: r.To, now: r.Now, subject: subject(r), boundary: "=_" + r.ID + "_" + r.MessageID}
	return n.write(textPart("text/plain; charset=utf-8", words.Bytes()), statusPart(status.Bytes()), quoted)
}

// notification is the frame of a report.
type notification struct {
	id, reporter string
	to           envelope.Path
	now          time.Time
	subject      string
	boundary     string
}

func (n notification) write(parts ...part) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("From: \"Mail delivery at %s\" <postmaster@%s>", n.reporter, n.reporter)
	line("To: %s", n.to)
	line("Date: %s", n.now.Format(time.RFC1123Z))
	line("Message-ID: <%s@%s>", n.id, n.reporter)
	folded(&b, "Subject: "+mime.QEncoding.Encode("utf-8", n.subject))
	line("Auto-Submitted: auto-replied")
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=delivery-status;")
	line("\tboundary=%q", n.boundary)
	for _, p := range parts {
		if p.encoding == "8bit" {
			line("Content-Transfer-Encoding: 8bit")
			break
		}
	}
	line("")
	line("This is a delivery status notification in MIME format.")
	for _, p := range parts {
		line("")
		line("--%s", n.boundary)
		line("Content-Type: %s", p.kind)
		if p.encoding != "" {
			line("Content-Transfer-Encoding: %s", p.encoding)
		}
		line("")
		b.Write(p.content)
	}
	line("")
	line("--%s--", n.boundary)
	return b.Bytes()
}

func subject(r Report) string {
	to := fmt.Sprintf("%d recipients", len(r.Recipients))
	if len(r.Recipients) == 1 {
		to = clean(string(r.Recipients[0].Path))
	}
	switch r.Action {
	case Delayed:
		return "Your message to " + to + " is delayed"
	case Relayed:
		return "Your message to " + to + " was handed on"
	}
	if r.doubtful() {
		return "Your message to " + to + " may not have arrived"
	}
	return "Your message to " + to + " was not delivered"
}

// writeWords writes the part for a person: what happened, to whom, what the other side said, what to do.
func writeWords(b *bytes.Buffer, r Report) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\r\n", args...) }
	paragraph := func(text string) {
		for _, l := range wrap(text, 76) {
			line("%s", l)
		}
	}
	addresses := plural(len(r.Recipients), "address", "addresses")
	switch r.Action {
	case Delayed:
		paragraph("Your message could not be delivered to the following " + addresses + " yet. You need not do anything: it is kept, " +
			"and delivery is tried again and again. You will hear again only if it fails.")
	case Relayed:
		paragraph("Your message was handed on for the following " + addresses + ", as far as this mail relay can follow it. " +
			"The next mail server does not report delivery, so you will hear of it again only if something goes wrong.")
	default:
		if r.doubtful() {
			paragraph("It is not known whether your message has arrived at the following " + addresses + ": the connection broke " +
				"each time after the message had been handed over. No further attempt will be made.")
			break
		}
		paragraph("Your message could not be delivered to the following " + addresses + ". It has not arrived there, and no further " +
			"attempt will be made.")
	}
	for _, rc := range r.Recipients {
		line("")
		line("  %s", clean(string(rc.Path)))
		if rc.answered() {
			line("    The mail server %s answered:", clean(hostOnly(rc.Host)))
		}
		for _, w := range wrap(clean(rc.Words), 68) {
			line("    %s", w)
		}
	}
	line("")
	switch r.Action {
	case Delayed:
		if !r.Until.IsZero() {
			paragraph("If nothing changes it is given up on " + r.Until.Format(time.RFC1123Z) + ".")
		}
		paragraph("If it is urgent, reach the recipient another way; sending the message again does not help.")
	case Relayed:
	default:
		if r.doubtful() {
			paragraph("What you can do: ask the recipient whether it has arrived before you send it again.")
			break
		}
		if r.local() {
			paragraph("What you can do: show this report to whoever looks after your mail system; the details below are for them.")
			break
		}
		paragraph("What you can do: check the address for typing errors and send the message again. If the address is right, show this " +
			"report to whoever looks after your mail system; the details below are for them.")
	}
	paragraph("The message was taken by " + r.Reporter + " on " + r.Arrival.Format(time.RFC1123Z) + " under the queue id " + r.MessageID + ".")
}

func (r Report) doubtful() bool {
	return slices.ContainsFunc(r.Recipients, func(rc Recipient) bool { return rc.Doubtful })
}

func (r Report) local() bool {
	return slices.ContainsFunc(r.Recipients, func(rc Recipient) bool { return rc.Local })
}

// writeStatus writes the message/delivery-status part (RFC 3464 section 2).
func writeStatus(b *bytes.Buffer, r Report) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\r\n", args...) }
	if r.EnvID != "" {
		folded(b, "Original-Envelope-Id: "+plain(decodeXtext(r.EnvID)))
	}
	line("Reporting-MTA: dns; %s", r.Reporter)
	line("X-Queue-ID: %s", r.MessageID)
	line("Arrival-Date: %s", r.Arrival.Format(time.RFC1123Z))
	line("")
	for _, rc := range r.Recipients {
		if rc.ORcpt != "" {
			kind, addr, _ := strings.Cut(rc.ORcpt, ";")
			folded(b, "Original-Recipient: "+plain(kind)+"; "+plain(decodeXtext(addr)))
		}
		folded(b, "Final-Recipient: "+addressType(rc.Path)+"; "+plain(string(rc.Path)))
		line("Action: %s", r.Action)
		line("Status: %s", status(r.Action, rc))
		if rc.Host != "" {
			line("Remote-MTA: dns; %s", mtaName(rc.Host))
		}
		if !rc.Reply.IsZero() && !rc.Local {
			folded(b, "Diagnostic-Code: smtp; "+plain(rc.Reply.String()))
		}
		if r.Action == Delayed && !r.Until.IsZero() {
			line("Will-Retry-Until: %s", r.Until.Format(time.RFC1123Z))
		}
		line("")
	}
}

// status returns the Status field: the peer's own enhanced code where it fits the action, else what the action and
// the reply's class say (RFC 3463).
func status(a Action, rc Recipient) string {
	r, class := rc.Reply, 5
	switch a {
	case Delayed:
		class = 4
	case Relayed:
		class = 2
	}
	switch {
	case rc.Expired:
		return "5.4.7" // delivery time expired
	case rc.Doubtful:
		return "5.4.2" // bad connection
	case r.Code/100 == class && r.Enhanced[0] == class:
		return r.Enhanced.String()
	case a == Delayed && r.IsZero():
		return "4.4.1" // no answer from a host
	}
	return fmt.Sprintf("%d.0.0", class)
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

// mtaName returns a host as RFC 3464 section 2.3.5 names it: an address as an address literal.
func mtaName(hostport string) string {
	host := hostOnly(hostport)
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return plain(host)
	case a.Is4():
		return "[" + host + "]"
	}
	return "[IPv6:" + host + "]"
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
