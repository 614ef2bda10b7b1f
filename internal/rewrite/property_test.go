package rewrite

import (
	"net/mail"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"relayd/internal/envelope"
)

// genAddress draws addresses of a few domains, among them those that no rule of genChain names.
func genAddress() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		local := rapid.SampledFrom([]string{"scanner", "a.b", "nas-1", `"odd one"`, "X"}).Draw(t, "local")
		return local + "@" + rapid.SampledFrom([]string{"lan.example", "printer.lan", "[192.0.2.7]", "out.example"}).Draw(t, "domain")
	})
}

// genChain draws rules that do not rewrite what they write: all targets are in out.example, which no pattern matches and
// which the addresses for the rest leave alone, since they are in it too.
func genChain(names ...string) *rapid.Generator[Chain] {
	return rapid.Custom(func(t *rapid.T) Chain {
		var c Chain
		for _, name := range names {
			r := Rules{Name: name, Map: map[string]string{"*@out.example": "@out.example"}}
			for _, pattern := range rapid.SliceOfN(rapid.SampledFrom([]string{"scanner@*", "*@lan.example", "@printer.lan", "nas-*@*lan*", "x@[192.0.2.7]"}), 0, 3).Draw(t, "patterns") {
				r.Map[pattern] = rapid.SampledFrom([]string{"office@out.example", "@out.example"}).Draw(t, "to")
			}
			if rapid.Bool().Draw(t, "header_from") {
				r.HeaderFrom = "all@out.example"
			}
			s, err := Compile(r)
			if err != nil {
				t.Fatal(err)
			}
			c = append(c, s)
		}
		return c
	})
}

// genMessage draws a message of fields that matter and others, well formed and not, and its body.
func genMessage() *rapid.Generator[[2]string] {
	value := rapid.OneOf(
		genAddress(),
		rapid.Map(genAddress(), func(a string) string { return "\"Display, name\" <" + a + "> (comment)" }),
		rapid.Map(rapid.SliceOfN(genAddress(), 1, 4), func(a []string) string { return "=?utf-8?q?B=C3=BC?= <" + strings.Join(a, ">,\r\n\tB <") + ">" }),
		rapid.Map(rapid.SliceOfN(genAddress(), 0, 3), func(a []string) string { return "Group: " + strings.Join(a, ", ") + ";" }),
		rapid.StringMatching(`[a-z<>@",;:.()\\\x{80}-\x{ff} \[\]]{0,12}`),
	)
	name := rapid.SampledFrom([]string{"From", "from", "Sender", "Reply-To", "Date", "Message-ID", "Subject", "Received", "To", "X-Long"})
	field := rapid.Custom(func(t *rapid.T) string { return name.Draw(t, "name") + ": " + value.Draw(t, "value") + "\r\n" })
	signature := rapid.SampledFrom([]string{"DKIM-Signature: v=1; h=from:sender; b=x\r\n", "DKIM-Signature: h=reply-to\r\n",
		"DKIM-Signature: h=date:date:message-id\r\n", "ARC-Message-Signature: h=from\r\n", "ARC-Seal: i=1\r\n"})
	odd := rapid.SampledFrom([]string{"no field\r\n", "From a@b Mon\r\n", " folded\r\n", strings.Repeat("y", 5000) + ":\r\n"})
	return rapid.Custom(func(t *rapid.T) [2]string {
		fields := rapid.SliceOfN(rapid.OneOf(field, field, field, signature, odd), 0, 8).Draw(t, "fields")
		body := strings.ReplaceAll(rapid.StringMatching(`[a-z:\n]{0,40}`).Draw(t, "body"), "\n", "\r\n")
		return [2]string{"Received: from x\r\n\tby y\r\n" + strings.Join(fields, ""), "\r\n" + body}
	})
}

func TestProperty_WhatWasDoneIsNotDoneAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, j := genChain("client", "smarthost").Draw(t, "rules"), arrived(envelope.Path(genAddress().Draw(t, "sender")))
		m := genMessage().Draw(t, "message")
		p, once := rewritten(t, c, j, m[0]+m[1])
		j.ReversePath = p.ReversePath
		if p, twice := rewritten(t, c, j, once); twice != once || len(p.Added)+len(p.Removed) != 0 || p.ReversePath != j.ReversePath {
			t.Fatalf("once\n%q\ntwice\n%q", once, twice)
		}
	})
}

func TestProperty_TheBodyIsNeverChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, j := genChain("smarthost").Draw(t, "rules"), arrived("scanner@lan.example")
		m := genMessage().Draw(t, "message")
		if _, got := rewritten(t, c, j, m[0]+m[1]); !strings.HasSuffix(got, m[1]) {
			t.Fatalf("%q", got)
		}
	})
}

