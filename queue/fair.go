package queue

import (
	"hash/fnv"
	"slices"
	"strings"

	"relayd/internal/envelope"
)

// fairLine is the line of fresh mail. Each source of mail has a line of its own, and they take turns; one that had nothing
// waiting comes next, or next but one after two others like it. So a scan does not wait behind a mailing of ten thousand,
// also when both are fresh and the pace is slow.
type fairLine struct {
	n      int
	flows  map[uint32]*flow
	new    []*flow // had nothing waiting when their first message came
	old    []*flow // have had their turn, and wait for the next
	favour int     // new ones served since an old one was
}

// flow is the line of one source.
type flow struct {
	line
	source uint32
}

// mostFavour is how many new flows in a row are served while old ones wait.
const mostFavour = 2

func (f *fairLine) push(it *item) {
	fl := f.flows[it.source]
	if fl == nil {
		if f.flows == nil {
			f.flows = make(map[uint32]*flow)
		}
		fl = &flow{source: it.source}
		f.flows[it.source] = fl
		f.new = append(f.new, fl)
	}
	fl.pushBack(it)
	f.n++
}

// pop takes the next item; there is one. An empty flow, whose items were taken out, is forgotten when its turn comes.
func (f *fairLine) pop() *item {
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
			fl.remove(it)
			f.n--
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

// all returns the items in the order in which they came.
func (f *fairLine) all() []*item {
	items := make([]*item, 0, f.n)
	for _, fl := range f.flows {
		for it := fl.first; it != nil; it = it.next {
			items = append(items, it)
		}
	}
	slices.SortFunc(items, func(a, b *item) int {
		if a.slot.ID < b.slot.ID {
			return -1
		}
		return 1
	})
	return items
}

// sourceOf returns where mail comes from, as a hash: the client and the sender. What makes each sender of a mailing
// another one, mostly a number or what follows a plus, does not count.
func sourceOf(o envelope.Origin, reverse envelope.Path) uint32 {
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
	return h.Sum32()
}
