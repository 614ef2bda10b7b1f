package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"relayd/queue"
)

func (a *app) queueCompactCommand() *cobra.Command {
	return &cobra.Command{
		Use:        "compact",
		SuggestFor: []string{"shrink", "vacuum", "defrag"},
		Short:      "Give back the disk space that the queue does not use; relayd must be stopped",
		Long: `Writes the queue's database anew without the room that it has free. It keeps the size
that it once needed, and uses that again by itself, so that this is only of use after a
backlog that is not expected again. The disk must have room for the new file beside the
old one; what relayd has reserved for itself counts. When it fails or is interrupted nothing is changed.

relayd must not be running.`,
		Example: `  systemctl stop relayd && relayctl queue compact; systemctl start relayd`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.offline(false)
			if err != nil {
				return err
			}
			before, after, err := queue.Compact(dir)
			if err != nil {
				return stopFirst(err)
			}
			_, err = fmt.Fprintf(a.out, "The database had %s and has %s.\n", size(before), size(after))
			return err
		},
	}
}
