package main

import (
	"encoding/hex"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// forwards reports whether an address may stand for many machines: that of a gateway, of what is known to forward ports into
// containers and virtual machines, or, within a container, its own loopback.
func forwards(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return inContainer()
	}
	return slices.Contains(knownForwarders(), addr) || slices.Contains(gateways("/proc/net/route", "/proc/net/ipv6_route"), addr)
}

// knownForwarders are the addresses that programs give to the one end that all connections come from.
func knownForwarders() []netip.Addr {
	var out []netip.Addr
	for _, s := range []string{
		"10.0.2.2", "10.0.2.100", // slirp4netns, QEMU; rootlesskit
		"172.17.0.1", "10.88.0.1", // docker0, podman
		"192.168.65.1", "192.168.127.1", "169.254.1.2", // Docker Desktop, gvproxy, pasta
	} {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// inContainer reports whether the daemon runs in a container of Docker, Podman or systemd.
func inContainer() bool {
	for _, name := range []string{"/.dockerenv", "/run/.containerenv", "/run/systemd/container"} {
		if _, err := os.Stat(name); err == nil {
			return true
		}
	}
	return false
}

// gateways returns the addresses of the default routes in Linux' tables, and none where there are none.
func gateways(table4, table6 string) []netip.Addr {
	var out []netip.Addr
	add := func(word string, reversed bool) {
		b, err := hex.DecodeString(word)
		if reversed { // the table has the octets in the machine's order, which is little-endian nearly everywhere
			slices.Reverse(b)
		}
		if a, ok := netip.AddrFromSlice(b); err == nil && ok && !a.IsUnspecified() {
			out = append(out, a.Unmap())
		}
	}
	text, _ := os.ReadFile(table4) // Iface Destination Gateway Flags RefCnt Use Metric Mask ...
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			add(f[2], true)
		}
	}
	text, _ = os.ReadFile(table6) // destination, its bits, source, its bits, next hop, ...
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && f[1] == "00" && strings.Trim(f[0], "0") == "" {
			add(f[4], false)
		}
	}
	return out
}
