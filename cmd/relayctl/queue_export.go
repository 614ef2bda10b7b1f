package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"relayd/internal/control"
	"relayd/queue"
)

func (a *app) queueExportCommand() *cobra.Command {
	return &cobra.Command{
		Use:        "export DIR [ID...]",
		SuggestFor: []string{"backup", "dump", "save"},
		Short:      "Write messages to files, for a backup or a move",
		Long: `Writes each message of the queue, or those that are named, to two files in DIR: ID.eml
has its content, octet by octet, and ID.json what "queue import" needs to take it up
where it was: envelope, state of each recipient, attempts, hold, and what happened to it.
Files of the same names are replaced. The queue stays as it is. A quarantined message is
written when it is named, to ID.damaged.eml and ID.damaged, which no import takes.

relayd may be running, and goes on. Each message is then written as it is at its moment:
one that leaves the queue meanwhile is written or not, one that comes meanwhile likewise.
To move a queue stop relayd first: what it delivers after the export would be delivered
again by the relayd that imports it.

The files hold other people's mail; they are made readable by their owner alone.`,
		Example: `  relayctl queue export /var/backups/relayd
  relayctl queue export . 1M8063JNNNMR7`,
		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misuse(cmd, "name the folder to write to")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.open(cmd.Context(), true)
			if err != nil {
				return err
			}
			defer src.Close()
			to := &exportFolder{app: a, path: args[0]}
			n, err := src.Export(cmd.Context(), to, args[1:])
			if n > 0 || err == nil {
				err = errors.Join(err, to.finish())
			}
			if n > 0 || err == nil {
				fmt.Fprintf(a.out, "Wrote %s to %s.\n", messages(n), clean(args[0]))
			}
			if err != nil {
				err = whichID(err, args[1:])
			}
			return err
		},
	}
}

// exportOnline writes messages of a daemon that runs, those named or all of its queue, to files, and returns how many it
// wrote. Of all, one that leaves the queue meanwhile is left out; one that cannot be written stops no other.
func exportOnline(ctx context.Context, c *control.Client, to *exportFolder, ids []string) (n int, err error) {
	if err := inQueue(ctx, c, ids); err != nil {
		return 0, err
	}
	var failed []error
	export := func(id string) {
		err := exportOne(ctx, c, to, id)
		switch {
		case err == nil:
			n++
		case !errors.Is(err, queue.ErrNotFound) || len(ids) > 0:
			failed = append(failed, err)
		}
	}
	for _, id := range ids {
		export(id)
	}
	if len(ids) == 0 {
		for e, err := range c.All(ctx) {
			if err != nil {
				failed = append(failed, err)
				break
			}
			export(e.ID)
		}
	}
	return n, errors.Join(failed...)
}

func exportOne(ctx context.Context, c *control.Client, to *exportFolder, id string) error {
	from, err := c.Export(ctx, id)
	if err != nil {
		return err
	}
	defer from.Close()
	return to.save(from)
}

// exportFolder is where an export goes. It is made when there is something to write.
type exportFolder struct {
	app    *app
	path   string
	folder *folder
}

func (e *exportFolder) open() (err error) {
	if e.folder == nil {
		e.folder, err = e.app.folder(e.path, true)
	}
	return err
}

// save writes the files of one message.
func (e *exportFolder) save(from io.Reader) error {
	if err := e.open(); err != nil {
		return err
	}
	return e.folder.do(func(root *os.Root) error { return queue.SaveExported(root, from) })
}

// finish returns once everything is on disk.
func (e *exportFolder) finish() error {
	if err := e.open(); err != nil {
		return err
	}
	return errors.Join(e.folder.do(queue.FinishExport), e.folder.Close())
}

// inQueue returns an error that names those of ids that are not in the queue.
func inQueue(ctx context.Context, c *control.Client, ids []string) error {
	missing := &queue.NotFoundError{}
	for _, id := range ids {
		d, err := c.Show(ctx, id)
		switch {
		case errors.Is(err, queue.ErrNotFound) || err == nil && d.Gone:
			missing.IDs = append(missing.IDs, id)
		case err != nil:
			return err
		}
	}
	if len(missing.IDs) > 0 {
		return missing
	}
	return nil
}

func (a *app) queueImportCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:        "import DIR",
		SuggestFor: []string{"restore", "load"},
		Short:      "Take in messages that were exported; relayd must be stopped",
		Long: `Takes the messages that "queue export" wrote to DIR into the queue of this relayd, which
may be a new one. Each goes on where it was: recipients that were delivered to stay so,
attempts count, held messages stay held. An ID that another message has here is exchanged
for a new one.

A message that is in this queue, or has left it for as long as the history says so, is
left out: it would be delivered twice. --force takes it in all the same, under a new ID.
Nobody can know what another relayd does: import a message in one place only.`,
		Example: `  relayctl queue import /var/backups/relayd`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return misuse(cmd, "name the folder that \"relayctl queue export\" wrote to")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.offline(true)
			if err != nil {
				return err
			}
			from, err := a.folder(args[0], false)
			if err != nil {
				return fmt.Errorf("there is no exported message in %s: %w", args[0], err)
			}
			defer from.Close()
			done, err := queue.Import(dir, from, force)
			if err == nil || done.Messages+done.Known > 0 {
				fmt.Fprint(a.out, importedText(done))
			}
			if errors.Is(err, queue.ErrNoExport) {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return stopFirst(err)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "take in messages that are or were here, again")
	return cmd
}

func importedText(d queue.Imported) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Took in %s.\n", messages(d.Messages))
	if d.Known > 0 {
		fmt.Fprintf(&b, "Left out, since they are or were here: %d.\n", d.Known)
	}
	for _, old := range slices.Sorted(maps.Keys(d.Renamed)) {
		fmt.Fprintf(&b, "%s is %s here.\n", old, d.Renamed[old])
	}
	return b.String()
}
