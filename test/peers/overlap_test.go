//go:build peers

package peers

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"relayd/internal/envelope"
	"relayd/smarthost"
)

// Real servers take the body of one message and the envelope of the next as one group. The room that does that is asked
// here directly, so that its round trips can be counted.

const overlapped = 50

// backlog hands messages to one smarthost over one connection, and counts.
type backlog struct {
	mu    sync.Mutex
	conns int
	turns int // how often the relay wrote after the host had answered
	log   bytes.Buffer
}

// turning counts the turns of a connection.
type turning struct {
	net.Conn
	b    *backlog
	read bool // since the last write; by the one goroutine that uses the connection
}

func (c *turning) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read = c.read || n > 0
	return n, err
}

func (c *turning) Write(p []byte) (int, error) {
	if c.read {
		c.read = false
		c.b.mu.Lock()
		c.b.turns++
		c.b.mu.Unlock()
	}
	return c.Conn.Write(p)
}

// deliver hands on all messages, as many at once as the router has use for, and fails the test unless each is accepted,
// with one connection and about one round trip each.
func (b *backlog) deliver(t *testing.T, route smarthost.Route, all []message) {
	t.Helper()
	route.Name, route.MaxConnections = "isp", 1
	r, err := smarthost.New(smarthost.Options{
		Hostname: relayName, Routes: []smarthost.Route{route}, Log: slog.New(slog.NewTextHandler(&b.log, nil)),
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, addr)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.conns++
			return &turning{Conn: nc, b: b}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan message, len(all))
	for _, m := range all {
		waiting <- m
	}
	close(waiting)
	var workers sync.WaitGroup
	for range r.Concurrency("isp") {
		workers.Go(func() {
			for m := range waiting {
				a := r.Deliver(t.Context(), "isp", m.handedOver())
				if a.Site != nil || a.PossibleDuplicate || a.Results[0].Failure != nil {
					t.Errorf("%s: %+v %v", m.id, a, a.Site)
				}
			}
		})
	}
	workers.Wait()
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("%d messages over %d connection: %d round trips, %.2f each", len(all), b.conns, b.turns, float64(b.turns)/float64(len(all)))
	if most := len(all) * 3 / 2; b.conns != 1 || b.turns > most {
		t.Errorf("%d connections and %d round trips; want one connection and %d at most", b.conns, b.turns, most)
	}
	if strings.Contains(b.log.String(), "level=WARN") {
		t.Errorf("a reply was not as it should be:\n%s", b.log.String())
	}
}

// handedOver is the message as the queue hands it over.
func (m message) handedOver() envelope.Message {
	return envelope.Message{
		ID: m.id, Size: int64(len(m.data)),
		Envelope: envelope.Envelope{ReversePath: sender, Recipients: []envelope.Recipient{{Path: ann}}},
		Open:     func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.data)), nil },
	}
}

func manyNumbered(n int) []message {
	var all []message
	for i := range n {
		all = append(all, numbered(i))
	}
	return all
}

// secured is a route with STARTTLS and a login.
func secured(t *testing.T, addr, secret string, ca authority) smarthost.Route {
	t.Helper()
	pem, err := os.ReadFile(ca.file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s has no certificate", ca.file)
	}
	return smarthost.Route{Hosts: []string{addr}, TLS: smarthost.ModeStartTLS, RootCAs: pool, Username: username, Password: secret}
}

func TestPostfix_TakesEnvelopesBehindBodies(t *testing.T) {
	t.Parallel()
	all := manyNumbered(overlapped)
	t.Run("in the clear", func(t *testing.T) {
		// What it takes stays in its queue: there is nobody to relay to.
		lan := startLAN(t, newRoom(t), &relay{port: freePort(t)}, "")
		new(backlog).deliver(t, smarthost.Route{Hosts: []string{lan.addr()}, TLS: smarthost.ModeOff}, all)
		lan.mustHaveCounted(t, "ehlo=1")
	})
	t.Run("STARTTLS and a login", func(t *testing.T) {
		r := newRoom(t)
		ca := newAuthority(t, r)
		p := startSmarthost(t, r, ca.issue(t, "smarthost.example", postfixUser))
		new(backlog).deliver(t, secured(t, p.addr(), password, ca), all)
		p.mustHaveCounted(t, "ehlo=2 starttls=1 auth=1")
		for _, m := range all {
			waitForMail(t, p.mailbox(ann), m)
		}
		p.waitUntilEmpty(t)
		p.mailbox(ann).mustHold(t, len(all))
	})
}

// mustHaveCounted fails the test unless Postfix has counted, in its log of the connection's end, the commands of
// overlapped messages behind the given ones, none of them refused, and those of the two empty transactions that try out
// how it takes a group.
func (p *postfix) mustHaveCounted(t *testing.T, before string) {
	t.Helper()
	want := fmt.Sprintf("%[1]s mail=%[2]d rcpt=%[2]d data=%[3]d rset=2 quit=1 ", before, overlapped+2, overlapped)
	poll(t, p.name+" has counted "+want, func() string {
		if log := p.maillog(t); !strings.Contains(log, want) {
			return log[max(0, len(log)-500):]
		}
		return ""
	})
}

func TestExim_TakesEnvelopesBehindBodies(t *testing.T) {
	t.Parallel()
	all := manyNumbered(overlapped)
	t.Run("in the clear", func(t *testing.T) {
		lan := startEximLAN(t, newRoom(t), &relay{port: freePort(t)}, "")
		new(backlog).deliver(t, smarthost.Route{Hosts: []string{lan.addr()}, TLS: smarthost.ModeOff}, all)
		if n := strings.Count(lan.mainlog(t), " <= "+sender); n != len(all) {
			t.Errorf("it has taken %d messages, want %d", n, len(all))
		}
	})
	t.Run("STARTTLS and a login", func(t *testing.T) {
		r := newRoom(t)
		ca := newAuthority(t, r)
		e := startEximSmarthost(t, r, ca.issue(t, "smarthost.example", eximUser), eximSmarthost{mechanism: "PLAIN", host: "127.0.0.1"})
		new(backlog).deliver(t, secured(t, e.addr(), eximPassword, ca), all)
		for _, m := range all {
			waitForMail(t, e.mailbox(ann), m)
		}
		e.waitUntilEmpty(t)
		e.mailbox(ann).mustHold(t, len(all))
		if log := e.mainlog(t); strings.Contains(log, "synchronization") || strings.Contains(log, "rejected") {
			t.Errorf("it complains:\n%s", log)
		}
	})
}
