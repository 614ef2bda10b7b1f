package smarthost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// A dialogue file is a conversation on the wire, and what the deliveries that had it came to:
//
//	tls starttls                                          the route's mode; off unless said
//	login me secretword                                   the route's username and password
//	hosts 2                                               how many hosts the route has; 1 unless said
//	> from=a@example.com to=b@example.net,c@example.net   a delivery; also body="quoted", utf8, requiretls, 8bit, 7bit, ret=,
//	                                                      envid=, notify=, orcpt=, size= (as stored), fail (content cannot be read)
//	= b@example.net delivered 250 2.0.0 Ok                what it came to, a line each
//	& from=a@example.com to=b@example.net                 one more delivery at the same time: it begins when the body of the
//	                                                      first is asked for, behind those that wait already
//	warns that it is out of step                          the words of a warning that the log has once; without, it has none
//	connection                                            a connection that the relay opens
//	S: 220 hello                                          a line that the host sends
//	C: EHLO relay.example.com                             a line that the relay must send
//	raw "..."                                             octets that the host sends
//	close                                                 the host closes the connection
//	hang                                                  the host says nothing more
//
// The host sends nothing while a line of the relay's is due, and wants nothing unread in its buffer when it is its turn
// to speak; so a file also shows what travels in one group and what in lock-step.

type dialogue struct {
	route       Route
	warns       []string
	deliveries  []delivery
	connections [][]string
	hosts       int
}

type delivery struct {
	m    envelope.Message
	with bool // the one before it
	want []string
}

func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogues/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no dialogues", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			d := readDialogue(t, file)
			synctest.Test(t, func(t *testing.T) { runDialogue(t, d) })
		})
	}
}

