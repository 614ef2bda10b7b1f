package queue

import (
	"container/heap"
	"math"
	"sync/atomic"
	"time"

	"relayd/internal/envelope"
)

// scheduler is the one goroutine that owns what is due and what is in flight. Everybody else posts events to it; it
// never waits for anybody, so posting to it cannot deadlock.
//
// It runs on the monotonic clock: a wall clock that is set forward makes nothing due early, and one that is set back
// stalls nothing.
type scheduler struct {
	events  chan func()
	stopped chan struct{}
	epoch   time.Time

	// start begins an attempt on its own goroutine, which ends in a call of one of the finish functions.
	start       func(it *item, route string)
	operate     func(it *item, actions []Action)
	late        func(it *item) // it has left the queue before what was asked for could be done
	concurrency func(route string) int
	admit       func(route string) (at time.Time, ok bool)
	maxWait     func() time.Duration
	uncache     func(*cached)
	waits       func(ID, *lane)                // a message waits for a route that is closed
	slows       func(l *lane, until time.Time) // the pace of its route holds a lane
	total       *atomic.Int64                  // messages, for admission
	owed        *atomic.Int64                  // octets that their outcomes may need
	bytes       *atomic.Int64                  // of their content
	records     *atomic.Int64                  // octets of their records
	shares      *shares

	items   map[ID]*item
	waiting dueHeap
	lanes   map[string]*lane
	held    int
	// undeliverable are the reports among them that nobody got.
	undeliverable map[ID]bool
	busy          int
	// newlyHeld is set when the pace holds a lane that it did not hold before.
	newlyHeld bool

	draining bool
	quit     bool
}

func newScheduler(q *Queue) *scheduler {
	return &scheduler{
		events: make(chan func(), 1024), stopped: make(chan struct{}), epoch: time.Now(),
		start:       q.startAttempt,
		operate:     q.operatePending,
		late:        q.tooLate,
		concurrency: func(route string) int { return q.transport().Concurrency(route) },
		admit:       func(route string) (time.Time, bool) { return q.transport().Admit(route) },
		maxWait:     func() time.Duration { return q.policy.Load().RetryMax },
		uncache:     q.cache.drop,
		waits:       q.logWaiting,
		slows:       q.logPaced,
		total:       &q.total, owed: &q.owed, bytes: &q.bytes, records: &q.records, shares: &q.shares,
		items: make(map[ID]*item), lanes: make(map[string]*lane), undeliverable: make(map[ID]bool),
	}
}

// clock returns the time on the scheduler's own clock.
func (s *scheduler) clock() time.Duration { return time.Since(s.epoch) }

// post runs f on the scheduler's goroutine, later; it reports false when that has ended.
func (s *scheduler) post(f func()) bool {
	select {
	case s.events <- f:
		return true
	case <-s.stopped:
		return false
	}
}

// do runs f on the scheduler's goroutine and waits for it.
func (s *scheduler) do(f func()) bool {
	done := make(chan struct{})
	if !s.post(func() { f(); close(done) }) {
		return false
	}
	select {
	case <-done:
		return true
	case <-s.stopped:
		return false
	}
}

func (s *scheduler) run() {
	defer close(s.stopped)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for !s.quit {
		now := s.clock()
		s.promote(now)
		s.dispatch(now)
		timer.Reset(s.pause(now))
		select {
		case f := <-s.events:
			f()
			s.drain()
		case <-timer.C:
		}
	}
}

// drain takes the events that wait already, so that one pass over the lanes serves them all.
func (s *scheduler) drain() {
	for range cap(s.events) {
		select {
		case f := <-s.events:
			f()
		default:
			return
		}
	}
}

// promote moves what is due to the lines of its lanes.
func (s *scheduler) promote(now time.Duration) {
	for len(s.waiting) > 0 && s.waiting[0].due <= now {
		it := heap.Pop(&s.waiting).(*item)
		s.ready(it, now)
	}
}

