package smarthost

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Reasons for which a pool gives no connection.
var (
	// errHostDown: the host failed while the caller waited for its turn.
	errHostDown = errors.New("the host went down meanwhile")
	errClosed   = errors.New("the relay is stopping")
	// errLost: the connection broke that the caller's transaction was begun on. Nothing of its content was sent.
	errLost = errors.New("the connection broke before the transaction")
)

// maxUses is how many transactions one connection serves. A host with a smaller limit says 421 and is reconnected to.
const maxUses = 1000

// limitRest is how long a host that refused one more connection is not asked for more than it took.
const limitRest = time.Minute

// pool holds the connections to one host: at most max at a time, idle ones last in, first out, so that those the work
// does not need grow old and are closed.
type pool struct {
	idleTimeout time.Duration
	background  *sync.WaitGroup // the goroutines that say QUIT

	mu      sync.Mutex
	max     int
	closed  bool
	idle    []*conn
	open    int                // connections idle, in use and being opened
	ready   int                // those of open that are past their opening
	live    map[*conn]struct{} // those that are ready, and those that are saying QUIT
	limit   int                // fewer than max for a while, after the host refused one more; 0 for none
	limited time.Time
	waiting []*waiter
	reaper  *time.Timer
	// generation counts how often the host went down: a connection of an earlier one does not come back into the pool.
	generation int
}

// grant is what a caller gets: a connection, leave to open one (both nil), or a reason not to wait on. With begun, the
// waiter's transaction is under way on the connection already.
type grant struct {
	c     *conn
	err   error
	begun bool
}

// waiter is a caller in the line for a connection. Its fields but turn are guarded by the pool's lock; tx is its own
// until taken is set, and then that of the connection until the grant.
type waiter struct {
	turn chan grant
	// tx is the transaction that it wants to begin, when that may travel behind the body of another; nil otherwise.
	tx *transaction
	// taken is set when it has left the line because tx is begun; abandoned when nobody waits for the grant any more.
	taken, abandoned bool
}

func newPool(limit int, idle time.Duration, background *sync.WaitGroup) *pool {
	return &pool{max: limit, idleTimeout: idle, background: background, live: make(map[*conn]struct{})}
}

// get returns an idle connection, or leave to open one, which opened or forgo must follow. It waits while all are in
// use, and lets tx, where it is set, begin behind the transaction before it. With fresh it passes idle connections over.
func (p *pool) get(ctx context.Context, fresh bool, tx *transaction) grant {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return grant{err: errClosed}
	}
	if n := len(p.idle); n > 0 && !fresh {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return grant{c: c}
	}
	if p.open < p.capacity() {
		p.open++
		p.mu.Unlock()
		return grant{}
	}
	w := &waiter{turn: make(chan grant, 1), tx: tx}
	p.waiting = append(p.waiting, w)
	if len(p.idle) > 0 { // fresh: the oldest idle one makes room
		p.retireOldest()
	}
	p.mu.Unlock()
	select {
	case g := <-w.turn:
		return g
	case <-ctx.Done():
		return grant{err: p.leave(ctx, w)}
	}
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

// follower takes the first in line out of it if its transaction may follow the one on c, and makes it the next on c:
// put and drop tell it what became of that.
func (p *pool) follower(c *conn) *transaction {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 || p.closed || c.uses+1 >= maxUses || c.generation != p.generation || p.open > p.capacity() {
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

// capacity is how many connections may be open now. p.mu is held.
func (p *pool) capacity() int {
	if p.limit > 0 && time.Since(p.limited) < limitRest {
		return min(p.limit, p.max)
	}
	return p.max
}

// opened counts c, opened by leave of get, as ready.
func (p *pool) opened(c *conn) {
	p.mu.Lock()
	p.ready++
	c.generation = p.generation
	p.live[c] = struct{}{}
	p.mu.Unlock()
}

// forgo gives back the leave to open a connection.
func (p *pool) forgo() {
	p.mu.Lock()
	p.open--
	p.next()
	p.mu.Unlock()
}

// refused tells that the host would not take one more connection, and reports whether there are others to make do
// with. The leave to open is still held.
func (p *pool) refused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready == 0 {
		return false
	}
	p.limit, p.limited = p.ready, time.Now()
	return true
}

// crowded tells that the host wants fewer connections than are open.
func (p *pool) crowded() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit, p.limited = max(1, p.ready-1), time.Now()
}

