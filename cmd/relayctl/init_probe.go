package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"relayd/internal/config"
	"relayd/internal/oauth"
	"relayd/internal/wiring"
	"relayd/smarthost"
)

// probeOptions are those of the configuration's smarthosts for somebody who waits at a terminal.
func probeOptions(cfg *config.Config) smarthost.Options {
	o := smarthost.Options{Hostname: cfg.Hostname, Timeouts: smarthost.Timeouts{
		Dial: 15 * time.Second, TLS: 20 * time.Second, Greeting: 30 * time.Second, Command: 30 * time.Second,
	}}
	for _, s := range cfg.Smarthosts {
		o.Routes = append(o.Routes, wiring.Route(s, tokensNow))
	}
	return o
}

// tokensNow is the source of tokens of a smarthost whose configuration is just being written. An application gets them by
// itself, and so can be tried; a person logs in later.
func tokensNow(s config.Smarthost) smarthost.TokenSource {
	if account := wiring.Account(s); !account.Flow.Personal() {
		return oauth.New(account, oauth.Options{})
	}
	return &later{s.Name}
}

// later is the source of tokens of a smarthost that nobody can have logged in to: its configuration is just being written.
type later struct{ name string }

func (l *later) Token(context.Context, string) (string, error) {
	return "", fmt.Errorf("%w; \"relayctl oauth login %s\" comes after this", smarthost.ErrNoTokenYet, l.name)
}

// pinned asks whether the key of a server whose certificate leads to no authority is to be trusted, and reports whether
// it is from now on.
func (i *initRun) pinned(ctx context.Context, found []smarthost.Probed) bool {
	s := &i.setup
	if !i.asks || s.provider.Name != "" || s.caFile != "" || len(s.pins) > 0 {
		return false
	}
	var pins []string
	for _, p := range found {
		if p.Pin == "" {
			continue
		}
		fmt.Fprintf(i.out, "%s\n", wrapped("If that is your own server, its key can be trusted by itself. Compare it there, with what "+
			"\"openssl x509 -in CERTIFICATE -noout -fingerprint -sha256\" prints; this is:", 0))
		fmt.Fprintf(i.out, "  certificate  %s\n  key          %s\n", clean(p.Fingerprint), clean(p.Pin))
		if !i.agreed(ctx, "Is that the right key? [y/N] ") {
			return false
		}
		pins = append(pins, p.Pin)
	}
	s.pins, i.newPin = pins, len(pins) > 0
	return i.newPin
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
