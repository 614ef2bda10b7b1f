package sandbox_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"relayd/internal/sandbox"
)

func TestServer_TakesMailFromAnOrdinaryClient(t *testing.T) {
	s := start(t, sandbox.Options{Username: "me", Password: "pw"})
	c, err := login(t, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Enough for many reads, with a line at the longest that is allowed.
	body := "Subject: large\r\n\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n.\r\n", 5000)
	if err := submit(c, text(body)); err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(); err != nil {
		t.Fatal(err)
	}
	all, err := s.Wait(patient(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	m := all[0]
	if string(m.Data) != body || m.Size != int64(len(body)) {
		t.Errorf("%d octets arrived of %d", len(m.Data), len(body))
	}
	if !m.TLS || m.TLSVersion != "TLS 1.3" || m.User != "me" || m.Hello != "localhost" || len(m.Recipients) != 2 {
		t.Errorf("TLS %v %q, user %q, hello %q, recipients %q", m.TLS, m.TLSVersion, m.User, m.Hello, m.Recipients)
	}
	if v, ok := m.MailParam("body"); v != "8BITMIME" || !ok {
		t.Errorf("BODY is %q, %v", v, ok)
	}
	if v := s.Violations(); len(v) != 0 {
		t.Errorf("violations: %q", v)
	}
	st := s.Stats()
	want := sandbox.Stats{Connections: 1, MaxOpen: 1, Handshakes: 1, AuthOK: 1, Transactions: 1, Recipients: 2, Messages: 1,
		Bytes: int64(len(body)), Quits: 1, Commands: 9}
	st.Open, st.Turns = 0, 0 // the server may not have come to that yet
	if !reflect.DeepEqual(st, want) {
		t.Errorf("statistics are\n%+v, not\n%+v", st, want)
	}
}

func TestServer_StopRefusesConnectionsAndResumeTakesThemOnTheSamePort(t *testing.T) {
	s := start(t, sandbox.Options{ImplicitAddress: "127.0.0.1:0"})
	addresses := []string{s.Addr(), s.ImplicitAddr()}
	for range 3 {
		open, err := net.Dial("tcp", addresses[0])
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		if err := s.WaitFor(patient(t), func(st sandbox.Stats) bool { return st.Open == 1 }); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		open.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadAll(open); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection outlived Stop")
		}
		for _, a := range addresses {
			if _, err := net.Dial("tcp", a); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dialling a stopped server gives %v", err)
			}
		}
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			conn, err := net.Dial("tcp", a)
			if err != nil {
				t.Fatalf("dialling a resumed server: %v", err)
			}
			conn.Close()
		}
		if s.Addr() != addresses[0] || s.ImplicitAddr() != addresses[1] {
			t.Error("the addresses changed")
		}
		if err := s.WaitFor(patient(t), func(st sandbox.Stats) bool { return st.Open == 0 }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServer_StopAndResumeAndCloseMayComeTwice(t *testing.T) {
	s := start(t, sandbox.Options{})
	err := errors.Join(s.Resume(), s.Stop(), s.Stop(), s.Resume(), s.Resume(), s.Close(), s.Close(), s.Stop())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(); err == nil || !strings.Contains(err.Error(), "closed for good") {
		t.Errorf("Resume after Close gives %v", err)
	}
}

func TestServer_CloseLeavesNoGoroutineAndNoFolder(t *testing.T) {
	s := start(t, sandbox.Options{ImplicitAddress: "127.0.0.1:0", OptionalTLS: true, OptionalAuth: true,
		Latency: time.Millisecond})
	inject(t, s, sandbox.Fault{Stage: sandbox.StageMail, Hang: true},
		sandbox.Fault{Stage: sandbox.StageNoop, Delay: time.Hour})
	if _, err := login(t, s, nil); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"", "MAIL FROM:<a@example.com>\r\n", "NOOP\r\n"} {
		p := greet(t, s)
		p.send(command)
	}
	struck := func(st sandbox.Stats) bool {
		return st.Faults[sandbox.StageMail] == 1 && st.Faults[sandbox.StageNoop] == 1
	}
	if err := s.WaitFor(patient(t), struck); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(s.CAFile())
	if _, err := os.Stat(folder); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the CA is still there: %v", err)
	}
	if st := s.Stats(); st.Open != 0 || st.MaxOpen != 4 {
		t.Errorf("%d connections are open, %d were", st.Open, st.MaxOpen)
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(stack, "sandbox.(*") && !strings.Contains(stack, "testing.") {
			t.Errorf("a goroutine is left:\n%s", stack)
		}
	}
}

