package pace

import (
	"math"
	"time"
)

// Rate is a number of messages in a unit of time; the zero Rate is no limit.
type Rate struct {
	Messages int
	Per      time.Duration
}

// IsZero reports whether r is no limit.
func (r Rate) IsZero() bool { return r.Messages <= 0 || r.Per <= 0 }

// Burst is how many messages may go at once.
func (r Rate) Burst() int { return max(1, r.Messages/10) }

// refill is how many messages a second may go in the long run.
func (r Rate) refill() float64 {
	return float64(r.Messages-r.Burst()+1) / r.Per.Seconds()
}

// stricter returns the one of two rates that lets less through.
func stricter(a, b Rate) Rate {
	if a.IsZero() || !b.IsZero() && b.refill() < a.refill() {
		return b
	}
	return a
}

const (
	leastFactor = 1.0 / 64
	recoverStep = 0.1
	// leastLearnt, messages a minute, is what is halved where no rate is set and hardly anything went: the reply was hardly
	// about that.
	leastLearnt  = 20
	recoverEvery = 5 * time.Minute
	// slowOnce is the time in which several throttling replies, to messages that were under way together, count as one.
	slowOnce = 30 * time.Second
)

// bucket is the token bucket of an account. Its methods take the time on the book's clock.
type bucket struct {
	rate Rate
	// level is how many messages may go at once. It is below zero when more have gone than were admitted.
	level float64
	at    time.Duration // when level was right
	// factor is 1, or less for a while after a throttling reply; learnt is then the whole rate, messages a second, of an
	// account without one.
	factor  float64
	learnt  float64
	slowed  time.Duration // when factor was last halved
	raised  time.Duration // when factor last grew
	minute  time.Duration // when the present minute of counting began
	counted [2]int        // messages in the last minute and in the present one
	// restored is what an earlier run has left, until there is a rate to apply it to.
	restored *restored
}

// restored is the level that an earlier run has left, and how long that run had been over when this one began.
type restored struct {
	level float64
	off   time.Duration
}

func newBucket(r Rate, now time.Duration) bucket {
	return bucket{rate: r, factor: 1, at: now, level: float64(r.Burst()), minute: now}
}

// limited reports whether there is a limit now.
func (b *bucket) limited() bool { return !b.rate.IsZero() || b.learnt > 0 }

// perSecond is the rate that is in force, in messages a second.
func (b *bucket) perSecond() float64 {
	if b.rate.IsZero() {
		return b.learnt * b.factor
	}
	return b.rate.refill() * b.factor
}

// burst is how many messages may go at once: one while the account is slowed.
func (b *bucket) burst() float64 {
	if b.factor < 1 || b.rate.IsZero() {
		return 1
	}
	return float64(b.rate.Burst())
}

// advance brings the bucket up to now.
func (b *bucket) advance(now time.Duration) {
	if b.limited() {
		b.level = min(b.burst(), b.level+b.perSecond()*(now-b.at).Seconds())
	}
	b.at = now
	for b.factor < 1 && now-b.raised >= recoverEvery {
		b.factor, b.raised = min(1, b.factor+recoverStep), b.raised+recoverEvery
	}
	if b.factor >= 1 {
		b.factor, b.learnt = 1, 0
	}
	for ; now-b.minute >= time.Minute; b.minute += time.Minute {
		if now-b.minute >= 3*time.Minute {
			b.minute, b.counted = now, [2]int{}
			return
		}
		b.counted = [2]int{b.counted[1], 0}
	}
}

// ready reports whether a message may go; otherwise after how long one may.
func (b *bucket) ready() (wait time.Duration, ok bool) {
	const enough = 1 - 1e-9 // what rounding takes
	if !b.limited() || b.level >= enough {
		return 0, true
	}
	seconds := (1 - b.level) / b.perSecond()
	if seconds > 24*time.Hour.Seconds() {
		return 24 * time.Hour, false
	}
	return time.Duration(math.Ceil(seconds * float64(time.Second))), false
}

// take is one message; put gives n back, or takes as many as -n more.
func (b *bucket) take() {
	b.counted[1]++
	if b.limited() {
		b.level--
	}
}

func (b *bucket) put(n int) {
	b.counted[1] = max(0, b.counted[1]-n)
	if b.limited() {
		b.level = min(b.burst(), b.level+float64(n))
	}
}

// resume slows the bucket as an earlier run had done, which was over for so long: that time counts for the recovery.
func (b *bucket) resume(factor, learnt float64, off time.Duration) {
	b.factor, b.learnt, b.slowed, b.raised = factor, learnt, -off, -off
	if b.limited() { // else it begins with the rate that it is given
		b.level = min(b.burst(), b.restored.level+b.perSecond()*b.restored.off.Seconds())
	}
}

// configure changes the rate. What has gone stays gone.
func (b *bucket) configure(r Rate) {
	if b.rate == r {
		return
	}
	had := b.limited()
	if b.rate = r; r.IsZero() {
		return
	}
	b.learnt = 0
	switch {
	case b.restored != nil:
		b.level = b.restored.level + b.perSecond()*b.restored.off.Seconds()
	case !had:
		b.level = b.burst()
	}
	b.restored = nil
	b.level = min(b.level, b.burst())
}

// merge makes b the bucket of its account and of another. It begins empty, with the debts of both: what each had left is
// not known to be left of what they share.
func (b *bucket) merge(o *bucket) {
	b.counted[0], b.counted[1] = b.counted[0]+o.counted[0], b.counted[1]+o.counted[1]
	b.level = b.debt() + o.debt()
	b.restored = &restored{level: b.level}
	if o.factor < 1 {
		b.factor, b.slowed, b.raised = min(b.factor, o.factor), max(b.slowed, o.slowed), max(b.raised, o.raised)
		if b.learnt == 0 || o.learnt > 0 && o.learnt < b.learnt {
			b.learnt = o.learnt
		}
	}
}

// debt is the level where that is below zero.
func (b *bucket) debt() float64 {
	if b.restored != nil {
		return min(0, b.level, b.restored.level)
	}
	return min(0, b.level)
}

// slow halves the rate, unless that was done a moment ago.
func (b *bucket) slow(now time.Duration) bool {
	if b.factor < 1 && now-b.slowed < slowOnce {
		return false
	}
	if !b.limited() {
		b.learnt = float64(max(leastLearnt, b.counted[0], b.counted[1])) / 60
	}
	b.factor = max(leastFactor, b.factor/2)
	b.slowed, b.raised = now, now
	b.level = min(b.level, b.burst())
	return true
}

// span returns how long n messages take from now on, at the rate that is in force.
func (b *bucket) span(n int) time.Duration {
	missing := float64(n) - b.level
	if !b.limited() || missing <= 0 {
		return 0
	}
	return seconds(missing / b.perSecond())
}

func seconds(s float64) time.Duration {
	const longest = 100 * 365 * 24 * time.Hour
	if s >= longest.Seconds() {
		return longest
	}
	return time.Duration(s * float64(time.Second))
}
