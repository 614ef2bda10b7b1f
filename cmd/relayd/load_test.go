//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/smtp"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relayd/internal/control"
	"relayd/internal/sandbox"
	"relayd/queue"
)

// setting returns the number that an environment variable asks for, or usual.
func setting(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q; it is a number above 0", name, text)
	}
	return n
}

// loadSite is a site with a smarthost that has troubles, and a log that many rounds can share.
func loadSite(t *testing.T, o sandbox.Options) (*site, *sandbox.Server) {
	t.Helper()
	s := newSite(t)
	sb := s.smarthost(o)
	s.configure(route(sb.CAFile(), sb.Addr()))
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write("relayd.toml", strings.Replace(string(text), `"debug"`, `"info"`, 1), 0o600)
	return s, sb
}

// clients have so many clients send so many letters each, and returns when all have ended or the daemon is gone. A
// client that is refused goes on, one whose connection ends comes back while the daemon lives.
func (p *process) clients(l *ledger, name string, clients, letters int) {
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			var c *smtp.Client
			defer func() {
				if c != nil {
					c.Close()
				}
			}()
			for n := 0; n < letters && !p.gone(); n++ {
				if c == nil {
					var err error
					if c, err = smtp.Dial(p.addr); err != nil {
						c = nil
						continue
					}
				}
				err := l.send(c, l.compose(fmt.Sprintf("%s.c%d", name, i), n))
				if _, refused := errors.AsType[*textproto.Error](err); refused {
					err = c.Reset()
					select { // a store that has failed is back within a moment
					case <-p.done:
					case <-time.After(50 * time.Millisecond):
					}
				}
				if err != nil || n%5 == 4 {
					c.Close()
					c = nil
				}
			}
		})
	}
	wg.Wait()
}

// gone reports whether the daemon has ended.
func (p *process) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// operate is an operator who holds, releases, retries and deletes messages and has the configuration read again, until
// quit is closed or the daemon is gone.
func (s *site) operate(p *process, l *ledger, rnd *rand.Rand, quit <-chan struct{}) {
	for !p.gone() {
		select {
		case <-quit:
			return
		case <-p.done:
			return
		case <-time.After(time.Duration(rnd.IntN(15)) * time.Millisecond):
		}
		if rnd.IntN(10) == 0 {
			_ = p.cmd.Process.Signal(syscall.SIGHUP)
			continue
		}
		_ = s.act(l, rnd) // the daemon may end meanwhile, or the message leave
	}
}

func (s *site) control(ctx context.Context) (*control.Client, error) {
	return control.Dial(ctx, filepath.Join(s.dir, "data", "control.sock"))
}

func (s *site) act(l *ledger, rnd *rand.Rand) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := s.control(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if rnd.IntN(8) == 0 {
		_, err = c.ApplyAll(ctx, []queue.Action{queue.ActionRelease, queue.ActionRetry}[rnd.IntN(2)])
		return err
	}
	page, err := c.List(ctx, "", 50)
	if err != nil || len(page.Entries) == 0 {
		return err
	}
	entry := page.Entries[rnd.IntN(len(page.Entries))]
	id, action := entry.ID, []queue.Action{queue.ActionHold, queue.ActionHold, queue.ActionRelease, queue.ActionRetry, queue.ActionDelete}[rnd.IntN(5)]
	if action == queue.ActionDelete {
		if entry.ReversePath.IsNull() {
			return nil // with a report its sender's only word would go
		}
		l.mu.Lock()
		l.deleted[id] = true
		l.mu.Unlock()
	}
	_, err = c.Apply(ctx, action, []string{id})
	return err
}

// settle starts the daemon undisturbed, has everything released and handed on, and holds the ledger against what has
// arrived at sb, and elsewhere before.
func (s *site) settle(l *ledger, sb *sandbox.Server, before ...sandbox.Message) outcome {
	s.t.Helper()
	sb.Clear()
	if err := sb.Inject(trouble(1)...); err != nil {
		s.t.Fatal(err)
	}
	p := s.start()
	s.release()
	until(s.t, "the queue to be empty", func() bool {
		q := s.status().Queue
		return q.Active+q.Deferred+q.Held == 0
	})
	if q := s.status().Queue; q.Quarantined > 0 {
		s.t.Errorf("%d messages were damaged", q.Quarantined)
	}
	o := l.settle(s.t, append(before, sb.Messages()...), s.lookup)
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		s.t.Errorf("SIGTERM ended it with %v", err)
	}
	return o
}

// release ends every hold.
func (s *site) release() {
	s.t.Helper()
	c, err := s.control(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ApplyAll(context.Background(), queue.ActionRelease); err != nil {
		s.t.Fatal(err)
	}
}

// lookup asks the daemon for one message.
func (s *site) lookup(id string) (queue.Detail, error) {
	c, err := s.control(context.Background())
	if err != nil {
		return queue.Detail{}, err
	}
	defer c.Close()
	return c.Show(context.Background(), id)
}

// leave opens a transaction and closes the connection at its n-th step.
func (p *process) leave(n int) {
	c, err := smtp.Dial(p.addr)
	if err != nil {
		return
	}
	defer c.Close()
	steps := []string{"EHLO left.example", "MAIL FROM:<left@lan.example>", "RCPT TO:<left@example.com>", "DATA", "Subject: left"}
	for _, line := range steps[:n%(len(steps)+1)] {
		if err := c.Text.PrintfLine("%s", line); err != nil || line == steps[len(steps)-1] {
			return
		}
		if _, _, err := c.Text.ReadResponse(0); err != nil {
			return
		}
	}
}
