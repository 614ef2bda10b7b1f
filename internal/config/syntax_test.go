package config

import (
	"strings"
	"testing"
)

func TestSyntax_EachFaultSaysWhatToWrite(t *testing.T) {
	for text, want := range map[string]string{
		"[queue]\nretry_min = 5m\n":                       `:2: queue.retry_min: the value is not TOML; write text, durations and sizes in quotes, as in retry_min = "1m"`,
		"[queue]\nretry_min =\n":                          `:2: queue.retry_min: the value is not TOML`,
		"[[listener]]\nmax_message_size = 25MB\n":         `:2: listener.max_message_size: the value is not TOML; write text, durations and sizes in quotes, as in max_message_size = "50MB"`,
		"[log]\nlevel = debug\n":                          `:2: log.level: the value is not TOML; write text, durations and sizes in quotes, as in level = "info"`,
		"trusted_networks = [192.168.1.0/24]\n":           `:1: trusted_networks: the`,
		"[[smarthost]]\nhosts = [smtp.isp.example]\n":     `:2: smarthost.hosts: the value is not TOML; write text, durations and sizes in quotes, as in hosts = ["smtp.isp.example"]`,
		"[[smarthost]]\nhosts = \"a\", \"b\"\n":           `:2: smarthost.hosts: the value is not TOML`,
		"[[smarthost]]\nhosts = [\"a\" \"b\"]\n":          `:2: smarthost.hosts: the list is not well formed; look for a missing comma`,
		"[[smarthost]]\nhosts = [\"a\"\nusername = 'u'\n": `:3: smarthost.hosts: the list is not well formed; look for a missing comma, quote or closing ] on this line and the one before, as in hosts = `,
		"[[smarthost]]\nusername = \"u\n":                 `:2: smarthost.username: the closing quote is missing; end the value with the quote that it begins with`,
		"[[smarthost]]\npassword = \"a\\b\\q\"\n":         `:2: smarthost.password: a \ has a special meaning between "double quotes"; write the value between 'single quotes'`,
		"[[smarthost]\nhosts = ['a']\n":                   `:1: the name of the table is not well formed; write [log] or [queue], [[listener]] or [[smarthost]]`,
		"[queue\n":                                        `:1: the name of the table is not well formed`,
		"[[smarthost]]\nhosts: ['a']\n":                   `:2: smarthost.hosts: this is neither a key nor a table; write KEY = VALUE`,
		"hello\n":                                         `:1: this is neither a key nor a table`,
		"a = 1\na = 2\n":                                  `:2: a: stands twice; keep one of the two; each further smarthost or listener begins with its own [[smarthost]]`,
		"[queue]\n[queue]\n":                              `:2: queue: stands twice`,
		"[log]\nlevel = \"\"\"info\n":                     `log.level: the value has no end`,
		"a = \"\x01\"\n":                                  `:1: a: the line holds a control character`,
		"# \xff\n":                                        `:1: the file is not UTF-8 text; save it as UTF-8`,
		"\xff\xfea\x00=\x001\x00":                         `the file is not UTF-8 text`,
	} {
		wantAll(t, faultsOf(t, text), want)
	}
}

func TestSyntax_AFaultInOneLineHidesNoOther(t *testing.T) {
	got := faultsOf(t, `
[queue]
retry_min = 5m
retry_max = "1x"
history: 30d
[[smarthost]]
hosts = [smtp.isp.example]
username = "me"
username = "you"
password = 'hunter2
`)
	want := `relayd.toml:3: queue.retry_min: the value is not TOML; write text, durations and sizes in quotes, as in retry_min = "1m"
relayd.toml:4: queue.retry_max: "1x" is not a duration: there is no unit "x", only ms, s, m, h, d and w; write a duration in quotes, such as "90s", "1h30m" or "5d"
relayd.toml:5: queue.history: this is neither a key nor a table; write KEY = VALUE, or [table], or begin a comment with #, as in history = "30d"
relayd.toml:7: smarthost.hosts: the value is not TOML; write text, durations and sizes in quotes, as in hosts = ["smtp.isp.example"]
relayd.toml:9: smarthost.username: stands twice; keep one of the two; each further smarthost or listener begins with its own [[smarthost]] or [[listener]]
relayd.toml:10: smarthost.password: the closing quote is missing; end the value with the quote that it begins with, as in password = 'the password'`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSyntax_WhatMayConcernTheRestEndsTheReading(t *testing.T) {
	for _, text := range []string{
		"[[smarthost]\nhosts = ['a']\nusrename = 'x'\n",
		"[[smarthost]]\nhosts = ['a'\nusername = 'u'\nusrename = 'x'\n",
		"[[smarthost]]\nusername = '''a\nhosts = ['a']\nusrename = 'x'\n",
	} {
		if got := faultsOf(t, text); strings.Contains(got, "\n") || strings.Contains(got, "usrename") {
			t.Errorf("one error, but:\n%s", got)
		}
	}
}

func TestSyntax_NotForEver(t *testing.T) {
	got := faultsOf(t, numbered("key%d = 5m\n", 1000))
	if n := strings.Count(got, "the value is not TOML"); n != maxSyntaxFaults {
		t.Errorf("%d faults, want %d", n, maxSyntaxFaults)
	}
	if !strings.HasSuffix(got, "relayd.toml: has more syntax errors; mend these first, then check again") {
		t.Errorf("the end is %s", got[len(got)-200:])
	}
}
