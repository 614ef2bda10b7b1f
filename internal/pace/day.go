package pace

import (
	"cmp"
	"slices"
	"time"
)

const (
	dayLength = 24 * time.Hour
	grain     = time.Minute // of the count
)

// share is what was counted until end, on the book's clock. Turns that began in it and have not ended are open: whatever
// they come to may come later than a day.
type share struct {
	end  time.Duration
	n    int
	open int
}

// day counts recipients over the last 24 hours. Its methods take the time on the book's clock.
type day struct {
	limit  int // 0 for none
	shares []share
	used   int
}

// expire forgets what is older than a day.
func (d *day) expire(now time.Duration) {
	if len(d.shares) == 0 || now < d.shares[0].end+dayLength {
		return
	}
	d.shares = slices.DeleteFunc(d.shares, func(s share) bool {
		gone := now >= s.end+dayLength && s.open == 0
		if gone {
			d.used -= s.n
		}
		return gone
	})
}

// add counts n, and returns until when the share is counted in which they are.
func (d *day) add(n int, now time.Duration) (end time.Duration) {
	if last := len(d.shares) - 1; last < 0 || now >= d.shares[last].end {
		d.shares = append(d.shares, share{end: now + grain})
	}
	last := &d.shares[len(d.shares)-1]
	last.n += n
	d.used += n
	return last.end
}

// begin counts n for a turn that begins, and returns what names its share.
func (d *day) begin(n int, now time.Duration) (end time.Duration) {
	end = d.add(n, now)
	d.shares[len(d.shares)-1].open++
	return end
}

// finish ends a turn that was to have n recipients and had some of them: those count from now on.
func (d *day) finish(n, had int, end, now time.Duration) {
	for i := len(d.shares) - 1; i >= 0; i-- {
		if s := &d.shares[i]; s.end == end {
			s.open--
			if now >= end { // else it is this share still
				d.take(s, n)
				d.add(had, now)
			} else {
				d.take(s, n-had)
			}
			return
		}
	}
}

func (d *day) take(s *share, n int) {
	n = min(n, s.n)
	s.n -= n
	d.used -= n
}

// merge adds the shares of another day, whose turns go on.
func (d *day) merge(shares []share) {
	for _, s := range shares {
		d.used += s.n
		if i := slices.IndexFunc(d.shares, func(o share) bool { return o.end == s.end }); i >= 0 {
			d.shares[i].n += s.n
			d.shares[i].open += s.open
			continue
		}
		d.shares = append(d.shares, s)
	}
	d.sort()
}

func (d *day) sort() {
	slices.SortFunc(d.shares, func(x, y share) int { return cmp.Compare(x.end, y.end) })
}

// room is how many more recipients there may be now, beside those that are reserved.
func (d *day) room(reserved int) int { return max(0, d.limit-d.used-reserved) }

// soon is when to look again for what turns decide that are under way.
const soon = 10 * time.Second

// roomFor returns when there will be room for n; when there is none now, that is later than now.
func (d *day) roomFor(n, reserved int, now time.Duration) time.Duration {
	missing := d.used + reserved + n - d.limit
	for _, s := range d.shares {
		if missing <= 0 {
			break
		}
		if missing -= s.n; missing <= 0 && s.end+dayLength > now {
			return s.end + dayLength
		}
	}
	return now + soon // what decides is reserved, or under way for more than a day
}

// span returns how long n recipients take from now on. What is sent today is free again after 24 hours, so that each
// full cap is a day.
func (d *day) span(n int, now time.Duration) time.Duration {
	if d.limit <= 0 || n <= d.room(0) {
		return 0
	}
	days := (n - 1) / d.limit
	rest := n - days*d.limit
	wait := time.Duration(days) * dayLength
	if rest > d.room(0) {
		wait += max(0, d.roomFor(rest, 0, now)-now)
	}
	return wait
}
