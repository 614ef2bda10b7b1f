package smarthost

import (
	"context"
	"slices"
	"time"
)

// A caller in line for a connection can have its transaction begun by the one that has the connection: it is then that
// connection's follower, and gets it, or the news that there is none, when the other is done.

// followerPatience is how long a caller in line waits, or a transaction that was begun behind a body, before it looks
// whether there is a free connection by now, or leave to open one.
const followerPatience = 10 * time.Second

// waiter is a caller in the line for a connection. Its fields but turn are guarded by the pool's lock; tx is its own
// until taken is set, and then that of the connection until the grant.
type waiter struct {
	turn chan grant
	// tx is the transaction that it wants to begin, when that may travel behind the body of another; nil otherwise.
	tx *transaction
	// fresh is set when it wants a new connection, and none that served before.
	fresh bool
	// taken is set when it has left the line because tx is begun; abandoned when nobody waits for the grant any more.
	taken, abandoned bool
}

// follower takes the first in line out of it if its transaction may follow the one on c, and makes it the next on c:
// put and drop tell it what became of that.
func (p *pool) follower(c *conn) *transaction {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 || p.closed || c.uses+1 >= maxUses || c.generation != p.generation || p.surplus() > 0 {
		return nil
	}
	w := p.waiting[0]
	if w.tx == nil || !w.tx.suits(c) {
		return nil
	}
	p.waiting = slices.Delete(p.waiting, 0, 1)
	w.taken = true
	c.follower = w
	w.tx.c = c
	return w.tx
}

// handOver gives c, or the news that there is none, to the follower on it; it reports whether that has taken c. p.mu is held.
func (p *pool) handOver(c *conn, err error) bool {
	w := c.follower
	c.follower = nil
	if w == nil || w.abandoned {
		return false
	}
	if err != nil {
		w.turn <- grant{err: err}
		return false
	}
	w.turn <- grant{c: c, begun: true}
	return true
}

// pass gives a connection to its follower. If that is not to have it, or does not want it any more, the connection is
// closed, since a transaction is open on it. p.mu is held.
func (p *pool) pass(c *conn) {
	var err error
	switch {
	case p.closed:
		err = errClosed
	case c.generation != p.generation:
		err = errHostDown
	}
	if !p.handOver(c, err) {
		c.close()
		p.ready--
		p.gone(c)
	}
}

// putBack gives the follower on c, which broke, another connection that is idle, or puts it back into the line. p.mu is
// held.
func (p *pool) putBack(c *conn) {
	w := c.follower
	c.follower = nil
	if w == nil || w.abandoned {
		return
	}
	w.tx, w.taken = nil, false
	p.waiting = slices.Insert(p.waiting, 0, w)
	if n := len(p.idle); n > 0 {
		idle := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.wake(grant{c: idle})
	}
}

// forsake gives up what w has begun behind a body that is not answered for long, if a connection is to be had elsewhere.
// It also lets the first in line open one, if that may be opened by now.
func (p *pool) forsake(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next() // a limit that the host had is forgotten by time alone, of which nobody else tells those in line
	if !w.taken || len(w.turn) > 0 || len(p.idle) == 0 && p.open >= p.capacity() {
		return false
	}
	w.abandoned = true
	return true
}

// leave takes a caller that was cancelled out of the line, and gives back what it was handed meanwhile.
func (p *pool) leave(ctx context.Context, w *waiter) error {
	p.mu.Lock()
	p.waiting = slices.DeleteFunc(p.waiting, func(other *waiter) bool { return other == w })
	w.abandoned = true
	p.mu.Unlock()
	select {
	case g := <-w.turn:
		switch {
		case g.begun:
			p.drop(g.c)
		case g.c != nil:
			p.put(g.c)
		case g.err == nil:
			p.forgo()
		}
	default:
	}
	return context.Cause(ctx)
}
