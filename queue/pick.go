package queue

import (
	"math/rand/v2"
	"slices"
)

// maxDoubtful bounds the sources that a lane remembers as those of a failure.
const maxDoubtful = 64

// doubt notes that the route failed in the midst of the transaction of it, which may be what it fails at. What goes next
// is another message, of another source if there is one, until one goes through: messages at which a host fails must
// not be all that probes it.
func (l *lane) doubt(it *item) {
	it.withRare().suspect = true
	if len(l.doubts) == maxDoubtful {
		l.doubts = slices.Delete(l.doubts, 0, 1)
	}
	l.doubts = append(l.doubts, it.slot.Source)
}

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

// drawSource returns an item of a source that is not in doubt, each of those being as likely; nil where there is none.
func (l *lane) drawSource() *item {
	var flows []*flow
	for _, line := range []*fairLine{&l.fresh, &l.backlog} {
		for source, fl := range line.flows {
			if fl.n > 0 && !slices.Contains(l.doubts, source) {
				flows = append(flows, fl)
			}
		}
	}
	if len(flows) == 0 {
		return nil
	}
	return flows[rand.N(len(flows))].draw()
}

// drawMessage returns an item, each being about as likely but for those at which the route has failed before.
func (l *lane) drawMessage() *item {
	const tries = 4
	var it *item
	for range tries {
		n := rand.Int32N(int32(l.ready()))
		for fl := range l.flows {
			if n -= fl.n; n < 0 {
				it = fl.draw()
				break
			}
		}
		if it.rare == nil || !it.rare.suspect {
			break
		}
	}
	return it
}

// flows yields what the items stand in.
func (l *lane) flows(yield func(*flow) bool) {
	for _, line := range []*fairLine{&l.fresh, &l.backlog} {
		if !yield(&line.front) {
			return
		}
		for _, fl := range line.flows {
			if !yield(fl) {
				return
			}
		}
	}
}

// draw returns an item of a flow that is not empty, from near one of its ends if it is long.
func (fl *flow) draw() *item {
	const near = 1000
	steps := rand.Int32N(min(fl.n, near))
	if rand.N(2) == 0 {
		it := fl.first
		for range steps {
			it = it.next
		}
		return it
	}
	it := fl.last
	for range steps {
		it = it.prev
	}
	return it
}
