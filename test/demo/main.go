// Demo shows the relay at work on loopback, with nothing but what it builds: a sandbox smarthost that demands
// STARTTLS and a login, relayd before it with a folder of its own, and a mail server of the LAN that hands over two
// messages, the second one while the smarthost is away.
//
// It runs the programs in bin, and ends with exit code 0 when both messages arrived unchanged.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"relayd/internal/sandbox"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

const (
	username = "me@isp.example"
	password = "only-for-the-demo"
	patience = time.Minute
)

// stage is what the demo plays on.
type stage struct {
	dir       string
	bin       string
	port      string // of relayd
	smarthost *sandbox.Server
	dialogue  *transcript
	arrived   int
}

func run() (err error) {
	dir, err := os.MkdirTemp("", "relayd-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	s := &stage{dir: dir, bin: bin, dialogue: &transcript{}}
	s.smarthost, err = sandbox.Start(sandbox.Options{Hostname: "smtp.isp.example", Username: username, Password: password, CADir: dir,
		Dir: filepath.Join(dir, "arrived"), Transcript: s.dialogue})
	if err != nil {
		return err
	}
	defer s.smarthost.Close()
	if err := s.configure(); err != nil {
		return err
	}
	stop, err := s.startRelay()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := s.firstAct(); err != nil {
		return err
	}
	if err := s.secondAct(); err != nil {
		return err
	}
	fmt.Print(`
That was the whole path: taken without a login, kept on disk, handed on with TLS and a login, and nothing lost
while the smarthost was away. What to do next:

  1. Write /etc/relayd/relayd.toml: four lines, see "The configuration" in README.md.
  2. Let it be checked:                     bin/relayctl --config /etc/relayd/relayd.toml check
  3. Install it as a service:               see "Install as a service" in README.md.
  4. Point Exchange, Postfix or a printer at it: README.md has the steps for each.
`)
	return nil
}

func (s *stage) configure() error {
	act("A smarthost that demands STARTTLS and a login, and relayd before it")
	l, err := net.Listen("tcp", "127.0.0.1:0") // a free port
	if err != nil {
		return err
	}
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		return err
	}
	config := fmt.Sprintf(`trusted_networks = ["192.168.1.0/24"]
hostname = "relay.lan.example"
data_dir = "queue"

[[listener]]
address = "127.0.0.1:%s"

[queue]
retry_min = "1s"

[[smarthost]]
hosts         = [%q]
username      = %q
password_file = "isp.password"
ca_file       = "ca.pem"
`, s.port, s.smarthost.Addr(), username)
	fmt.Print(indent(config))
	return errors.Join(
		os.WriteFile(filepath.Join(s.dir, "isp.password"), []byte(password+"\n"), 0o600),
		os.WriteFile(s.path(), []byte(config), 0o600))
}

func (s *stage) path() string { return filepath.Join(s.dir, "relayd.toml") }

