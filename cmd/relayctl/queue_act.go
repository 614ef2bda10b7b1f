package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"relayd/internal/control"
	"relayd/queue"
)

// action is one of the commands that change messages: they differ in words only.
type action struct {
	queue.Action
	done       string // "Held"; followed by "3 messages."
	nothing    string // what to say when there was no message
	suggestFor []string
	short      string
	long       string
	example    string
}

func holdAction() action {
	return action{
		Action: queue.ActionHold, done: "Held", nothing: "nothing to hold",
		suggestFor: []string{"stop", "pause", "suspend", "freeze"},
		short:      "Keep messages from being delivered until they are released",
		long: `Holds messages: they stay in the queue and are neither tried nor sent back, however old
they get, until "queue release". A delivery that is under way at that moment ends first;
the hold applies to what it leaves. Messages that come in later are not held.`,
		example: `  relayctl queue hold 1M8063JNNNMR7
  relayctl queue hold --all`,
	}
}

func releaseAction() action {
	return action{
		Action: queue.ActionRelease, done: "Released", nothing: "nothing to release",
		suggestFor: []string{"unhold", "resume", "continue", "thaw"},
		short:      "Let messages that are held go on",
		long: `Ends the hold of messages and makes them due at once. Messages that were not held are
left as they are.

A quarantined message goes back into the queue, if its content is as it was, for example
once a file of the spool is back. Its sender was told that it failed.`,
		example: `  relayctl queue release 1M8063JNNNMR7
  relayctl queue release --all`,
	}
}

func retryAction() action {
	return action{
		Action: queue.ActionRetry, done: "Trying again now:", nothing: "nothing to try again",
		suggestFor: []string{"flush", "kick", "run", "deliver", "send"},
		short:      "Try messages again now",
		long: `Makes messages due at once instead of at their next attempt, and has relayd try hosts
that it leaves alone after a failure. After a refused login, mend the login first: each
further try may bring the account closer to being locked. Held messages stay held.`,
		example: `  relayctl queue retry 1M8063JNNNMR7
  relayctl queue retry --all`,
	}
}

func rerouteAction() action {
	return action{
		Action: queue.ActionReroute, done: "Decided anew which way they go:", nothing: "nothing to reroute",
		suggestFor: []string{"requeue", "redirect", "move"},
		short:      "Decide anew which smarthost messages go by",
		long: `Decides anew, by the configuration that relayd has, which [[smarthost]] takes each
recipient. What has waited on one that does not take it any more is due at once; the rest
stays as it is. Without it a changed configuration counts from each message's next attempt
on. Held messages stay held. "relayctl route" explains how the choice is made.`,
		example: `  relayctl queue reroute 1M8063JNNNMR7
  relayctl queue reroute --all`,
	}
}

func deleteAction() action {
	return action{
		Action: queue.ActionDelete, done: "Deleted", nothing: "nothing to delete",
		suggestFor: []string{"rm", "remove", "drop", "purge"},
		short:      "Remove messages without delivering or reporting them",
		long: `Removes messages for good. Nobody gets them and their senders are not told. The content
is gone; the history of each message stays for as long as others do. The exit code is 1
when a message was delivered before it could be deleted, or is still being delivered. A
quarantined message is removed when it is named.

With --all, the question has to be answered on the terminal; without a terminal, as in
a script, --yes is needed.`,
		example: `  relayctl queue delete 1M8063JNNNMR7 1M8063JQ2V0A3
  relayctl queue delete --all --yes`,
	}
}

