package main

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// iface is a network interface and the networks that its addresses are in.
type iface struct {
	name         string
	up           bool
	loopback     bool
	pointToPoint bool
	prefixes     []netip.Prefix
}

// localInterfaces returns this machine's interfaces; those that cannot be looked at are left out.
func localInterfaces() []iface {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []iface
	for _, n := range all {
		i := iface{name: n.Name, up: n.Flags&net.FlagUp != 0, loopback: n.Flags&net.FlagLoopback != 0,
			pointToPoint: n.Flags&net.FlagPointToPoint != 0}
		addrs, err := n.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				i.prefixes = append(i.prefixes, p)
			}
		}
		out = append(out, i)
	}
	return out
}

// virtual are the beginnings of the names that container and machine hosts give to the bridges and ends of their own
// networks: nobody's printer is there.
func virtual() []string {
	return []string{"docker", "br-", "veth", "virbr", "vnet", "vmnet", "vboxnet", "lxc", "lxdbr", "incusbr", "podman", "cni", "flannel",
		"cali", "cilium", "kube", "nerdctl", "tun", "tap", "wg", "tailscale", "zt", "ifb", "dummy"}
}

// lanNetworks returns the private networks (RFC 1918, RFC 4193) that the interfaces are in, as a configuration names them.
// A network of one address is none, and a point-to-point interface leads to somebody else's.
func lanNetworks(interfaces []iface) []string {
	var out []string
	for _, i := range interfaces {
		isVirtual := slices.ContainsFunc(virtual(), func(prefix string) bool { return strings.HasPrefix(i.name, prefix) })
		if !i.up || i.loopback || i.pointToPoint || isVirtual {
			continue
		}
		for _, p := range i.prefixes {
			addr := p.Addr().Unmap()
			if !addr.IsPrivate() || p.IsSingleIP() {
				continue
			}
			if name := p.Masked().String(); !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}
