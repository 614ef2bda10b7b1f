package envelope

import (
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"user@example.com", "user@example.com"},
		{"User.Name+tag@Example.COM", "User.Name+tag@Example.COM"},
		{"a..b.@docomo.example", "a..b.@docomo.example"},
		{`"john doe"@example.com`, `"john doe"@example.com`},
		{`"john.doe"@example.com`, `john.doe@example.com`},
		{`"a\"b\\c"@example.com`, `"a\"b\\c"@example.com`},
		{`"a> SIZE=1"@example.com`, `"a> SIZE=1"@example.com`},
		{`"@"@example.com`, `"@"@example.com`},
		{"@a,@b:user@example.com", "user@example.com"},
		{"user@[192.0.2.1]", "user@[192.0.2.1]"},
		{"user@[IPv6:2001:db8::1]", "user@[IPv6:2001:db8::1]"},
		{"jörg@müller.example", "jörg@müller.example"},
		{"user@localhost", "user@localhost"},
		{"user@host_name.example.", "user@host_name.example."},
	} {
		got, err := ParsePath(c.in)
		if err != nil || string(got) != c.want {
			t.Errorf("ParsePath(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for _, bad := range []string{
		"", "user", "@example.com", "user@", "user@exa mple.com", "us er@example.com", "user@example.com>", "user@example.com SIZE=1",
		"user@example.com\r\nRCPT TO:<x@y>", "us\x00er@example.com", "\"a\rb\"@example.com", "\"a\x00b\"@example.com", `"open@example.com`,
		"user@a..b", "user@.b", "user@[300.1.1.1]", "user@[192.0.2.1", "user@[fe80::1%eth0]", "user@ex\tample.com", "a<b@example.com", "a,b@example.com",
		"user@\xff.example", strings.Repeat("a", 65) + "@example.com", "a@" + strings.Repeat("a.", 130) + "example", "@route", "a@b@c",
	} {
		if got, err := ParsePath(bad); err == nil {
			t.Errorf("ParsePath(%q) = %q, want an error", bad, got)
		}
	}
}

func TestParseReverse(t *testing.T) {
	p, params, err := ParseReverse("<> SIZE=10 BODY=8BITMIME")
	if err != nil || !p.IsNull() || len(params) != 2 || params[1] != (Param{"BODY", "8BITMIME"}) {
		t.Errorf("null reverse-path: %q %v %v", p, params, err)
	}
	p, params, err = ParseReverse(` <"a b"@example.com>  auth=<>  smtputf8`)
	if err != nil || p != `"a b"@example.com` || len(params) != 2 || params[0] != (Param{"AUTH", "<>"}) || params[1].Keyword != "SMTPUTF8" {
		t.Errorf("quoted: %q %v %v", p, params, err)
	}
	if p, _, err := ParseForward("bare@example.com NOTIFY=NEVER"); err != nil || p != "bare@example.com" {
		t.Errorf("without brackets: %q %v", p, err)
	}
	for _, bad := range []string{"", "<", "<a@b", "<a@b>SIZE=1", "<a@b> X=\x01", "a b@c", "<>x", "<a@b>>"} {
		if p, params, err := ParseReverse(bad); err == nil {
			t.Errorf("ParseReverse(%q) = %q %v, want an error", bad, p, params)
		}
	}
}

// Nothing that parsing lets through can end a command line or add a parameter.
func FuzzParseForward(f *testing.F) {
	for _, s := range []string{"<a@b>", `<"a\" b"@c> NOTIFY=NEVER`, "<@r:a@b>", "<a@[192.0.2.1]>", "x@y z", `"\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, params, err := ParseForward(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(string(p), "\r\n\x00") || len(p) == 0 {
			t.Errorf("%q gave %q", s, p)
		}
		again, rest, err := ParseForward(p.String())
		if err != nil || again != p || len(rest) != 0 {
			t.Errorf("%q gave %q, which parses as %q %v %v", s, p, again, rest, err)
		}
		for _, prm := range params {
			if strings.ContainsAny(prm.Keyword+prm.Value, " \r\n\x00") {
				t.Errorf("%q gave parameter %q", s, prm)
			}
		}
	})
}

func TestParseEnhancedCode(t *testing.T) {
	for _, c := range []struct {
		in, code, rest string
		ok             bool
	}{
		{"5.7.1 denied", "5.7.1", "denied", true}, {"2.0.0", "2.0.0", "", true}, {"4.7.500 busy", "4.7.500", "busy", true},
		{"3.0.0 x", "", "3.0.0 x", false}, {"5.7 x", "", "5.7 x", false}, {"5.7.1000 x", "", "5.7.1000 x", false}, {"5.-7.1", "", "5.-7.1", false},
		{"", "", "", false}, {"192.0.2.1 x", "", "192.0.2.1 x", false},
	} {
		e, rest, ok := ParseEnhancedCode(c.in)
		if e.String() != c.code || rest != c.rest || ok != c.ok {
			t.Errorf("ParseEnhancedCode(%q) = %s %q %v", c.in, e, rest, ok)
		}
	}
}

func TestNotify(t *testing.T) {
	for _, s := range []string{"NEVER", "SUCCESS,FAILURE", "DELAY", "SUCCESS,FAILURE,DELAY"} {
		n, err := ParseNotify(strings.ToLower(s))
		if err != nil || n.String() != s {
			t.Errorf("%s became %s, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "NEVER,DELAY", "ALWAYS", "SUCCESS,,DELAY"} {
		if n, err := ParseNotify(s); err == nil {
			t.Errorf("ParseNotify(%q) = %s", s, n)
		}
	}
	if n := Notify(0); !n.WantsFailure() || !n.WantsDelay() || n.WantsSuccess() {
		t.Error("an absent NOTIFY asks for failures and leaves delays to the relay")
	}
}