func (s *scheduler) dispatch(now time.Duration) {
	if s.draining {
		return
	}
	for s.newlyHeld = true; s.newlyHeld; {
		s.newlyHeld = false
		for _, l := range s.lanes {
			for l.room(now, s.concurrency(l.name)) && s.admitted(l, now) {
				it := l.pop()
				it.state, it.begun = itemBusy, now
				s.busy++
				l.inFlight++
				s.start(it, l.name)
			}
			l.crowded.Store(l.ready() > 0 && l.inFlight > 0)
		}
		if s.newlyHeld { // what can take another route may be in a lane by now that was looked at before
			s.rebalance(now)
		}
	}
}

// pause returns how long nothing happens by itself.
func (s *scheduler) pause(now time.Duration) time.Duration {
	next := now + time.Hour
	if len(s.waiting) > 0 {
		next = min(next, s.waiting[0].due)
	}
	for _, l := range s.lanes {
		if l.ready() > 0 && (l.gated(now) || l.paced > now) {
			paced := l.paced
			if l.ask > now {
				paced = min(paced, l.ask)
			}
			next = min(next, max(l.gate, paced))
		}
	}
	return max(0, next-now)
}

func (s *scheduler) lane(name string) *lane {
	l := s.lanes[name]
	if l == nil {
		l = &lane{name: name}
		s.lanes[name] = l
	}
	return l
}

// ready puts a due item into the line before its route.
func (s *scheduler) ready(it *item, now time.Duration) { s.laneFor(it, now).push(it, now) }

// laneFor returns the lane of the first of the item's routes that is open and not held by its pace, or that is at least
// open, or of the first when none is.
func (s *scheduler) laneFor(it *item, now time.Duration) *lane {
	if !it.slot.several() {
		return s.lane(it.slot.Routes)
	}
	names := it.slot.routes()
	var open *lane
	for _, name := range names {
		if l := s.lane(name); l.isOpen(now) && l.paced <= now {
			return l
		} else if l.isOpen(now) && open == nil {
			open = l
		}
	}
	if open != nil {
		return open
	}
	// None is: the one that is due first to be probed, so that no lane stays closed because nobody stands in it.
	best := s.lane(names[0])
	for _, name := range names[1:] {
		if l := s.lane(name); l.gate < best.gate {
			best = l
		}
	}
	return best
}

// rebalance moves messages that can take several routes from lanes that are closed, or held by their pace, to lanes that
// are open, so that one route's outage does not hold up recipients on another.
func (s *scheduler) rebalance(now time.Duration) {
	var stuck []*item
	for _, l := range s.lanes {
		if l.several > 0 && (!l.isOpen(now) || l.paced > now) {
			stuck = l.appendSeveral(stuck)
		}
	}
	for _, it := range stuck {
		to := s.laneFor(it, now)
		if to != it.lane && to.isOpen(now) && (to.paced <= now || !it.lane.isOpen(now)) {
			it.lane.remove(it)
			to.push(it, now)
		}
	}
}

// add makes a message known that the store holds.
func (s *scheduler) add(sl slot, c *cached) {
	s.total.Add(1)
	s.bytes.Add(sl.Size)
	s.records.Add(sl.record())
	s.shares.count(sl.Source.client, 1, sl.octets())
	s.owed.Add(sl.outcomeRoom())
	s.post(func() { s.insert(&item{slot: sl, cached: c, fresh: true}) })
}

// insert files a new item. It runs on the scheduler's goroutine, or before that has started.
func (s *scheduler) insert(it *item) {
	s.items[it.slot.ID], it.due = it, notYet
	s.place(it)
	if it.state == itemReady {
		s.tellWaiting(it, s.clock())
	}
}

// tellWaiting has the log say, once, that an item stands before a closed route.
func (s *scheduler) tellWaiting(it *item, now time.Duration) {
	if l := it.lane; !it.told && l.gated(now) {
		it.told = true
		s.waits(it.slot.ID, l)
	}
}

