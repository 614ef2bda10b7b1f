package queue

import (
	"slices"
	"time"
)

// reroute decides anew which routes the recipients of r take, whose slot was had, and makes those due that waited on
// another. It returns the event's name, or "" when all stays as it was.
func (q *Queue) reroute(r *record, had slot, now time.Time) string {
	waiting := r.unsettled()
	legs := q.transport().Legs(r.Origin, r.pick(waiting))
	before := had.routes()
	// Which recipient of a message that went several ways has lost its route is not known; then all are due.
	lost := len(before) > 1 && slices.ContainsFunc(before, func(name string) bool { return legOf(legs, name) == nil })
	moved := lost
	for _, leg := range legs {
		if !lost && slices.Contains(before, leg.Route) {
			continue
		}
		moved = true
		for _, n := range leg.Recipients {
			r.dueNow(waiting[n], now)
		}
	}
	if !moved {
		return ""
	}
	return "rerouted"
}