func TestStart_SaysWhatIsWrong(t *testing.T) {
	taken := start(t, sandbox.Options{})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		opts sandbox.Options
		want string
	}{
		{"address in use", sandbox.Options{Address: taken.Addr()}, "cannot listen on " + taken.Addr()},
		{"implicit address in use", sandbox.Options{ImplicitAddress: taken.Addr()}, "cannot listen on " + taken.Addr()},
		{"no such personality", sandbox.Options{Personality: "aol"}, `no personality is called "aol"; there are att, cox-west`},
		{"no such certificate", sandbox.Options{Certificate: "fine"}, `no kind of certificate is called "fine"`},
		{"half an extension list", sandbox.Options{Extensions: []string{"-DSN", "SIZE"}}, "mix lines with and without"},
		{"one prompt", sandbox.Options{LoginPrompts: []string{"x"}}, "LoginPrompts has 1 entries"},
		{"no folder for messages", sandbox.Options{Dir: filepath.Join(file, "x")}, "no folder for messages"},
		{"no folder for the CA", sandbox.Options{CADir: filepath.Join(file, "x")}, filepath.Join(file, "x")},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := sandbox.Start(c.opts)
			if err == nil {
				s.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %q", err)
			}
		})
	}
}

func TestServer_MaxConnectionsRefusesTheNextWith421(t *testing.T) {
	s, first := open(t, sandbox.Options{MaxConnections: 1})
	second := &player{t: t, file: t.Name(), server: s}
	second.connect(false)
	second.expect("421 4.7.0 localhost too many connections")
	second.expectEnd(false)
	second.conn.Close()
	first.send("QUIT\r\n")
	first.expect("221*")
	first.expectEnd(false)
	first.conn.Close()
	if err := s.WaitFor(patient(t), func(st sandbox.Stats) bool { return st.Open == 0 }); err != nil {
		t.Fatal(err)
	}
	greet(t, s)
}

func TestServer_IdleClientsGet421(t *testing.T) {
	t.Parallel()
	// Long enough that none of the commands before it comes late, on a loaded machine either.
	s, p := open(t, sandbox.Options{IdleTimeout: 3 * time.Second})
	p.expect("421 4.4.2 *")
	p.expectEnd(false)
	p.conn.Close()
	c, err := secure(s, tlsFor(s))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ended := func(st sandbox.Stats) bool { return st.Connections == 2 && st.Open == 0 }
	if err := s.WaitFor(patient(t), ended); err != nil {
		t.Fatal(err)
	}
	if err := c.Noop(); err == nil || !strings.Contains(err.Error(), "waited too long") {
		t.Errorf("an idle session within TLS ends with %v", err)
	}
}

func TestServer_LatencyDelaysEachTurn(t *testing.T) {
	const latency = 50 * time.Millisecond
	begin := time.Now()
	s, p := open(t, sandbox.Options{Latency: latency}) // connection and greeting, EHLO: 3 round trips
	p.transact("x\r\n.\r\n")                           // 2
	if got := p.readReply(); got != "250" {
		t.Fatalf("the body is answered %s", got)
	}
	if took := time.Since(begin); took < 5*latency {
		t.Errorf("five round trips took %s", took)
	}
	if st := s.Stats(); st.Turns != 4 {
		t.Errorf("the server counted %d turns", st.Turns)
	}
	p.send("QUIT\r\n")
	p.expect("221*")
	p.expectEnd(false)
}

func TestServer_CountsPipelinedGroupsAsOneTurn(t *testing.T) {
	s, p := open(t, sandbox.Options{})
	for range 10 {
		p.transact("x\r\n.\r\n")
		p.readReply()
	}
	// Greeting and EHLO, then two for each message; the last reply counts when the server waits again.
	want := func(st sandbox.Stats) bool { return st.Turns == 22 }
	if err := s.WaitFor(patient(t), want); err != nil {
		t.Fatal(err)
	}
}

func TestServer_WaitEndsWithItsContextAndSaysHowManyCame(t *testing.T) {
	s, p := open(t, sandbox.Options{})
	p.transact("x\r\n.\r\n")
	if _, err := s.Wait(patient(t), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got, err := s.Wait(ctx, 2)
	if len(got) != 1 || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 of 2 messages came") {
		t.Errorf("Wait returns %d messages and %v", len(got), err)
	}
}

func TestServer_WaitWakesWhenTheMessageComes(t *testing.T) {
	s, p := open(t, sandbox.Options{})
	done := make(chan error, 1)
	go func() {
		_, err := s.Wait(patient(t), 2)
		done <- err
	}()
	p.transact("x\r\n.\r\n")
	p.readReply()
	select {
	case err := <-done:
		t.Fatalf("Wait returned after one message of two: %v", err)
	default:
	}
	p.transact("y\r\n.\r\n")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// gate is a transcript that holds up the session that writes the given text.
type gate struct {
	text          string
	reached, open chan struct{}
}

func (g gate) Write(p []byte) (int, error) {
	if strings.Contains(string(p), g.text) {
		close(g.reached)
		<-g.open
	}
	return len(p), nil
}

func TestServer_StopReturnsWhenNoSessionRuns(t *testing.T) {
	g := gate{"the sandbox went away", make(chan struct{}), make(chan struct{})}
	s, _ := open(t, sandbox.Options{Transcript: g})
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop() }()
	<-g.reached
	select {
	case err := <-stopped:
		t.Errorf("Stop returned while a session ran: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(g.open)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
}
