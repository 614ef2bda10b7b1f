package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"relayd/internal/config"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:        "check",
		SuggestFor: []string{"validate", "verify", "test", "lint", "config"},
		Short:      "Check a configuration and say what it amounts to",
		Long: `Reads the configuration as relayd would at its start, with the files that it names, and
says in words what it amounts to: where mail is taken and from whom, where it goes and
by which login, and when it is tried again. It connects to nothing and changes nothing.

Everything that is wrong is told in one go on standard error, a line each with file,
line, key and what to write instead; the exit code is then 1. What is allowed but risky
is a warning and leaves the exit code alone.

Run it as the user that relayd runs as, or as root, since who may not read the password
file cannot check it. After a change, "systemctl reload relayd" takes the new
configuration over; a faulty one changes nothing.`,
		Example: `  relayctl check
  relayctl check --config ./relayd.toml`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.check() },
	}
}

func (a *app) check() error {
	cfg, warnings, err := config.Load(a.config)
	for _, w := range warnings {
		fmt.Fprintf(a.err, "warning: %s\n", clean(w.String()))
	}
	faults, ok := errors.AsType[config.Faults](err)
	if !ok && err != nil {
		return err
	}
	for _, f := range faults {
		fmt.Fprintln(a.err, clean(f.String()))
	}
	if len(faults) > 0 {
		return errSaid
	}
	_, err = io.WriteString(a.out, cleanText(cfg.Describe()))
	return err
}
