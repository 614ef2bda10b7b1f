package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relayd/queue"
)

func (a *app) queueShowCommand() *cobra.Command {
	var asJSON, body bool
	cmd := &cobra.Command{
		Use:        "show ID",
		SuggestFor: []string{"cat", "view", "info"},
		Short:      "Show one message: envelope, recipients, and what happened to it",
		Long: `Shows where a message came from, its envelope, the state of each recipient, and every
step since relayd took it, with the smarthost's own words. It also finds messages that
have left the queue, for as long as relayd keeps their history ([queue] history).

With --body it prints the content instead: the header and text that are sent to the
smarthost. Into a file or pipe that is byte for byte; on a terminal, line ends are made
plain and control characters visible.`,
		Example: `  relayctl queue show 1M8063JNNNMR7
  relayctl queue show 1M8063JNNNMR7 --body > message.eml
  relayctl queue show 1M8063JNNNMR7 --json | jq .events`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) != 1:
				return misuse(cmd, "name one message by its ID; \"relayctl queue list\" shows those in the queue")
			case asJSON && body:
				return misuse(cmd, "--json and --body exclude each other")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.open(cmd.Context(), false)
			if err != nil {
				return err
			}
			defer src.Close()
			if body {
				return a.showBody(cmd.Context(), src, args[0])
			}
			d, err := src.Show(cmd.Context(), args[0])
			switch {
			case err != nil:
				return whichID(err, args)
			case asJSON:
				return writeJSON(a.out, d)
			}
			return a.showText(d)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object, for programs")
	cmd.Flags().BoolVar(&body, "body", false, "print the message's content")
	return cmd
}

func (a *app) showBody(ctx context.Context, src source, id string) error {
	body, err := src.Body(ctx, id)
	if errors.Is(err, queue.ErrNotFound) {
		if d, showErr := src.Show(ctx, id); showErr == nil && d.Gone {
			return fmt.Errorf("message %s has left the queue, and its content with it; without --body its history is shown", id)
		}
	}
	if err != nil {
		return whichID(err, []string{id})
	}
	defer body.Close()
	if !isTerminal(a.out) {
		_, err = io.Copy(a.out, body)
		return err
	}
	safe := &cleanWriter{w: a.out}
	_, err = io.Copy(safe, body)
	return errors.Join(err, safe.Flush())
}

// whichID says in an operator's words that an id is not known.
func whichID(err error, asked []string) error {
	if !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	ids := unknownIDs(err, asked)
	if len(ids) == 1 {
		return fmt.Errorf("there is no message %s in the queue; see \"relayctl queue list\"", ids[0])
	}
	return fmt.Errorf("there are no messages %s in the queue; see \"relayctl queue list\"", strings.Join(ids, ", "))
}

func (a *app) showText(d queue.Detail) error {
	var b strings.Builder
	now := time.Now()
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-11s %s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	line("ID", "%s", d.ID)
	line("State", "%s", stateWords(d, now))
	line("Sender", "%s", d.ReversePath)
	line("Received", "%s (%s ago)%s", stamp(d.ReceivedAt), span(now.Sub(d.ReceivedAt)), origin(d))
	line("Size", "%s (%d octets)", size(d.Size), d.Size)
	if p := parameters(d); p != "" {
		line("Parameters", "%s", p)
	}
	if d.Smarthost != "" {
		line("Smarthost", "%s", d.Smarthost)
	}
	line("Attempts", "%d", d.Attempts)
	if d.LastError != "" {
		line("Last error", "%s", d.LastError)
	}
	if _, err := io.WriteString(a.out, b.String()+"\nRecipients\n"); err != nil {
		return err
	}
	if err := newTable(a.out, column{}, column{}, column{}, column{}, column{}).write(recipientRows(d)); err != nil {
		return err
	}
	if len(d.Events) == 0 {
		return nil
	}
	if _, err := io.WriteString(a.out, "\nHistory\n"); err != nil {
		return err
	}
	return newTable(a.out, column{}, column{}, column{}, column{}).write(eventRows(d.Events))
}

func stateWords(d queue.Detail, now time.Time) string {
	switch {
	case d.Gone:
		return "has left the queue"
	case d.State == queue.StateQuarantined:
		return "quarantined: damaged, not delivered; see \"relayctl queue release\" and \"relayctl queue delete\""
	case d.State == queue.StateHeld:
		return "held, until \"relayctl queue release\""
	case d.State == queue.StateUndeliverable:
		return "undeliverable: nobody got this report; \"relayctl queue release\" tries again, \"delete\" removes it"
	case d.WaitsFor == queue.WaitsForPace:
		return fmt.Sprintf("paced: waits for its turn; the next message of its account may go %s (%s)",
			when(d.NextAttempt, now), stamp(d.NextAttempt))
	case d.NextAttempt.IsZero():
		return d.State
	case !d.NextAttempt.After(now):
		return d.State + ", due now"
	}
	return fmt.Sprintf("%s, next attempt in %s (%s)", d.State, span(d.NextAttempt.Sub(now)), stamp(d.NextAttempt))
}

// origin says who handed the message in.
func origin(d queue.Detail) string {
	o := d.Origin
	if !o.Addr.IsValid() {
		return ", written by relayd"
	}
	words := " from " + o.Addr.String()
	if o.Helo != "" {
		words += " (" + o.Helo + ")"
	}
	if o.Protocol != "" {
		words += " with " + o.Protocol
	}
	return words
}

// parameters are those of MAIL, as they travel on.
func parameters(d queue.Detail) string {
	env := d.Envelope
	var p []string
	for _, kv := range []struct{ name, value string }{{"BODY", env.Body}, {"RET", env.Ret}, {"ENVID", env.EnvID}} {
		if kv.value != "" {
			p = append(p, kv.name+"="+kv.value)
		}
	}
	if env.UTF8 {
		p = append(p, "SMTPUTF8")
	}
	if env.RequireTLS {
		p = append(p, "REQUIRETLS")
	}
	return strings.Join(p, " ")
}

func recipientRows(d queue.Detail) [][]string {
	var rows [][]string
	for i, r := range d.Recipients {
		options := ""
		if i < len(d.Envelope.Recipients) {
			if n := d.Envelope.Recipients[i].Notify.String(); n != "" {
				options = "NOTIFY=" + n + " "
			}
			if o := d.Envelope.Recipients[i].ORcpt; o != "" {
				options += "ORCPT=" + o + " "
			}
		}
		rows = append(rows, []string{
			"  <" + clean(r.Address) + ">", clean(r.Status), count(r.Attempts, "attempt", "attempts"),
			clean(strings.TrimSpace(options)), clean(r.LastReply),
		})
	}
	return rows
}

func eventRows(events []queue.Event) [][]string {
	var rows [][]string
	for _, e := range events {
		var about []string
		for _, r := range e.Recipients {
			about = append(about, "<"+clean(r)+">")
		}
		words := strings.Join(about, " ")
		if e.More > 0 {
			words += fmt.Sprintf(" and %d more", e.More)
		}
		if e.Words != "" && words != "" {
			words += ": "
		}
		rows = append(rows, []string{"  " + stamp(e.At), clean(e.What), clean(e.Host), words + clean(e.Words)})
	}
	return rows
}
