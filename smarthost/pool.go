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
	// errLate: the connection on which the caller's transaction was begun keeps it waiting, and there is a better one by
	// now. Nothing of its content was sent.
	errLate = errors.New("the host takes its time with the message before")
)

// maxUses is how many transactions one connection serves. A host with a smaller limit says 421 and is reconnected to.
const maxUses = 1000

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
	allowed allowance
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
	w := &waiter{turn: make(chan grant, 1), tx: tx, fresh: fresh}
	p.waiting = append(p.waiting, w)
	if len(p.idle) > 0 { // fresh: the oldest idle one makes room
		p.retireOldest()
	}
	p.mu.Unlock()
	impatience := time.NewTicker(followerPatience)
	defer impatience.Stop()
	for {
		select {
		case g := <-w.turn:
			return g
		case <-ctx.Done():
			return grant{err: p.leave(ctx, w)}
		case <-impatience.C:
			if p.forsake(w) {
				return grant{err: errLate}
			}
		}
	}
}

// capacity is how many connections may be open now. p.mu is held.
func (p *pool) capacity() int {
	return p.allowed.of(p.max, time.Now())
}

// surplus is how many connections are open beyond the capacity, those not counted that are saying QUIT. p.mu is held.
func (p *pool) surplus() int {
	return p.staying() - p.capacity()
}

// staying is how many connections are open or being opened, those not counted that are saying QUIT. p.mu is held.
func (p *pool) staying() int {
	leaving := len(p.live) - p.ready
	return p.open - leaving
}

// opened counts c, opened by leave of get, as ready.
func (p *pool) opened(c *conn) {
	p.mu.Lock()
	p.ready++
	c.generation = p.generation
	p.live[c] = struct{}{}
	p.allowed.took(p.ready)
	p.mu.Unlock()
}

// forgo gives back the leave to open a connection.
func (p *pool) forgo() {
	p.mu.Lock()
	p.open--
	p.next()
	p.mu.Unlock()
}

// refused tells that the host would not take one more connection. It reports whether that is a limit of connections: there
// are others to make do with, on which the host was heard since the given time. It then also gives back the leave to open
// one: between the two steps another refusal would be taken for one of a smaller number.
func (p *pool) refused(since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.live {
		if !c.leaving && c.generation == p.generation && c.heard.Load() >= since.UnixNano() {
			p.open--
			p.allowed.refused(p.staying(), time.Now())
			p.next()
			return true
		}
	}
	return false
}

// crowded tells that the host wants fewer connections than are open.
func (p *pool) crowded() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowed.crowded(p.ready-1, time.Now())
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
	case p.closed || c.uses >= maxUses || c.generation != p.generation || p.surplus() > 0:
		p.retire(c)
	case p.wantsPlace(): // to open one there
		p.retire(c)
	case p.lend(c):
	default:
		c.idleSince = time.Now()
		p.idle = append(p.idle, c)
		if p.reaper == nil {
			p.reaper = time.AfterFunc(p.idleTimeout, p.reap)
		}
	}
}

// drop forgets a connection that is of no more use, and closes it. Its follower is first in line again.
func (p *pool) drop(c *conn) {
	c.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		p.handOver(c, errClosed)
	case c.generation != p.generation:
		p.handOver(c, errHostDown)
	default:
		p.putBack(c)
	}
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
	c.leaving = true
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

// wantsPlace reports whether more of those that wait want a new connection than there are places free or about to
// be. p.mu is held.
func (p *pool) wantsPlace() bool {
	if len(p.waiting) == 0 || !p.waiting[0].fresh {
		return false
	}
	fresh := 0
	for _, w := range p.waiting {
		if w.fresh {
			fresh++
		}
	}
	return fresh > -p.surplus()
}

// lend gives c to the first that waits and takes one that served before, if there is one. p.mu is held.
func (p *pool) lend(c *conn) bool {
	i := slices.IndexFunc(p.waiting, func(w *waiter) bool { return !w.fresh })
	if i < 0 {
		return false
	}
	w := p.waiting[i]
	p.waiting = slices.Delete(p.waiting, i, i+1)
	w.turn <- grant{c: c}
	return true
}

// resize changes how many connections may be open.
func (p *pool) resize(limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = limit
	for len(p.idle) > 0 && p.surplus() > 0 {
		p.retireOldest()
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
