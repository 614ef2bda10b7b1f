package rewrite

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"relayd/internal/envelope"
)

// crlf makes the lines of a test's message as they travel.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// tester is testing.T and rapid.T.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func compile(t tester, r Rules) *Set {
	t.Helper()
	if r.Name == "" {
		r.Name = "smarthost isp"
	}
	s, err := Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// arrived is the job of a message that came from the queue, sent that of one whose arrival is not known, to which nothing
// is added.
func arrived(from envelope.Path) Job {
	return Job{ReversePath: from, ID: "1M8063JNNNMR7", Hostname: "relay.example.com",
		ReceivedAt: time.Date(2026, 3, 1, 9, 30, 15, 0, time.FixedZone("", 3600))}
}

func sent(from envelope.Path) Job { return Job{ReversePath: from} }

// carryOut returns the message as planned. It reads it in two ways, which must not differ, and checks its size.
func carryOut(t tester, p *Plan, message string) string {
	t.Helper()
	read, err := io.ReadAll(iotest.OneByteReader(p.Reader(strings.NewReader(message))))
	if err != nil {
		t.Fatal(err)
	}
	var written bytes.Buffer
	if _, err := io.Copy(&written, p.Reader(strings.NewReader(message))); err != nil {
		t.Fatal(err)
	}
	if written.String() != string(read) {
		t.Fatalf("read %q, written %q", read, written.String())
	}
	if got := p.Size(int64(len(message))); got != int64(len(read)) {
		t.Fatalf("size %d, has %d octets", got, len(read))
	}
	return string(read)
}

