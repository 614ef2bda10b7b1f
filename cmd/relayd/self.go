package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"relayd/internal/config"
)

// A smarthost that is this relay itself would send each message round and round. It is refused at start where it can
// be seen, and again whenever a connection shows it, since a name can change what it stands for.

// selfLookup bounds the look at the smarthosts' names at start. A name that cannot be looked up then is judged when it
// is connected to.
const selfLookup = 3 * time.Second

// listenAddresses returns the addresses of the listeners of c, as they are written.
func listenAddresses(c *config.Config) []string {
	var out []string
	for _, l := range c.Listeners {
		out = append(out, l.Address)
	}
	return out
}

// isSelf returns a function that reports whether an address is one that this machine listens on, when it does on listen.
func isSelf(listen []string) func(netip.AddrPort) bool {
	type place struct {
		addr netip.Addr // invalid: every address
		port uint16
	}
	var places []place
	for _, address := range listen {
		host, port, err := net.SplitHostPort(address)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 {
			continue
		}
		addr, _ := netip.ParseAddr(host)
		if addr.IsUnspecified() {
			addr = netip.Addr{}
		}
		places = append(places, place{addr.Unmap(), uint16(n)})
	}
	return func(remote netip.AddrPort) bool {
		addr := remote.Addr().Unmap().WithZone("")
		for _, p := range places {
			if p.port == remote.Port() && (p.addr == addr || (!p.addr.IsValid() && isLocal(addr))) {
				return true
			}
		}
		return false
	}
}

// isLocal reports whether addr is one of this machine's.
func isLocal(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr {
			return true
		}
	}
	return false
}

// refuseSelf returns an error for each smarthost of c that is this relay itself.
func refuseSelf(c *config.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), selfLookup)
	defer cancel()
	self := isSelf(listenAddresses(c))
	var mu sync.Mutex
	var faults config.Faults
	var wg sync.WaitGroup
	for _, s := range c.Smarthosts {
		for _, hostport := range s.Hosts {
			wg.Go(func() {
				host, port, err := net.SplitHostPort(hostport)
				n, perr := net.DefaultResolver.LookupPort(ctx, "tcp", port)
				if err != nil || perr != nil {
					return
				}
				addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
				if err != nil {
					return // it may be there when mail is to be sent
				}
				for _, a := range addrs {
					if self(netip.AddrPortFrom(a, uint16(n))) {
						mu.Lock()
						faults = append(faults, config.Fault{File: c.File, Key: "smarthost.hosts",
							Problem: fmt.Sprintf("%s is this relay itself (%s): mail would go round in a loop", hostport, a.Unmap()),
							Remedy:  "write the provider's server"})
						mu.Unlock()
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if len(faults) == 0 {
		return nil
	}
	return faults
}
