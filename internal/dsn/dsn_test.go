package dsn

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/smuggling"
)

func testReport() Report {
	return Report{
		ID: "0REPORT", Reporter: "relay.example", To: "sender@lan.example", Action: Failed, MessageID: "0MESSAGE", EnvID: "abc+2Bdef",
		Now: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), Arrival: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC),
		Recipients: []Recipient{{
			Recipient: envelope.Recipient{Path: "nobody@example.com", ORcpt: "rfc822;no+2Bbody@example.com"},
			Host:      "smtp.isp.example:587",
			Reply:     envelope.Reply{Code: 550, Enhanced: envelope.EnhancedCode{5, 1, 1}, Text: "No such user here\nreally"},
			Words:     "550 5.1.1 No such user here really",
		}},
		Quote:    QuoteAll,
		Original: []byte("Subject: hello\r\nFrom: sender@lan.example\r\n\r\nbody\r\n"),
	}
}

// parse reads a report as a mail program would, and returns its header and its three parts.
func parse(t *testing.T, content []byte) (mail.Header, []string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("content type %q %v %v", kind, params, err)
	}
	var parts []string
	r := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return m.Header, parts
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, p.Header.Get("Content-Type")+"\r\n\r\n"+string(b))
	}
}

func TestCompose_IsAReportThatProgramsRead(t *testing.T) {
	h, parts := parse(t, Compose(testReport()))
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	if h.Get("To") != "<sender@lan.example>" || h.Get("Auto-Submitted") != "auto-replied" || h.Get("Message-Id") == "" {
		t.Errorf("header: %v", h)
	}
	kind, status, _ := strings.Cut(parts[1], "\r\n\r\n")
	if kind != "message/delivery-status" {
		t.Errorf("second part is %q", kind)
	}
	r := textproto.NewReader(bufio.NewReader(strings.NewReader(status)))
	message, err := r.ReadMIMEHeader()
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := r.ReadMIMEHeader()
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from      textproto.MIMEHeader
		key, want string
	}{
		{message, "Reporting-Mta", "dns; relay.example"},
		{message, "Original-Envelope-Id", "abc+def"},
		{recipient, "Original-Recipient", "rfc822; no+body@example.com"},
		{recipient, "Final-Recipient", "rfc822; nobody@example.com"},
		{recipient, "Action", "failed"},
		{recipient, "Status", "5.1.1"},
		{recipient, "Remote-Mta", "dns; smtp.isp.example"},
		{recipient, "Diagnostic-Code", "smtp; 550 5.1.1 No such user here really"},
	} {
		if got := c.from.Get(c.key); got != c.want {
			t.Errorf("%s: %q, want %q", c.key, got, c.want)
		}
	}
	if !strings.HasPrefix(parts[2], "message/rfc822\r\n\r\nSubject: hello\r\n") {
		t.Errorf("third part: %q", parts[2])
	}
}

// decoded returns the text of a part as a reader sees it.
func decoded(t *testing.T, part string) string {
	t.Helper()
	_, text, _ := strings.Cut(part, "\r\n\r\n")
	b, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatalf("%v in\n%q", err, part)
	}
	return string(b)
}

func TestCompose_HeaderOnly(t *testing.T) {
	r := testReport()
	r.Quote = QuoteHeader
	_, parts := parse(t, Compose(r))
	if parts[2] != "text/rfc822-headers\r\n\r\nSubject: hello\r\nFrom: sender@lan.example\r\n" {
		t.Errorf("third part: %q", parts[2])
	}
}

