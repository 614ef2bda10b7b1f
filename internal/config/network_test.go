package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func trusting(networks ...string) string {
	return fmt.Sprintf("trusted_networks = [\"%s\"]\n%s", strings.Join(networks, "\", \""), anySmarthost)
}

func TestTrusted_EveryDisguiseOfEverybodyIsRefused(t *testing.T) {
	everybody := []string{
		"0.0.0.0/0", "::/0", "::ffff:0:0/96", "::ffff:0.0.0.0/96", "192.168.1.7/0", "::ffff:192.168.1.1/96",
		"::fffe:0:0/95", "::/64", "::/1", "64:ff9b::/96", "2002::/16", "::ffff:0:0/80",
	}
	for _, network := range everybody {
		wantAll(t, faultsOf(t, trusting(network)), fmt.Sprintf("relayd.toml:1: trusted_networks: %q is ", network), "open relay")
	}
	for _, network := range []string{
		"0.0.0.0/1", "128.0.0.0/1", "64.0.0.0/2", "8.0.0.0/7", "::ffff:0:0/97", "::ffff:128.0.0.0/97", "2002::/17",
		"64:ff9b::8000:0/97", "2000::/3", "2000::/4", "2600::/15", "8000::/1",
	} {
		wantAll(t, faultsOf(t, trusting(network)), fmt.Sprintf("%q is ", network), "which makes an open relay")
	}
}

