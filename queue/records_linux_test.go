package queue_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relayd/internal/control"
	"relayd/internal/envelope"
	"relayd/queue"
)

// talker is a host that defers every recipient, each with words of its own and at length, until so many messages were tried
// so many times, and is then away.
type talker struct {
	messages, attempts int
	around             func() // called with each attempt

	mu    sync.Mutex
	tried map[string]int
	done  int // messages that had all their attempts
}

func (*talker) Legs(_ envelope.Origin, env envelope.Envelope) []envelope.Leg {
	leg := envelope.Leg{Route: "main"}
	for i := range env.Recipients {
		leg.Recipients = append(leg.Recipients, i)
	}
	return []envelope.Leg{leg}
}

func (*talker) Admit(string) (time.Time, bool) { return time.Time{}, true }
func (*talker) Forgo(string)                   {}
func (*talker) Concurrency(string) int         { return 4 }

func (t *talker) Deliver(_ context.Context, _ string, m envelope.Message) envelope.Attempt {
	t.mu.Lock()
	t.tried[m.ID]++
	n := t.tried[m.ID]
	if n == t.attempts {
		t.done++
	}
	away := t.done >= t.messages
	t.mu.Unlock()
	if away {
		return envelope.Attempt{Host: "main:25", RetryAt: time.Now().Add(time.Hour),
			Site: &envelope.Failure{Scope: envelope.ScopeSite, Stage: "dial", Reason: "connection refused"}}
	}
	if t.around != nil {
		t.around()
	}
	a := envelope.Attempt{Host: "main:25"}
	at := strings.Repeat(" at length and in many words", 30)
	for i := range m.Envelope.Recipients {
		a.Results = append(a.Results, envelope.Result{Failure: &envelope.Failure{Scope: envelope.ScopeRecipient, Stage: "rcpt",
			Reply: envelope.Reply{Code: 451, Enhanced: envelope.EnhancedCode{4, 7, 1}, Text: fmt.Sprintf("recipient %d, attempt %d,%s", i, n, at)}}})
	}
	return a
}

// finished returns how many messages have had all their attempts.
func (t *talker) finished() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.done
}