// A hostile reply or address adds neither a header field nor a line nor an escape sequence.
func TestCompose_ForeignTextIsHarmless(t *testing.T) {
	r := testReport()
	evil := "550 x\r\nX-Evil: 1\r\n\r\n--boundary\x1b[2J\x00" + strings.Repeat("long ", 2000)
	r.Recipients[0].Words, r.Recipients[0].Reply.Text, r.Recipients[0].ORcpt, r.EnvID = evil, evil, "rfc822;"+evil, evil
	content := Compose(r)
	h, parts := parse(t, content)
	if len(parts) != 3 || h.Get("X-Evil") != "" || bytes.Contains(content, []byte("\r\nX-Evil")) || bytes.ContainsAny(content, "\x00\x1b") {
		t.Errorf("foreign text took effect:\n%q", content)
	}
	for line := range strings.SplitSeq(string(content), "\r\n") {
		if len(line) > 998 {
			t.Errorf("a line of %d octets", len(line))
		}
		if strings.ContainsAny(line, "\r\n") {
			t.Errorf("a bare line end in %q", line)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		action  Action
		reply   envelope.Reply
		expired bool
		want    string
	}{
		{Failed, envelope.Reply{Code: 550, Enhanced: envelope.EnhancedCode{5, 7, 1}}, false, "5.7.1"},
		{Failed, envelope.Reply{Code: 550}, false, "5.0.0"},
		{Failed, envelope.Reply{Code: 550, Enhanced: envelope.EnhancedCode{4, 7, 1}}, false, "5.0.0"},
		{Failed, envelope.Reply{Code: 451, Enhanced: envelope.EnhancedCode{4, 2, 1}}, true, "5.4.7"},
		{Failed, envelope.Reply{}, false, "5.0.0"},
		{Delayed, envelope.Reply{Code: 451, Enhanced: envelope.EnhancedCode{4, 2, 1}}, false, "4.2.1"},
		{Delayed, envelope.Reply{Code: 451}, false, "4.0.0"},
		{Delayed, envelope.Reply{}, false, "4.4.1"},
		{Relayed, envelope.Reply{Code: 250, Enhanced: envelope.EnhancedCode{2, 6, 0}}, false, "2.6.0"},
		{Relayed, envelope.Reply{Code: 250}, false, "2.0.0"},
	} {
		if got := status(c.action, Recipient{Reply: c.reply, Expired: c.expired}); got != c.want {
			t.Errorf("status(%s, %s) = %s, want %s", c.action, c.reply, got, c.want)
		}
	}
}

// What a person reads first says what happened and what to do, for each action.
func TestCompose_WordsForAPerson(t *testing.T) {
	for action, want := range map[Action][]string{
		Failed:  {"could not be delivered", "no further attempt", "check the address for typing errors", "smtp.isp.example answered"},
		Delayed: {"could not be delivered to the following address yet", "need not do anything", "given up on Thu, 26 Nov 2026"},
		Relayed: {"was handed on", "does not report delivery"},
	} {
		r := testReport()
		r.Action, r.Until = action, time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)
		h, parts := parse(t, Compose(r))
		words := strings.Join(strings.Fields(parts[0]), " ")
		for _, w := range want {
			if !strings.Contains(words, w) {
				t.Errorf("%s: %q is missing in\n%s", action, w, parts[0])
			}
		}
		if !strings.Contains(parts[1], "Action: "+string(action)+"\r\n") || h.Get("Subject") == "" {
			t.Errorf("%s: %s", action, parts[1])
		}
	}
}

// A report is ASCII, also where addresses and words are not.
func TestCompose_NonASCII(t *testing.T) {
	r := testReport()
	r.Recipients[0].Path, r.Recipients[0].Host = "jörg@müller.example", "192.0.2.1:587"
	r.Recipients[0].Reply.Text, r.Recipients[0].Words = "Empfänger unbekannt", "550 Empfänger unbekannt"
	content := Compose(r)
	h, parts := parse(t, content)
	if !ascii(content) || h.Get("Content-Transfer-Encoding") != "" {
		t.Errorf("raw 8-bit where it may not be:\n%s", content)
	}
	if words := decoded(t, parts[0]); !strings.Contains(words, "jörg@müller.example") || !strings.Contains(words, "Empfänger unbekannt") {
		t.Errorf("the words for a person:\n%s", words)
	}
	for _, want := range []string{`Final-Recipient: utf-8; j\x{F6}rg@m\x{FC}ller.example`, "Remote-MTA: dns; [192.0.2.1]"} {
		if !strings.Contains(parts[1], want) {
			t.Errorf("%q is missing in\n%s", want, parts[1])
		}
	}
}

