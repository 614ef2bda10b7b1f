//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"relayd/internal/control"
	"relayd/internal/dnstest"
	"relayd/internal/sandbox"
	"relayd/queue"
	"relayd/test/tap"
)

// The tests run the daemon as a process: the test binary itself, started again with this variable set.
const asDaemon = "RELAYD_TEST_RUN_AS_DAEMON"

// dnsServer is the address of the DNS server that such a daemon asks in place of the system's.
const dnsServer = "RELAYD_TEST_DNS_SERVER"

func TestMain(m *testing.M) {
	tap.Enter()
	if os.Getenv(asDaemon) != "" {
		if dns := os.Getenv(dnsServer); dns != "" {
			net.DefaultResolver = dnstest.Resolver(dns)
		}
		go tellFigures()
		main()
		return
	}
	code := m.Run()
	if n := untapped.Load(); n > 0 {
		fmt.Printf("%d tests were skipped because no process can be tapped here\n", n)
	}
	os.Exit(code)
}

// untapped counts the tests that were skipped because no process can be tapped.
var untapped atomic.Int32

const testPassword = "correct horse battery staple"

// patience bounds every wait for something that must happen. A test that passes never waits so long, however loaded the
// machine is.
const patience = 2 * time.Minute

// site is a folder with a configuration, and the daemon that runs there.
type site struct {
	t      *testing.T
	dir    string
	config string
	relay  *process
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "site") // a short path, whatever the test's name: sockets allow about 100 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, dir: dir}
	s.config = filepath.Join(s.dir, "relayd.toml")
	s.write("isp.password", testPassword+"\n", 0o600)
	return s
}

func (s *site) write(name, text string, mode os.FileMode) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// configure writes a configuration with a listener on a free port and short retries before what smarthosts says.
func (s *site) configure(smarthosts string) {
	s.t.Helper()
	s.write("relayd.toml", fmt.Sprintf(`
hostname = "relay.example"
data_dir = "data"
trusted_networks = ["192.168.1.0/24"]
[log]
level = "debug"
[[listener]]
address = "127.0.0.1:0"
[queue]
retry_min = "100ms"
retry_max = "500ms"
min_free = "4MB"
%s`, smarthosts), 0o600)
}

// route is a [[smarthost]] table for hosts that demand STARTTLS and a login.
func route(ca string, hosts ...string) string {
	quoted := make([]string, len(hosts))
	for i, h := range hosts {
		quoted[i] = strconv.Quote(h)
	}
	return fmt.Sprintf(`
[[smarthost]]
hosts = [%s]
username = "me@isp.example"
password_file = "isp.password"
ca_file = %q
`, strings.Join(quoted, ", "), ca)
}

func (s *site) smarthost(o sandbox.Options) *sandbox.Server {
	s.t.Helper()
	o.Username, o.Password = "me@isp.example", testPassword
	sb, err := sandbox.Start(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { sb.Close() })
	return sb
}

// process is a running daemon.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *logFile
	addr string
	tap  *tap.Tap // nil for one that nobody taps
	done chan struct{}
	err  error
}

// start runs the daemon and waits until it listens.
func (s *site) start() *process {
	s.t.Helper()
	p := s.launch()
	s.relay = p
	p.addr = p.waitFor(`msg="relayd is up".* listening="?([^ "]+)`)[1]
	return p
}

func (s *site) launch() *process { return s.launchTapped(nil) }

// launchTapped runs the daemon with its writes beneath the site's folder going to o, if there is one.
func (s *site) launchTapped(o tap.Observer) *process {
	s.t.Helper()
	p := &process{t: s.t, log: &logFile{}, done: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], "--config", s.config)
	p.cmd.Env = append(os.Environ(), asDaemon+"=1")
	p.cmd.Stderr = p.log
	var err error
	if o == nil {
		err = p.cmd.Start()
	} else {
		p.tap, err = tap.Start(p.cmd, s.dir, o)
	}
	if errors.Is(err, tap.ErrUnsupported) && os.Getenv(tapRequired) == "" {
		untapped.Add(1)
		s.t.Skipf("SKIPPED, and with it what it would have shown: %v", err)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("log of the daemon:\n%s", p.log)
		}
		p.kill()
	})
	return p
}

