//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// line is a slow line to a smarthost: what goes in at one end comes out at the other half a round trip later, in order,
// and as much as you like. Until it is opened it carries nothing, so that mail can gather before it.
type line struct {
	listener  net.Listener
	to        string
	roundTrip time.Duration
	opened    chan struct{}
	turns     atomic.Int64 // how often the client said something after it had heard something
	all       sync.WaitGroup
	quit      context.CancelFunc
	ctx       context.Context
}

func startLine(to string, roundTrip time.Duration) (*line, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &line{listener: listener, to: to, roundTrip: roundTrip, opened: make(chan struct{})}
	l.ctx, l.quit = context.WithCancel(context.Background())
	l.all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			l.all.Go(func() { l.carry(c) })
		}
	})
	return l, nil
}

func (l *line) addr() string { return l.listener.Addr().String() }

// open lets everything through from now on.
func (l *line) open() { close(l.opened) }

func (l *line) close() {
	l.quit()
	l.listener.Close()
	l.all.Wait()
}

func (l *line) carry(client net.Conn) {
	defer client.Close()
	select {
	case <-l.opened:
	case <-l.ctx.Done():
		return
	}
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(l.ctx, func() { client.Close(); server.Close() })
	defer stop()
	var heard atomic.Bool
	var both sync.WaitGroup
	both.Go(func() {
		l.delay(server, client, func() {
			if heard.Swap(false) {
				l.turns.Add(1)
			}
		}, nil)
	})
	both.Go(func() { l.delay(client, server, nil, func() { heard.Store(true) }) })
	both.Wait()
}

// parcel is something on its way.
type parcel struct {
	due  time.Time
	data []byte
}

// delay carries what comes from one end to the other, until one of them closes. It calls in when something enters the
// line and out when something leaves it.
func (l *line) delay(to, from net.Conn, in, out func()) {
	const underWay = 4096 // parcels; a reader that is full waits
	parcels := make(chan parcel, underWay)
	go func() {
		defer close(parcels)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if n > 0 {
				if in != nil {
					in()
				}
				parcels <- parcel{time.Now().Add(l.roundTrip / 2), b[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range parcels {
		time.Sleep(time.Until(p.due))
		if out != nil {
			out()
		}
		if _, err := to.Write(p.data); err != nil {
			from.Close() // the reader ends, and then this loop
		}
	}
	if c, ok := to.(*net.TCPConn); ok {
		c.CloseWrite()
	}
}

// lineResult is how a backlog leaves over a slow line by one connection.
type lineResult struct {
	name     string
	messages int
	took     time.Duration // from the first message at the smarthost to the last
	whole    time.Duration // from the opening of the line
	turns    float64       // per message
}

const (
	lineRoundTrip = 40 * time.Millisecond
	lineMessages  = 200
)

// trips returns round trips a message: what the time between the first and the last comes to.
func (r lineResult) trips() float64 {
	return r.took.Seconds() / lineRoundTrip.Seconds() / float64(max(1, r.messages-1))
}

func (l *lab) measureLines(ctx context.Context) ([]lineResult, error) {
	kinds := contenders()
	var results []lineResult
	for _, c := range []struct {
		name       string
		kind       contender
		pipelining bool
	}{
		{"relayd", kinds[0], true},
		{"relayd, smarthost without PIPELINING", kinds[0], false},
		{"Postfix, tuned", kinds[2], true},
	} {
		r, err := l.measureLine(ctx, c.kind, c.pipelining)
		if err != nil {
			return nil, fmt.Errorf("line: %s: %w", c.name, err)
		}
		r.name = c.name
		l.say("line: %s: %.2f round trips a message, %.2f turns", c.name, r.trips(), r.turns)
		results = append(results, r)
	}
	return results, nil
}

func (l *lab) measureLine(ctx context.Context, c contender, pipelining bool) (res lineResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, runPatience)
	defer cancel()
	dir, remove, err := l.room()
	if err != nil {
		return res, err
	}
	defer remove()
	to, err := startSink("", pipelining)
	if err != nil {
		return res, err
	}
	defer to.close()
	slow, err := startLine(to.addr(), lineRoundTrip)
	if err != nil {
		return res, err
	}
	defer slow.close()
	r, err := c.start(l, dir, setup{sink: slow.addr(), connections: 1})
	if err != nil {
		return res, err
	}
	defer r.stop()
	res.messages = l.most(lineMessages)
	if _, err = l.send(ctx, r.addr(), load{16, res.messages, 2 << 10, true}); err != nil {
		return res, err
	}
	told, begun := to.expect(1), time.Now()
	slow.open()
	first, err := to.receive(ctx, told, 1)
	if err != nil {
		return res, err
	}
	last, err := to.wait(ctx, res.messages)
	res.took, res.whole = last.Sub(first), last.Sub(begun)
	res.turns = float64(slow.turns.Load()) / float64(res.messages)
	return res, err
}
