package queue

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"time"
)

// maxDoubtful bounds the sources that a lane remembers as those of a failure.
const maxDoubtful = 64

// doubt notes that the route failed in the midst of the transaction of it, which may be what it fails at. What goes next
// is another message, of another client if there is one, until one goes through: messages at which a host fails must
// not be all that probes it.
func (l *lane) doubt(it *item, now time.Duration) {
	it.withRare().suspect = true
	l.doubted = now
	if len(l.doubts) == maxDoubtful {
		l.doubts = slices.Delete(l.doubts, 0, 1)
	}
	l.doubts = append(l.doubts, it.slot.Source)
}

// trust ends the doubts when it went through. An attempt that began before the last failure shows nothing of what comes
// after it.
func (l *lane) trust(it *item) {
	if it.begun >= l.doubted {
		l.doubts = nil
	}
}

// suspected reports whether a route failed in the midst of the item's transaction.
func (it *item) suspected() bool { return it.rare != nil && it.rare.suspect }

// popOther takes an item other than those at which the route failed; there is one. It takes any message, and the next
// time one of any other source: the bad ones may have most of the sources, or most of the messages, and hardly both.
func (l *lane) popOther() *item {
	var it *item
	if len(l.doubts)%2 == 0 {
		it = l.drawSource()
	}
	if it == nil {
		it = l.drawMessage()
	}
	l.remove(it)
	return it
}

// drawSource returns an item of a client that is not in doubt, or else of a source that is not; nil where there is none.
// Each client is as likely, and each source of it.
func (l *lane) drawSource() *item {
	others := make(map[uint16][]*item) // one of each source, by client
	for it := range l.oneOfEach {
		if from := it.slot.Source; !it.suspected() && !slices.Contains(l.doubts, from) {
			others[from.client] = append(others[from.client], it)
		}
	}
	clients := slices.Collect(maps.Keys(others))
	doubtful := func(client uint16) bool {
		return slices.ContainsFunc(l.doubts, func(s source) bool { return s.client == client })
	}
	if slices.ContainsFunc(clients, func(client uint16) bool { return !doubtful(client) }) {
		clients = slices.DeleteFunc(clients, doubtful)
	}
	if len(clients) == 0 {
		return nil
	}
	items := others[clients[rand.N(len(clients))]]
	return items[rand.N(len(items))]
}

// oneOfEach yields an item of each source, and all that go before the turns.
func (l *lane) oneOfEach(yield func(*item) bool) {
	for fl := range l.flows {
		items := fl.dueHeap
		if fl.client != nil {
			i := rand.N(len(items))
			items = items[i : i+1]
		}
		for _, it := range items {
			if !yield(it) {
				return
			}
		}
	}
}

// drawMessage returns an item, each being as likely but for those at which the route has failed before.
func (l *lane) drawMessage() *item {
	flows := slices.Collect(l.flows)
	ends := make([]int, len(flows)) // how many items are in the flows up to this one
	n := 0
	for i, fl := range flows {
		n += fl.size()
		ends[i] = n
	}
	const tries = 100
	var it *item
	for range tries {
		at := rand.N(n)
		i := sort.SearchInts(ends, at+1)
		it = flows[i].dueHeap[ends[i]-at-1]
		if !it.suspected() {
			break
		}
	}
	return it
}

// flows yields what the items stand in, where any do.
func (l *lane) flows(yield func(*flow) bool) {
	for _, line := range []*fairLine{&l.fresh, &l.backlog} {
		if line.front.size() > 0 && !yield(&line.front) {
			return
		}
		for _, fl := range line.flows {
			if fl.size() > 0 && !yield(fl) {
				return
			}
		}
	}
}