// notYet is when an item is due whose time is not known, or that goes behind those that are due.
const notYet = time.Duration(math.MaxInt64)

// place puts an item that nobody has where its slot says. One that was due already keeps its place among those of its
// source.
func (s *scheduler) place(it *item) {
	if it.slot.Due >= undeliverableDue {
		it.state = itemHeld
		s.held++
		if it.slot.Due == undeliverableDue {
			s.undeliverable[it.slot.ID] = true
		}
		return
	}
	now := s.clock()
	wait := time.Duration(it.slot.Due - time.Now().UnixNano())
	if wait <= 0 {
		it.due = min(it.due, now)
		s.ready(it, now)
		return
	}
	s.wait(it, now+min(wait, s.longest()))
}

// wait has an item wait until it is due.
func (s *scheduler) wait(it *item, due time.Duration) {
	it.due, it.state, it.lane = due, itemWaiting, nil
	heap.Push(&s.waiting, it)
}

// claim takes an item from where it is, for an operator. It reports false when somebody has it.
func (s *scheduler) claim(it *item) bool {
	switch it.state {
	case itemBusy:
		return false
	case itemWaiting:
		s.waiting.remove(it)
		it.due = notYet
	case itemReady:
		it.lane.remove(it)
	case itemHeld:
		it.due = notYet
		s.held--
		delete(s.undeliverable, it.slot.ID)
	}
	it.state, it.lane = itemBusy, nil
	if it.rare != nil && it.rare.all != "" {
		it.slot.Routes = it.rare.all // what is done to it is about all its recipients
	}
	s.busy++
	return true
}

// The finish functions end what start or claim began.

// finishWait files the item under its new slot.
func (s *scheduler) finishWait(it *item, sl slot) {
	s.giveBack(it)
	s.refile(it, sl)
	it.fresh, it.due = false, notYet
	if s.pendingActions(it) {
		return
	}
	s.place(it)
}

// refile gives the item its new slot, whose record may be larger than the one before.
func (s *scheduler) refile(it *item, sl slot) {
	s.records.Add(sl.record() - it.slot.record())
	s.shares.count(it.slot.Source.client, 0, sl.octets()-it.slot.octets())
	s.owed.Add(sl.outcomeRoom() - it.slot.outcomeRoom())
	it.slot = sl
}

// finishAsked files the item under its slot after an operator's action, which is no attempt: fresh mail stays that.
func (s *scheduler) finishAsked(it *item, sl slot) {
	s.giveBack(it)
	s.refile(it, sl)
	if s.pendingActions(it) {
		return
	}
	s.place(it)
	if it.state == itemWaiting {
		it.fresh = false
	}
}

// finishGone forgets the item: its message has left the queue.
func (s *scheduler) finishGone(it *item) {
	if it.asked() {
		s.late(it)
	}
	s.giveBack(it)
	delete(s.items, it.slot.ID)
	s.dropCache(it)
	s.total.Add(-1)
	s.bytes.Add(-it.slot.Size)
	s.records.Add(-it.slot.record())
	s.shares.count(it.slot.Source.client, -1, -it.slot.octets())
	s.owed.Add(-it.slot.outcomeRoom())
}

// stand is where an item belongs that an attempt has not settled.
type stand struct {
	due string // the routes of the recipients that are due
	// later is when the first recipient is due that is not yet; zero when there is none. all are then the routes of all
	// that wait.
	later time.Time
	all   string
	last  bool // behind the others, and not at the head of the line
}

// finishSite closes the lane of route until a.RetryAt. The item goes on with another of its routes that is open, or back
// to the head of the line.
func (s *scheduler) finishSite(it *item, next stand, route string, a envelope.Attempt) {
	s.giveBack(it)
	l, now := s.lane(route), s.clock()
	pause := max(minGate, min(time.Until(a.RetryAt), s.longest()))
	l.close(now+pause, a.Site)
	s.rebalance(now)
	it.fresh = false
	if next.last = a.Amid; a.Amid {
		l.doubt(it, now)
		it.due = now
	}
	s.goOn(it, next, now)
}