// put takes back a connection that can serve again, or that serves its follower already.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.follower != nil {
		p.pass(c)
		return
	}
	switch {
	case p.closed || c.uses >= maxUses || c.generation != p.generation || p.open > p.capacity():
		p.retire(c)
	case len(p.waiting) > 0:
		p.wake(grant{c: c})
	default:
		c.idleSince = time.Now()
		p.idle = append(p.idle, c)
		if p.reaper == nil {
			p.reaper = time.AfterFunc(p.idleTimeout, p.reap)
		}
	}
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

// drop forgets a connection that is of no more use, and closes it.
func (p *pool) drop(c *conn) {
	c.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	err := errLost
	if p.closed {
		err = errClosed
	} else if c.generation != p.generation {
		err = errHostDown
	}
	p.handOver(c, err)
	p.ready--
	p.gone(c)
}

// gone gives the place of c, which is closed, to the next. p.mu is held.
func (p *pool) gone(c *conn) {
	delete(p.live, c)
	p.open--
	p.next()
}

// retire says QUIT to c in the background; its place is free when the host has let it go. p.mu is held. Once the pool is
// closed nobody waits for that any more, and c is closed at once.
func (p *pool) retire(c *conn) {
	p.ready--
	if p.closed {
		c.close()
		p.gone(c)
		return
	}
	p.background.Go(func() {
		c.quit()
		p.mu.Lock()
		p.gone(c)
		p.mu.Unlock()
	})
}

func (p *pool) retireOldest() {
	c := p.idle[0]
	p.idle = slices.Delete(p.idle, 0, 1)
	p.retire(c)
}

// next lets the first that waits open a connection, if one may be opened. p.mu is held.
func (p *pool) next() {
	if len(p.waiting) > 0 && p.open < p.capacity() {
		p.open++
		p.wake(grant{})
	}
}

func (p *pool) wake(g grant) {
	w := p.waiting[0]
	p.waiting = slices.Delete(p.waiting, 0, 1)
	w.turn <- g
}

// reap closes the connections that have been idle for too long, and comes back for the rest.
func (p *pool) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaper = nil
	if p.closed {
		return
	}
	for len(p.idle) > 0 {
		left := p.idleTimeout - time.Since(p.idle[0].idleSince)
		if left > 0 {
			p.reaper = time.AfterFunc(left, p.reap)
			return
		}
		p.retireOldest()
	}
}

// desert sends those that wait on to another host, and closes the idle connections: a host that failed is next seen
// through a new one.
func (p *pool) desert() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	p.sendAway(errHostDown)
	p.retireIdle()
}

func (p *pool) sendAway(reason error) {
	for len(p.waiting) > 0 {
		p.wake(grant{err: reason})
	}
}

func (p *pool) retireIdle() {
	idle := p.idle
	p.idle = nil
	for _, c := range idle {
		p.retire(c)
	}
}

// resize changes how many connections may be open.
func (p *pool) resize(limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = limit
	for len(p.idle) > 0 && p.open > p.capacity() {
		c := p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
		p.retire(c)
	}
	for range limit {
		p.next()
	}
}

// close says QUIT to the idle connections in the background, and gives no more out.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sendAway(errClosed)
	p.retireIdle()
	p.closed = true
	if p.reaper != nil {
		p.reaper.Stop()
	}
}

// abort closes the connections that are still in use or saying QUIT.
func (p *pool) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.live {
		c.close()
	}
}

func (p *pool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}
