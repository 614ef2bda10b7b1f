package pace

import "time"

const (
	dayLength = 24 * time.Hour
	grain     = time.Minute // of the count
)

// share is what was counted until end, on the book's clock.
type share struct {
	end time.Duration
	n   int
}

// day counts recipients over the last 24 hours. Its methods take the time on the book's clock.
type day struct {
	limit  int // 0 for none
	shares []share
	used   int
}

// expire forgets what is older than a day.
func (d *day) expire(now time.Duration) {
	gone := 0
	for gone < len(d.shares) && now >= d.shares[gone].end+dayLength {
		d.used -= d.shares[gone].n
		gone++
	}
	if gone > 0 {
		d.shares = append(d.shares[:0], d.shares[gone:]...)
	}
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

// remove takes n back from the share that ends at end.
func (d *day) remove(n int, end time.Duration) {
	for i := len(d.shares) - 1; i >= 0; i-- {
		if s := &d.shares[i]; s.end == end {
			n = min(n, s.n)
			s.n -= n
			d.used -= n
			return
		}
	}
}

// room is how many more recipients there may be now, beside those that are reserved.
func (d *day) room(reserved int) int { return max(0, d.limit-d.used-reserved) }

// roomFor returns when there will be room for n.
func (d *day) roomFor(n, reserved int, now time.Duration) time.Duration {
	missing := d.used + reserved + n - d.limit
	for _, s := range d.shares {
		if missing <= 0 {
			break
		}
		if missing -= s.n; missing <= 0 {
			return s.end + dayLength
		}
	}
	return now + 10*time.Second // what is reserved decides, and that is decided soon
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