// What the relay decided itself is not put in the mouth of a host, and what may have arrived is not said to be lost.
func TestCompose_SaysWhoseVerdictItIs(t *testing.T) {
	local, doubtful, expired := testReport(), testReport(), testReport()
	expired.Recipients[0].Expired, expired.Recipients[0].Words = true, "given up after trying for 5 days"
	local.Recipients[0].Local, local.Recipients[0].Host = true, ""
	doubtful.Recipients[0].Doubtful, doubtful.Recipients[0].Reply = true, envelope.Reply{}
	for name, c := range map[string]struct {
		report     Report
		has, lacks []string
	}{
		"local": {local, []string{"Status: 5.1.1", "whoever looks after your mail system"},
			[]string{"answered", "Remote-MTA", "Diagnostic-Code", "typing errors"}},
		"expired": {expired, []string{"given up after trying for 5 days", "Status: 5.4.7", "Remote-MTA"}, []string{"answered"}},
		"doubtful": {doubtful, []string{"not known whether", "ask the recipient", "Status: 5.4.2", "Remote-MTA"},
			[]string{"It has not arrived", "typing errors", "answered"}},
	} {
		_, parts := parse(t, Compose(c.report))
		text := strings.Join(strings.Fields(parts[0]+parts[1]), " ")
		for _, w := range c.has {
			if !strings.Contains(text, w) {
				t.Errorf("%s: %q is missing in\n%s", name, w, text)
			}
		}
		for _, w := range c.lacks {
			if strings.Contains(text, w) {
				t.Errorf("%s: %q is in\n%s", name, w, text)
			}
		}
	}
}

