package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"relayd/queue"
)

func (a *app) queueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:        "queue",
		Short:      "Look at and act on the messages that wait",
		SuggestFor: []string{"mailq", "postqueue", "messages"},
		Long: `The queue holds every message from the moment relayd has said 250 to it until it is
delivered, reported to its sender, or deleted here. A message is one of

  active    being delivered, or next in line
  deferred  waiting: for its next attempt after a refusal for now, or for its smarthost
            to be back
  paced     waiting for nothing but its turn: its account may send no more just now
  held      waiting for an operator (queue hold) until it is released (queue release)

A message that is damaged on the disk is quarantined. It is not delivered, and its sender
is told. "queue list --state quarantined" shows it.

A message is named by its ID, which "queue list" shows, which is in relayd's log lines,
and which the 250 gave to the client that handed it in. Small letters do as well.`,
		Example: `  relayctl queue list
  relayctl queue show 1M8063JNNNMR7
  relayctl queue delete 1M8063JNNNMR7 1M8063JQ2V0A3`,
	}
	cmd.AddCommand(a.queueListCommand(), a.queueShowCommand(),
		a.actionCommand(holdAction()), a.actionCommand(releaseAction()),
		a.actionCommand(retryAction()), a.actionCommand(rerouteAction()), a.actionCommand(deleteAction()),
		a.queueExportCommand(), a.queueImportCommand(), a.queueCompactCommand(), a.queueRecoverCommand())
	group(cmd)
	return cmd
}

// recipients names one recipient and how many more there are. It is one that still waits where there is any, since it
// is the one that the rest of the line is about.
func recipients(list []queue.EntryRecipient) string {
	if len(list) == 0 {
		return "-"
	}
	shown := list[0]
	for _, r := range list {
		if r.Status == queue.StatusWaiting {
			shown = r
			break
		}
	}
	if len(list) == 1 {
		return clean(shown.Address)
	}
	return clean(shown.Address) + " +" + strconv.Itoa(len(list)-1)
}
