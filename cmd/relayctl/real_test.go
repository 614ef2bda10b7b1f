package main

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"relayd/internal/control"
	"relayd/internal/envelope"
	"relayd/queue"
)

// refusing is a transport whose one host greylists everything.
type refusing struct{}

func (refusing) Legs(_ envelope.Origin, env envelope.Envelope) []envelope.Leg {
	leg := envelope.Leg{Route: "isp"}
	for i := range env.Recipients {
		leg.Recipients = append(leg.Recipients, i)
	}
	return []envelope.Leg{leg}
}

func (refusing) Admit(string) (time.Time, bool) { return time.Time{}, true }
func (refusing) Forgo(string)                   {}
func (refusing) Concurrency(string) int         { return 1 }

func (refusing) Deliver(_ context.Context, _ string, m envelope.Message) envelope.Attempt {
	a := envelope.Attempt{Host: "smtp.isp.example:587"}
	for range m.Envelope.Recipients {
		a.Results = append(a.Results, envelope.Result{Failure: &envelope.Failure{
			Scope: envelope.ScopeRecipient, Stage: "rcpt",
			Reply: envelope.Reply{Code: 450, Enhanced: envelope.EnhancedCode{4, 2, 0}, Text: "greylisted, come back later"},
		}})
	}
	return a
}

func openQueue(ts *testscript.TestScript, dir string) *queue.Queue {
	q, err := queue.Open(queue.Options{
		Dir: dir, Hostname: "relay.example.lan", Transport: refusing{}, Log: slog.New(slog.DiscardHandler),
		Policy: queue.Policy{RetryMin: time.Hour, RetryMax: time.Hour, MaxAge: 5 * 24 * time.Hour, History: 24 * time.Hour},
	})
	ts.Check(err)
	return q
}

func closeQueue(ts *testscript.TestScript, q *queue.Queue) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ts.Check(q.Close(ctx))
}

func put(ts *testscript.TestScript, q *queue.Queue) string {
	env := envelope.Envelope{ReversePath: "alice@example.com", Recipients: []envelope.Recipient{{Path: "bob@example.net"}}}
	w, err := q.Begin(env, envelope.Origin{Addr: netip.MustParseAddr("192.168.1.10"), Helo: "exchange", Protocol: "ESMTP"})
	ts.Check(err)
	_, err = io.WriteString(w, "Subject: invoice\r\n\r\nhello\r\n")
	ts.Check(err)
	ts.Check(w.Commit(context.Background()))
	return w.ID()
}

// cmdStore leaves a store behind as a daemon does that was stopped, with one message in it, $ID: "store DIR".
func cmdStore(ts *testscript.TestScript, _ bool, args []string) {
	q := openQueue(ts, ts.MkAbs(args[0]))
	ts.Setenv("ID", put(ts, q))
	closeQueue(ts, q)
}

// cmdRelay serves a real queue in DIR on $SOCKET, with one message in it, $ID, that has been refused once: "relay DIR".
func cmdRelay(ts *testscript.TestScript, _ bool, args []string) {
	q := openQueue(ts, ts.MkAbs(args[0]))
	ts.Defer(func() { closeQueue(ts, q) })
	q.Start()
	id := put(ts, q)
	ts.Setenv("ID", id)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		d, err := q.Show(id)
		ts.Check(err)
		if strings.Contains(d.LastError, "greylisted") && d.State == queue.StateDeferred {
			break
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the message is not deferred: %+v", d)
		}
	}
	s := control.NewServer(control.Options{Queue: q, Log: slog.New(slog.DiscardHandler), Version: "v1.2.3", Started: time.Now()})
	ts.Check(s.Start(ts.Getenv("SOCKET")))
	ts.Defer(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.Close(ctx)
	})
}

// cmdConfigure writes a configuration of a relay whose socket is $SOCKET: "configure FILE DATADIR".
func cmdConfigure(ts *testscript.TestScript, _ bool, args []string) {
	text := "data_dir = \"" + ts.MkAbs(args[1]) + "\"\ncontrol_socket = \"" + ts.Getenv("SOCKET") + "\"\n" +
		"trusted_networks = [\"192.168.1.0/24\"]\n\n[[smarthost]]\nhosts = [\"smtp.isp.example\"]\n" +
		"username = \"me@isp.example\"\npassword = 'a secret'\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}
