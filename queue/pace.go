package queue

import (
	"context"
	"log/slog"
	"time"
)

// longestPace bounds for how long the pace of a route is believed. It is asked again before, every paceAgain, since another
// route of the same account may have given back what it did not use.
const (
	longestPace = 25 * time.Hour
	paceAgain   = time.Minute
)

// admitted asks the pace of l's route for leave to begin an attempt. Without it the lane is held until the pace allows
// one; that is no failure, and nobody probes.
func (s *scheduler) admitted(l *lane, now time.Duration) bool {
	at, ok := s.admit(l.name)
	if ok {
		l.held, l.paced = l.held && l.ready() > 1, 0
		return true
	}
	s.hold(l, at, now)
	return false
}

// hold lets nothing begin on l until at.
func (s *scheduler) hold(l *lane, at time.Time, now time.Duration) {
	l.paced = now + max(minGate, min(time.Until(at), longestPace))
	l.ask = now + paceAgain
	s.newlyHeld = true
	if !l.held {
		l.held = true
		s.slows(l, at)
	}
}

// finishPaced files an item that the pace did not let begin before at.
func (s *scheduler) finishPaced(it *item, next stand, route string, at time.Time) {
	s.giveBack(it)
	now := s.clock()
	s.hold(s.lane(route), at, now)
	s.goOn(it, next, now)
}

// finishRest files an item under its new slot of which an attempt has left some recipients for the next. Fresh mail stays
// that.
func (s *scheduler) finishRest(it *item, sl slot) {
	s.giveBack(it)
	s.refile(it, sl)
	it.due = notYet
	if s.pendingActions(it) {
		it.fresh = false
		return
	}
	s.place(it)
	if it.state != itemReady {
		it.fresh = false
	}
}

// standAndLook puts an item into the line of a lane that is paced, or that another item probes, for the recipients that are
// due. It keeps its place there until others of it are due, which may go by another route: as an item of several routes it
// would be moved to those at once, where it has nothing to do, and back, without end.
func (s *scheduler) standAndLook(it *item, l *lane, next stand, now time.Duration) {
	id := it.slot.ID
	it.withRare().all = next.all
	l.push(it, now)
	time.AfterFunc(max(minGate, min(time.Until(next.later), s.longest())), func() {
		s.post(func() {
			if s.items[id] != it || it.state != itemReady || it.slot.Routes != next.due {
				return // somebody has looked at it since
			}
			it.lane.remove(it)
			it.slot.Routes = next.all
			s.ready(it, s.clock())
		})
	})
}

// waitsForPace reports whether the item stands in line, and the pace of its route holds that line.
func (it *item) waitsForPace(now time.Duration) bool {
	return it.state == itemReady && !it.lane.gated(now) && it.lane.paced > now
}

// inTurn reports whether the item waits for nothing but its turn.
func (it *item) inTurn(now time.Duration) bool { return it.state == itemReady && it.lane.isOpen(now) }

// forgo gives back the leave of an attempt that did not come to deliver. Another route of the same account may be waiting
// for it.
func (q *Queue) forgo(route string) {
	q.transport().Forgo(route)
	q.scheduler.post(func() {
		for _, l := range q.scheduler.lanes {
			l.paced = 0
		}
	})
}

// logPaced says that mail waits for the pace of its route; once, until no mail does.
func (q *Queue) logPaced(l *lane, until time.Time) {
	q.log.LogAttrs(context.Background(), slog.LevelInfo, "the pace holds mail back", slog.String("route", l.name),
		slog.Int("messages", l.ready()), slog.Time("next_slot", until))
}

// Backlog is what waits for a route. Paced are those of Messages that wait for nothing but its pace; each stands before one
// route.
type Backlog struct{ Messages, Recipients, Paced int }

// Backlogs returns what waits, by route, without what is held. A message that may take several routes counts for each.
// Of a message that an earlier version has stored the recipients are known some time after the start; until then it counts
// as one.
func (q *Queue) Backlogs() map[string]Backlog {
	out := make(map[string]Backlog)
	q.scheduler.do(func() {
		for name, l := range q.scheduler.lanes {
			if now := q.scheduler.clock(); !l.gated(now) && l.paced > now && l.ready() > 0 {
				out[name] = Backlog{Paced: l.ready()}
			}
		}
		for _, it := range q.scheduler.items {
			if it.state == itemHeld {
				continue
			}
			if !it.slot.several() {
				out[it.slot.Routes] = out[it.slot.Routes].with(it)
				continue
			}
			for _, name := range it.slot.routes() {
				out[name] = out[name].with(it)
			}
		}
	})
	return out
}

func (b Backlog) with(it *item) Backlog {
	return Backlog{b.Messages + 1, b.Recipients + max(1, int(it.slot.Recipients)), b.Paced}
}

// notInTurn returns those of ids that wait for something else than their turn.
func (q *Queue) notInTurn(ids []ID) []ID {
	var out []ID
	q.scheduler.do(func() {
		now := q.scheduler.clock()
		for _, id := range ids {
			if it := q.scheduler.items[id]; it != nil && !it.inTurn(now) {
				out = append(out, id)
			}
		}
	})
	return out
}