func TestProperty_WhatNoRuleMatchesPassesOctetByOctet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := Compile(Rules{Map: map[string]string{"*@matches.nothing": office}})
		if err != nil {
			t.Fatal(err)
		}
		m := genMessage().Draw(t, "message")
		complete := "Date: x\r\nFrom: y\r\nMessage-ID: z\r\n" + m[0] + m[1]
		if p, got := rewritten(t, Chain{s}, arrived("scanner@lan.example"), complete); got != complete || !p.Untouched() || len(p.Changes) != 0 {
			t.Fatalf("%q became %q", complete, got)
		}
	})
}

// What the standard library reads in a From afterwards is what the rules make of what it read before: nothing is lost and
// no address stays that was to go.
func TestProperty_AnotherParserSeesTheRulesCarriedOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genChain("smarthost").Draw(t, "rules")
		list := rapid.SliceOfN(genAddress(), 1, 4).Draw(t, "addresses")
		value := "A <" + strings.Join(list, ">, \"B, c\" <") + ">"
		before, err := mail.ParseAddressList(value)
		if err != nil {
			t.Skip("not for the library")
		}
		_, got := rewritten(t, c, sent("a@b.example"), "From: "+value+"\r\n\r\n")
		msg, err := mail.ReadMessage(strings.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		after, err := msg.Header.AddressList("From")
		if err != nil || len(after) != len(before) {
			t.Fatalf("%q became %q: %v", value, got, err)
		}
		for i := range before {
			path, err := envelope.ParsePath(list[i])
			if err != nil {
				t.Fatal(err)
			}
			want, _ := c.Author(path)
			plain, _ := mail.ParseAddress("<" + string(want) + ">")
			if plain == nil || after[i].Address != plain.Address || after[i].Name != before[i].Name {
				t.Fatalf("%v became %v, want %s", before[i], after[i], want)
			}
		}
	})
}

func FuzzPlan(f *testing.F) {
	for _, seed := range []string{
		"From: a@b\r\n\r\nbody", "Received: x\r\nFrom: \"a\\\"b\" (c(d)) <@e,@f:g@h>, i:j@k;\r\nDKIM-Signature: h=from\r\n\r\n", "From:\r\n",
		"Sender: scanner@x\r\nFrom: scanner@x (open\r\n\r\n", "From: a@[b\r\n c]\r\nReply-To: x\r\n", "no header", "", ">From x\r\nFrom: <>\r\n\r\n",
		"ARC-Message-Signature: h=from\r\nARC-Seal:\r\nFrom: x@y", "From: a@b\r\nFrom: c@d\r\n\r\n.\r\n",
	} {
		f.Add([]byte(seed), true)
	}
	rules := compile(f, Rules{EnvelopeFrom: office, HeaderFrom: office, Map: map[string]string{"*@out.example": "@out.example", "@lan": "@out.example"}})
	mapOnly := compile(f, Rules{Map: map[string]string{"*@out.example": "@out.example", "*": "x@out.example"}})
	f.Fuzz(func(t *testing.T, message []byte, forced bool) {
		c := Chain{mapOnly}
		if forced {
			c = Chain{rules}
		}
		p, got := rewritten(t, c, arrived("a@b.example"), string(message))
		if _, body, found := strings.Cut(string(message), "\r\n\r\n"); found && !strings.HasSuffix(got, body) {
			t.Fatalf("the body changed: %q became %q", message, got)
		}
		if p.Untouched() != (got == string(message)) && len(p.edits) == 0 {
			t.Fatalf("untouched, and %q became %q", message, got)
		}
		h, err := readHead(strings.NewReader(got), false)
		if err != nil {
			t.Fatal(err)
		}
		if !p.TooLong && !(h.has[from] && h.has[date] && h.has[messageID]) && !slices.ContainsFunc(h.fields, func(f field) bool { return f.kind == dkim }) {
			t.Fatalf("fields are missing: %q became %q", message, got)
		}
	})
}

func FuzzMailboxes(f *testing.F) {
	for _, seed := range []string{"a@b", "A <a@b>, c@d (e)", "g:a@b,c@d;", "\"x\\\"\" <\"a b\"@[::1]>", "<@a:b@c>", "(", "\"", "[", "<", "a\\"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		found, ok := mailboxes(value)
		if ok != (len(found) > 0) {
			t.Fatal("found without an address, or the other way round")
		}
		at := 0
		for _, m := range found {
			if m.start < at || m.end <= m.start || m.end > len(value) {
				t.Fatalf("%q: %d to %d", value, m.start, m.end)
			}
			if p, err := envelope.ParsePath(string(m.path)); err != nil || p != m.path {
				t.Fatalf("%q: %q is not a path: %v", value, m.path, err)
			}
			at = m.end
		}
	})
}
