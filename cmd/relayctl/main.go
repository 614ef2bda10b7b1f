// Relayctl is the operator's tool for relayd: it shows and works on the queue, tells how the smarthosts are, checks a
// configuration, and runs a smarthost of its own to try things out with.
//
// It asks the daemon over its control socket (package control). When the daemon is down, the commands that only read
// open its store instead, and say so on standard error. Every error is one message on standard error; the exit code is
// 0 when what was asked for was done, 1 when it was not, and 2 when it was not understood. Text that came from the
// network is shown with control characters made visible.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