func runDialogue(t *testing.T, d dialogue) {
	s := &script{t: t, connections: d.connections}
	var hosts []string
	for i := range max(d.hosts, 1) {
		hosts = append(hosts, fmt.Sprintf("host%d.example.com:25", i+1))
	}
	d.route.Hosts = hosts
	var log safeBuffer
	r, err := New(Options{Hostname: "relay.example.com", Routes: []Route{d.route}, Dial: s.dial,
		Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	tried(r)
	for i, n := 0, 0; i < len(d.deliveries); i += n {
		for n = 1; i+n < len(d.deliveries) && d.deliveries[i+n].with; n++ {
		}
		for j, got := range deliverTogether(r, d.deliveries[i:i+n]) {
			if g, w := strings.Join(got, "\n"), strings.Join(d.deliveries[i+j].want, "\n"); g != w {
				t.Errorf("delivery %d came to\n%s\nwant\n%s", i+j+1, g, w)
			}
		}
	}
	for _, words := range d.warns {
		if n := strings.Count(log.String(), words); n != 1 {
			t.Errorf("the log has %q %d times:\n%s", words, n, log.String())
		}
	}
	if len(d.warns) == 0 && contains(log.String(), "lock-step") {
		t.Errorf("the host is held to be out of step:\n%s", log.String())
	}
	if err := r.Close(context.Background()); err != nil {
		t.Error(err)
	}
	s.running.Wait()
	if s.opened != len(d.connections) {
		t.Errorf("%d connections were opened, want %d", s.opened, len(d.connections))
	}
}

// deliverTogether makes deliveries at the same time, in their order, and returns what they came to. The body of each comes
// when all others wait for their turn, so that who is to follow it stands in line.
func deliverTogether(r *Router, all []delivery) [][]string {
	rest := make(chan struct{})
	out := make([][]string, len(all))
	var wg sync.WaitGroup
	for i, dl := range all {
		if open := dl.m.Open; len(all) > 1 {
			dl.m.Open = func() (io.ReadCloser, error) {
				content, err := open()
				return inTurn{heldBack{content, rest}}, err
			}
		}
		wg.Go(func() { out[i] = describe(dl.m.Envelope, r.Deliver(context.Background(), "isp", dl.m)) })
		if len(all) > 1 {
			synctest.Wait()
		}
	}
	close(rest)
	wg.Wait()
	return out
}

// inTurn is content that can be read once nobody else has anything left to do.
type inTurn struct{ heldBack }

func (c inTurn) Read(p []byte) (int, error) {
	time.Sleep(time.Nanosecond) // which synctest's clock grants when all others wait
	return c.heldBack.Read(p)
}

// heldBack is content that can be read once until is closed.
type heldBack struct {
	io.ReadCloser
	until <-chan struct{}
}

func (h heldBack) Read(p []byte) (int, error) {
	<-h.until
	return h.ReadCloser.Read(p)
}

// script plays the host's part of the connections, in order.
type script struct {
	t           *testing.T
	connections [][]string
	opened      int
	running     sync.WaitGroup
}

func (s *script) dial(context.Context, string, string) (net.Conn, error) {
	if s.opened >= len(s.connections) {
		s.opened++
		return nil, errors.New("the dialogue has no more connections")
	}
	lines := s.connections[s.opened]
	s.opened++
	client, server := net.Pipe()
	number := s.opened
	s.running.Go(func() {
		defer server.Close()
		if err := play(server, lines); err != nil {
			s.t.Errorf("connection %d: %v", number, err)
		}
	})
	return client, nil
}

func play(nc net.Conn, lines []string) error {
	br := bufio.NewReader(nc)
	for i, line := range lines {
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "S:":
			if n := br.Buffered(); n > 0 {
				ahead, _ := br.Peek(n)
				return fmt.Errorf("line %q: the relay did not wait for it and sent %q", line, ahead)
			}
			if _, err := io.WriteString(nc, rest+"\r\n"); err != nil {
				return fmt.Errorf("line %q: %w", line, err)
			}
		case "raw":
			raw, err := strconv.Unquote(rest)
			if err != nil {
				return err
			}
			io.WriteString(nc, raw) // the relay may have enough before the end
		case "C:":
			got, err := br.ReadString('\n')
			if err != nil {
				return fmt.Errorf("line %d %q: %w", i+1, line, err)
			}
			if got != rest+"\r\n" {
				return fmt.Errorf("the relay sent %q, want %q", got, rest)
			}
		case "close":
			return nil
		case "hang":
			io.Copy(io.Discard, br)
			return nil
		default:
			return fmt.Errorf("unknown line %q", line)
		}
	}
	last, err := io.ReadAll(untilQuit{nc, br})
	if err != nil || string(last) != "" && string(last) != "QUIT\r\n" {
		return fmt.Errorf("after the dialogue the relay sent %q (%v)", last, err)
	}
	return nil
}

// untilQuit answers QUIT when it has read it.
type untilQuit struct {
	nc net.Conn
	br *bufio.Reader
}

func (u untilQuit) Read(p []byte) (int, error) {
	n, err := u.br.Read(p)
	if strings.HasSuffix(string(p[:n]), "QUIT\r\n") {
		io.WriteString(u.nc, "221 bye\r\n")
	}
	return n, err
}

// describe writes an attempt as the dialogue files do.
func describe(env envelope.Envelope, a envelope.Attempt) []string {
	failure := func(f *envelope.Failure) string {
		words := []string{string(f.Scope), "temporary", f.Stage, f.Reply.String()}
		if f.Permanent {
			words[1] = "permanent"
		}
		return strings.TrimSpace(strings.Join(words, " "))
	}
	if a.Site != nil {
		return []string{failure(a.Site)}
	}
	var out []string
	for i, r := range a.Results {
		line := string(env.Recipients[i].Path) + " delivered " + r.Reply.String()
		if r.Failure != nil {
			line = string(env.Recipients[i].Path) + " " + failure(r.Failure)
		}
		out = append(out, line)
	}
	if a.PossibleDuplicate {
		out = append(out, "possible duplicate")
	}
	return out
}

func readDialogue(t *testing.T, file string) (d dialogue) {
	t.Helper()
	d.route = Route{Name: "isp", TLS: ModeOff, MaxConnections: 1}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "", "#":
		case "tls":
			d.route.TLS = Mode(rest)
		case "login":
			d.route.Username, d.route.Password, _ = strings.Cut(rest, " ")
		case "hosts":
			d.hosts, _ = strconv.Atoi(rest)
		case ">", "&":
			d.deliveries = append(d.deliveries, delivery{m: parseDelivery(t, rest), with: verb == "&"})
		case "warns":
			d.warns = append(d.warns, rest)
		case "=":
			last := &d.deliveries[len(d.deliveries)-1]
			last.want = append(last.want, rest)
		case "connection":
			d.connections = append(d.connections, nil)
		default:
			last := &d.connections[len(d.connections)-1]
			*last = append(*last, line)
		}
	}
	return d
}

func parseDelivery(t *testing.T, s string) envelope.Message {
	t.Helper()
	body, size, broken := "Subject: hi\r\n\r\nhello\r\n", int64(-1), false
	m := envelope.Message{ID: "q1"}
	env := &m.Envelope
	for word := range strings.FieldsSeq(s) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "from":
			env.ReversePath = envelope.Path(value)
		case "to":
			for p := range strings.SplitSeq(value, ",") {
				env.Recipients = append(env.Recipients, envelope.Recipient{Path: envelope.Path(p)})
			}
		case "body":
			b, err := strconv.Unquote(value)
			if err != nil {
				t.Fatal(word, err)
			}
			body = b
		case "size":
			size, _ = strconv.ParseInt(value, 10, 64)
		case "utf8":
			env.UTF8 = true
		case "requiretls":
			env.RequireTLS = true
		case "8bit":
			env.Body = "8BITMIME"
		case "7bit":
			env.Body = "7BIT"
		case "ret":
			env.Ret = value
		case "envid":
			env.EnvID = value
		case "notify":
			env.Recipients[0].Notify, _ = envelope.ParseNotify(value)
		case "orcpt":
			env.Recipients[0].ORcpt = value
		case "id":
			m.ID = value
		case "fail":
			broken = true
		default:
			t.Fatalf("unknown word %q", word)
		}
	}
	m.Size = int64(len(body))
	if size >= 0 {
		m.Size = size
	}
	m.Open = func() (io.ReadCloser, error) {
		if broken {
			return nil, errors.New("input/output error")
		}
		return io.NopCloser(strings.NewReader(body)), nil
	}
	return m
}
