package config

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
)

func TestRewrite_OfASmarthostAndOfClients(t *testing.T) {
	cfg := good(t, `
require_sender_mx = "warn"
[[client]]
networks = ["192.168.1.50", "192.168.2.0/24"]
rewrite = { header_from = "scan@example.com" }
[[client]]
networks = ["192.168.0.0/16"]
[client.rewrite.map]
"*" = "@example.com"
'"odd one"@*' = "odd@[192.0.2.1]"
[[smarthost]]
hosts = ["smtp.isp.example"]
[smarthost.rewrite]
envelope_from = "me@isp.example"
map = { "scanner@*" = "office@example.com", "@bücher.example" = "@xn--bcher-kva.example", "a*z@*.lan" = '"o o"@example.com' }
`)
	want := Rewrite{EnvelopeFrom: "me@isp.example", Map: map[string]string{"scanner@*": "office@example.com",
		"@bücher.example": "@xn--bcher-kva.example", "a*z@*.lan": `"o o"@example.com`}}
	if got := cfg.Smarthosts[0].Rewrite; got.EnvelopeFrom != want.EnvelopeFrom || got.HeaderFrom != "" || !maps.Equal(got.Map, want.Map) {
		t.Errorf("%+v", got)
	}
	if c := cfg.Clients[0]; c.Rewrite.HeaderFrom != "scan@example.com" || len(c.Networks) != 2 || c.Networks[0] != netip.MustParsePrefix("192.168.1.50/32") {
		t.Errorf("%+v", c)
	}
	if c := cfg.Clients[1]; len(c.Rewrite.Map) != 2 || c.Rewrite.Map["*"] != "@example.com" {
		t.Errorf("%+v", c)
	}
	wantAll(t, cfg.Describe(), "  a sender whose domain has no MX record is warned of in the log\n",
		"\nMail that came in from 192.168.1.50 or 192.168.2.0/24\n  sender  any address in From and Sender becomes scan@example.com\n",
		"     sender  scanner@* becomes office@example.com, in the envelope and in From and Sender\n",
		"     sender  any other reverse-path becomes me@isp.example\n")
}

func TestRewrite_BadAddressesAreNamedWithTheirLines(t *testing.T) {
	for _, table := range []string{"[[smarthost]]\nhosts = ['h']\n[smarthost.rewrite]\n", "[[client]]\nnetworks = ['192.168.1.1']\n[client.rewrite]\n"} {
		name := strings.Trim(table[strings.LastIndex(table, "["):], "[]\n")
		for text, want := range map[string]string{
			"envelope_from = 'office'":                  `.envelope_from: "office" is not an address to send from; write envelope_from = "`,
			"header_from = 'Office <o@example.com>'":    `.header_from: "Office <o@example.com>" is not an address to send from; write header_from = "`,
			"header_from = '@example.com'":              `.header_from: "@example.com" is not an address`,
			"header_from = 'a,b@example.com'":           `.header_from: "a,b@example.com" is not an address`,
			"header_from = 'büro@example.com'":          `.header_from: "büro@example.com" is not ASCII, which smarthosts refuse; a domain can be written in its xn-- form; write`,
			"header_from = ''":                          ".header_from: is empty; ",
			"headers_from = 'a@b.example'":              ".headers_from: unknown key in [" + name + "]; did you mean header_from?",
			"map = 'a'":                                 ".map: is a string, but must be a table of strings",
			"map = { 'scanner' = 'o@example.com' }":     `.map: "scanner" is not a pattern for addresses; write "scanner@*" for that name in any domain`,
			"map = { 'lan.example' = 'o@example.com' }": `.map: "lan.example" is not a pattern for addresses; write "@lan.example" for the domain`,
			"map = { 'a b@c' = 'o@example.com' }":       `.map: "a b@c" is not a pattern for addresses; write "user@example.com", "user@*"`,
			"map = { 'a@' = 'o@example.com' }":          `.map: "a@" is not a pattern`,
			"map = { 'a@b' = 'office' }":                `.map: "office" is not an address to send from; write an address, "office@example.com", or "@example.com" for`,
			"map = { 'a@b' = '@' }":                     `.map: "x@" is not an address`,
			"map = { 'a@b' = 7 }":                       ".map: holds a bare number, but must hold addresses; write an address",
			"map = { 'A@b' = 'o@c', 'a@B' = 'o@d' }":    `.map: "a@B" is the same pattern as "A@b"; delete one of the two`,
			"map = { '@b' = 'o@c', '*@b' = 'o@d' }":     `.map: "@b" is the same pattern as "*@b"; delete one`,
		} {
			tail := anySmarthost
			if strings.HasPrefix(table, "[[smarthost]]") {
				tail = ""
			}
			got := faultsOf(t, table+text+"\n"+tail)
			line := "relayd.toml:4: " + name
			wantAll(t, got, line+want)
			if strings.Contains(got, "\n") {
				t.Errorf("more than one fault:\n%s", got)
			}
		}
	}
	wantAll(t, faultsOf(t, "[[smarthost]]\nhosts = ['h']\n[smarthost.rewrite.map]\n'a@b' = 'c@d'\n'x' = 'c@d'\n'*@q' = 'z'\n"),
		`relayd.toml:5: smarthost.rewrite.map: "x" is`, `relayd.toml:6: smarthost.rewrite.map: "z" is`)
	wantAll(t, faultsOf(t, "[[smarthost]]\nhosts = ['h']\nrewrite = 'x'\n"), `relayd.toml:3: smarthost.rewrite: is a string, but must be a table; write [smarthost.rewrite]`)
	wantAll(t, faultsOf(t, "[[smarthost]]\nhosts = ['h']\n[[smarthost.rewrite]]\nmap = {}\n"), "smarthost.rewrite: is written as a list; there is one of it: write [smarthost.rewrite], once")
}

func TestClients_NeedNetworksThatCount(t *testing.T) {
	const rewrite = "rewrite = { header_from = 'a@b.example' }\n"
	wantAll(t, faultsOf(t, "[[client]]\n"+rewrite+anySmarthost), `relayd.toml:1: client.networks: is missing; write whose mail this is about: networks = ["192.168.1.50"]`)
	wantAll(t, faultsOf(t, "[[client]]\nnetworks = ['192.168.0.0/16']\n"+rewrite+"[[client]]\nnetworks = ['192.168.1.1', '192.168.2.0/24']\n"+rewrite+anySmarthost),
		"relayd.toml:5: client.networks: never count: the client in line 1 comes first and has all of them; move this [[client]] up, or delete it")
	wantAll(t, faultsOf(t, "[[client]]\nnetworks = ['x']\n"+anySmarthost), `relayd.toml:2: client.networks: "x" is not a network`)
	wantAll(t, warningsOf(t, write(t, "[[client]]\nnetworks = ['192.168.1.1']\n[client.rewrite]\n"+anySmarthost)), "relayd.toml:3: client.rewrite: says nothing")
}

func TestRequireSenderMX_IsOneOfThree(t *testing.T) {
	if cfg := good(t, "require_sender_mx = 'reject'\n"+fourLines); cfg.RequireSenderMX != "reject" {
		t.Error(cfg.RequireSenderMX)
	} else {
		wantAll(t, cfg.Describe(), "and nobody else\n  but not from a sender whose domain has no MX record\n")
	}
	wantAll(t, faultsOf(t, "require_sender_mx = 'refuse'\n"+anySmarthost), `relayd.toml:1: require_sender_mx: "refuse" is not known; `, `"off", "warn", "reject"`)
}