func openTalker(t *testing.T, dir string, host *talker) *queue.Queue {
	t.Helper()
	host.tried = make(map[string]int)
	q, err := queue.Open(queue.Options{Dir: dir, Hostname: "relay.example", Transport: host, Log: slog.New(slog.DiscardHandler),
		Policy: queue.Policy{RetryMin: time.Millisecond, RetryMax: time.Millisecond, MaxAge: 5 * 24 * time.Hour, History: time.Hour,
			MinFree: 16 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	q.Start()
	return q
}

// deferMany leaves messages of 400 octets to 1,000 recipients each in dir, all of which were deferred so many times.
func deferMany(t *testing.T, dir string, host *talker) {
	t.Helper()
	q := openTalker(t, dir, host)
	env := envelope.Envelope{ReversePath: "sender@lan.example"}
	for i := range 1000 {
		env.Recipients = append(env.Recipients, envelope.Recipient{Path: envelope.Path(fmt.Sprintf("recipient%03d@department.example.com", i))})
	}
	for range host.messages {
		w, err := q.Begin(env, envelope.Origin{})
		if err == nil {
			_, err = w.Write([]byte(strings.Repeat("x", 398) + "\r\n"))
		}
		if err == nil {
			err = w.Commit(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(5 * time.Minute); host.finished() < host.messages; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d messages have had their attempts", host.finished(), host.messages)
		}
	}
	if err := q.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// onDisk returns how many octets the files below dir take.
func onDisk(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return n
}

const lookEnv = "RELAYD_TEST_LOOK"

// TestLook is not a test by itself: it starts the queue in a folder in a process of its own, has it listed through the
// control socket, and says how many messages it saw and how much memory that took at most.
func TestLook(t *testing.T) {
	dir := os.Getenv(lookEnv)
	if dir == "" {
		t.Skip("it is run by other tests")
	}
	q := openTalker(t, dir, &talker{})
	server := control.NewServer(control.Options{Queue: q, Log: slog.New(slog.DiscardHandler)})
	socket := filepath.Join(filepath.Dir(dir), "s")
	if err := server.Start(socket); err != nil {
		t.Fatal(err)
	}
	c, err := control.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	n, recipients := 0, 0
	for e, err := range c.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n, recipients = n+1, recipients+len(e.Recipients)
	}
	time.Sleep(2 * time.Second) // the audit looks at the same messages meanwhile
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	peak, _, _ = strings.Cut(peak, " kB")
	fmt.Printf("\nlook %d %d %s\n", n, recipients, strings.TrimSpace(peak))
	c.Close()
	if err := server.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if err := q.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// look runs TestLook and returns what it says, the memory in octets.
func look(t *testing.T, dir string) (messages, recipients int, peak int64) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLook$", "-test.v")
	cmd.Env = append(os.Environ(), lookEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, line, _ := strings.Cut(string(out), "\nlook ")
	if _, err := fmt.Sscan(line, &messages, &recipients, &peak); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return messages, recipients, peak << 10
}

// Messages to many recipients that a host defers with long words of its own for each take little room, however often
// they are tried, and neither a start nor a list takes much memory for them.
func TestQueue_WhatHostsSayTakesLittleRoom(t *testing.T) {
	queue.OnSmallDisk(t, 128<<20, func(t *testing.T, disk string) {
		// While records are rewritten, the journal and the room for outcomes come on top.
		const messages, most, mostAmid, mostMemory = 40, 40 << 20, 59 << 20, 100 << 20
		dir := filepath.Join(disk, "q")
		host := &talker{messages: messages, attempts: 40}
		var peak int64
		var mu sync.Mutex
		host.around = func() {
			mu.Lock()
			defer mu.Unlock()
			peak = max(peak, onDisk(t, dir))
		}
		deferMany(t, dir, host)
		after := onDisk(t, dir)
		n, recipients, memory := look(t, dir)
		t.Logf("%d MB on disk at most, %d MB at the end, %d MB of memory for a start and a list", peak>>20, after>>20, memory>>20)
		if n != messages || recipients != messages*1000 {
			t.Errorf("%d messages to %d recipients are listed", n, recipients)
		}
		if peak > mostAmid || after > most {
			t.Errorf("%d octets on disk, at most %d before", after, peak)
		}
		if memory > mostMemory {
			t.Errorf("a start and a list took %d octets of memory", memory)
		}
	})
}

// A start takes little memory however many recipients wait.
func TestQueue_StartTakesLittleMemoryForManyRecipients(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes 500 messages to 1,000 recipients each")
	}
	dir := filepath.Join(t.TempDir(), "q")
	deferMany(t, dir, &talker{messages: 500, attempts: 1})
	n, recipients, memory := look(t, dir)
	t.Logf("%d MB of memory for a start, a list and the audit", memory>>20)
	if n != 500 || recipients != 500_000 || memory > 150<<20 {
		t.Errorf("%d messages to %d recipients, %d octets of memory", n, recipients, memory)
	}
}

// The queue opens in 2 GB of address space, and says what it needs when there is less.
func TestQueue_OpensWithinLittleAddressSpace(t *testing.T) {
	if underRace {
		t.Skip("the race detector takes more address space than that for itself")
	}
	open := func(limit string) (string, error) {
		cmd := exec.Command("sh", "-c", "ulimit -v "+limit+`; exec "$0" -test.run='^TestLook$' -test.v`, os.Args[0])
		cmd.Env = append(os.Environ(), lookEnv+"="+filepath.Join(t.TempDir(), "q"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := open("2000000"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := open("1650000"); err != nil && strings.Contains(out, "cannot open") && !strings.Contains(out, "raise the limit") {
		t.Errorf("%v\n%s", err, out)
	}
}
