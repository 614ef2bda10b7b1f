package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"relayd/internal/envelope"
)

// fakeTransport hands messages to a function and keeps what was delivered.
type fakeTransport struct {
	mu          sync.Mutex
	deliver     func(ctx context.Context, route string, m envelope.Message) envelope.Attempt
	legs        func(envelope.Envelope) []envelope.Leg
	concurrency int
	admit       func(route string) (time.Time, bool)
	forgo       func(route string)
	delivered   map[string][]string // recipient -> ids
	bodies      map[string][]byte   // id -> content
	calls       int
	running     int
	maxRunning  int
}

func newFakeTransport() *fakeTransport {
	return &fakeTransport{concurrency: 4, delivered: map[string][]string{}, bodies: map[string][]byte{}}
}

func (f *fakeTransport) Legs(_ envelope.Origin, env envelope.Envelope) []envelope.Leg {
	if f.legs != nil {
		return f.legs(env)
	}
	leg := envelope.Leg{Route: "main"}
	for i := range env.Recipients {
		leg.Recipients = append(leg.Recipients, i)
	}
	return []envelope.Leg{leg}
}

func (f *fakeTransport) Admit(route string) (time.Time, bool) {
	if f.admit != nil {
		return f.admit(route)
	}
	return time.Time{}, true
}

func (f *fakeTransport) Forgo(route string) {
	if f.forgo != nil {
		f.forgo(route)
	}
}

func (f *fakeTransport) Concurrency(string) int { return f.concurrency }

func (f *fakeTransport) Deliver(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
	f.mu.Lock()
	f.calls++
	f.running++
	f.maxRunning = max(f.maxRunning, f.running)
	deliver := f.deliver
	f.mu.Unlock()
	if deliver == nil {
		deliver = f.accept
	}
	a := deliver(ctx, route, m)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	for i, r := range a.Results {
		if r.Failure == nil {
			to := string(m.Envelope.Recipients[i].Path)
			f.delivered[to] = append(f.delivered[to], m.ID)
		}
	}
	return a
}

// accept reads the content and takes the message for all recipients.
func (f *fakeTransport) accept(_ context.Context, route string, m envelope.Message) envelope.Attempt {
	r, err := m.Open()
	if err != nil {
		return refused(route, m, 451, false)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		return refused(route, m, 451, false)
	}
	f.mu.Lock()
	f.bodies[m.ID] = body
	f.mu.Unlock()
	a := envelope.Attempt{Host: route + ":25"}
	for range m.Envelope.Recipients {
		a.Results = append(a.Results, envelope.Result{Reply: envelope.Reply{Code: 250, Text: "taken"}})
	}
	return a
}

func (f *fakeTransport) set(deliver func(context.Context, string, envelope.Message) envelope.Attempt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deliver = deliver
}

func (f *fakeTransport) callCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *fakeTransport) deliveredTo(addr string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.delivered[addr])
}

// refused answers every recipient with code.
func refused(route string, m envelope.Message, code int, permanent bool) envelope.Attempt {
	a := envelope.Attempt{Host: route + ":25"}
	for range m.Envelope.Recipients {
		a.Results = append(a.Results, envelope.Result{Failure: failure(code, permanent)})
	}
	return a
}

func failure(code int, permanent bool) *envelope.Failure {
	return &envelope.Failure{Scope: envelope.ScopeRecipient, Permanent: permanent, Stage: "rcpt",
		Reply: envelope.Reply{Code: code, Enhanced: envelope.EnhancedCode{code / 100, 1, 1}, Text: "the peer's words"}}
}

func siteDown(until time.Duration) envelope.Attempt {
	return envelope.Attempt{Host: "main:25", RetryAt: time.Now().Add(until),
		Site: &envelope.Failure{Scope: envelope.ScopeSite, Stage: "dial", Reason: "connection refused"}}
}

var testPolicy = Policy{RetryMin: time.Minute, RetryMax: time.Hour, MaxAge: 5 * 24 * time.Hour, History: 30 * 24 * time.Hour}

// rig is a queue under test with its transport and its log.
type rig struct {
	*Queue
	t         *testing.T
	dir       string
	transport *fakeTransport
	log       *syncBuffer
}

func openRig(t *testing.T, dir string, tr *fakeTransport, p Policy) *rig {
	t.Helper()
	log := &syncBuffer{}
	q, err := Open(Options{hasty: true, Dir: dir, Hostname: "relay.example", Transport: tr, Policy: p,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{Queue: q, t: t, dir: dir, transport: tr, log: log}
}

// startRig opens and starts a queue that the test's end closes.
func startRig(t *testing.T, tr *fakeTransport, p Policy) *rig {
	t.Helper()
	r := openRig(t, t.TempDir(), tr, p)
	r.Start()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) stop() {
	r.t.Helper()
	if r.closing.Load() {
		return
	}
	if err := r.Close(context.Background()); err != nil {
		r.t.Errorf("Close: %v", err)
	}
}

func testEnvelope(to ...string) envelope.Envelope {
	env := envelope.Envelope{ReversePath: "sender@lan.example"}
	for _, a := range to {
		env.Recipients = append(env.Recipients, envelope.Recipient{Path: envelope.Path(a)})
	}
	return env
}

func (r *rig) submit(body []byte, env envelope.Envelope) string {
	r.t.Helper()
	w, err := r.Begin(env, envelope.Origin{Helo: "lan.example", Protocol: "ESMTP"})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		r.t.Fatal(err)
	}
	if err := w.Commit(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	return w.ID()
}

func (r *rig) send(to ...string) string {
	r.t.Helper()
	return r.submit([]byte("Subject: test\r\n\r\nbody\r\n"), testEnvelope(to...))
}

// until polls cond, for tests that use the real clock.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// hostAway is a transport whose host is away.
func hostAway(context.Context, string, envelope.Message) envelope.Attempt { return siteDown(time.Hour) }

// settle has the database written, which must end as wanted.
func (r *rig) settle(want error) {
	r.t.Helper()
	if err := r.committer.read(settled); !errors.Is(err, want) {
		r.t.Errorf("writing the database: %v, want %v", err, want)
	}
}

// try hands in a message and returns its id, or the reply that it got in place of a 250.
func (r *rig) try(to string, size int) (id string, reply envelope.Reply) {
	r.t.Helper()
	return r.tryFor(testEnvelope(to), size)
}

// tryFor is try with an envelope.
func (r *rig) tryFor(env envelope.Envelope, size int) (id string, reply envelope.Reply) {
	r.t.Helper()
	w, err := r.Begin(env, envelope.Origin{})
	if err == nil {
		id = w.ID()
		body := io.LimitReader(&lines{}, int64(size))
		if _, err = io.Copy(w, body); err == nil {
			err = w.Commit(context.Background())
		} else {
			_ = w.Abort()
		}
	}
	if err == nil {
		return id, envelope.Reply{}
	}
	if !errors.As(err, &reply) {
		r.t.Fatalf("an error without a reply: %v", err)
	}
	return "", reply
}

// lines is endless text.
type lines struct{}

func (lines) Read(p []byte) (int, error) {
	return copy(p, bytes.Repeat([]byte("a line of text\r\n"), len(p)/16+1)), nil
}

const fullDisk = "452 4.3.1"

func replyCode(r envelope.Reply) string {
	return fmt.Sprintf("%d %d.%d.%d", r.Code, r.Enhanced[0], r.Enhanced[1], r.Enhanced[2])
}
