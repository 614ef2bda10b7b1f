package rewrite

import (
	"strings"
	"testing"

	"relayd/internal/envelope"
)

func TestMap_TheMostExactPatternDecides(t *testing.T) {
	s := compile(t, Rules{HeaderFrom: "rest@example.com", Map: map[string]string{
		"a@b.example": "1@x.example", "a@*": "2@x.example", "@b.example": "3@x.example", "*@*.example": "4@x.example", "*-lab@b.example": "5@x.example",
		"c*d@q.test": "@6.example", "\"o o\"@q.test": "7@x.example"}})
	for path, want := range map[envelope.Path]string{
		"a@b.example": "1@x.example", "A@B.EXAMPLE": "1@x.example", "a@c.test": "2@x.example", "z@b.example": "3@x.example", "z@sub.b.example": "4@x.example",
		"x-lab@b.example": "5@x.example", "c-x-d@q.test": "c-x-d@6.example", "cd@q.test": "cd@6.example", "c@q.test": "rest@example.com",
		`"o o"@q.test`: "7@x.example", "z@[192.0.2.1]": "rest@example.com",
	} {
		if got, rule := (Chain{s}).Author(path); string(got) != want || !strings.HasPrefix(rule, "smarthost isp: ") {
			t.Errorf("%s: %s by %q, want %s", path, got, rule, want)
		}
	}
	for _, all := range []string{"*", "*@*"} {
		s := compile(t, Rules{Map: map[string]string{all: office}})
		if got, rule := (Chain{s}).ReversePath("x@y"); got != office || rule != `smarthost isp: map "`+all+`"` {
			t.Errorf("%s: %s by %s", all, got, rule)
		}
	}
}

func TestChain_TheFirstSetThatSaysAnythingDecides(t *testing.T) {
	client := compile(t, Rules{Name: "client 192.168.1.50", EnvelopeFrom: "c@example.com", Map: map[string]string{"s@*": office}})
	route := compile(t, Rules{HeaderFrom: "h@example.com", EnvelopeFrom: "e@example.com", Map: map[string]string{"s@*": "never@example.com", "t@*": "t@example.com"}})
	for _, c := range []struct {
		chain     Chain
		path      envelope.Path
		reverse   envelope.Path
		byReverse string
		author    envelope.Path
		byAuthor  string
	}{
		{Chain{client, route}, "s@lan", office, `client 192.168.1.50: map "s@*"`, office, `client 192.168.1.50: map "s@*"`},
		{Chain{client, route}, "t@lan", "c@example.com", "client 192.168.1.50: envelope_from", "t@example.com", `smarthost isp: map "t@*"`},
		{Chain{client, route}, "u@lan", "c@example.com", "client 192.168.1.50: envelope_from", "h@example.com", "smarthost isp: header_from"},
		{Chain{nil, route}, "u@lan", "e@example.com", "smarthost isp: envelope_from", "h@example.com", "smarthost isp: header_from"},
		{Chain{client}, "u@lan", "c@example.com", "client 192.168.1.50: envelope_from", "u@lan", ""},
		{nil, "u@lan", "u@lan", "", "u@lan", ""},
	} {
		reverse, byReverse := c.chain.ReversePath(c.path)
		author, byAuthor := c.chain.Author(c.path)
		if reverse != c.reverse || byReverse != c.byReverse || author != c.author || byAuthor != c.byAuthor {
			t.Errorf("%s: %s by %q, %s by %q", c.path, reverse, byReverse, author, byAuthor)
		}
	}
}

func TestCompile_NamesEachBadAddress(t *testing.T) {
	_, err := Compile(Rules{Name: "smarthost isp", EnvelopeFrom: "office", HeaderFrom: "büro@example.com",
		Map: map[string]string{"scanner": office, "a@": office, "a b@c d": office, "x@y": "@", "z@y": "Office <o@x>", "v@y": "@bücher.example"}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, words := range []string{"smarthost isp: envelope_from: \"office\"", "header_from: \"büro@example.com\" is not", "xn-- form",
		`map: "scanner": it is not a pattern`, `map: "a@":`, `map: "a b@c d":`, `map: "x@y":`, `map: "z@y":`, `map: "v@y":`} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%q is missing in\n%v", words, err)
		}
	}
}
