package main

import (
	"crypto/tls"

	"github.com/rogpeppe/go-internal/testscript"

	"relayd/internal/sandbox"
)

// cmdSmarthost starts a smarthost at $SMARTHOST, with $CAFILE as the authority of its certificate, that takes USERNAME
// with PASSWORD and nothing else: "smarthost USERNAME PASSWORD". A second one is away from the start, at $AWAY.
func cmdSmarthost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: smarthost USERNAME PASSWORD")
	}
	start := func() *sandbox.Server {
		s, err := sandbox.Start(sandbox.Options{Username: args[0], Password: args[1], CADir: ts.Getenv("WORK"), MinTLS: tls.VersionTLS13})
		ts.Check(err)
		ts.Defer(func() { s.Close() })
		return s
	}
	s, away := start(), start()
	ts.Check(away.Stop())
	ts.Setenv("SMARTHOST", s.Addr())
	ts.Setenv("AWAY", away.Addr())
	ts.Setenv("CAFILE", s.CAFile())
}