// finishPanicked ends an attempt at whose message the relay's own code fails: it is tried again a few times, and then
// held in memory until the next start, so that the rest flows.
func (s *scheduler) finishPanicked(it *item) {
	s.giveBack(it)
	it.fresh = false
	panics := it.panicked()
	if s.pendingActions(it) {
		return
	}
	if panics >= maxPanics {
		it.state = itemHeld
		s.held++
		return
	}
	s.wait(it, s.clock()+s.longest()/8)
}

// finishUnread ends an attempt at a message that the disk could not read for now.
func (s *scheduler) finishUnread(it *item) {
	s.giveBack(it)
	it.fresh = false
	if s.pendingActions(it) {
		return
	}
	it.due = s.clock() + spoolPause
	it.state, it.lane = itemWaiting, nil
	heap.Push(&s.waiting, it)
}

// finishMoved puts the item into the lane of other routes.
func (s *scheduler) finishMoved(it *item, next stand) {
	s.giveBack(it)
	s.goOn(it, next, s.clock())
}

// goOn files an item that an attempt has not settled.
func (s *scheduler) goOn(it *item, next stand, now time.Duration) {
	if it.slot.Routes = next.due; !next.later.IsZero() {
		it.slot.Routes = next.all
	}
	if s.pendingActions(it) {
		return
	}
	it.slot.Routes = next.due
	l := s.laneFor(it, now)
	if !next.later.IsZero() && (l.paced > now || l.probing) && !l.gated(now) {
		s.standAndLook(it, l, next, now)
		return
	}
	if !next.later.IsZero() {
		it.slot.Routes = next.all // so that it can leave the line, should the lane close, for those that are due later
	}
	switch {
	case !l.gated(now):
		l.push(it, now)
	case next.later.IsZero():
		if next.last {
			l.push(it, now)
		} else {
			l.pushFirst(it)
		}
		s.tellWaiting(it, now)
	default:
		// In the line of a closed lane it would not be seen when its other recipients are due.
		s.wait(it, min(l.gate, now+max(0, min(time.Until(next.later), s.longest()))))
	}
}

// longest is the longest pause that can be meant: RetryMax and its spread. A longer one is a clock that was set.
func (s *scheduler) longest() time.Duration { return s.maxWait() + s.maxWait()/4 }

// minGate keeps a transport that names a time in the past from being asked in a tight loop.
const minGate = 10 * time.Millisecond

// shown says what the outcome of an attempt shows of the route of l: doubtful is an outcome that nobody knows. After any
// other the route works, and what waits before it may go.
func (s *scheduler) shown(it *item, l *lane, doubtful bool) {
	now := s.clock()
	if doubtful {
		l.doubt(it, now)
		return
	}
	l.trust(it)
	if l.probing {
		l.open()
		s.rebalance(now)
	}
}

// giveBack ends the item's attempt, if it was one.
func (s *scheduler) giveBack(it *item) {
	s.busy--
	if it.rare != nil {
		it.rare.all, it.rare.doing = "", nil
	}
	s.leave(it)
}

// leave makes room in its lane for another, once an attempt has reached its end there.
func (s *scheduler) leave(it *item) {
	if l := it.lane; l != nil {
		it.lane = nil
		l.inFlight--
		l.paced = 0 // what it has not used of the pace may be there for another
	}
}

func (s *scheduler) pendingActions(it *item) bool {
	if !it.asked() || s.draining {
		return false
	}
	actions := it.takeAsked()
	it.state, it.lane = itemBusy, nil
	s.busy++
	s.operate(it, actions)
	return true
}

func (s *scheduler) dropCache(it *item) {
	if it.cached != nil {
		s.uncache(it.cached)
		it.cached = nil
	}
}

// openAll forgets every gate: an operator asked, or the configuration has changed.
func (s *scheduler) openAll() {
	for _, l := range s.lanes {
		l.gate, l.paced = 0, 0
	}
}
