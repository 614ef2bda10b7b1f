package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"relayd/internal/config"
	"relayd/internal/issuer"
	"relayd/internal/provider"
	"relayd/internal/sandbox"
	"relayd/smarthost"
)

func TestLanNetworks_PrivateOnesOfRealInterfaces(t *testing.T) {
	prefixes := func(words ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, w := range words {
			out = append(out, netip.MustParsePrefix(w))
		}
		return out
	}
	for _, tc := range []struct {
		why  string
		in   iface
		want []string
	}{
		{"a LAN with IPv6", iface{name: "eth0", up: true, prefixes: prefixes("192.168.1.5/24", "fd12:3456::5/64", "fe80::1/64", "2001:db8::5/64")},
			[]string{"192.168.1.0/24", "fd12:3456::/64"}},
		{"two addresses of one network", iface{name: "enp3s0", up: true, prefixes: prefixes("10.1.2.3/16", "10.1.9.9/16")}, []string{"10.1.0.0/16"}},
		{"a bridge that is the LAN", iface{name: "br0", up: true, prefixes: prefixes("172.20.0.1/16")}, []string{"172.20.0.0/16"}},
		{"wireless", iface{name: "wlan0", up: true, prefixes: prefixes("192.168.7.2/24")}, []string{"192.168.7.0/24"}},
		{"a public address", iface{name: "eth0", up: true, prefixes: prefixes("203.0.113.5/24")}, nil},
		{"link-local", iface{name: "eth0", up: true, prefixes: prefixes("169.254.3.4/16")}, nil},
		{"one address", iface{name: "eth0", up: true, prefixes: prefixes("10.0.0.7/32")}, nil},
		{"loopback", iface{name: "lo", up: true, loopback: true, prefixes: prefixes("10.0.0.7/8")}, nil},
		{"down", iface{name: "eth1", prefixes: prefixes("192.168.1.5/24")}, nil},
		{"point to point", iface{name: "ppp0", up: true, pointToPoint: true, prefixes: prefixes("10.0.0.7/24")}, nil},
		{"docker", iface{name: "docker0", up: true, prefixes: prefixes("172.17.0.1/16")}, nil},
		{"a docker network", iface{name: "br-1a2b3c4d5e6f", up: true, prefixes: prefixes("172.18.0.1/16")}, nil},
		{"a container's end", iface{name: "veth12ab", up: true, prefixes: prefixes("172.17.0.9/16")}, nil},
		{"libvirt", iface{name: "virbr0", up: true, prefixes: prefixes("192.168.122.1/24")}, nil},
		{"WireGuard", iface{name: "wg0", up: true, prefixes: prefixes("10.8.0.1/24")}, nil},
	} {
		if got := lanNetworks([]iface{tc.in}); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.why, got, tc.want)
		}
	}
}

func TestLocalInterfaces_HaveTheLoopback(t *testing.T) {
	if !slices.ContainsFunc(localInterfaces(), func(i iface) bool {
		return i.loopback && slices.Contains(i.prefixes, netip.MustParsePrefix("127.0.0.1/8"))
	}) {
		t.Errorf("no 127.0.0.1/8 among %+v", localInterfaces())
	}
}

func TestImpliesTLS_OnlyPort465(t *testing.T) {
	for servers, want := range map[string]bool{"a:465": true, "a": false, "a:587": false, "[::1]:465": true,
		"_submissions._tcp.isp.example": true, "_submission._tcp.isp.example": false} {
		if impliesTLS([]string{servers}) != want {
			t.Errorf("%s: %v", servers, !want)
		}
	}
	if impliesTLS([]string{"a:465", "b"}) || impliesTLS(nil) {
		t.Error("implied by half of them, or by none")
	}
}