func (a *app) actionCommand(act action) *cobra.Command {
	var all, yes, asJSON bool
	verb := string(act.Action)
	cmd := &cobra.Command{
		Use:        verb + " ID... | --all",
		SuggestFor: act.suggestFor,
		Short:      act.short,
		Long: act.long + `

When one of several IDs is not in the queue, nothing is done to any of them. A message that
is being delivered is dealt with when that attempt has ended. The command waits for that up
to 15 seconds, and then says what became of each: done, delivered before, or only asked.

With --json it is an object with action, done (how many), ids, asked (those that are still
being delivered) and left (id and fate of those that left the queue before).`,
		Example:               act.example,
		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return misuse(cmd, "name messages or say --all, not both")
			case !all && len(args) == 0:
				return misuse(cmd, "name the messages to %s by their IDs, or say --all", verb)
			case act.Action == queue.ActionDelete && all && !yes && !isTerminal(a.in):
				return misuse(cmd, "delete --all cannot ask whether you mean it, since standard input is no terminal; say --yes")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			if act.Action == queue.ActionDelete && all && !yes {
				if err := a.confirmDelete(cmd, c); err != nil {
					return err
				}
			}
			return a.act(cmd, c, act, args, all, asJSON)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every message in the queue")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object, for programs")
	if act.Action == queue.ActionDelete {
		cmd.Flags().BoolVar(&yes, "yes", false, "do not ask before deleting all")
	}
	return cmd
}

func (a *app) act(cmd *cobra.Command, c *control.Client, act action, ids []string, all, asJSON bool) error {
	var res control.Result
	var err error
	if all {
		res, err = c.ApplyAll(cmd.Context(), act.Action)
	} else {
		res, err = c.Apply(cmd.Context(), act.Action, ids)
	}
	if err != nil {
		return nothingDone(whichID(err, ids), err)
	}
	out := follow(cmd.Context(), c, res, askedPatience)
	switch {
	case asJSON:
		err = writeJSON(a.out, out)
	case out.Done+len(out.Asked)+len(out.Left) == 0:
		_, err = fmt.Fprintf(a.out, "The queue is empty; %s.\n", act.nothing)
	default:
		held := 0
		if act.Action == queue.ActionRetry {
			held = countHeld(cmd.Context(), c, ids)
		}
		_, err = io.WriteString(a.out, act.report(out.Done, held)+out.words())
	}
	return errors.Join(err, out.failure())
}

// report says what was done, with how many messages. Those that are held were asked for but are not tried.
func (act action) report(done, held int) string {
	held = min(held, done)
	if done == 0 {
		return ""
	}
	if held == 0 {
		return fmt.Sprintf("%s %s.\n", act.done, messages(done))
	}
	return fmt.Sprintf("%s %s. Held, and not tried until \"relayctl queue release\": %d.\n",
		act.done, messages(done-held), held)
}

// countHeld returns how many of the messages are held; no ids stands for all of the queue. What cannot be learnt counts
// as none, since the action itself is done.
func countHeld(ctx context.Context, c *control.Client, ids []string) int {
	held := 0
	if len(ids) == 0 {
		if st, err := c.Status(ctx); err == nil {
			held = st.Queue.Held
		}
	}
	for _, id := range ids {
		if d, err := c.Show(ctx, id); err == nil && (d.State == queue.StateHeld || d.State == queue.StateUndeliverable) && !d.Gone {
			held++
		}
	}
	return held
}

// nothingDone adds that nothing was changed where that is so for sure.
func nothingDone(told, err error) error {
	if errors.Is(err, queue.ErrNotFound) {
		return fmt.Errorf("%w; nothing was done", told)
	}
	return told
}

// unknownIDs returns the ids that err is about, or those that were asked for when it does not say.
func unknownIDs(err error, asked []string) []string {
	if e, ok := errors.AsType[*control.Error](err); ok && len(e.IDs) > 0 {
		return e.IDs
	}
	if e, ok := errors.AsType[*queue.NotFoundError](err); ok && len(e.IDs) > 0 {
		return e.IDs
	}
	return asked
}

func (a *app) confirmDelete(cmd *cobra.Command, c *control.Client) error {
	st, err := c.Status(cmd.Context())
	if err != nil {
		return err
	}
	n := st.Queue.Active + st.Queue.Deferred + st.Queue.Held
	if n == 0 {
		return nil
	}
	question := fmt.Sprintf("Delete %s for good? Nobody gets them, and their senders are not told. [y/N] ", messages(n))
	if !a.agreed(cmd.Context(), question) {
		return errors.New("nothing was deleted")
	}
	return nil
}

// agreed asks, and reports whether the answer is yes. Ctrl-C is a no.
func (a *app) agreed(ctx context.Context, question string) bool {
	answer, err := a.ask(ctx, question)
	answer = strings.ToLower(answer)
	return err == nil && (answer == "y" || answer == "yes")
}
