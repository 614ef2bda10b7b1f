package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"relayd/internal/config"
	"relayd/internal/envelope"
	"relayd/smarthost"
)

func (a *app) routeCommand() *cobra.Command {
	var from, client string
	var to []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "route --from ADDRESS --to ADDRESS [--client IP]",
		SuggestFor: []string{"routes", "path", "explain"},
		Short:      "Show by which smarthost a message would go, and why",
		Long: `Shows, by the configuration, which [[smarthost]] takes a message: each one in the order
of the file with the condition (clients, senders, recipients) that it does not meet, up to
the first that takes it. Recipients of one message may go different ways, so --to can be
given several times.

Routes are decided by the sender as it came in, before any rewriting, and anew at each
attempt: after a change, "systemctl reload relayd" and "relayctl queue reroute --all" make
it count at once for what waits.

It connects to nothing; the daemon need not run. The exit code is 1 when no smarthost takes
one of the recipients: such mail waits.`,
		Example: `  relayctl route --from scanner@example.com --to bob@example.net --client 192.168.1.50
  relayctl route --from "<>" --to alice@example.com`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := parseQuestion(from, to, client)
			if err != nil {
				return misuse(cmd, "%w", err)
			}
			return a.route(q, asJSON)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the sender's `address`; \"<>\" for a report, which has none")
	cmd.Flags().StringArrayVar(&to, "to", nil, "a recipient's `address`")
	cmd.Flags().StringVar(&client, "client", "127.0.0.1", "the `address` of the machine that hands the mail in")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array, for programs")
	return cmd
}

// question is what an operator wants to know the routes of.
type question struct {
	from   envelope.Path
	to     []envelope.Path
	client netip.Addr
}

func parseQuestion(from string, to []string, client string) (q question, err error) {
	if q.from, err = parseSender(from); err != nil {
		return q, fmt.Errorf("--from: %w", err)
	}
	if len(to) == 0 {
		return q, errors.New("--to: say to whom: --to user@example.net")
	}
	for _, s := range to {
		path, _, err := envelope.ParseReverse(s)
		if err == nil && path.IsNull() {
			err = errors.New("a recipient is an address")
		}
		if err != nil {
			return q, fmt.Errorf("--to: %w", err)
		}
		q.to = append(q.to, path)
	}
	if q.client, err = parseClient(client); err != nil {
		return q, fmt.Errorf("--client: %w", err)
	}
	return q, nil
}

// answer is how the route of one recipient is chosen.
type answer struct {
	Recipient string             `json:"recipient"`
	Route     string             `json:"route"` // "" when there is none
	Steps     []smarthost.Choice `json:"steps"`
}

func (a *app) route(q question, asJSON bool) error {
	cfg, _, err := config.Load(a.config)
	if err != nil {
		return fmt.Errorf("the configuration is not usable; see \"relayctl check\":\n%w", err)
	}
	router, err := smarthost.New(senderOptions(cfg))
	if err != nil {
		return err
	}
	var answers []answer
	var lost []string
	for _, to := range q.to {
		one := answer{Recipient: string(to), Steps: router.Explain(envelope.Origin{Addr: q.client}, q.from, to)}
		if n := len(one.Steps); n > 0 && one.Steps[n-1].Takes {
			one.Route = one.Steps[n-1].Route
		} else {
			lost = append(lost, to.String())
		}
		answers = append(answers, one)
	}
	if asJSON {
		err = writeJSON(a.out, answers)
	} else {
		_, err = io.WriteString(a.out, routeText(q, answers))
	}
	if err != nil || len(lost) == 0 {
		return err
	}
	return fmt.Errorf("no [[smarthost]] takes mail from %s to %s: it would wait; add one without senders, recipients and clients",
		q.from, strings.Join(lost, ", "))
}

func routeText(q question, answers []answer) string {
	var b strings.Builder
	for i, one := range answers {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "From %s to <%s>, handed in by %s\n", clean(q.from.String()), clean(one.Recipient), q.client)
		for n, s := range one.Steps {
			word := "no;"
			if s.Takes {
				word = "yes;"
			}
			fmt.Fprintf(&b, "  %d. %s: %s %s\n", n+1, clean(s.Route), word, clean(s.Why))
		}
		if one.Route != "" {
			last := one.Steps[len(one.Steps)-1]
			fmt.Fprintf(&b, "It goes by %s: %s\n", clean(last.Route), clean(strings.Join(last.Hosts, ", ")))
		} else {
			b.WriteString("It goes nowhere, and waits\n")
		}
	}
	return b.String()
}