// tapRequired, when it is set, makes a test fail that would be skipped where no process can be tapped.
const tapRequired = "RELAYD_TAP_REQUIRED"

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	p.ended()
}

// ended waits for the end of the process, and of its tap.
func (p *process) ended() {
	<-p.done
	if p.tap == nil {
		return
	}
	if err := p.tap.Wait(); err != nil {
		p.t.Errorf("the tap: %v", err)
	}
}

// wait returns how the process ended.
func (p *process) wait() error {
	p.t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-time.After(patience):
		p.t.Fatal("the daemon does not end")
		return nil
	}
}

// waitFor waits until the log matches, and returns the submatches.
func (p *process) waitFor(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		if m := re.FindStringSubmatch(p.log.String()); m != nil {
			return m
		}
		select {
		case <-p.done:
			if m := re.FindStringSubmatch(p.log.String()); m != nil {
				return m
			}
			p.t.Fatalf("the daemon ended (%v) before its log had %q", p.err, pattern)
		case <-deadline:
			p.t.Fatalf("the log never had %q", pattern)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// up waits until the daemon listens; it returns false when it has ended instead.
func (p *process) up() bool {
	p.t.Helper()
	deadline := time.After(patience)
	re := regexp.MustCompile(`msg="relayd is up".* listening="?([^ "]+)`)
	for {
		if m := re.FindStringSubmatch(p.log.String()); m != nil {
			p.addr = m[1]
			return true
		}
		select {
		case <-p.done:
			return false
		case <-deadline:
			p.t.Fatal("the daemon neither listens nor ends")
		case <-time.After(2 * time.Millisecond):
		}
	}
}

type logFile struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logFile) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// clear forgets the log, so that many runs leave no more of it than one.
func (l *logFile) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

// submit hands one message to the daemon as a mail server on the LAN would. A nil error means that it got its 250.
func (p *process) submit(from string, body string, to ...string) error {
	c, err := smtp.Dial(p.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return submitOn(c, from, body, to...)
}

func submitOn(c *smtp.Client, from, body string, to ...string) error {
	if err := c.Mail(from); err != nil {
		return err
	}
	for _, rcpt := range to {
		if err := c.Rcpt(rcpt); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(body)); err != nil {
		return err
	}
	return w.Close()
}

func (p *process) mustSubmit(to ...string) {
	p.t.Helper()
	if err := p.submit("sender@lan.example", "Subject: test\r\n\r\nbody\r\n", to...); err != nil {
		p.t.Fatal(err)
	}
}

// arrive waits until sb has n messages.
func arrive(t *testing.T, sb *sandbox.Server, n int) []sandbox.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := sb.Wait(ctx, n)
	if err != nil {
		t.Fatalf("%d of %d messages arrived: %v", len(got), n, err)
	}
	return got
}

// status asks the daemon's control socket.
func (s *site) status() control.Status {
	s.t.Helper()
	c, err := control.Dial(context.Background(), filepath.Join(s.dir, "data", "control.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	st, err := c.Status(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// show asks the daemon for one message.
func (s *site) show(id string) queue.Detail {
	s.t.Helper()
	c, err := control.Dial(context.Background(), filepath.Join(s.dir, "data", "control.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Show(context.Background(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// ask does what an operator asks of messages.
func (s *site) ask(action queue.Action, ids ...string) control.Result {
	s.t.Helper()
	c, err := control.Dial(context.Background(), filepath.Join(s.dir, "data", "control.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	res, err := c.Apply(context.Background(), action, ids)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

// until polls cond.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
