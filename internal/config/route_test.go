package config

import (
	"fmt"
	"strings"
	"testing"
)

func routes(conditions ...string) string {
	var b strings.Builder
	for i, c := range conditions {
		fmt.Fprintf(&b, "[[smarthost]]\nhosts = [\"h%d\"]\n%s\n", i+1, c) // three lines each
	}
	return b.String()
}

func TestRoutes_UnreachableOnesAreRefused(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want string // "" when b can get mail
	}{
		{"", "", "is the second that takes all mail; the first is in line 1"},
		{"senders = ['*']", "recipients = ['*']", "is the second that takes all mail"},
		{"", "senders = ['@a.example']", "never gets mail: the smarthost in line 1 comes first and takes all of it"},
		{"clients = ['0.0.0.0/0', '::/0']", "clients = ['10.0.0.1']", "never gets mail"},
		{"senders = ['@a.example']", "senders = ['x@A.Example']", "never gets mail"},
		{"senders = ['@a.example']", "senders = ['@a.example']\n#\nrecipients = ['@b.example']", "never gets mail"},
		{"senders = ['@a.example', 'u@b.example']", "senders = ['u@b.example']", "never gets mail"},
		{"clients = ['10.0.0.0/8']", "clients = ['10.1.0.0/16', '10.2.3.4']", "never gets mail"},
		{"senders = ['@a.example']", "", ""},
		{"senders = ['x@a.example']", "senders = ['@a.example']", ""},
		{"senders = ['@a.example']", "senders = ['@sub.a.example']", ""},
		{"senders = ['@a.example']", "recipients = ['@a.example']", ""},
		{"senders = ['@a.example']", "senders = ['@a.example', '@b.example']", ""},
		{"clients = ['0.0.0.0/0']", "", ""},
		{"clients = ['10.1.0.0/16']", "clients = ['10.0.0.0/8']", ""},
		{"recipients = ['@lan.example']\n#\nsenders = ['@a.example']", "senders = ['@a.example']", ""},
	} {
		text := routes(c.a, c.b)
		got := faultsOf(t, text)
		if c.want == "" {
			if got != "" {
				t.Errorf("%q then %q: %s", c.a, c.b, got)
			}
			continue
		}
		line := 1 + strings.Count(text[:strings.LastIndex(text, "[[smarthost]]")], "\n")
		wantAll(t, got, fmt.Sprintf("relayd.toml:%d: smarthost: %s", line, c.want))
		if strings.Contains(got, "\n") {
			t.Errorf("more than one fault:\n%s", got)
		}
	}
}

func TestRoutes_ARefusedConditionIsACondition(t *testing.T) {
	for _, bad := range []string{"senders = ['a b']", "clients = ['x', '10.0.0.1']", "recipients = 5", "senders = []"} {
		for _, text := range []string{routes(bad, ""), routes("clients = ['10.0.0.0/8']", bad)} {
			if got := faultsOf(t, text); got == "" || strings.Contains(got, "\n") || strings.Contains(got, "line 1") {
				t.Errorf("want one fault, about the condition itself:\n%s", got)
			}
		}
	}
}

func TestRoutes_NamesAreUnique(t *testing.T) {
	limited := "senders = ['@%s.example']\n"
	for _, c := range []struct{ a, b, want string }{
		{"name = 'isp'\n", "name = 'ISP'\n", `:7: smarthost.name: "ISP" is also the name of the smarthost in line 1; give each a name of its own`},
		{"", "", `:5: smarthost.name: is missing, and the name of its first host, "h", is also that of the smarthost in line 1; give each`},
		{"", "name = 'h'\n", `:6: smarthost.name: "h" is also the name`},
		{"name = 'one'\n", "", ""},
	} {
		text := "[[smarthost]]\nhosts = ['h']\n" + fmt.Sprintf(limited, "a") + c.a + "\n[[smarthost]]\n" + c.b +
			fmt.Sprintf(limited, "b") + "hosts = ['h']\n"
		got := faultsOf(t, text)
		if c.want == "" && got != "" {
			t.Errorf("%s", got)
		}
		wantAll(t, got, c.want)
	}
}

func TestRoutes_WithoutACatchAllThereIsAWarning(t *testing.T) {
	got := warningsOf(t, write(t, routes("senders = ['@a.example']", "senders = ['@b.example']")))
	wantAll(t, got, "relayd.toml:4: smarthost: no smarthost takes all mail; what fits none of them waits")
	if got := warningsOf(t, write(t, routes("senders = ['@a.example']", "senders = ['*']"))); got != "" {
		t.Error(got)
	}
}

func TestPatterns_AddressDomainOrAll(t *testing.T) {
	good(t, routes(`senders = ['user@example.com', '@example.com', '@[192.168.1.5]', '@bücher.example', 'üser@example.com', '"a b"@x.example']`))
	for text, want := range map[string]string{
		"example.com":         `is neither an address nor a domain; write "@example.com" for the domain`,
		"*@example.com":       `write "@example.com"`,
		"user@":               `write "user@example.com", "@example.com" for a domain, or "*" for all`,
		"@":                   `is neither an address nor a domain`,
		"<user@example.com>":  `is neither`,
		"a user@example.com":  `is neither`,
		"user@exa mple.com":   `is neither`,
		"user@*":              `is neither`,
		"us*r@example.com":    `is neither`,
		"user@example.com.":   `is neither`,
		"user@192.168.1.0/24": `is neither`,
		"**":                  `is neither`,
	} {
		for _, key := range []string{"senders", "recipients"} {
			got := faultsOf(t, routes(key+" = ['ok@example.com', '"+text+"']"))
			wantAll(t, got, "relayd.toml:3: smarthost."+key+": ", want)
			if strings.Contains(got, "\n") {
				t.Errorf("more than one fault:\n%s", got)
			}
		}
	}
	for _, key := range []string{"senders", "recipients", "clients"} {
		wantAll(t, faultsOf(t, routes(key+" = []")), ":3: smarthost."+key+": is an empty list")
	}
}