func TestWrap_BreaksWhereTheWidthEnds(t *testing.T) {
	for text, want := range map[string]string{"aaa bbb": "aaa bbb", "aaa bbbb": "aaa|bbbb", "aaaaaaaaa b": "aaaaaaaaa|b", "a b c d": "a b c d", "": "",
		strings.Repeat("x", 901): strings.Repeat("x", 900) + "|x", "a " + strings.Repeat("é", 451): "a|" + strings.Repeat("é", 450) + "|é"} {
		if got := strings.Join(wrap(text, 7), "|"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestDecodeXtext(t *testing.T) {
	for text, want := range map[string]string{"a+41": "aA", "+41+42": "AB", "a+4": "a+4", "a+": "a+", "+zz": "+zz", "": ""} {
		if got := decodeXtext(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestClean_LeavesOnlyWhatPrints(t *testing.T) {
	for text, want := range map[string]string{"a\tb\r\nc": "a b  c", "\x00\x1b\x7f": "???", "\u0085\u202e\u2028": "???", "\xff": "?", "é日": "é日"} {
		if got := clean(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// checkReport looks at a report as mail programs, and the queue, must find it: lines that end in CRLF, of 998 octets at
// most beside those of the original, a header and a delivery-status in ASCII, and no field that Compose does not write.
func checkReport(t *testing.T, r Report, content []byte) {
	t.Helper()
	if strings.ContainsAny(strings.ReplaceAll(strings.TrimSuffix(string(content), string(r.Original)), "\r\n", ""), "\r\n") &&
		!strings.ContainsAny(strings.ReplaceAll(string(r.Original), "\r\n", ""), "\r\n") {
		t.Errorf("a bare CR or LF is in\n%q", content)
	}
	head, _, _ := strings.Cut(string(content), "\r\n\r\n")
	known := []string{"From:", "To:", "Date:", "Message-ID:", "Subject:", "Auto-Submitted:", "MIME-Version:", "Content-Type:",
		"Content-Transfer-Encoding:"}
	checkFields(t, head, known)
	_, status, ok := strings.Cut(string(content), "Content-Type: message/delivery-status\r\n\r\n")
	if !ok {
		t.Fatalf("no delivery-status in\n%q", content)
	}
	status, _, _ = strings.Cut(status, "\r\n--=_")
	known = []string{"Original-Envelope-Id:", "Reporting-MTA:", "X-Queue-ID:", "Arrival-Date:", "Original-Recipient:", "Final-Recipient:",
		"Action:", "Status:", "Remote-MTA:", "Diagnostic-Code:", "Will-Retry-Until:", "X-Refused-Report:"}
	groups := strings.Split(strings.TrimSuffix(status, "\r\n"), "\r\n\r\n")
	if len(groups) != 1+len(r.Recipients) {
		t.Errorf("%d groups of fields for %d recipients in\n%q", len(groups), len(r.Recipients), status)
	}
	for _, g := range groups {
		checkFields(t, g, known)
	}
}

// checkSafe fails the test unless every host can take a report: with an original that is quoted whole, every host with
// 8BITMIME, and with a To that needs it every host with SMTPUTF8.
func checkSafe(t *testing.T, r Report, content []byte) {
	t.Helper()
	whole := r.Quote == QuoteAll && bytes.Contains(content, []byte("\r\nContent-Type: message/rfc822\r\n"))
	if !whole && !r.To.NeedsUTF8() && !ascii(content) {
		t.Errorf("8-bit octets are in\n%q", content)
	}
	if !hasSafeLines(content) {
		t.Errorf("a NUL, a bare line end or a long line is in\n%q", content)
	}
	var g smuggling.Guard
	if err := errors.Join(g.Scan(content), g.End()); err != nil {
		t.Errorf("%v\n%q", err, content)
	}
}

func checkFields(t *testing.T, fields string, known []string) {
	t.Helper()
	for _, line := range strings.Split(fields, "\r\n") {
		name, _, _ := strings.Cut(line, " ")
		if len(line) > 998 || !ascii([]byte(line)) && name != "To:" || !slices.Contains(known, name) && !strings.HasPrefix(line, " ") &&
			!strings.HasPrefix(line, "\t") && line != "" {
			t.Errorf("the line %q is in\n%q", line, fields)
		}
		if strings.TrimSpace(line) == "" && line != "" {
			t.Errorf("a line of white space is in\n%q", fields)
		}
	}
}

// Nothing foreign adds a header field, a group or a part to a report: not a peer's reply, not the xtext of ENVID and
// ORCPT, whatever they decode to.
func TestInjection_ForeignTextAddsNothingToAReport(t *testing.T) {
	const evil = "x\r\nX-Evil: 1\r\n\r\nAction: delivered\r\n--=_0REPORT_0MESSAGE--\r\n\x00\x1b\u2028y"
	r := testReport()
	r.EnvID = "a+0D+0AX-Evil:+201+0D+0A+0D+0A--=_0REPORT_0MESSAGE"
	r.Recipients[0].ORcpt = "rfc822;a+0D+0A+0D+0AAction:+20delivered"
	r.Recipients[0].Host = evil
	r.Recipients[0].Words = evil
	r.Recipients[0].Reply.Text = evil
	for _, action := range []Action{Failed, Delayed, Relayed} {
		r.Action = action
		content := Compose(r)
		checkReport(t, r, content)
		if _, parts := parse(t, content); len(parts) != 3 {
			t.Errorf("%d parts", len(parts))
		}
	}
}

// FuzzCompose makes reports of anything that a peer or a client can have had its hands in.
func FuzzCompose(f *testing.F) {
	f.Add("a@b.test", "550 5.1.1 no\r\nX: y", "rfc822;a+0D+0Ab", "env+0Aid", "host:25", []byte("Subject: x\r\n\r\nbody"), false)
	f.Add("\"a b\"@é.test", strings.Repeat("x", 3000), ";+", "+", "[::1]:25", []byte("no header"), true)
	f.Add("a@b.test", "\u2028\u0085\xff", "", "", "", []byte("\r\n.\r\n--=_0REPORT_0MESSAGE--\r\n"), true)
	f.Fuzz(func(t *testing.T, to, text, orcpt, envid, host string, original []byte, all bool) {
		path, err := envelope.ParsePath(to)
		if err != nil {
			return
		}
		r := testReport()
		r.To, r.EnvID, r.Original, r.Quote = path, envid, original, QuoteHeader
		if all {
			r.Quote = QuoteAll
		}
		r.Recipients[0] = Recipient{Recipient: envelope.Recipient{Path: path, ORcpt: orcpt}, Host: host, Words: text,
			Reply: envelope.Reply{Code: 550, Text: text}}
		content := Compose(r)
		checkReport(t, r, content)
		checkSafe(t, r, content)
		again := Retelling{ID: "0AGAIN", Reporter: "relay.example", To: "pm@lan.example", Refused: "0REPORT", Sender: path}
		short := Retell(content, again)
		r.Original = nil
		checkReport(t, r, short)
		if !ascii(short) {
			t.Errorf("8-bit octets are in\n%q", short)
		}
	})
}
