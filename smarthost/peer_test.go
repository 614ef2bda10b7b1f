package smarthost

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"relayd/internal/envelope"
)

// peers are hosts in memory, by address. They answer every command as a good host does, unless told otherwise; so tests
// of time can run on synctest's clock.
type peers struct {
	hosts map[string]*peer
	open  sync.WaitGroup
}

type peer struct {
	mu sync.Mutex
	// answer returns what to say to a command line ("" at the greeting and "." at the final dot), or one of the words
	// below. An empty answer is the usual one.
	answer func(line string) string
	// body, when set, reads the body in place of the usual reader.
	body func(io.Reader)
	// refuse makes connections fail.
	refuse bool
	// pipelining adds PIPELINING, and 8BITMIME, to what it offers.
	pipelining bool
	seen
}

// seen is what a peer saw so far.
type seen struct {
	conns, most, opened, quits int // connections open now, at most at once, and in all; and QUIT commands
	transactions               int
	lines                      []string
}

const (
	hang   = "hang"
	hangUp = "hang up"
)

func newPeers(names ...string) *peers {
	p := &peers{hosts: make(map[string]*peer)}
	for _, n := range names {
		p.hosts[n] = &peer{}
	}
	return p
}

func (p *peers) dial(_ context.Context, _, addr string) (net.Conn, error) {
	h := p.hosts[addr]
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	h.opened++
	h.conns++
	h.most = max(h.most, h.conns)
	client, server := net.Pipe()
	p.open.Go(func() {
		h.serve(server)
		server.Close()
		h.mu.Lock()
		h.conns--
		h.mu.Unlock()
	})
	return client, nil
}

func (h *peer) serve(nc net.Conn) {
	br := bufio.NewReader(nc)
	if !h.say(nc, br, "", "220 "+"peer") {
		return
	}
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		h.mu.Lock()
		h.lines = append(h.lines, line)
		h.mu.Unlock()
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		ok := true
		switch verb {
		case "EHLO":
			usual := "250 peer"
			if h.pipelining {
				usual = "250-peer\r\n250-8BITMIME\r\n250 PIPELINING"
			}
			ok = h.say(nc, br, line, usual)
		case "QUIT":
			h.mu.Lock()
			h.quits++
			h.mu.Unlock()
			h.say(nc, br, line, "221 bye")
			return
		case "DATA":
			if ok = h.say(nc, br, line, "354 go"); ok {
				ok = h.readBody(br) && h.say(nc, br, ".", "250 queued")
			}
		default:
			ok = h.say(nc, br, line, "250 ok")
		}
		if !ok {
			return
		}
	}
}

// say answers line, and reports whether the session goes on.
func (h *peer) say(nc net.Conn, br *bufio.Reader, line, usual string) bool {
	h.mu.Lock()
	answer := h.answer
	h.mu.Unlock()
	text := usual
	if answer != nil {
		if a := answer(line); a != "" {
			text = a
		}
	}
	switch text {
	case hangUp:
		return false
	case hang:
		io.Copy(io.Discard, br)
		return false
	}
	_, err := io.WriteString(nc, text+"\r\n")
	return err == nil && !strings.HasPrefix(text, "421") && (!strings.HasPrefix(line, "DATA") || text == usual)
}

func (h *peer) readBody(br *bufio.Reader) bool {
	h.mu.Lock()
	body := h.body
	h.mu.Unlock()
	if body != nil {
		body(br)
	}
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
	}
	h.mu.Lock()
	h.transactions++
	h.mu.Unlock()
	return true
}

func (h *peer) set(change func(*peer)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

func (h *peer) see() seen {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen
}

// at answers lines that begin with prefix (in the words of peer.answer), and others as usual.
func at(prefix, answer string) func(string) string {
	return func(line string) string {
		if line == prefix || prefix != "" && strings.HasPrefix(line, prefix) {
			return answer
		}
		return ""
	}
}

// router returns a Router with one route, "isp", over the named hosts, that is closed with all its peers at the end.
func (p *peers) router(t *testing.T, change func(*Options), hosts ...string) *Router {
	t.Helper()
	o := Options{Hostname: "relay.example.com", Dial: p.dial, Routes: []Route{{Name: "isp", Hosts: hosts, TLS: ModeOff}}}
	if change != nil {
		change(&o)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	tried(r)
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		p.open.Wait()
	})
	return r
}

// tried has the hosts of r pass for such as have answered a harmless group well.
func tried(r *Router) {
	for h := range r.table.Load().hosts {
		h.order.tried.Store(true)
	}
}

// mail returns a message to the given recipients.
func mail(body string, to ...string) envelope.Message {
	m := envelope.Message{ID: "q1", Size: int64(len(body))}
	m.Envelope.ReversePath = "a@example.com"
	for _, p := range to {
		m.Envelope.Recipients = append(m.Envelope.Recipients, envelope.Recipient{Path: envelope.Path(p)})
	}
	if len(to) == 0 {
		m.Envelope.Recipients = []envelope.Recipient{{Path: "b@example.net"}}
	}
	content := []byte(body)
	m.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	return m
}

const hello = "Subject: hi\r\n\r\nhello\r\n"

func wantDelivered(t *testing.T, a envelope.Attempt, host string) {
	t.Helper()
	if a.Site != nil || a.Host != host || a.PossibleDuplicate {
		t.Fatalf("got %s, want delivery by %s", show(a), host)
	}
	for _, r := range a.Results {
		if r.Failure != nil {
			t.Fatalf("got %s, want delivery", show(a))
		}
	}
}

func wantSite(t *testing.T, a envelope.Attempt, stage string) {
	t.Helper()
	if a.Site == nil || a.Site.Stage != stage || a.Site.Permanent || len(a.Results) != 0 || a.PossibleDuplicate {
		t.Fatalf("got %s, want a site failure at %s", show(a), stage)
	}
}

func show(a envelope.Attempt) string {
	if a.Site != nil {
		return fmt.Sprintf("site failure at %s by %s: %s (retry at %v)", a.Site.Stage, a.Host, a.Site, a.RetryAt)
	}
	var s []string
	for _, r := range a.Results {
		if r.Failure != nil {
			s = append(s, fmt.Sprintf("%s failure at %s: %s", r.Failure.Scope, r.Failure.Stage, r.Failure))
		} else {
			s = append(s, r.Reply.String())
		}
	}
	return fmt.Sprintf("%s by %s (possible duplicate: %v)", strings.Join(s, "; "), a.Host, a.PossibleDuplicate)
}