// startRelay runs relayd and returns what ends it.
func (s *stage) startRelay() (stop func() error, err error) {
	log, err := os.Create(filepath.Join(s.dir, "relayd.log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(s.bin, "relayd"), "--config", s.path())
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w; run \"make build\" first", err)
	}
	stop = func() error {
		defer log.Close()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		return cmd.Wait()
	}
	deadline := time.Now().Add(patience)
	for {
		c, err := net.Dial("tcp", "127.0.0.1:"+s.port)
		if err == nil {
			return stop, c.Close()
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			return nil, errors.Join(fmt.Errorf("relayd does not listen: %w\n%s", err, text), stop())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// firstAct sends a message through.
func (s *stage) firstAct() error {
	if err := s.relayctl("The queue before", "queue", "list"); err != nil {
		return err
	}
	message := text("Quarterly figures", "Dear Bob,", "", "the figures are attached in spirit.", ".", "Alice")
	if err := s.submit(message); err != nil {
		return err
	}
	if err := s.show(message); err != nil {
		return err
	}
	return s.relayctl("The queue after", "queue", "list")
}

// secondAct sends a message while the smarthost is away.
func (s *stage) secondAct() error {
	act("The smarthost goes away; the relay takes mail all the same")
	if err := s.smarthost.Stop(); err != nil {
		return err
	}
	message := text("Are you there?", "Bob, nobody answers at your provider.")
	if err := s.submit(message); err != nil {
		return err
	}
	if err := s.until("the outage to be noticed", func() bool {
		out, err := s.ctl("status", "--check")
		return err != nil && len(out) > 0
	}); err != nil {
		return err
	}
	if err := s.relayctl("The message waits", "queue", "list"); err != nil {
		return err
	}
	if err := s.relayctl("What the relay says of it", "status"); err != nil {
		return err
	}
	act("The smarthost is back")
	if err := s.smarthost.Resume(); err != nil {
		return err
	}
	if err := s.show(message); err != nil {
		return err
	}
	return s.relayctl("The queue in the end", "queue", "list")
}

// show waits for the next message and prints how it came and what it is.
func (s *stage) show(message string) error {
	s.arrived++
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := s.smarthost.Wait(ctx, s.arrived)
	if err != nil {
		return fmt.Errorf("the message did not arrive: %w", err)
	}
	m := got[s.arrived-1]
	act("The relay speaks to the smarthost")
	fmt.Print(indent(s.dialogue.take()))
	act("The message that arrived")
	fmt.Print(indent(strings.ReplaceAll(string(m.Data), "\r\n", "\n")))
	if !strings.HasSuffix(string(m.Data), "\r\n"+message) || !m.TLS || m.User != username {
		return errors.New("the message that arrived is not the one that was sent, or it came without TLS or login")
	}
	fmt.Printf("\n  (byte for byte what was sent, behind the relay's trace header; over %s, logged in as %s)\n", m.TLSVersion, m.User)
	return s.until("the queue to be empty", func() bool {
		out, err := s.ctl("queue", "list", "--json")
		return err == nil && strings.TrimSpace(string(out)) == "[]"
	})
}

// submit hands a message to the relay as a mail server would, and prints the dialogue.
func (s *stage) submit(message string) error {
	act("A mail server on the LAN hands a message to the relay, without a login")
	c, err := textproto.Dial("tcp", "127.0.0.1:"+s.port)
	if err != nil {
		return err
	}
	defer c.Close()
	expect := func(code int) error {
		_, text, err := c.ReadResponse(code)
		lines := strings.Split(text, "\n")
		for _, line := range lines[:len(lines)-1] {
			fmt.Printf("  S: %d-%s\n", code, line)
		}
		fmt.Printf("  S: %d %s\n", code, lines[len(lines)-1])
		return err
	}
	if err := expect(220); err != nil {
		return err
	}
	for _, step := range []struct {
		line string
		code int
	}{
		{"EHLO exchange.lan.example", 250}, {"MAIL FROM:<alice@lan.example>", 250}, {"RCPT TO:<bob@example.com>", 250}, {"DATA", 354},
	} {
		fmt.Printf("  C: %s\n", step.line)
		if err := c.PrintfLine("%s", step.line); err != nil {
			return err
		}
		if err := expect(step.code); err != nil {
			return err
		}
	}
	fmt.Print(indent(strings.ReplaceAll(message, "\r\n", "\n")))
	w := c.DotWriter()
	if _, err := w.Write([]byte(message)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	fmt.Println("  C: .")
	if err := expect(250); err != nil {
		return err
	}
	fmt.Println("  C: QUIT")
	if err := c.PrintfLine("QUIT"); err != nil {
		return err
	}
	return expect(221)
}

func (s *stage) ctl(args ...string) ([]byte, error) {
	return exec.Command(filepath.Join(s.bin, "relayctl"), append([]string{"--config", s.path()}, args...)...).Output()
}

// relayctl prints what the operator's tool shows.
func (s *stage) relayctl(title string, args ...string) error {
	act(title + ":  relayctl " + strings.Join(args, " "))
	out, err := s.ctl(args...)
	fmt.Print(indent(string(out)))
	return err
}

func (s *stage) until(what string, cond func() bool) error {
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s", patience, what)
		}
	}
	return nil
}

// text returns a message with CRLF line ends.
func text(subject string, lines ...string) string {
	header := []string{"From: Alice <alice@lan.example>", "To: Bob <bob@example.com>", "Subject: " + subject,
		"Date: " + time.Now().Format(time.RFC1123Z), ""}
	return strings.Join(append(header, lines...), "\r\n") + "\r\n"
}

func act(title string) { fmt.Printf("\n== %s\n\n", title) }

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + strings.TrimRight(line, "\r\n") + "\n")
	}
	return b.String()
}

// transcript keeps what the smarthost writes of its dialogues until it is shown.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *transcript) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.b.Reset()
	return t.b.String()
}
