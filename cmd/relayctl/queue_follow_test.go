package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"relayd/internal/control"
	"relayd/internal/envelope"
	"relayd/queue"
)

// slow is a transport whose attempts last until the test says what they come to: the code of the reply.
type slow struct {
	refusing
	begun chan struct{}
	code  chan int
}

func (s slow) Deliver(ctx context.Context, _ string, m envelope.Message) envelope.Attempt {
	s.begun <- struct{}{}
	code := 451
	select {
	case code = <-s.code:
	case <-ctx.Done():
	}
	a := envelope.Attempt{Host: "smtp.isp.example:587"}
	r := envelope.Result{Reply: envelope.Reply{Code: code, Text: "the host's words"}}
	if code >= 400 {
		r.Failure = &envelope.Failure{Scope: envelope.ScopeRecipient, Stage: "rcpt", Permanent: code >= 500, Reply: r.Reply}
	}
	a.Results = append(a.Results, r)
	return a
}

// inFlight serves a queue with one message that is being delivered, and returns its id.
func inFlight(t *testing.T, s slow) (*control.Client, string) {
	t.Helper()
	dir := t.TempDir()
	q, err := queue.Open(queue.Options{Dir: filepath.Join(dir, "data"), Hostname: "relay.example.lan", Transport: s,
		Log:    slog.New(slog.DiscardHandler),
		Policy: queue.Policy{RetryMin: time.Hour, RetryMax: time.Hour, MaxAge: 5 * 24 * time.Hour, History: 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	q.Start()
	server := control.NewServer(control.Options{Queue: q, Log: slog.New(slog.DiscardHandler)})
	socket := filepath.Join(dir, "s")
	if err := server.Start(socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close(context.Background())
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		if err := q.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	// The null reverse-path has no report that would be delivered as well.
	w, err := q.Begin(envelope.Envelope{Recipients: []envelope.Recipient{{Path: "b@example.net"}}}, envelope.Origin{Protocol: "ESMTP"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-s.begun
	c, err := control.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, w.ID()
}

// What is asked of a message that is being delivered is told as it comes out, and never as done before it is.
func TestFollow_TellsWhatBecameOfAMessageInFlight(t *testing.T) {
	for name, c := range map[string]struct {
		action queue.Action
		code   int
		says   string
		fails  bool
		gone   bool
	}{
		"delete, deferred":   {queue.ActionDelete, 451, "Deleted 1 message.\n", false, true},
		"delete, delivered":  {queue.ActionDelete, 250, "ID has left the queue before: it was delivered.\n", true, true},
		"delete, failed":     {queue.ActionDelete, 550, "ID has left the queue before: it has failed.\n", true, true},
		"hold, deferred":     {queue.ActionHold, 451, "Held 1 message.\n", false, false},
		"hold, delivered":    {queue.ActionHold, 250, "ID has left the queue before: it was delivered.\n", true, true},
		"release, deferred":  {queue.ActionRelease, 451, "Released 1 message.\n", false, false},
		"reroute, deferred":  {queue.ActionReroute, 451, "Decided anew which way they go: 1 message.\n", false, false},
		"reroute, delivered": {queue.ActionReroute, 250, "ID has left the queue before: it was delivered.\n", false, true},
	} {
		for _, all := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				s := slow{begun: make(chan struct{}), code: make(chan int)}
				client, id := inFlight(t, s)
				go func() {
					for { // the attempt goes on until the daemon has taken the operator's word
						if d, err := client.Show(context.Background(), id); err != nil || len(d.Asked) > 0 {
							break
						}
						time.Sleep(time.Millisecond)
					}
					s.code <- c.code
				}()
				said, err := act(t, client, c.action, id, all)
				if want := strings.ReplaceAll(c.says, "ID", id); said != want || (err != nil) != c.fails {
					t.Errorf("it said %q, want %q; %v", said, want, err)
				}
				d, err := client.Show(t.Context(), id)
				if err != nil || d.Gone != c.gone || len(d.Asked) > 0 {
					t.Errorf("afterwards: %+v, %v", d, err)
				}
				if c.action == queue.ActionHold && !c.gone && d.State != queue.StateHeld {
					t.Errorf("it is %s", d.State)
				}
			})
		}
	}
}

// act runs an action of relayctl and returns what it said.
func act(t *testing.T, client *control.Client, what queue.Action, id string, all bool) (string, error) {
	t.Helper()
	ids := []string{id}
	if all {
		ids = nil
	}
	var out bytes.Buffer
	a := &app{out: &out}
	cmd := &cobra.Command{}
	cmd.SetContext(t.Context())
	for _, known := range []action{holdAction(), releaseAction(), retryAction(), rerouteAction(), deleteAction()} {
		if known.Action == what {
			err := a.act(cmd, client, known, ids, all, false)
			return out.String(), err
		}
	}
	t.Fatalf("no action %s", what)
	return "", nil
}

// A delivery that goes on for longer than anybody waits is not called deleted, in words or in JSON.
func TestFollow_DoesNotWaitForEver(t *testing.T) {
	s := slow{begun: make(chan struct{}), code: make(chan int)}
	client, id := inFlight(t, s)
	res, err := client.Apply(t.Context(), queue.ActionDelete, []string{id})
	if err != nil {
		t.Fatal(err)
	}
	if res.Done != 0 || len(res.IDs) != 0 || len(res.Asked) != 1 || res.Asked[0] != id {
		t.Fatalf("%+v", res)
	}
	out := follow(t.Context(), client, res, 0)
	if words := out.words(); !strings.Contains(words, id+" is still being delivered. The delete is asked for") || out.failure() == nil {
		t.Errorf("%q, %v", words, out.failure())
	}
	text, err := json.Marshal(out)
	if err != nil || !strings.Contains(string(text), `"done":0`) || !strings.Contains(string(text), `"asked":["`+id+`"]`) {
		t.Errorf("%s, %v", text, err)
	}
	if d, err := client.Show(t.Context(), id); err != nil || len(d.Asked) != 1 || d.Asked[0] != queue.ActionDelete {
		t.Errorf("%+v, %v", d, err)
	}
	s.code <- 250
	out = follow(t.Context(), client, out.Result, time.Minute)
	text, err = json.Marshal(out)
	if err != nil || !strings.Contains(string(text), `"left":[{"id":"`+id+`","fate":"delivered"}]`) || len(out.Asked) != 0 {
		t.Errorf("%s, %v", text, err)
	}
}
