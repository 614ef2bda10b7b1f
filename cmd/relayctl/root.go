package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"relayd/internal/owner"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2

	defaultConfig = "/etc/relayd/relayd.toml"
)

// app is what the commands have in common: the streams and the global flags.
type app struct {
	in       io.Reader
	out, err io.Writer

	config      string
	configGiven bool // with --config, even if it is the default's name
	socket      string

	owner *owner.User // whom relayctl has become, when root runs it; see enter
}

// usageError is a command line that cannot be understood, or asks for things that exclude each other.
type usageError struct {
	err  error
	help string // the command whose help has the answer
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// errSaid is a failure that has been told already.
var errSaid = errors.New("failed")

// run is the whole program. It returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	a := &app{in: stdin, out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if usage, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(stderr, "relayctl: %s\n", strings.TrimRight(usage.Error(), "\n"))
		fmt.Fprintf(stderr, "See \"%s --help\".\n", usage.help)
		return exitUsage
	}
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errSaid):
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "relayctl: interrupted")
	default:
		fmt.Fprintf(stderr, "relayctl: %s\n", cleanText(err.Error()))
	}
	return exitFailed
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "relayctl",
		Short: "Look at and steer relayd, the local mail relay",
		Long: `Relayctl shows what relayd has in its queue and how its smarthosts are, and acts on
the queue. It talks to the daemon over its control socket, which only root and the
user that relayd runs as may use. The path of that socket (control_socket) is read
from the configuration; --socket names it directly, for who may use the socket but
may not read the configuration.

When relayd is not running, "queue list", "queue show" and "status" read its store
in data_dir instead, and say so on standard error. "queue export", "import", "compact"
and "recover" work on that store, and need relayd to be stopped.

When root runs it, relayctl works in data_dir as the user that the folder belongs to. It
reads the configuration as root, and the folders of "queue export" and "queue import".

Exit codes: 0 done, 1 failed, 2 the command line was not understood.`,
		Example: `  relayctl init                       write a first configuration
  relayctl status                     is everything well, and if not, why
  relayctl queue list                 what waits
  relayctl queue show 1M8063JNNNMR7   all that is known of one message
  relayctl queue retry --all          try everything again now
  relayctl check                      is the configuration right, and what does it mean`,
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			a.configGiven = cmd.Flags().Changed("config")
		},
	}
	root.PersistentFlags().StringVar(&a.config, "config", defaultConfig, "the configuration `file` of relayd")
	root.PersistentFlags().StringVar(&a.socket, "socket", "",
		"the control socket's `path`, in place of control_socket in the configuration")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{err: err, help: cmd.CommandPath()}
	})
	root.AddCommand(a.queueCommand(), a.statusCommand(), a.checkCommand(), a.initCommand(), a.providersCommand(), a.oauthCommand(),
		a.probeCommand(), a.routeCommand(), a.sandboxCommand(), a.versionCommand())
	group(root)
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpCommand(helpCommand(root))
	return root
}

// group makes cmd a command that only has commands below it: alone it shows its help, and a word that is none of them
// is an error that names the nearest ones.
func group(cmd *cobra.Command) {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return misuse(cmd, "say what to do: %s", strings.Join(names(cmd), ", "))
	}
}

func names(cmd *cobra.Command) []string {
	var list []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" {
			list = append(list, c.Name())
		}
	}
	return list
}

func unknownCommand(cmd *cobra.Command, word string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "unknown command %q for %q", word, cmd.CommandPath())
	if near := nearest(cmd, word); len(near) > 0 {
		b.WriteString("\n\nDid you mean this?\n\t" + strings.Join(near, "\n\t") + "\n")
	}
	return &usageError{err: errors.New(b.String()), help: cmd.CommandPath()}
}

// nearest returns the commands below cmd that word may have been meant for; when there is none right below it, those
// further down, since "relayctl list" is what one types before one knows that lists are of the queue.
func nearest(cmd *cobra.Command, word string) []string {
	var found []string
	for _, name := range cmd.SuggestionsFor(word) {
		found = append(found, cmd.CommandPath()+" "+name)
	}
	if found != nil {
		return found
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" {
			found = append(found, nearest(c, word)...)
		}
	}
	return found
}

// usageTemplate is what follows the words of a command's help. It differs from cobra's in that a command with commands
// below it is not shown as one that runs by itself.
const usageTemplate = `Usage:
  {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Global flags:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

"{{.CommandPath}} COMMAND --help" says more about a command.{{end}}
`

// helpCommand is cobra's, except that a topic that does not exist is an error.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return unknownCommand(cmd, rest[0])
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// noArgs refuses words after a command that takes none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return misuse(cmd, "%q takes no argument, but %q was given", cmd.CommandPath(), args[0])
	}
	return nil
}

// misuse is a usageError about cmd.
func misuse(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), help: cmd.CommandPath()}
}
