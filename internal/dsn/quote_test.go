package dsn

import (
	"strings"
	"testing"

	"relayd/internal/envelope"
)

// A quotation can go to any host, and a reader sees the header as it was.
func TestQuote_IsSafeForAnyHost(t *testing.T) {
	long := "Subject: " + strings.Repeat("x", 3000) + "\r\n"
	for name, head := range map[string]string{
		"plain":        "Subject: hello\r\nTo: b@example.com\r\n",
		"8-bit":        "Subject: gr\xc3\xbc\xc3\x9fe\r\n",
		"not UTF-8":    "Subject: \xff\xfe\r\n",
		"long line":    long,
		"NUL":          "Subject: a\x00b\r\n\x00.\r\n",
		"escape":       "Subject: \x1b[2J\r\n",
		"dots":         ".\r\n..\r\nSubject: x\r\n",
		"white space":  "Subject: x \r\n \t\r\nTo: a\xfc \r\n",
		"the boundary": "--=_0REPORT_0MESSAGE--\r\nSubject: x\r\n",
	} {
		for _, q := range []Quote{QuoteHeader, QuoteAll} {
			r := testReport()
			r.Original, r.Quote = []byte(head+"\r\n"), q
			content := Compose(r)
			checkReport(t, r, content)
			checkSafe(t, r, content)
			if name == "the boundary" { // ids are random, so that nobody can write it
				continue
			}
			_, parts := parse(t, content)
			kind, text, _ := strings.Cut(parts[2], "\r\n\r\n")
			if name != "plain" && name != "dots" && name != "white space" || q == QuoteHeader {
				if kind != "text/rfc822-headers" {
					t.Errorf("%s: it is %q", name, kind)
				}
			}
			if kind == "text/rfc822-headers" && name != "plain" && name != "dots" {
				text = decoded(t, parts[2])
			}
			if got := strings.TrimSuffix(text, "\r\n\r\n"); strings.TrimRight(got, "\r\n") != strings.TrimRight(head, "\r\n") {
				t.Errorf("%s: a reader sees %q, want %q", name, got, head)
			}
		}
	}
}

func TestQuote_OfAMessage(t *testing.T) {
	for name, c := range map[string]struct {
		original string
		quote    Quote
		kind     string
		has      string
		lacks    string
	}{
		"all":              {"Subject: x\r\n\r\nbody\r\n", QuoteAll, "message/rfc822", "\r\nbody\r\n", "quoted-printable"},
		"all, 8-bit body":  {"Subject: x\r\n\r\nb\xc3\xb6dy\r\n", QuoteAll, "message/rfc822", "b\xc3\xb6dy", "quoted-printable"},
		"long body line":   {"Subject: x\r\n\r\n" + strings.Repeat("y", 999) + "\r\n", QuoteAll, "text/rfc822-headers", "Subject: x", "yyy"},
		"longest line":     {"Subject: x\r\n\r\n" + strings.Repeat("y", 998) + "\r\n", QuoteAll, "message/rfc822", "yyy", "quoted"},
		"NUL in the body":  {"Subject: x\r\n\r\ny\x00\r\n", QuoteAll, "text/rfc822-headers", "Subject: x", "y\x00"},
		"8-bit in header":  {"Subject: \xc3\xb6\r\n\r\nbody\r\n", QuoteAll, "text/rfc822-headers", "Subject: =C3=B6", "body"},
		"bare LF":          {"Subject: x\n\r\nbody\r\n", QuoteAll, "text/rfc822-headers", "Subject: x", "body"},
		"header":           {"Subject: x\r\n\r\nbody\r\n", QuoteHeader, "text/rfc822-headers", "Subject: x", "body"},
		"no header":        {"\r\nbody\r\n", QuoteHeader, "text/rfc822-headers", "", "body"},
		"cut header":       {"Subject: x\r\nTo: cut of", QuoteHeader, "text/rfc822-headers", "Subject: x", "cut of"},
		"nothing":          {"", QuoteHeader, "text/rfc822-headers", "", "body"},
		"very long header": {strings.Repeat("X-Field: y\r\n", 3000) + "Last: z\r\n\r\n", QuoteHeader, "text/rfc822-headers", "X-Field: y", "Last"},
	} {
		r := testReport()
		r.Original, r.Quote = []byte(c.original), c.quote
		content := Compose(r)
		checkSafe(t, r, content)
		h, parts := parse(t, content)
		kind, text, _ := strings.Cut(parts[2], "\r\n\r\n")
		if kind != c.kind || !strings.Contains("\r\n"+text, c.has) || strings.Contains(text, c.lacks) {
			t.Errorf("%s: %q %q", name, kind, text)
		}
		if declared := h.Get("Content-Transfer-Encoding") == "8bit"; declared == ascii(content) {
			t.Errorf("%s: 8-bit declared: %v\n%s", name, declared, content)
		}
	}
}