func TestTrusted_PiecesThatAddUpAreRefused(t *testing.T) {
	pieces := map[string][]string{"IPv4": nil, "mapped": nil, "IPv6": nil, "6to4": nil, "nested": nil}
	for i := range 256 {
		pieces["IPv4"] = append(pieces["IPv4"], fmt.Sprintf("%d.0.0.0/8", i))
		pieces["mapped"] = append(pieces["mapped"], fmt.Sprintf("::ffff:%d.0.0.0/104", i))
		pieces["6to4"] = append(pieces["6to4"], fmt.Sprintf("2002:%02x00::/24", i))
		pieces["nested"] = append(pieces["nested"], fmt.Sprintf("%d.0.0.0/9", i), fmt.Sprintf("%d.128.0.0/9", i),
			fmt.Sprintf("%d.3.0.0/16", i))
	}
	for i := range 0x2000 {
		pieces["IPv6"] = append(pieces["IPv6"], fmt.Sprintf("%x::/16", 0x2000+i))
	}
	for name, networks := range pieces {
		got := faultsOf(t, trusting(networks...))
		wantAll(t, got, "relayd.toml:1: trusted_networks: these networks together are 100% of the IPv", "open relay")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	// Halves say so one by one; all but multicast, or half of it, is refused too.
	if n := strings.Count(faultsOf(t, trusting("0.0.0.0/1", "128.0.0.0/1")), "open relay"); n != 2 {
		t.Errorf("%d faults for two halves", n)
	}
	wantAll(t, faultsOf(t, trusting(pieces["IPv4"][1:224]...)), "87% of the IPv4 internet")
	if got := faultsOf(t, trusting(pieces["IPv4"][:64]...)); got != "" {
		t.Errorf("a quarter is no fault, only warned of: %s", got)
	}
	// The same network many times is not more than once.
	many := strings.Split(strings.Repeat("10.0.0.0/8 ", 200), " ")[:200]
	if got := faultsOf(t, trusting(many...)); got != "" {
		t.Error(got)
	}
}

func TestTrusted_NetworksOfOnesOwnAreFine(t *testing.T) {
	networks := []string{
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "192.168.1.7", "2001:db8:1::/48", "2001:db8::1", "fc00::/7", "fd00::/8",
		"100.64.0.0/10", "169.254.0.0/16", "203.0.113.0/24", "::ffff:10.1.0.0/112", "::ffff:192.0.2.1", "::1",
		"64:ff9b::c0a8:100/120",
	}
	cfg := good(t, trusting(networks...))
	want := "[127.0.0.0/8 ::1/128 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 192.168.1.7/32 2001:db8:1::/48 2001:db8::1/128 " +
		"fc00::/7 fd00::/8 100.64.0.0/10 169.254.0.0/16 203.0.113.0/24 10.1.0.0/16 192.0.2.1/32 64:ff9b::c0a8:100/120]"
	if got := fmt.Sprint(cfg.TrustedNetworks); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := warningsOf(t, write(t, trusting(networks...))); got != "" {
		t.Errorf("warnings: %s", got)
	}
}

func TestTrusted_LoopbackWithoutAKey(t *testing.T) {
	for _, text := range []string{"", "trusted_networks = []\n", "trusted_networks = ['127.0.0.0/8', '::1/128', '::1']\n"} {
		cfg := good(t, text+anySmarthost)
		if got := fmt.Sprint(cfg.TrustedNetworks); got != "[127.0.0.0/8 ::1/128]" {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestTrusted_LoopbackCanBeLeftOut(t *testing.T) {
	cfg := good(t, "trust_loopback = false\ntrusted_networks = ['192.168.1.0/24']\n"+anySmarthost)
	if got := fmt.Sprint(cfg.TrustedNetworks); got != "[192.168.1.0/24]" || cfg.TrustLoopback || strings.Contains(cfg.Describe(), "this machine itself") {
		t.Errorf("%s\n%s", got, cfg.Describe())
	}
	for _, own := range []string{"127.0.0.0/8", "127.0.0.1", "::1", "::ffff:127.0.0.1"} {
		wantAll(t, faultsOf(t, "trust_loopback = false\ntrusted_networks = ['"+own+"']\n"+anySmarthost),
			"relayd.toml:2: trusted_networks: ", "is this machine, and trust_loopback is false; delete one of the two lines")
	}
	wantAll(t, faultsOf(t, "trust_loopback = false\n"+anySmarthost), "relayd.toml:1: trust_loopback: nobody may relay")
}

func TestTrusted_LinkLocalNetworksAreWarnedOf(t *testing.T) {
	for _, network := range []string{"fe80::/10", "fe80::/64", "fe80::1"} {
		wantAll(t, warningsOf(t, write(t, trusting(network))), "relayd.toml:1: trusted_networks: ", network, "on any link")
	}
}

func TestTrusted_LargePublicNetworksAreWarnedOf(t *testing.T) {
	for _, network := range []string{"8.0.0.0/8", "68.0.0.0/15", "2600::/20", "::ffff:68.0.0.0/111"} {
		wantAll(t, warningsOf(t, write(t, trusting(network))), "relayd.toml:1: trusted_networks: ", network, "large public network")
	}
}

func TestNetwork_WhatIsNoneIsRefusedWithWhatToWrite(t *testing.T) {
	for text, want := range map[string]string{
		"192.168.1.7/24":            `is an address within a network; write "192.168.1.0/24" for the network, or "192.168.1.7" for`,
		"2001:db8::5/64":            `write "2001:db8::/64" for the network, or "2001:db8::5" for`,
		"::ffff:10.1.2.3/104":       `write "10.0.0.0/8" for the network, or "10.1.2.3" for`,
		"192.168.1.0/255.255.255.0": `is not in CIDR notation; write "192.168.1.0/24"`,
		"10.9.8.7/255.0.0.0":        `write "10.0.0.0/8"`,
		"10.0.0.0/255.0.255.0":      `is not a network; write it as "192.168.1.0/24"`,
		"192.168.1.*":               `is not a network`,
		"192.168.1":                 `is not a network`,
		"192.168.1.0/33":            `is not a network`,
		"192.168.001.0/24":          `is not a network`,
		"192.168.1.0-192.168.1.9":   `is not a network`,
		"lan.example":               `is not a network`,
		"fe80::1%eth0":              `names an interface; leave out the %`,
		"fe80::%eth0/64":            `names an interface`,
		"0.0.0.0":                   `is the address of no machine`,
		"::":                        `is the address of no machine`,
		" ":                         `empty string`,
	} {
		for key, head := range map[string]string{
			"trusted_networks":  "",
			"smarthost.clients": "[[smarthost]]\nhosts = ['b']\n",
		} {
			name := key[strings.LastIndex(key, ".")+1:]
			file := head + name + " = ['10.0.0.0/8',\n\n'" + text + "']\n"
			if head == "" {
				file += anySmarthost
			}
			line := strings.Count(head, "\n") + 3
			got := faultsOf(t, file)
			wantAll(t, got, fmt.Sprintf("relayd.toml:%d: %s: ", line, key), want)
			if strings.Contains(got, "\n") {
				t.Errorf("more than one fault:\n%s", got)
			}
		}
	}
}

func TestClients_GrantNothingSoMayBeAnything(t *testing.T) {
	cfg := good(t, "[[smarthost]]\nhosts = ['b']\nclients = ['0.0.0.0/0', '::/0', '::ffff:0:0/96', '8.0.0.0/5']\n")
	if got := fmt.Sprint(cfg.Smarthosts[0].Clients); got != "[0.0.0.0/0 ::/0 0.0.0.0/0 8.0.0.0/5]" {
		t.Error(got)
	}
}

func TestShare_CountsNoAddressTwice(t *testing.T) {
	parse := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, c := range []struct {
		networks []netip.Prefix
		want     float64
	}{
		{nil, 0},
		{parse("0.0.0.0/0"), 1},
		{parse("128.0.0.0/1", "0.0.0.0/1"), 1},
		{parse("128.0.0.0/2", "128.0.0.0/1", "128.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8"), 0.5 + 1.0/256},
	} {
		if got := share(c.networks, 0); got != c.want {
			t.Errorf("%v: %v, want %v", c.networks, got, c.want)
		}
	}
}
