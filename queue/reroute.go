package queue

import (
	"slices"
	"time"
)

// reroute decides anew which routes the recipients of r take, whose slot was had, and makes those due that wait after an
// attempt on another. It returns the event's name, or "" when all stays as it was.
func (q *Queue) reroute(r *record, had slot, now time.Time) string {
	waiting := r.unsettled()
	legs := q.transport().Legs(r.Origin, r.pick(waiting))
	before := had.routes()
	// Which recipient of a message that went several ways has lost its route is not known where none is noted; then all
	// are due.
	lost := len(before) > 1 && slices.ContainsFunc(before, func(name string) bool { return legOf(legs, name) == nil })
	moved := lost
	for _, leg := range legs {
		// The slot says less than the recipients: one that was tried since the routes have changed has brought it up to date
		// for all.
		there := !lost && slices.Contains(before, leg.Route)
		moved = moved || !there
		for _, n := range leg.Recipients {
			s := &r.Recipients[waiting[n]]
			if s.Route == leg.Route || s.Route == "" && there {
				continue
			}
			moved = r.dueNow(waiting[n], now) || moved
		}
	}
	if !moved {
		return ""
	}
	return "rerouted"
}