func testRetelling() Retelling {
	return Retelling{ID: "0AGAIN", Reporter: "relay.example", To: "sender@lan.example", Now: testReport().Now, Refused: "0REPORT",
		Sender: "sender@lan.example", Reply: envelope.Reply{Code: 554, Enhanced: envelope.EnhancedCode{5, 7, 1}, Text: "virus found"}}
}

// What is told again has each recipient and its codes, and no word of anybody else's.
func TestRetell_IsShortAndComplete(t *testing.T) {
	long := testReport()
	long.Recipients = append(long.Recipients, Recipient{Recipient: envelope.Recipient{Path: "jörg@müller.example"}, Expired: true,
		Host: "192.0.2.1:25", Reply: envelope.Reply{Code: 451, Text: "the peer's wörds " + strings.Repeat("and more ", 60)}, Words: "the peer's wörds"})
	pm := testRetelling()
	pm.To = "pm@lan.example"
	for _, r := range []Retelling{testRetelling(), pm} {
		content := Retell(Compose(long), r)
		checkReport(t, long, content)
		if !ascii(content) || !hasSafeLines(content) {
			t.Errorf("not for any host:\n%q", content)
		}
		h, parts := parse(t, content)
		if h.Get("To") != r.To.String() || len(parts) != 2 {
			t.Fatalf("to %s, %d parts:\n%s", h.Get("To"), len(parts), content)
		}
		for _, want := range []string{"X-Refused-Report: 0REPORT\r\n", "X-Queue-ID: 0MESSAGE\r\n", "Original-Envelope-Id: abc+def\r\n",
			"Final-Recipient: rfc822; nobody@example.com\r\n", "Status: 5.1.1\r\n", "Diagnostic-Code: smtp; 550 5.1.1\r\n",
			`Final-Recipient: utf-8; j\x{F6}rg@m\x{FC}ller.example` + "\r\n", "Status: 5.4.7\r\n", "Diagnostic-Code: smtp; 451\r\n"} {
			if !strings.Contains(parts[1], want) {
				t.Errorf("%q is missing in\n%s", want, parts[1])
			}
		}
		for _, want := range []string{"nobody@example.com", "not delivered, status 5.1.1", `j\x{F6}rg@m\x{FC}ller.example`, "(554 5.7.1)", "0MESSAGE"} {
			if !strings.Contains(strings.Join(strings.Fields(parts[0]), " "), want) {
				t.Errorf("%q is missing in\n%s", want, parts[0])
			}
		}
		for _, word := range []string{"No such user", "hello", "peer's", "and more", "virus"} {
			if strings.Contains(string(content), word) {
				t.Errorf("%q is in\n%s", word, content)
			}
		}
		// Told once more, to the postmaster, it says the same and names the last report only.
		again := pm
		again.Refused = "0AGAIN"
		_, parts = parse(t, Retell(content, again))
		if !strings.Contains(parts[1], "X-Refused-Report: 0AGAIN\r\n") || strings.Contains(parts[1], "0REPORT") ||
			!strings.Contains(parts[1], "Final-Recipient: rfc822; nobody@example.com\r\n") || !strings.Contains(parts[0], "sender@lan.example") {
			t.Errorf("told once more:\n%s\n%s", parts[0], parts[1])
		}
	}
}

func TestOnlyCodes(t *testing.T) {
	for value, want := range map[string]string{"smtp; 550 5.1.1 2 of 3 users": "smtp; 550 5.1.1", "smtp; 451 4 users": "smtp; 451",
		"smtp; 550 No": "smtp; 550", "smtp; no code": "smtp;", "": ";"} {
		if got := onlyCodes(value); got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}

func TestRetell_SaysWhatBecameOfTheMessage(t *testing.T) {
	for action, want := range map[Action]string{Failed: "    not delivered, ", Delayed: "    not delivered yet, ", Relayed: "    handed on, "} {
		r := testReport()
		r.Action = action
		if _, parts := parse(t, Retell(Compose(r), testRetelling())); !strings.Contains(parts[0], want) || !strings.Contains(parts[1], "Action: "+string(action)) {
			t.Errorf("%s:\n%s\n%s", action, parts[0], parts[1])
		}
	}
}

// Of a report that cannot be read, the relay tells that there was one.
func TestRetell_OfWhatIsNoReport(t *testing.T) {
	for _, content := range []string{"", "\r\n", "no header", "Subject: x\r\n\r\nbody\r\n", "Content-Type: multipart/report; boundary=a\r\n\r\n",
		"Content-Type: multipart/report; boundary=a\r\n\r\n--a\r\nContent-Type: message/delivery-status\r\n\r\nX: y\r\n--a--\r\n"} {
		r := testReport()
		short := Retell([]byte(content), testRetelling())
		checkReport(t, r, short)
		if _, parts := parse(t, short); len(parts) != 2 || !strings.Contains(parts[1], "Final-Recipient: rfc822; sender@lan.example\r\n") ||
			!strings.Contains(parts[1], "X-Queue-ID: 0REPORT\r\n") || !strings.Contains(parts[1], "Reporting-MTA: dns; relay.example\r\n") {
			t.Errorf("%q:\n%s", content, short)
		}
	}
}
