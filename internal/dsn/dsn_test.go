package dsn

import (
	"bufio"
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"relayd/internal/envelope"
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

func TestCompose_HeaderOnly(t *testing.T) {
	r := testReport()
	r.HeaderOnly = true
	_, parts := parse(t, Compose(r))
	if parts[2] != "text/rfc822-headers\r\n\r\nSubject: hello\r\nFrom: sender@lan.example" {
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

// What programs read is ASCII, also where addresses and words are not; 8-bit parts say so.
func TestCompose_NonASCII(t *testing.T) {
	r := testReport()
	r.Recipients[0].Path, r.Recipients[0].Host = "jörg@müller.example", "192.0.2.1:587"
	r.Recipients[0].Reply.Text, r.Recipients[0].Words = "Empfänger unbekannt", "550 Empfänger unbekannt"
	content := Compose(r)
	h, parts := parse(t, content)
	head, _, _ := bytes.Cut(content, []byte("\r\n\r\n"))
	if !ascii(head) || !ascii([]byte(parts[1])) {
		t.Errorf("raw 8-bit where it may not be:\n%s\n%s", head, parts[1])
	}
	if h.Get("Content-Transfer-Encoding") != "8bit" {
		t.Error("an 8-bit part is not declared at the top")
	}
	for _, want := range []string{`Final-Recipient: utf-8; j\x{F6}rg@m\x{FC}ller.example`, "Remote-MTA: dns; [192.0.2.1]"} {
		if !strings.Contains(parts[1], want) {
			t.Errorf("%q is missing in\n%s", want, parts[1])
		}
	}
}

// What the relay decided itself is not put in the mouth of a host, and what may have arrived is not said to be lost.
func TestCompose_SaysWhoseVerdictItIs(t *testing.T) {
	local, doubtful := testReport(), testReport()
	local.Recipients[0].Local, local.Recipients[0].Host = true, ""
	doubtful.Recipients[0].Doubtful, doubtful.Recipients[0].Reply = true, envelope.Reply{}
	for name, c := range map[string]struct {
		report     Report
		has, lacks []string
	}{
		"local": {local, []string{"Status: 5.1.1", "whoever looks after your mail system"},
			[]string{"answered", "Remote-MTA", "Diagnostic-Code", "typing errors"}},
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
