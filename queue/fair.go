package queue

import (
	"hash/fnv"
	"strings"

	"relayd/internal/envelope"
)

// fairLine is a line in which each source of mail has a line of its own, and they take turns. So a scan does not wait behind
// a mailing of ten thousand that came before it, whether both are fresh and the pace is slow, or an outage or a restart has
// held both up.
type fairLine struct {
	n     int
	front flow // goes before the turns: what an attempt has given back
	flows map[uint16]*flow
	// Each of flows is in one of these, also one whose items were taken out, until its turn comes.
	new    []*flow // favoured, and have not had their turn
	old    []*flow // wait for their turn
	favour int     // new ones served since an old one was
}

// flow is the line of one source: first in, first out, but any item can be taken out in constant time.
type flow struct {
	first, last *item
	n           int32
	source      uint16
	of          *fairLine
}

// mostFavour is how many new flows in a row are served while old ones wait.
const mostFavour = 2

// push adds an item. Its source comes next if it had nothing waiting, or next but one after two others like it.
func (f *fairLine) push(it *item) { f.join(it, &f.new) }

// pushBehind adds an item. Its source comes when all others have had a turn if it had nothing waiting.
func (f *fairLine) pushBehind(it *item) { f.join(it, &f.old) }

func (f *fairLine) join(it *item, begin *[]*flow) {
	fl := f.flows[it.slot.Source]
	if fl == nil {
		if f.flows == nil {
			f.flows = make(map[uint16]*flow)
		}
		fl = &flow{source: it.slot.Source, of: f}
		f.flows[fl.source] = fl
		*begin = append(*begin, fl)
	}
	fl.pushBack(it)
	f.n++
}

// pushFirst adds an item that comes before all others.
func (f *fairLine) pushFirst(it *item) {
	f.front.of = f
	f.front.pushFront(it)
	f.n++
}

// pop takes the next item; there is one.
func (f *fairLine) pop() *item {
	if it := f.front.first; it != nil {
		f.remove(it)
		return it
	}
	for {
		from, favour := &f.new, f.favour+1
		if len(f.new) == 0 || len(f.old) > 0 && f.favour >= mostFavour {
			from, favour = &f.old, 0
		}
		fl := (*from)[0]
		(*from)[0] = nil
		*from = (*from)[1:]
		it := fl.first
		if it != nil {
			f.remove(it)
		}
		if fl.n > 0 {
			f.old = append(f.old, fl)
		} else {
			delete(f.flows, fl.source)
		}
		if it != nil {
			f.favour = favour
			return it
		}
	}
}

// remove takes out an item that is in the line.
func (f *fairLine) remove(it *item) {
	it.flow.remove(it)
	f.n--
}

// all yields the items, those of one source in the order in which they stand.
func (f *fairLine) all(yield func(*item) bool) {
	for _, flows := range [][]*flow{{&f.front}, f.new, f.old} {
		for _, fl := range flows {
			for it := fl.first; it != nil; it = it.next {
				if !yield(it) {
					return
				}
			}
		}
	}
}

func (fl *flow) pushBack(it *item) {
	it.flow, it.prev, it.next = fl, fl.last, nil
	if fl.last == nil {
		fl.first = it
	} else {
		fl.last.next = it
	}
	fl.last = it
	fl.n++
}

func (fl *flow) pushFront(it *item) {
	it.flow, it.prev, it.next = fl, nil, fl.first
	if fl.first == nil {
		fl.last = it
	} else {
		fl.first.prev = it
	}
	fl.first = it
	fl.n++
}

func (fl *flow) remove(it *item) {
	if it.prev == nil {
		fl.first = it.next
	} else {
		it.prev.next = it.next
	}
	if it.next == nil {
		fl.last = it.prev
	} else {
		it.next.prev = it.prev
	}
	it.flow, it.prev, it.next = nil, nil, nil
	fl.n--
}

// sourceOf returns where mail comes from, as a hash: the client and the sender. What makes each sender of a mailing
// another one, mostly a number or what follows a plus, does not count. A hash of 16 bits bounds what a million senders cost;
// it is rare that two who matter have the same one, and then they share a line.
//
// It is stored: with another hash one source is two until the mail of before is gone.
func sourceOf(o envelope.Origin, reverse envelope.Path) uint16 {
	local, domain := string(reverse), ""
	if at := strings.LastIndexByte(string(reverse), '@'); at >= 0 {
		local, domain = string(reverse[:at]), reverse.Domain()
	}
	if end := strings.IndexAny(local, "+=0123456789"); end >= 0 {
		local = local[:end]
	}
	h := fnv.New32a()
	h.Write(o.Addr.AsSlice())
	h.Write([]byte(strings.ToLower(local) + "@" + domain))
	sum := h.Sum32()
	return uint16(sum>>16 ^ sum)
}
