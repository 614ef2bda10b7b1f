package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relayd/internal/config"
	"relayd/internal/envelope"
	"relayd/internal/sendermx"
	"relayd/internal/wiring"
	"relayd/smarthost"
)

func (a *app) probeCommand() *cobra.Command {
	var from, client string
	cmd := &cobra.Command{
		Use:        "probe --from ADDRESS",
		SuggestFor: []string{"sender", "rewrite", "mx"},
		Short:      "Show what would happen to a sender's mail",
		Long: `Shows, by the configuration, what would happen to mail of a sender: what its address
becomes on each smarthost that takes its mail, in the envelope (reverse-path) and in the
header (From and Sender), by which rule; whether the domain under which it would leave has
an MX record, which some smarthosts demand; and whether require_sender_mx lets it pass.

Rules can depend on where mail comes in: each [[client]] is shown as a machine of its
first network, "other" is a machine that none of them holds. --client shows one machine.

It asks DNS, and connects to nothing else; the daemon need not run.`,
		Example: `  relayctl probe --from scanner@printer.lan
  relayctl probe --from scanner@printer.lan --client 192.168.1.50`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			reverse, err := parseSender(from)
			if err != nil {
				return misuse(cmd, "--from: %w", err)
			}
			only, err := parseClient(client)
			if err != nil {
				return misuse(cmd, "--client: %w", err)
			}
			return a.probe(cmd.Context(), reverse, only)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the sender's `address`, as a device or mail server says it")
	cmd.Flags().StringVar(&client, "client", "", "the `address` of the machine that hands the mail in")
	return cmd
}

func parseSender(s string) (envelope.Path, error) {
	if s == "" {
		return "", errors.New("say whose mail: --from user@example.com")
	}
	path, _, err := envelope.ParseReverse(s)
	return path, err
}

func parseClient(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return addr, fmt.Errorf("%q is not an address; write it as 192.168.1.50", s)
	}
	return addr.Unmap(), nil
}

// entrance is a place where mail comes in: its name for people, and a client there.
type entrance struct {
	name   string
	origin envelope.Origin
}

func (a *app) probe(ctx context.Context, reverse envelope.Path, only netip.Addr) error {
	cfg, _, err := config.Load(a.config)
	if err != nil {
		return fmt.Errorf("the configuration is not usable; see \"relayctl check\":\n%w", err)
	}
	router, err := smarthost.New(senderOptions(cfg))
	if err != nil {
		return err
	}
	var entrances []entrance
	if only.IsValid() {
		entrances = []entrance{{only.String(), envelope.Origin{Addr: only}}}
	} else {
		for _, c := range cfg.Clients {
			entrances = append(entrances, entrance{c.Name(), envelope.Origin{Addr: c.Networks[0].Addr()}})
		}
		entrances = append(entrances, entrance{name: "other"})
	}
	if err := a.showSenders(router, entrances, reverse); err != nil {
		return err
	}
	if reverse.IsNull() {
		fmt.Fprintln(a.out, "\nThis is the null reverse-path of reports: it stays, and needs no MX record.")
		return nil
	}
	fmt.Fprintln(a.out)
	return a.showMX(ctx, cfg.RequireSenderMX, router, entrances, reverse)
}

// senderOptions are as much of the configuration as decides over senders.
func senderOptions(c *config.Config) smarthost.Options {
	o := smarthost.Options{Hostname: c.Hostname, Clients: wiring.Clients(c)}
	for _, s := range c.Smarthosts {
		o.Routes = append(o.Routes, smarthost.Route{Name: s.Name, Hosts: s.Hosts, Senders: s.Senders, Recipients: s.Recipients,
			Clients: s.Clients, Rewrite: wiring.Rules(s.Rewrite)})
	}
	return o
}

// showSenders lists what becomes of the sender, by entrance and smarthost.
func (a *app) showSenders(router *smarthost.Router, entrances []entrance, reverse envelope.Path) error {
	var rows [][]string
	add := func(client, route, where string, p envelope.Path, rule string) {
		if rule == "" {
			rule = "as it is"
		}
		rows = append(rows, []string{client, clean(route), where, clean(p.String()), clean(rule)})
	}
	for _, e := range entrances {
		views := router.Senders(e.origin, reverse)
		for _, v := range views {
			add(e.name, v.Route, "reverse-path", v.ReversePath, v.ReverseRule)
			if !reverse.IsNull() {
				add("", "", "From, Sender", v.Author, v.AuthorRule)
			}
		}
		if len(views) == 0 {
			rows = append(rows, []string{e.name, "none", "", "", "no smarthost takes its mail, which waits"})
		}
	}
	return newTable(a.out, column{head: "CLIENT"}, column{head: "SMARTHOST"}, column{head: "WHERE"}, column{head: "BECOMES"},
		column{head: "BY"}).write(rows)
}

// showMX says which of the domains under which the mail may leave have an MX record, and what follows from that.
func (a *app) showMX(ctx context.Context, require string, router *smarthost.Router, entrances []entrance, reverse envelope.Path) error {
	mx := sendermx.New(sendermx.Options{Wait: 10 * time.Second})
	var told []string
	refused := make(map[string]string) // the reply, by entrance
	for _, e := range entrances {
		outgoing := router.Outgoing(e.origin, reverse)
		for _, p := range outgoing {
			if domain := p.Domain(); !slices.Contains(told, domain) {
				told = append(told, domain)
				fmt.Fprintln(a.out, clean(mx.Check(ctx, domain).Explain(p)))
			}
		}
		if refusal := mx.Judge(ctx, outgoing); !refusal.IsZero() {
			refused[e.name] = refusal.String()
		}
	}
	for _, e := range entrances {
		reply, is := refused[e.name]
		what := map[string]string{"off": "taken all the same", "warn": "taken, with a warning in the log", "reject": "refused with"}[require]
		switch {
		case !is:
			what = "taken"
		case require == "reject":
			what += "\n  " + clean(reply)
		default:
			what += "; to mend that:\n  " + clean(strings.TrimPrefix(reply, "550 5.1.8 "))
		}
		fmt.Fprintf(a.out, "require_sender_mx is %q: from client %s it is %s\n", require, e.name, what)
	}
	return nil
}
