package dsn

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"strings"
	"time"

	"relayd/internal/envelope"
)

// Retelling is how a report that was refused is written once more.
type Retelling struct {
	ID       string // the new report's own queue id
	Reporter string
	To       envelope.Path
	Now      time.Time
	Refused  string        // the queue id of the report that was refused
	Sender   envelope.Path // who should have had it; another than To when To is the postmaster
	// Reply is the refusal; zero when there was none.
	Reply envelope.Reply
}

// Retell returns a report that Compose made once more, in ASCII, for the same sender or for the postmaster. It has the
// addresses and the codes of the first one. It has no word of the original or of a host, which may be what the first one
// was refused for. Of content that is no report it tells what r knows.
func Retell(report []byte, r Retelling) []byte {
	told := readStatus(report)
	if len(told) < 2 {
		told = r.unread()
	}
	var words, status bytes.Buffer
	r.writeWords(&words, told)
	fmt.Fprintf(&status, "X-Refused-Report: %s\r\n", r.Refused)
	for i, group := range told {
		if i > 0 {
			status.WriteString("\r\n")
		}
		for _, f := range group {
			folded(&status, f.name+": "+plain(f.value))
		}
	}
	n := notification{id: r.ID, reporter: r.Reporter, to: r.To, now: r.Now, subject: r.subject(), boundary: "=_" + r.ID + "_" + r.Refused}
	return n.write(textPart("text/plain; charset=us-ascii", words.Bytes()), statusPart(status.Bytes()))
}

// unread is what is told when the first report cannot be read.
func (r Retelling) unread() [][]field {
	return [][]field{
		{{"Reporting-MTA", "dns; " + r.Reporter}, {"X-Queue-ID", r.Refused}},
		{{"Final-Recipient", addressType(r.Sender) + "; " + plain(string(r.Sender))}, {"Action", string(Failed)}, {"Status", "5.0.0"}},
	}
}

func (r Retelling) toSender() bool { return r.To == r.Sender }

func (r Retelling) subject() string {
	if r.toSender() {
		return "A message of yours was not delivered (in short)"
	}
	return "A report to " + plain(string(r.Sender)) + " could not be delivered"
}

func (r Retelling) writeWords(b *bytes.Buffer, told [][]field) {
	paragraph := func(text string) {
		for _, l := range wrap(text, 76) {
			fmt.Fprintf(b, "%s\r\n", l)
		}
	}
	if r.toSender() {
		paragraph("This is what became of your message, in short. A longer report was refused on its way to you" + r.codes() + ".")
	} else {
		paragraph("This mail relay could not deliver a report to " + plain(string(r.Sender)) + r.codes() + ". Please tell them what the " +
			"report said:")
	}
	for _, group := range told {
		to, action, status := find(group, "Final-Recipient"), find(group, "Action"), find(group, "Status")
		if to == "" {
			continue
		}
		_, address, _ := strings.Cut(to, "; ")
		fmt.Fprintf(b, "\r\n  %s\r\n    %s, status %s\r\n", plain(address), actionWords(action), plain(status))
	}
	b.WriteString("\r\n")
	paragraph("The words of other mail servers and the header of the message are left out here, because some filter may have refused " +
		"the longer report for them. The log of " + plain(r.Reporter) + " has them under the queue id " + messageID(told) + ".")
}

// codes returns the codes of the refusal in brackets, or "".
func (r Retelling) codes() string {
	if r.Reply.IsZero() {
		return ""
	}
	return " (" + shortReply(r.Reply) + ")"
}

func shortReply(reply envelope.Reply) string {
	reply.Text = ""
	return strings.TrimSpace(reply.String())
}

func actionWords(action string) string {
	switch Action(action) {
	case Delayed:
		return "not delivered yet"
	case Relayed:
		return "handed on"
	}
	return "not delivered"
}

// messageID returns the queue id of the message that a report is about.
func messageID(told [][]field) string { return plain(find(told[0], "X-Queue-ID")) }

// field is a header field, unfolded.
type field struct{ name, value string }

func find(group []field, name string) string {
	for _, f := range group {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// readStatus returns the groups of fields of report's delivery-status, without what hosts said but their codes.
func readStatus(report []byte) (groups [][]field) {
	m, err := mail.ReadMessage(bytes.NewReader(report))
	if err != nil {
		return nil
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return nil
	}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if err != nil {
			return nil
		}
		if p.Header.Get("Content-Type") == "message/delivery-status" {
			return readGroups(p)
		}
	}
}

func readGroups(r io.Reader) (groups [][]field) {
	in := textproto.NewReader(bufio.NewReader(r))
	var group []field
	for {
		line, err := in.ReadContinuedLine()
		if line == "" {
			if len(group) > 0 {
				groups, group = append(groups, group), nil
			}
			if err != nil {
				return groups
			}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "Diagnostic-Code":
			value = onlyCodes(value)
		case "X-Refused-Report": // of a report that was told again before
			continue
		}
		group = append(group, field{name, value})
	}
}

// onlyCodes returns a Diagnostic-Code without the words of it.
func onlyCodes(value string) string {
	kind, reply, _ := strings.Cut(value, ";")
	code, text, _ := strings.Cut(strings.TrimSpace(reply), " ")
	if len(code) != 3 || strings.Trim(code, "0123456789") != "" {
		code = ""
	}
	if enhanced, _, ok := envelope.ParseEnhancedCode(text); ok {
		code += " " + enhanced.String()
	}
	return strings.TrimSpace(kind + "; " + code)
}
