package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"relayd/queue"
)

func (a *app) queueRecoverCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "recover",
		SuggestFor: []string{"repair", "fsck", "rescue", "salvage"},
		Short:      "Save what can be read of a damaged queue; relayd must be stopped",
		Long: `Makes a new queue of what can be read of one that relayd refuses as damaged: messages,
their content, history and quarantine, from the database, the journal and the spool. The
old files are kept in a folder of their own in data_dir; remove it once all is well.

Messages that are found in parts of the database that nothing leads to any more may have
been delivered before. They are held: look at them, and release or delete them. Those
whose record or content is damaged go to quarantine.

relayd must not be running. Copy data_dir elsewhere before, if there is room: a disk that
damages files may not be done.`,
		Example: `  systemctl stop relayd
  relayctl queue recover
  systemctl start relayd
  relayctl queue list`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.offline(false)
			if err != nil {
				return err
			}
			got, err := queue.Recover(dir)
			switch {
			case err != nil:
				return stopFirst(err)
			case asJSON:
				return writeJSON(a.out, got)
			}
			_, err = fmt.Fprint(a.out, cleanText(recoveredText(got)))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object, for programs")
	return cmd
}

func recoveredText(r queue.Recovered) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Saved: %s, %s of history.\n", messages(r.Messages), count(r.History, "line", "lines"))
	if r.Held > 0 {
		fmt.Fprintf(&b, "Held, since they may have been delivered before: %d. See \"relayctl queue list\"; release or delete them.\n", r.Held)
	}
	if r.Quarantined > 0 {
		fmt.Fprintf(&b, "In quarantine, since they are damaged or incomplete: %d. See \"relayctl queue list --state quarantined\".\n", r.Quarantined)
	}
	if r.Commits > 0 {
		fmt.Fprintf(&b, "Not saved: %s of the journal.\n", count(r.Commits, "commit", "commits"))
	}
	if r.FaultCount > 0 {
		fmt.Fprintf(&b, "Faults: %d. What could not be read may have held more messages.\n", r.FaultCount)
		for _, f := range r.Faults {
			fmt.Fprintf(&b, "  %s\n", f)
		}
	} else {
		b.WriteString("No fault was found in the database or the journal.\n")
	}
	if r.Orphans > 0 {
		fmt.Fprintf(&b, "Files of the spool that belong to no message: %d, in the folder \"spool\" of the old files.\n", r.Orphans)
	}
	fmt.Fprintf(&b, "The old files are in %s.\n", r.Old)
	return b.String()
}