func TestFileName_IsAFileName(t *testing.T) {
	for name, want := range map[string]string{"gmail": "gmail", "smtp.isp.example": "smtp.isp.example",
		"::1": "--1", "../etc/x": "..-etc-x"} {
		if got := fileName(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// What the text says must be what the file's reader understands, whatever an account is called.
func TestSetupText_QuotesWhatItSays(t *testing.T) {
	s := setup{servers: []string{"smtp.isp.example"}, username: `a"b\c`, passFile: "/p/x y", networks: []string{"10.0.0.0/8"}}
	wantIn := []string{`username = "a\"b\\c"`, `password_file = "/p/x y"`, `trusted_networks = ["10.0.0.0/8"]`}
	lines := strings.Split(s.text(), "\n")
	for _, want := range wantIn {
		if !slices.Contains(lines, want) {
			t.Errorf("%s is missing in:\n%s", want, s.text())
		}
	}
}

// What is being written for OAuth2 nobody can have logged in to: all but the login is looked at, and what comes next is told.
func TestProbe_ALoginThatComesLaterIsNotMissed(t *testing.T) {
	s, err := sandbox.Start(sandbox.Options{VerifyToken: func(string, string) bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	cfg := &config.Config{Hostname: "relay.example.com", Smarthosts: []config.Smarthost{{
		Name: "outlook", Hosts: []string{s.Addr()}, TLS: "starttls", RootCAs: s.CertPool(), Auth: "auto", Username: "me@outlook.com",
		OAuth2: &config.OAuth2{Flow: "device"}}}}
	found, err := smarthost.Probe(t.Context(), probeOptions(cfg))
	if err != nil || found[0].Failure != nil || s.Stats().AuthFailed != 0 {
		t.Errorf("%v, %+v", err, found)
	}
	text := strings.Join(strings.Fields(probeText(found)), " ")
	for _, want := range []string{"AUTH ok offers", "XOAUTH2", `login - nobody has logged in yet; "relayctl oauth login outlook" comes after this`} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %s", want, text)
		}
	}
}

// An application needs no person, so that its login is looked at before the configuration is written: a secret that has
// ended is told then, and not by mail that waits.
func TestProbe_AnApplicationsLoginIsTried(t *testing.T) {
	tokens, err := issuer.Start(issuer.Options{ClientID: "relay", ClientSecret: "gehe1m", User: "printer@contoso.example"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tokens.Close() })
	s, err := sandbox.Start(sandbox.Options{VerifyToken: tokens.Verify})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	cfg := &config.Config{Hostname: "relay.example.com", Smarthosts: []config.Smarthost{{
		Name: "microsoft365", Hosts: []string{s.Addr()}, TLS: "starttls", RootCAs: s.CertPool(), Auth: "auto", Username: "printer@contoso.example",
		OAuth2: &config.OAuth2{Flow: "client_credentials", ClientID: "relay", ClientSecret: "gehe1m", TokenURL: tokens.TokenURL()}}}}
	found, err := smarthost.Probe(t.Context(), probeOptions(cfg))
	if err != nil || found[0].Failure != nil || !strings.Contains(probeText(found), "as printer@contoso.example with XOAUTH2") {
		t.Errorf("%v\n%s", err, probeText(found))
	}
	fault := issuer.Refusal("invalid_client", "AADSTS7000222: The provided client secret keys are expired.")
	tokens.Fail(&fault)
	found, err = smarthost.Probe(t.Context(), probeOptions(cfg))
	text := strings.Join(strings.Fields(probeText(found)), " ")
	if err != nil || found[0].Failure == nil || !strings.Contains(text, "the client secret of application relay has expired") ||
		strings.Contains(text, "gehe1m") {
		t.Errorf("%v\n%s", err, text)
	}
}

// init knows how to log in to whatever takes no password, and to no others than those it names.
func TestTokensOf_TheProvidersOfWhichTheConfigurationKnowsTheEndpoints(t *testing.T) {
	var known []string
	for _, p := range provider.All() {
		c := tokensOf(p)
		if c == nil && p.Password == provider.PasswordNone {
			t.Errorf("%s takes OAuth2 alone, and init has no way to log in there", p.Name)
		}
		if c != nil {
			known = append(known, p.Name)
		}
	}
	if got := strings.Join(known, " "); got != "gmail google-workspace google-workspace-relay microsoft365 outlook" {
		t.Error(got)
	}
	if of, personal := config.KnownTokens([]string{"smtp-mail.outlook.com"}); of != "microsoft" || !personal {
		t.Errorf("%s, %v", of, personal)
	}
	if of, _ := config.KnownTokens([]string{"smtp.gmail.com:465"}); of != "google" {
		t.Error(of)
	}
}