func rewritten(t tester, c Chain, j Job, message string) (*Plan, string) {
	t.Helper()
	p, err := c.Plan(j, strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	return p, carryOut(t, p, message)
}

const office = "office@example.com"

func TestAuthors_AreRewrittenWhereTheyStand(t *testing.T) {
	scanners := compile(t, Rules{Map: map[string]string{"scanner@*": office, "@lan.example": "@example.com"}})
	for name, c := range map[string]struct{ in, want string }{
		"bare":          {"From: scanner@printer.lan\n", "From: office@example.com\nReply-To: scanner@printer.lan\n"},
		"no space":      {"from:scanner@printer.lan\n", "from:office@example.com\nReply-To:scanner@printer.lan\n"},
		"display name":  {"From: \"Scanner, 2nd floor\" <scanner@printer.lan>\n", "From: \"Scanner, 2nd floor\" <office@example.com>\nReply-To: \"Scanner, 2nd floor\" <scanner@printer.lan>\n"},
		"comments":      {"From: (a) scanner@printer.lan (b \\) (c))\n", "From: (a) office@example.com (b \\) (c))\nReply-To: (a) scanner@printer.lan (b \\) (c))\n"},
		"comment in it": {"From: <scanner(x)@(y)printer.lan>\n", "From: <office@example.com (x) (y)>\nReply-To: <scanner(x)@(y)printer.lan>\n"},
		"encoded-word":  {"From: =?utf-8?q?B=C3=BCro=2C_oben?= <Scanner@Printer.LAN>\n", "From: =?utf-8?q?B=C3=BCro=2C_oben?= <office@example.com>\nReply-To: =?utf-8?q?B=C3=BCro=2C_oben?= <Scanner@Printer.LAN>\n"},
		"8-bit":         {"From: B\xfcro <scanner@printer.lan>\n", "From: B\xfcro <office@example.com>\nReply-To: B\xfcro <scanner@printer.lan>\n"},
		"folded":        {"From: Scanner\n on the\n\tfloor <scanner@printer.lan>\nX: y\n", "From: Scanner\n on the\n\tfloor <office@example.com>\nReply-To: Scanner\n on the\n\tfloor <scanner@printer.lan>\nX: y\n"},
		"several": {"From: A <a@lan.example>, b@elsewhere.example,\n scanner@x\nSender: a@lan.example\n",
			"From: A <a@example.com>, b@elsewhere.example,\n office@example.com\nReply-To: A <a@lan.example>, b@elsewhere.example,\n scanner@x\nSender: a@example.com\n"},
		"group":            {"From: Floor: a@lan.example, B <scanner@x>;, c@lan.example\nReply-To: x@y\n", "From: Floor: a@example.com, B <office@example.com>;, c@example.com\nReply-To: x@y\n"},
		"quoted local":     {"From: <\"a \\\"b\"@lan.example>\nReply-To: x@y\n", "From: <\"a \\\"b\"@example.com>\nReply-To: x@y\n"},
		"source route":     {"From: <@hop.example,@hip.example:scanner@x>\nReply-To: x@y\n", "From: <@hop.example,@hip.example:office@example.com>\nReply-To: x@y\n"},
		"at in the name":   {"From: scanner@printer.lan <scanner@printer.lan>\nReply-To: x@y\n", "From: scanner@printer.lan <office@example.com>\nReply-To: x@y\n"},
		"comma in a name":  {"From: Doe, John <a@lan.example>\nReply-To: x@y\n", "From: Doe, John <a@example.com>\nReply-To: x@y\n"},
		"space before":     {"From : scanner@x\nReply-To: x@y\n", "From : office@example.com\nReply-To: x@y\n"},
		"sender alone":     {"From: me@example.org\nSender: scanner@x\n", "From: me@example.org\nSender: office@example.com\n"},
		"reply-to is kept": {"Reply-To: me@example.org\nFrom: scanner@x\n", "Reply-To: me@example.org\nFrom: office@example.com\n"},
		"no rule":          {"From: me@example.org\n", "From: me@example.org\n"},
		"the same":         {"From: Office <OFFICE@example.com>\nSender: a@EXAMPLE.com\n", "From: Office <OFFICE@example.com>\nSender: a@EXAMPLE.com\n"},
		"resent":           {"Resent-From: scanner@x\nFrom: me@example.org\n", "Resent-From: scanner@x\nFrom: me@example.org\n"},
		"in the body":      {"From: me@example.org\n\nFrom: scanner@x\n", "From: me@example.org\n\nFrom: scanner@x\n"},
		"behind text":      {"From: me@example.org\nno field\nFrom: scanner@x\n", "From: me@example.org\nno field\nFrom: scanner@x\n"},
		"domain literal":   {"From: scanner@[192.168.1.7]\nReply-To: x@y\n", "From: office@example.com\nReply-To: x@y\n"},
	} {
		t.Run(name, func(t *testing.T) {
			const body = "\nthe body\nFrom: scanner@printer.lan\n"
			_, got := rewritten(t, Chain{scanners}, sent("a@b.example"), crlf("Received: x\n"+c.in+body))
			if want := crlf("Received: x\n" + c.want + body); got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// What is broken keeps its octets, unless there is an address for all authors.
func TestAuthors_WithoutALegibleAddress(t *testing.T) {
	mapOnly := compile(t, Rules{Map: map[string]string{"*": office}})
	forced := compile(t, Rules{HeaderFrom: office})
	for _, value := range []string{"", " ", " scanner", " <>", " Undisclosed:;", " \"open <scanner@x>", " scanner@", " @x", " a b@x",
		" <scanner@x", " (scanner@x", " a@b@c", " <a@b> c", " a@[b", " a@b;", " g: h: a@b;", "\n scanner on\n the floor", " a\\b@c", " a>b"} {
		in := crlf("From:" + value + "\nSubject: x\n\nbody\n")
		p, got := rewritten(t, Chain{mapOnly}, sent("a@b.example"), in)
		if got != in || !slices.Equal(p.Unclear, []string{"From"}) {
			t.Errorf("%q became %q; unclear %q", in, got, p.Unclear)
		}
		p, got = rewritten(t, Chain{forced}, sent("a@b.example"), in)
		if want := crlf("From: office@example.com\nSubject: x\n\nbody\n"); got != want || len(p.Changes) != 1 {
			t.Errorf("%q became %q, %+v", in, got, p.Changes)
		}
	}
}

func TestReplyTo_OfALineThatGetsTooLongIsFolded(t *testing.T) {
	value := " " + strings.Repeat("x", 970) + " <a@b.example>"
	_, got := rewritten(t, Chain{compile(t, Rules{HeaderFrom: office})}, sent("a@b.example"), "From:"+value+"\r\n\r\n")
	if !strings.Contains(got, "\r\nReply-To:"+value+"\r\n") {
		t.Errorf("%q", got)
	}
	value = " " + strings.Repeat("x", 978) + " <a@b.example>"
	_, got = rewritten(t, Chain{compile(t, Rules{HeaderFrom: office})}, sent("a@b.example"), "From:"+value+"\r\n\r\n")
	if !strings.Contains(got, "\r\nReply-To:\r\n"+value+"\r\n") {
		t.Errorf("%q", got)
	}
}

func TestMissingFields_AreAddedAndOnlyThose(t *testing.T) {
	const d, f, m = "Date: Sun, 01 Mar 2026 08:30:15 +0000\n", "From: <a@lan.example>\n", "Message-ID: <1M8063JNNNMR7@relay.example.com>\n"
	for name, c := range map[string]struct{ in, want string }{
		"complete":        {"Received: x\nDATE: x\nfrom: y\nMessage-Id: z\n\nbody\n", "Received: x\nDATE: x\nfrom: y\nMessage-Id: z\n\nbody\n"},
		"empty ones":      {"Date:\nFrom: \nMessage-ID:\n\nbody\n", "Date:\nFrom: \nMessage-ID:\n\nbody\n"},
		"all missing":     {"Received: x\n\ty\nReturn-Path: <z>\nSubject: s\n\nDate: body\n", "Received: x\n\ty\nReturn-Path: <z>\n" + d + f + m + "Subject: s\n\nDate: body\n"},
		"date missing":    {"From: a@b\nMessage-ID: <c>\n\nbody\n", d + "From: a@b\nMessage-ID: <c>\n\nbody\n"},
		"no header":       {"Received: x\nAlarm at door 3\n", "Received: x\n" + d + f + m + "\nAlarm at door 3\n"},
		"nothing at all":  {"", d + f + m + "\n"},
		"only a trace":    {"Received: x\n", "Received: x\n" + d + f + m + "\n"},
		"ragged trace":    {"Received: x", "Received: x\n" + d + f + m + "\n"},
		"no body":         {"Received: x\nSubject: s\n", "Received: x\n" + d + f + m + "Subject: s\n"},
		"empty header":    {"Received: x\n\nbody\n", "Received: x\n" + d + f + m + "\nbody\n"},
		"text in between": {"Received: x\nSubject: s\nno field\nDate: late\n", "Received: x\n" + d + f + m + "Subject: s\nno field\nDate: late\n"},
		"mailbox line":    {"Received: x\n>From a@b Mon Mar  2 10:00:00 2026\nSubject: s\nDate: x\nFrom: y\n\nbody\n", "Received: x\n>From a@b Mon Mar  2 10:00:00 2026\n" + m + "Subject: s\nDate: x\nFrom: y\n\nbody\n"},
		"signed without":  {"DKIM-Signature: v=1; h=from:date\n : message-id ; b=x\nFrom: y\n\nbody\n", "DKIM-Signature: v=1; h=from:date\n : message-id ; b=x\nFrom: y\n\nbody\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p, got := rewritten(t, nil, arrived("a@lan.example"), crlf(c.in))
			if got != crlf(c.want) {
				t.Errorf("got  %q\nwant %q", got, crlf(c.want))
			}
			if p.Untouched() != (c.in == c.want) || p.Untouched() != (len(p.Added) == 0) {
				t.Errorf("untouched %v, added %q", p.Untouched(), p.Added)
			}
			if _, again := rewritten(t, nil, arrived("x@y"), got); again != got {
				t.Errorf("complete it is %q, and then %q", got, again)
			}
			if _, got := rewritten(t, nil, sent("a@lan.example"), crlf(c.in)); got != crlf(c.in) {
				t.Errorf("not from the queue: %q", got)
			}
		})
	}
}

func TestMissingFrom_IsTheSenderAsTheRulesHaveIt(t *testing.T) {
	rules := compile(t, Rules{EnvelopeFrom: "bounces@example.com", HeaderFrom: "all@example.com", Map: map[string]string{"scanner@*": office}})
	for path, want := range map[envelope.Path]string{
		"scanner@printer.lan": "<office@example.com>", "x@printer.lan": "<all@example.com>", envelope.Null: "<MAILER-DAEMON@relay.example.com>",
	} {
		_, got := rewritten(t, Chain{rules}, arrived(path), "Date: x\r\nMessage-ID: x\r\n\r\n")
		if !strings.HasPrefix(got, "From: "+want+"\r\n") || strings.Contains(got, "Reply-To") {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestSignatures_ThatARewritingBreaksAreRemoved(t *testing.T) {
	const (
		covering = "DKIM-Signature: v=1; a=rsa-sha256; h=Subject:\n\tFrom:To; b=abc\n"
		replies  = "dkim-signature: v=1; h=sender:reply-to; b=abc\n"
		other    = "DKIM-Signature: v=1; h=Subject:X-From; bh=from; b=abc\n"
		arc      = "ARC-Seal: i=1; cv=none\nARC-Message-Signature: i=1; h=from:to\nARC-Authentication-Results: i=1; x\n"
		arcOther = "ARC-Seal: i=1; cv=none\nARC-Message-Signature: i=1; h=to\nARC-Authentication-Results: i=1; x\n"
	)
	rules := Chain{compile(t, Rules{Map: map[string]string{"scanner@*": office}})}
	for name, c := range map[string]struct {
		in, want string
		removed  int
	}{
		"covers From":       {covering + "From: scanner@x\nReply-To: y\n", "From: office@example.com\nReply-To: y\n", 1},
		"stands behind":     {"From: scanner@x\nReply-To: y\n" + covering, "From: office@example.com\nReply-To: y\n", 1},
		"right behind From": {"From: scanner@x\n" + covering, "From: office@example.com\nReply-To: scanner@x\n", 1},
		"covers Reply-To":   {replies + "From: scanner@x\n", "From: office@example.com\nReply-To: scanner@x\n", 1},
		"covers Sender":     {replies + "Sender: scanner@x\nFrom: y@z\n", "Sender: office@example.com\nFrom: y@z\n", 1},
		"Sender is not":     {covering + "Sender: scanner@x\nFrom: y@z\n", covering + "Sender: office@example.com\nFrom: y@z\n", 0},
		"covers neither":    {other + "From: scanner@x\nReply-To: y\n", other + "From: office@example.com\nReply-To: y\n", 0},
		"several":           {covering + covering + other + "From: scanner@x\nReply-To: y\n", other + "From: office@example.com\nReply-To: y\n", 2},
		"nothing changes":   {covering + arc + "From: y@z\n", covering + arc + "From: y@z\n", 0},
		"ARC":               {arc + "From: scanner@x\nReply-To: y\n", "From: office@example.com\nReply-To: y\n", 3},
		"ARC of other":      {arcOther + "From: scanner@x\nReply-To: y\n", arcOther + "From: office@example.com\nReply-To: y\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			p, got := rewritten(t, rules, sent("a@b.example"), crlf(c.in+"\nbody\n"))
			if got != crlf(c.want+"\nbody\n") || len(p.Removed) != c.removed {
				t.Errorf("removed %q, got\n%q", p.Removed, got)
			}
		})
	}
}

func TestReversePath_IsRewrittenUnlessNull(t *testing.T) {
	rules := Chain{compile(t, Rules{EnvelopeFrom: "bounces@example.com", Map: map[string]string{"scanner@*": office, "*": "@example.com"}})}
	for path, want := range map[envelope.Path]envelope.Path{
		"scanner@printer.lan": office, "a@b.example": "a@example.com", envelope.Null: envelope.Null, "A@EXAMPLE.com": "A@EXAMPLE.com",
	} {
		p, got := rewritten(t, rules, sent(path), crlf("From: scanner@x\nReply-To: y\n\n"))
		if p.ReversePath != want || len(p.Changes) > 0 && p.Changes[0].Where == "reverse-path" != (path != want) {
			t.Errorf("%s becomes %s, %+v", path, p.ReversePath, p.Changes)
		}
		if !strings.HasPrefix(got, "From: office@example.com\r\n") {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestHead_ThatIsTooLongKeepsItsOctets(t *testing.T) {
	rules := Chain{compile(t, Rules{EnvelopeFrom: office, HeaderFrom: office})}
	for long, tooLong := range map[int]bool{maxHead - 1000: false, maxHead: true} {
		in := "From: a@b\r\nX: " + strings.Repeat("x", long) + "\r\n\r\nbody\r\n"
		p, got := rewritten(t, rules, arrived("a@b.example"), in)
		if p.TooLong != tooLong || (got == in) != tooLong || p.ReversePath != office {
			t.Errorf("%d: too long %v, changed %v, %s", long, p.TooLong, got != in, p.ReversePath)
		}
	}
}

func TestPlan_FaultsOfTheReader(t *testing.T) {
	broken := errors.New("the disk is broken")
	if _, err := (Chain{}).Plan(sent("a@b"), iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Error(err)
	}
	const in = "Received: x\r\nDKIM-Signature: h=from\r\nFrom: a@b.example\r\n\r\nbody\r\n"
	p, err := (Chain{compile(t, Rules{HeaderFrom: office})}).Plan(arrived("a@b"), strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	behind := strings.Index(in, "a@b.example") + len("a@b.example\r\n")
	for n := range in {
		short := func() io.Reader { return p.Reader(strings.NewReader(in[:n])) }
		_, readErr := io.ReadAll(short())
		_, writeErr := io.Copy(io.Discard, short())
		if n < behind != errors.Is(readErr, io.ErrUnexpectedEOF) || n < behind != errors.Is(writeErr, io.ErrUnexpectedEOF) {
			t.Errorf("of %d octets: %v, %v", n, readErr, writeErr)
		}
		_, err := io.ReadAll(p.Reader(io.MultiReader(strings.NewReader(in[:n]), iotest.ErrReader(broken))))
		if !errors.Is(err, broken) {
			t.Errorf("of %d octets: %v", n, err)
		}
	}
}
