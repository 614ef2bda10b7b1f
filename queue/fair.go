package queue

import (
	"container/heap"
	"hash/fnv"
	"slices"
	"strings"

	"relayd/internal/envelope"
)

// source says where mail comes from: the client and, of its mail, the sender. Each is a hash, of 16 and of 12 bits, which
// bounds what a million senders cost. Two with the same hash share a turn.
//
// It is stored: with another hash one source is two until the mail of before is gone.
type source struct{ client, sender uint16 }

// sourceOf returns the source of a message. Of the sender, the part does not count that numbers the senders of a mailing: mostly digits, or the rest after a plus.
func sourceOf(o envelope.Origin, reverse envelope.Path) source {
	local, domain := string(reverse), ""
	if at := strings.LastIndexByte(string(reverse), '@'); at >= 0 {
		local, domain = string(reverse[:at]), reverse.Domain()
	}
	if end := strings.IndexAny(local, "+=0123456789"); end >= 0 {
		local = local[:end]
	}
	return source{client: clientOf(o), sender: hash16([]byte(strings.ToLower(local)+"@"+domain)) % maxSenders}
}

// maxSenders is how many senders of a client are told apart.
const maxSenders = 1 << 12

func hash16(b []byte) uint16 {
	h := fnv.New32a()
	h.Write(b)
	sum := h.Sum32()
	return uint16(sum>>16 ^ sum)
}

// fairLine is a line in which the clients take turns, and in the turn of a client its senders. So a scan does not wait behind
// a mailing of ten thousand that came before it, whether both are fresh and the pace is slow, or an outage or a restart has
// held both up. A client gets no more turns by writing in the name of many senders.
type fairLine struct {
	n       int
	front   flow // goes before the turns: what an attempt has given back
	clients map[uint16]*client
	flows   map[source]*flow
	turns   turns[*client]
}

// client is one client's part of a line.
type client struct {
	n       int
	hash    uint16
	of      *fairLine
	senders turns[*flow]
}

// flow is the line of one source: what is due first goes first, and any item can be taken out.
type flow struct {
	dueHeap
	source source
	of     *fairLine
	client *client // nil for the front
}

// push adds an item. Its client comes next if it had nothing waiting, or next but one after two others like it; likewise
// its sender among those of the client.
func (f *fairLine) push(it *item) { f.join(it, true) }

// pushBehind adds an item. Its client comes when all others have had a turn if it had nothing waiting; likewise its sender.
func (f *fairLine) pushBehind(it *item) { f.join(it, false) }

func (f *fairLine) join(it *item, favoured bool) {
	from := it.slot.Source
	fl := f.flows[from]
	if fl == nil {
		f.tidy()
		c := f.clients[from.client]
		if c == nil {
			c = &client{hash: from.client, of: f}
			f.clients[c.hash] = c
			f.turns.begin(c, favoured)
		}
		fl = &flow{source: from, of: f, client: c}
		f.flows[from] = fl
		c.senders.begin(fl, favoured)
	}
	fl.client.n++
	f.add(fl, it)
}

// tidy makes the maps, and forgets those that wait for turns without items once they are most.
func (f *fairLine) tidy() {
	const few = 64
	if f.flows == nil {
		f.flows, f.clients = make(map[source]*flow), make(map[uint16]*client)
	}
	if len(f.flows) > 2*f.n+few {
		for c := range f.turns.all {
			c.senders.sweep()
		}
		f.turns.sweep()
	}
}

// pushFirst adds an item that comes before all others.
func (f *fairLine) pushFirst(it *item) {
	f.front.of = f
	f.add(&f.front, it)
}

func (f *fairLine) add(fl *flow, it *item) {
	heap.Push(&fl.dueHeap, it)
	it.flow = fl
	f.n++
}

// pop takes the next item; there is one.
func (f *fairLine) pop() *item {
	if f.front.size() > 0 {
		it := f.front.dueHeap[0]
		f.remove(it)
		return it
	}
	c := f.turns.next()
	fl := c.senders.next()
	it := fl.dueHeap[0]
	f.remove(it)
	c.senders.end(fl)
	f.turns.end(c)
	return it
}

// remove takes out an item that is in the line.
func (f *fairLine) remove(it *item) {
	fl := it.flow
	fl.dueHeap.remove(it)
	it.flow = nil
	if fl.client != nil {
		fl.client.n--
	}
	f.n--
}

// all yields the items.
func (f *fairLine) all(yield func(*item) bool) {
	for _, it := range f.front.dueHeap {
		if !yield(it) {
			return
		}
	}
	for _, fl := range f.flows {
		for _, it := range fl.dueHeap {
			if !yield(it) {
				return
			}
		}
	}
}

func (c *client) size() int { return c.n }

func (c *client) forget() {
	delete(c.of.clients, c.hash)
	for fl := range c.senders.all {
		fl.forget()
	}
}

func (fl *flow) size() int { return len(fl.dueHeap) }

func (fl *flow) forget() { delete(fl.of.flows, fl.source) }

// turns has those of a kind that take turns. One whose items were taken out stays until its turn comes.
type turns[T taker] struct {
	new    []T // favoured, and have not had their turn
	old    []T // wait for their turn
	favour int // new ones served since an old one was
}

// taker is one that takes turns.
type taker interface {
	size() int // of what waits for its turns
	forget()   // nothing does
}

// mostFavour is how many new ones in a row are served while old ones wait.
const mostFavour = 2

// begin adds x.
func (t *turns[T]) begin(x T, favoured bool) {
	if favoured {
		t.new = append(t.new, x)
	} else {
		t.old = append(t.old, x)
	}
}

// next returns the one whose turn it is; there is one. Its turn ends with a call of end.
func (t *turns[T]) next() T {
	for {
		from, favour := &t.new, t.favour+1
		if len(t.new) == 0 || len(t.old) > 0 && t.favour >= mostFavour {
			from, favour = &t.old, 0
		}
		var none T
		x := (*from)[0]
		(*from)[0] = none
		*from = (*from)[1:]
		if x.size() > 0 {
			t.favour = favour
			return x
		}
		x.forget()
	}
}

// end has x wait for its next turn if there is anything left.
func (t *turns[T]) end(x T) {
	if x.size() > 0 {
		t.old = append(t.old, x)
	} else {
		x.forget()
	}
}

// sweep forgets those that have nothing waiting.
func (t *turns[T]) sweep() {
	idle := func(x T) bool {
		if x.size() > 0 {
			return false
		}
		x.forget()
		return true
	}
	t.new, t.old = slices.DeleteFunc(t.new, idle), slices.DeleteFunc(t.old, idle)
}

func (t *turns[T]) all(yield func(T) bool) {
	for _, list := range [][]T{t.new, t.old} {
		for _, x := range list {
			if !yield(x) {
				return
			}
		}
	}
}
