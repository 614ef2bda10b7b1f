package pace

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Limits are what a provider allows an account.
type Limits struct {
	Rate       Rate
	Recipients int // in any 24 hours; 0 for no limit
}

// Name says whose account it is: who logs in, or nobody, at which hosts.
type Name struct {
	Username string   `json:"username"`
	Hosts    []string `json:"hosts"` // "host:port"
}

// same reports whether two names are of one account: the same user, at hosts of which one at least is the same. So an
// account does not begin anew because a host was added to the list.
func (n Name) same(o Name) bool {
	return strings.EqualFold(n.Username, o.Username) && slices.ContainsFunc(n.Hosts, func(h string) bool {
		return slices.ContainsFunc(o.Hosts, func(p string) bool { return strings.EqualFold(h, p) })
	})
}

// String returns the name for people.
func (n Name) String() string {
	if n.Username == "" {
		return strings.Join(n.Hosts, ", ")
	}
	return n.Username + " at " + strings.Join(n.Hosts, ", ")
}

// Account is one account's count. Its methods may be called at the same time.
type Account struct {
	book *Book

	mu       sync.Mutex
	into     *Account // counts in place of this one, once the configuration has made the two one account
	name     Name
	bucket   bucket
	day      day
	reserved int // messages, of one recipient at least each, that were admitted and have not begun
	// spent is how many recipients have begun since the start; the file counts up to covered, which holds until coveredAt.
	spent, covered int
	coveredAt      time.Duration
}

// lock locks and returns the account that a is now.
func (a *Account) lock() *Account {
	for {
		a.mu.Lock()
		if a.into == nil {
			return a
		}
		next := a.into
		a.mu.Unlock()
		a = next
	}
}

func (a *Account) advance() time.Duration {
	now := a.book.clock()
	a.bucket.advance(now)
	a.day.expire(now)
	return now
}

// wait returns 0 when a message may begin now, or after how long one may.
func (a *Account) wait(now time.Duration) time.Duration {
	wait, ok := a.bucket.ready()
	if ok {
		wait = 0
	}
	if a.day.limit > 0 && a.day.room(a.reserved) < 1 {
		wait = max(wait, a.day.roomFor(1, a.reserved, now)-now)
	}
	return wait
}

// Admit gives leave to begin a message to one recipient at least, now: Begin uses it up, Forgo gives it back. Without it
// none may begin before at.
func (a *Account) Admit() (at time.Time, ok bool) {
	a = a.lock()
	defer a.mu.Unlock()
	now := a.advance()
	if wait := a.wait(now); wait > 0 {
		return time.Now().Add(wait), false
	}
	a.bucket.take()
	a.reserved++
	return time.Time{}, true
}

// Forgo gives back what Admit gave.
func (a *Account) Forgo() {
	a = a.lock()
	defer a.mu.Unlock()
	a.advance()
	a.forgo(1)
}

func (a *Account) forgo(n int) {
	n = min(n, a.reserved)
	a.reserved -= n
	a.bucket.put(n)
}

// Turn is a message on its way.
type Turn struct {
	Recipients int // how many it may have
	account    *Account
	end        time.Duration // of the share that they are counted in
}

// Begin begins a message to as many of n recipients as may be sent to now, at least one. It uses up what Admit gave, and
// does without where there is none. A turn that is contended, since others wait, has at most half of what is left of the day,
// so that one message with many recipients cannot use it up before them. Turn is nil when there is no room; none may begin
// before at. When it returns, the recipients are counted on disk; a disk that fails is told of in the log and does not stop
// the mail.
func (a *Account) Begin(n int, contended bool) (t *Turn, at time.Time) {
	a = a.lock()
	now := a.advance()
	if a.reserved > 0 {
		a.reserved--
	} else {
		if wait := a.wait(now); wait > 0 {
			a.mu.Unlock()
			return nil, time.Now().Add(wait)
		}
		a.bucket.take()
	}
	if a.day.limit > 0 {
		room := a.day.room(a.reserved)
		if room < 1 { // the limit was lowered since
			a.bucket.put(1)
			at = time.Now().Add(a.day.roomFor(1, a.reserved, now) - now)
			a.mu.Unlock()
			return nil, at
		}
		if contended {
			room = (room + 1) / 2
		}
		n = min(n, room)
	}
	t = &Turn{Recipients: n, account: a, end: a.day.begin(n, now)}
	a.spent += n
	uncovered := a.isUncovered(now)
	a.mu.Unlock()
	if uncovered {
		a.book.cover(a)
	}
	return t, time.Time{}
}

