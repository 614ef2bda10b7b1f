package queue

import (
	"container/heap"
	"slices"
	"sync/atomic"
	"time"

	"relayd/internal/envelope"
)

// itemState is where the scheduler has an item.
type itemState uint8

const (
	itemWaiting itemState = iota // in the heap until it is due
	itemReady                    // due, in its lane's line
	itemBusy                     // with an attempt or an operator
	itemHeld                     // nowhere, until released
)

// item is what the scheduler keeps in memory of a queued message.
type item struct {
	slot    slot          // its line in the due index
	due     time.Duration // since when or from when, on the scheduler's own clock, which nobody can set
	begun   time.Duration // when its last attempt began
	heapPos int32         // in the heap, or in the line it stands in
	state   itemState
	fresh   bool // not tried yet, and not delayed by an outage
	told    bool // the log says that it waits for its smarthost
	// handedOn is set when the attempt has given the item over to what ends it. It belongs to the attempt.
	handedOn bool
	lane     *lane
	flow     *flow // the line it stands in while ready
	cached   *cached
	rare     *rare // nil for nearly all: a million waiting items are a million times this struct
}

// rare is what few items have.
type rare struct {
	suspect bool     // its route failed in the midst of its transaction
	panics  int      // attempts that a fault outside of the transport ended
	pending []Action // what was asked for while it was busy
	doing   []Action // of that, what is being done
	all     string   // the routes of all its recipients, while it stands in line for those that are due
}

// ask leaves word of what an operator wants of a busy item.
func (it *item) ask(action Action) {
	r := it.withRare()
	r.pending = append(r.pending, action)
}

func (it *item) asked() bool { return it.rare != nil && len(it.rare.pending) > 0 }

// takeAsked returns what was asked for, to be done now.
func (it *item) takeAsked() []Action {
	it.rare.doing, it.rare.pending = it.rare.pending, nil
	return it.rare.doing
}

// open returns what operators asked for that is not done.
func (it *item) open() []Action {
	if it.rare == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Concat(it.rare.doing, it.rare.pending), func(a Action) bool {
		return a == actionWarn || a == actionForget
	})
}

// panicked counts an attempt that a fault outside of the transport ended, and returns how many there were.
func (it *item) panicked() int {
	r := it.withRare()
	r.panics++
	return r.panics
}

func (it *item) withRare() *rare {
	if it.rare == nil {
		it.rare = &rare{}
	}
	return it.rare
}

// dueHeap orders items by when they are due, and those that are due together by their arrival.
type dueHeap []*item

func (h dueHeap) Len() int { return len(h) }

func (h dueHeap) Less(i, j int) bool {
	return h[i].due < h[j].due || h[i].due == h[j].due && h[i].slot.ID < h[j].slot.ID
}

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapPos, h[j].heapPos = int32(i), int32(j)
}

func (h *dueHeap) Push(x any) {
	it := x.(*item)
	it.heapPos = int32(len(*h))
	*h = append(*h, it)
}

func (h *dueHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}

func (h *dueHeap) remove(it *item) { heap.Remove(h, int(it.heapPos)) }

// lane is the line before one route. Fresh mail and the backlog stand in two lines that take turns, so that neither
// waits for all of the other; nor does within them one client wait for all of another, or one sender of a client.
type lane struct {
	name     string
	fresh    fairLine
	backlog  fairLine
	turn     bool           // the backlog is next
	several  int            // items in the lines that could take another route as well
	clients  map[uint16]int // items in the lines, by client
	inFlight int
	crowded  atomic.Bool // some stand in the lines although attempts are under way; attempts read it
	// gate is until when nothing is started, on the scheduler's clock. Then one message probes the route; the others
	// follow when it comes through.
	gate    time.Duration
	probing bool
	reason  *envelope.Failure
	// paced is until when the pace of the route lets nothing begin, as it has said, and ask when it is asked whether that is
	// still so, on the scheduler's clock. held says that the log has told of it.
	paced time.Duration
	ask   time.Duration
	held  bool
	// doubts are the sources of messages at which the route failed in the midst of a transaction since one went through.
	// doubted is when the last of them was.
	doubts  []source
	doubted time.Duration
}

func (l *lane) gated(now time.Duration) bool { return l.gate > now }

func (l *lane) ready() int { return l.fresh.n + l.backlog.n }

// room reports whether another attempt may start.
func (l *lane) room(now time.Duration, concurrency int) bool {
	if l.gated(now) || l.ready() == 0 || l.paced > now && l.ask > now {
		return false
	}
	if l.probing {
		return l.inFlight == 0
	}
	return l.inFlight < concurrency
}

// isOpen reports whether the route is known to work, as far as anybody has tried.
func (l *lane) isOpen(now time.Duration) bool { return !l.gated(now) && !l.probing }

func (l *lane) push(it *item, now time.Duration) {
	if !l.isOpen(now) {
		it.fresh = false
	}
	l.enter(it)
	if it.fresh {
		l.fresh.push(it)
	} else {
		l.backlog.pushBehind(it)
	}
}

// pushFirst puts an item before the turns of the backlog.
func (l *lane) pushFirst(it *item) {
	it.fresh = false
	l.enter(it)
	l.backlog.pushFirst(it)
}

func (l *lane) enter(it *item) {
	it.state, it.lane = itemReady, l
	if it.slot.several() {
		l.several++
	}
	if l.clients == nil {
		l.clients = make(map[uint16]int)
	}
	l.clients[it.slot.Source.client]++
}

// remove takes an item out of the line that it stands in.
func (l *lane) remove(it *item) {
	it.flow.of.remove(it)
	l.left(it)
}

// left counts an item that is not in the lines any more.
func (l *lane) left(it *item) {
	if it.slot.several() {
		l.several--
	}
	if l.clients[it.slot.Source.client]--; l.clients[it.slot.Source.client] == 0 {
		delete(l.clients, it.slot.Source.client)
	}
}

// contended reports whether mail of others than a client stands in the lines.
func (l *lane) contended(client uint16) bool {
	return len(l.clients) > 1 || len(l.clients) == 1 && l.clients[client] == 0
}

// pop takes the next item; there is one.
func (l *lane) pop() *item {
	if len(l.doubts) > 0 {
		return l.popOther()
	}
	from := &l.fresh
	if l.fresh.n == 0 || l.turn && l.backlog.n > 0 {
		from = &l.backlog
	}
	l.turn = !l.turn
	it := from.pop()
	l.left(it)
	return it
}

// appendSeveral appends the items in the lines that could take another route as well.
func (l *lane) appendSeveral(items []*item) []*item {
	for _, line := range []*fairLine{&l.fresh, &l.backlog} {
		for it := range line.all {
			if it.slot.several() {
				items = append(items, it)
			}
		}
	}
	return items
}

// close keeps the lane shut until gate. What stood in the fresh line becomes backlog, so that mail that arrives
// after the outage does not wait behind all that arrived in it. It keeps the turns of its sources.
func (l *lane) close(gate time.Duration, why *envelope.Failure) {
	l.gate, l.probing, l.reason = gate, true, why
	for l.fresh.n > 0 {
		it := l.fresh.pop()
		it.fresh = false
		l.backlog.pushBehind(it)
	}
	l.fresh = fairLine{}
}

func (l *lane) open() { l.gate, l.probing, l.reason = 0, false, nil }
