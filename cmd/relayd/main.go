// Relayd takes mail from a local network without a login, keeps it on disk, and hands it on to the provider's
// smarthost.
//
// It runs in the foreground until SIGTERM or SIGINT, logs to standard error, and reads its configuration again at
// SIGHUP. Its exit code is 0 when it was told to stop, 1 when it could not start or failed, and 2 when it was called
// wrongly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

const defaultConfig = "/etc/relayd/relayd.toml"

func main() {
	err := run(context.Background(), os.Args[1:], os.Stderr)
	var usage *usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.As(err, &usage):
		complain(err)
		os.Exit(2)
	default:
		complain(err)
		os.Exit(1)
	}
}

// complain tells why relayd ends, unless standard error is stuck.
func complain(err error) {
	out := newLines(os.Stderr)
	fmt.Fprintln(out, "relayd:", err)
	out.close()
}

type usageError struct{ error }

// run is the daemon from its arguments to its end.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("relayd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", defaultConfig, "the configuration `file`")
	version := flags.Bool("version", false, "print the version and exit")
	usage := func() {
		flags.SetOutput(stderr)
		fmt.Fprintln(stderr, "Usage: relayd [--config FILE]\n\nTakes mail from the local network and hands it on to a smarthost.\n"+
			"\"relayctl check\" tells what a configuration amounts to.")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		usage()
		return err
	} else if err != nil {
		return &usageError{fmt.Errorf("%w; see relayd --help", err)}
	}
	if flags.NArg() > 0 {
		return &usageError{fmt.Errorf("unexpected argument %q; see relayd --help", flags.Arg(0))}
	}
	if *version {
		fmt.Fprintf(stderr, "relayd %s (%s %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}

	// The signals are caught before anything is opened, so that none ends a start halfway.
	stop, release := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer release()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	// A log that nobody reads any more is no reason to end.
	signal.Ignore(syscall.SIGPIPE)
	out := newLines(stderr)
	defer out.close()
	d, err := start(*path, out)
	if err != nil {
		return err
	}
	for {
		select {
		case <-hangup:
			d.reload()
		case <-stop.Done():
			release() // a second signal ends the process at once
			return d.stop()
		}
	}
}

// buildVersion is what the go command noted in the binary: the tag or commit that it was built from.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}