// isUncovered reports whether the file counts too little: less than what is spent, or as an orderly end has left it.
func (a *Account) isUncovered(now time.Duration) bool {
	if a.day.limit <= 0 {
		return a.bucket.limited() && !a.book.begun.Load()
	}
	return a.spent > a.covered || now >= a.coveredAt
}

// block is how many recipients are counted ahead.
func (a *Account) block() int {
	if a.day.limit <= 0 {
		return 0
	}
	return min(1000, max(1, a.day.limit/100))
}

// End ends a turn: so many transactions reached a host, which took the message for so many of the turn's recipients, or
// may have taken it. slower says that the host asked for less.
func (t *Turn) End(transactions, recipients int, slower bool) {
	a := t.account.lock()
	now := a.advance()
	a.bucket.put(1 - transactions)
	a.day.finish(t.Recipients, recipients, t.end, now)
	slowed := slower && a.bucket.slow(now)
	rate, name := a.bucket.perSecond(), a.name.String()
	a.mu.Unlock()
	if slowed {
		a.book.log.Warn("the provider asks for less; mail goes at half the pace, which recovers in time",
			"account", name, "messages_per_minute", rate*60)
		a.book.save() // a restart goes on at this pace, also where there is nothing else to count
	}
}

// Status is how an account is doing.
type Status struct {
	Account string `json:"account"`
	// Rate is the limit in the configuration, in messages, for each RateSeconds; 0 for none.
	Rate        int `json:"rate,omitempty"`
	RateSeconds int `json:"rate_seconds,omitempty"`
	// PerMinute is how many messages may go in a minute now, in the long run; 0 for any number. Slowed is set while that is
	// less than it was, since the provider asked for less.
	PerMinute float64 `json:"per_minute,omitempty"`
	Slowed    bool    `json:"slowed,omitempty"`
	// DailyRecipients is the limit, 0 for none; UsedToday counts the recipients of the last 24 hours.
	DailyRecipients int `json:"daily_recipients,omitempty"`
	UsedToday       int `json:"used_today"`
	// NextSlot is when the next message may begin; zero when that is now.
	NextSlot time.Time `json:"next_slot,omitzero"`
}

// Limited reports whether anything is limited now.
func (s Status) Limited() bool { return s.PerMinute > 0 || s.DailyRecipients > 0 }

// Status returns how the account is doing.
func (a *Account) Status() Status {
	a = a.lock()
	defer a.mu.Unlock()
	now := a.advance()
	s := Status{Account: a.name.String(), Rate: a.bucket.rate.Messages, RateSeconds: int(a.bucket.rate.Per / time.Second),
		PerMinute: a.bucket.perSecond() * 60, Slowed: a.bucket.factor < 1,
		DailyRecipients: a.day.limit, UsedToday: a.day.used}
	if wait := a.wait(now); wait > 0 {
		s.NextSlot = time.Now().Add(wait)
	}
	return s
}

// Span returns how long so many messages to so many recipients take from now on, if nothing else is in the way.
func (a *Account) Span(messages, recipients int) time.Duration {
	a = a.lock()
	defer a.mu.Unlock()
	now := a.advance()
	return max(a.bucket.span(messages), a.day.span(recipients, now))
}
