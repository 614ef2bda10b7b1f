package main

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relayd/internal/control"
	"relayd/queue"
)

func (a *app) queueListCommand() *cobra.Command {
	var asJSON bool
	var state string
	cmd := &cobra.Command{
		Use:        "list",
		Aliases:    []string{"ls"},
		SuggestFor: []string{"mailq"},
		Short:      "List the messages in the queue, oldest first",
		Long: `One line for each message, oldest first:

  ID          what the other commands want
  AGE         since relayd took it
  SIZE        of the content
  SENDER      the reverse-path; <> for a report, which has none
  RECIPIENTS  one that still waits, and how many more there are
  STATE       active, deferred or held; paced is deferred by nothing but the pace;
              undeliverable is a report that nobody got, held for you to read;
              quarantined is damaged, and listed with --state quarantined only
  NEXT        when it is tried again; "now" when it only waits for its turn; of paced
              mail when the next message may go, which may be another one
  ATTEMPTS    tries so far; those on which no smarthost could be used do not count
  LAST ERROR  what the smarthost said last, or why it could not be asked

On a terminal, lines are cut to its width; "queue show ID" has the whole words. In a
file or pipe nothing is cut but the last error, at 80 columns.

With --json it is an array of objects with id, state, reverse_path, recipients
(address, status, attempts, last_reply), size in octets, received_at, next_attempt
(left out while held or undeliverable), attempts, last_error, smarthost, and waits_for ("pace") where it
is deferred by the pace; times are RFC 3339. An empty queue is [].`,
		Example: `  relayctl queue list
  relayctl queue list --state held
  relayctl queue list --json | jq -r '.[] | select(.state == "held") | .id'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if state != "" && !slices.Contains(listStates(), state) {
				return misuse(cmd, "there is no state %q; there are %s", state, strings.Join(listStates(), ", "))
			}
			return noArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			src, err := a.open(cmd.Context(), false)
			if err != nil {
				return err
			}
			defer src.Close()
			entries := inState(cmd.Context(), src, state)
			if asJSON {
				return a.listJSON(entries)
			}
			return a.listTable(entries, state)
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only messages in this state: "+strings.Join(listStates(), ", "))
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array, for programs")
	return cmd
}

// listStates are the words that --state takes: those that the list shows.
func listStates() []string {
	return []string{queue.StateActive, queue.StateDeferred, statePaced, queue.StateHeld, queue.StateUndeliverable,
		queue.StateQuarantined}
}

const statePaced = "paced"

// inState returns the messages in a state, or those of the queue for "".
func inState(ctx context.Context, src source, state string) iter.Seq2[queue.Entry, error] {
	if state == queue.StateQuarantined {
		return src.AllQuarantined(ctx)
	}
	return func(yield func(queue.Entry, error) bool) {
		for e, err := range src.All(ctx) {
			if err == nil && state != "" && stateWord(e) != state {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (a *app) listJSON(entries iter.Seq2[queue.Entry, error]) error {
	array := &jsonArray{w: a.out}
	for e, err := range entries {
		if err != nil {
			return err
		}
		if err := array.add(e); err != nil {
			return err
		}
	}
	return array.end()
}

func (a *app) listTable(entries iter.Seq2[queue.Entry, error], state string) error {
	columns := 0
	if term, ok := terminalOf(a.out); ok {
		columns = term.columns
	}
	t := newTable(a.out, listColumns(columns > 0)...)
	now := time.Now()
	var rows [][]string
	var total int
	var octets int64
	flush := func() error {
		if len(rows) == 0 {
			return nil
		}
		if columns > 0 {
			fit(t, rows, columns)
		}
		err := t.write(rows)
		rows = rows[:0]
		return err
	}
	for e, err := range entries {
		if err != nil {
			return err
		}
		rows, total, octets = append(rows, listRow(e, now)), total+1, octets+e.Size
		if len(rows) < control.MaxPage {
			continue
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if total == 0 && state != "" {
		_, err := fmt.Fprintf(a.out, "No message is %s.\n", state)
		return err
	}
	if total == 0 {
		_, err := fmt.Fprintln(a.out, "The queue is empty.")
		return err
	}
	_, err := fmt.Fprintf(a.out, "\n%s, %s.\n", messages(total), size(octets))
	return err
}

// Places of columns in the table.
const (
	columnSender     = 3
	columnRecipients = 4
	columnError      = 8

	mostAddress   = 34
	leastAddress  = 16
	leastError    = 24
	mostErrorPipe = 80
)

func listColumns(terminal bool) []column {
	columns := []column{
		{head: "ID"}, {head: "AGE", right: true}, {head: "SIZE", right: true}, {head: "SENDER"},
		{head: "RECIPIENTS", tail: true}, {head: "STATE"}, {head: "NEXT"}, {head: "ATTEMPTS", right: true},
		{head: "LAST ERROR", most: mostErrorPipe},
	}
	if terminal {
		columns[columnSender].most, columns[columnRecipients].most = mostAddress, mostAddress
	}
	return columns
}

// fit makes the lines of t, with rows in it, as wide as the terminal: the last error gives way first, then the
// addresses. On a terminal too narrow even for that, lines run on.
func fit(t *table, rows [][]string, terminal int) {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = max(t.widths[i], width(c.head))
		for _, row := range rows {
			w := width(row[i])
			if c.most > 0 {
				w = min(w, c.most)
			}
			widths[i] = max(widths[i], w)
		}
	}
	room := terminal - 2*(len(widths)-1)
	for i, w := range widths {
		if i != columnError {
			room -= w
		}
	}
	for _, i := range []int{columnRecipients, columnSender} {
		if give := min(leastError-room, widths[i]-leastAddress); give > 0 {
			t.columns[i].most, t.widths[i], room = widths[i]-give, 0, room+give
		}
	}
	t.columns[columnError].most = max(room, leastError)
}

func listRow(e queue.Entry, now time.Time) []string {
	sender := clean(string(e.ReversePath))
	if e.ReversePath.IsNull() {
		sender = "<>"
	}
	return []string{
		clean(e.ID), span(now.Sub(e.ReceivedAt)), size(e.Size), sender, recipients(e.Recipients),
		stateWord(e), next(e, now), strconv.Itoa(e.Attempts), clean(e.LastError),
	}
}

// stateWord is a message's state for people.
func stateWord(e queue.Entry) string {
	if e.WaitsFor == queue.WaitsForPace {
		return statePaced
	}
	return clean(e.State)
}

// next says when a message is tried again.
func next(e queue.Entry, now time.Time) string {
	switch {
	case e.State == queue.StateHeld, e.State == queue.StateUndeliverable, e.State == queue.StateQuarantined,
		e.NextAttempt.IsZero() && e.State != queue.StateActive:
		return "-"
	case !e.NextAttempt.After(now):
		return "now"
	}
	return "in " + span(e.NextAttempt.Sub(now))
}
