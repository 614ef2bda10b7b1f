package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relayd/internal/control"
	"relayd/smarthost"
)

func (a *app) statusCommand() *cobra.Command {
	var asJSON, check bool
	cmd := &cobra.Command{
		Use:        "status",
		SuggestFor: []string{"stat", "health", "info"},
		Short:      "Show how relayd, its queue and its smarthosts are",
		Long: `Shows how many messages wait and how old the oldest is, and for each route
([[smarthost]] in the configuration) how each of its hosts is:

  up             the last try reached it
  not used yet   nothing has been sent to it since relayd started
  DOWN           it cannot be reached or turns everybody away; relayd tries it again by
                 itself, with growing pauses
  LOGIN REFUSED  it does not take the username and password; relayd tries again rarely,
                 so that the account is not locked
  TLS FAILED     no verified TLS connection can be had with it

Whatever needs somebody's attention comes first, each line beginning with "!!". No mail
is lost or sent back because of a host's state; it waits.

With --check the exit code is 1 when something is wrong: a login refused, TLS failing,
no usable host left in a route, an OAuth2 grant that has ended or a client secret that
ends within 30 days, no daemon, intake stopped, damaged messages, or undeliverable
reports, which you release or delete once you have read them. A host
that is down while another of its route works is not wrong; that is what it is for.`,
		Example: `  relayctl status
  relayctl status --check > /dev/null || echo "look at the mail relay"
  relayctl status --json | jq .queue.deferred`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			src, err := a.open(cmd.Context(), false)
			if err != nil {
				return err
			}
			defer src.Close()
			st, err := src.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(a.out, st)
			} else {
				_, err = io.WriteString(a.out, statusText(st, time.Now()))
			}
			if err != nil || !check || len(st.Problems) == 0 {
				return err
			}
			return fmt.Errorf("%s: %s", count(len(st.Problems), "problem", "problems"), strings.Join(st.Problems, "; "))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object, for programs")
	cmd.Flags().BoolVar(&check, "check", false, "exit with 1 when something is wrong")
	return cmd
}

func statusText(st control.Status, now time.Time) string {
	var b strings.Builder
	for _, p := range st.Problems {
		fmt.Fprintf(&b, "!! %s\n", clean(p))
	}
	if len(st.Problems) > 0 {
		b.WriteByte('\n')
	}
	if st.Running {
		b.WriteString(daemonLine(st, now))
	}
	b.WriteString(queueLine(st))
	for _, r := range st.Routes {
		b.WriteString("\n" + routeLine(r) + paceLines(r.Pace, now))
		b.WriteString(tokenLine(st.OAuth, r.Name, now))
		for _, h := range r.Hosts {
			told := slices.ContainsFunc(st.Problems, func(p string) bool { return strings.HasSuffix(p, control.Why(h)) })
			b.WriteString(hostLines(h, !told, now))
		}
	}
	return b.String()
}

func daemonLine(st control.Status, now time.Time) string {
	words := "relayd"
	if st.Version != "" {
		words += " " + st.Version
	}
	if st.Hostname != "" {
		words += " on " + st.Hostname
	}
	if !st.Started.IsZero() {
		words += ", up " + span(now.Sub(st.Started))
	}
	return clean(words) + "\n"
}

func queueLine(st control.Status) string {
	q := st.Queue
	n := q.Active + q.Deferred + q.Held
	if n == 0 {
		return "The queue is empty.\n"
	}
	words := fmt.Sprintf("Queue: %s (%d active, %d deferred, %d held), %s",
		messages(n), q.Active, q.Deferred, q.Held, size(q.Bytes))
	if q.Paced > 0 {
		words += fmt.Sprintf("; %s only for the pace", count(q.Paced, "of the deferred waits", "of the deferred wait"))
	}
	if !q.Oldest.IsZero() {
		words += ", the oldest is " + span(time.Duration(st.OldestAge)*time.Second) + " old"
	}
	return words + "\n"
}

func routeLine(r smarthost.RouteStatus) string {
	words := fmt.Sprintf("Route %q: %s", r.Name, tlsWords(r.TLS))
	if r.Username != "" {
		words += ", logs in as " + r.Username
	} else {
		words += ", no login"
	}
	return clean(words) + "\n"
}

func tlsWords(mode smarthost.Mode) string {
	switch mode {
	case smarthost.ModeImplicit:
		return "implicit TLS"
	case smarthost.ModeOff:
		return "no TLS"
	}
	return "STARTTLS"
}

// hostLines tell of one host: a line with its state, and below it what is wrong unless that was told before, what it
// said last, and what is next.
func hostLines(h smarthost.HostStatus, problem bool, now time.Time) string {
	words := clean(h.Address) + "  " + hostState(h.State)
	if !h.Since.IsZero() && h.State != smarthost.StateUnknown {
		words += " for " + span(now.Sub(h.Since))
	}
	if h.TLS != "" {
		words += ", " + clean(h.TLS)
	}
	if h.Connections > 0 {
		words += ", " + count(h.Connections, "connection", "connections") + " open"
	}
	if h.Failures > 0 {
		words += ", " + count(h.Failures, "failure", "failures") + " in a row"
	}
	lines := "  " + words + "\n"
	if problem && h.Problem != "" {
		lines += "      " + clean(h.Problem) + "\n"
	}
	if h.LastReply != "" {
		lines += "      last reply: " + clean(h.LastReply) + "\n"
	}
	if !h.NextProbe.IsZero() {
		lines += "      next try: " + when(h.NextProbe, now) + "\n"
	}
	return lines
}

func when(t, now time.Time) string {
	if !t.After(now) {
		return "with the next message"
	}
	return "in " + span(t.Sub(now))
}

func hostState(state smarthost.State) string {
	switch state {
	case smarthost.StateUp:
		return "up"
	case smarthost.StateUnknown, "":
		return "not used yet"
	case smarthost.StateDown:
		return "DOWN"
	case smarthost.StateLoginRefused:
		return "LOGIN REFUSED"
	case smarthost.StateTLSFailed:
		return "TLS FAILED"
	case smarthost.StateThrottled:
		return "THROTTLED"
	case smarthost.StateRefused:
		return "REFUSES US"
	case smarthost.StateLooping:
		return "IS THIS RELAY"
	}
	return clean(string(state))
}
