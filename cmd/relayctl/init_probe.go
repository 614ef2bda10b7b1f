package main

import (
	"fmt"
	"strings"
	"time"

	"relayd/internal/config"
	"relayd/smarthost"
)

// probeOptions are those of the configuration's smarthosts for somebody who waits at a terminal.
func probeOptions(cfg *config.Config) smarthost.Options {
	o := smarthost.Options{Hostname: cfg.Hostname, Timeouts: smarthost.Timeouts{
		Dial: 15 * time.Second, TLS: 20 * time.Second, Greeting: 30 * time.Second, Command: 30 * time.Second,
	}}
	for _, s := range cfg.Smarthosts {
		o.Routes = append(o.Routes, smarthost.Route{
			Name: s.Name, Hosts: s.Hosts, TLS: smarthost.Mode(s.TLS), MinTLS: s.MinTLS, RootCAs: s.RootCAs,
			Auth: s.Auth, Username: s.Username, Password: s.Password.Reveal(), MaxConnections: s.MaxConnections,
		})
	}
	return o
}

// probeText says what was found, a line for each step.
func probeText(found []smarthost.Probed) string {
	var b strings.Builder
	for _, p := range found {
		fmt.Fprintf(&b, "%s\n", clean(p.Addr))
		for _, s := range p.Steps {
			verdict := "ok"
			switch {
			case s.Skipped:
				verdict = "-"
			case !s.OK:
				verdict = "FAILED"
			}
			line := fmt.Sprintf("  %-12s%-8s%s", s.Name, verdict, wrapped(clean(s.Detail), 22))
			fmt.Fprintln(&b, strings.TrimRight(line, " "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
