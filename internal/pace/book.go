package pace

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what a Book is opened with.
type Options struct {
	// Path is the file that keeps the count; "" keeps it in memory alone.
	Path string
	Log  *slog.Logger
	// Boot returns what names this boot of the system, and how long ago it was; "" where that is not known. nil asks the
	// system.
	Boot func() (id string, ago time.Duration)
}

// Book holds the accounts. Its methods may be called at the same time.
type Book struct {
	path  string
	log   *slog.Logger
	boot  func() (string, time.Duration)
	epoch time.Time

	saving  sync.Mutex // one at a time writes the file; taken before mu and before an account's
	failing bool       // the last write failed; as closed, guarded by saving
	closed  bool
	begun   atomic.Bool // the file was written since Open

	mu       sync.Mutex
	accounts []*Account
	dormant  []*Account // not in the configuration, and not yet forgotten
}

// Open returns the book whose count is in the file o.Path. Of a file that cannot be read the error says so, and the book
// is one that begins at nothing; it can be used.
func Open(o Options) (*Book, error) {
	b := &Book{path: o.Path, log: o.Log, boot: o.Boot, epoch: time.Now()}
	if b.boot == nil {
		b.boot = bootClock
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.path == "" {
		return b, nil
	}
	return b, b.load()
}

// clock returns the time on the book's own clock, which nobody can set.
func (b *Book) clock() time.Duration { return time.Since(b.epoch) }

// Spec is an account of the configuration.
type Spec struct {
	Name   Name
	Limits Limits
}

// Configure makes the accounts those of specs, and returns them in that order. Specs of one account, by the same user and
// at least one host, share it, and the stricter of their limits. An account that was there goes on counting, and those that
// are one now count together; one that is no longer there is remembered for as long as its count would be.
func (b *Book) Configure(specs []Spec) []*Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := slices.Concat(b.accounts, b.dormant)
	groups, of := group(specs)
	b.accounts, b.dormant = make([]*Account, len(groups)), nil
	for i, g := range groups {
		b.accounts[i] = b.takeOver(&before, g.Name)
	}
	for i, g := range groups {
		b.accounts[i].configure(g.Name, g.Limits)
	}
	for _, a := range before {
		a.configure(a.name, Limits{})
		if s := a.Status(); s.UsedToday > 0 || s.Slowed {
			b.dormant = append(b.dormant, a)
		}
	}
	out := make([]*Account, len(specs))
	for i, g := range of {
		out[i] = b.accounts[slices.Index(groups, g)]
	}
	return out
}

// group returns the accounts that specs are of, and of which each is. One spec may make others one account that have no
// host in common.
func group(specs []Spec) (groups, of []*Spec) {
	for _, s := range specs {
		g := &Spec{Name: Name{Username: s.Name.Username}}
		groups = slices.DeleteFunc(groups, func(o *Spec) bool {
			if !o.Name.same(s.Name) {
				return false
			}
			g.add(*o)
			for i := range of {
				if of[i] == o {
					of[i] = g
				}
			}
			return true
		})
		g.add(s)
		groups, of = append(groups, g), append(of, g)
	}
	return groups, of
}

// add makes s one account with o.
func (s *Spec) add(o Spec) {
	for _, h := range o.Name.Hosts {
		if !s.Name.same(Name{s.Name.Username, []string{h}}) {
			s.Name.Hosts = append(s.Name.Hosts, h)
		}
	}
	s.Limits = Limits{Rate: stricter(s.Limits.Rate, o.Limits.Rate), Recipients: lower(s.Limits.Recipients, o.Limits.Recipients)}
}

// takeOver returns the account called name out of before, with all that are the same now, or a new one.
func (b *Book) takeOver(before *[]*Account, name Name) (a *Account) {
	*before = slices.DeleteFunc(*before, func(o *Account) bool {
		switch {
		case !o.name.same(name):
			return false
		case a == nil:
			a = o
		default:
			a.absorb(o)
		}
		return true
	})
	if a == nil {
		a = &Account{book: b, name: name, bucket: newBucket(Rate{}, b.clock())}
	}
	return a
}

// absorb counts what o has counted as a's own, which goes on for both: the provider has seen the sum.
func (a *Account) absorb(o *Account) {
	o.mu.Lock()
	o.advance()
	shares, b, spent := o.day.shares, o.bucket, o.spent
	o.into, o.day, o.reserved = a, day{}, 0
	o.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.advance()
	a.day.merge(shares)
	a.bucket.merge(&b)
	// What is being written may count less of o than began there.
	a.spent, a.covered = a.spent+spent, 0
}

func lower(a, b int) int {
	if a <= 0 || b > 0 && b < a {
		return b
	}
	return a
}

// configure changes the name and the limits. What was admitted and has not begun is given back. Only the book writes the
// name, so that the book may read it without the lock.
func (a *Account) configure(name Name, l Limits) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.name = name
	a.advance()
	a.forgo(a.reserved)
	a.bucket.configure(l.Rate)
	if a.day.limit != l.Recipients {
		a.day.limit, a.covered = l.Recipients, 0
	}
}

// Close writes the count as it is. Nothing is to begin any more. A book by which nothing has begun leaves the file alone,
// which may be that of another daemon.
func (b *Book) Close() error {
	b.saving.Lock()
	defer b.saving.Unlock()
	if b.path == "" || b.closed || !b.begun.Load() {
		return nil
	}
	b.closed = true
	return b.write(true)
}

// cover writes the file if it counts too little of a.
func (b *Book) cover(a *Account) {
	b.saving.Lock()
	defer b.saving.Unlock()
	a = a.lock()
	uncovered := a.isUncovered(b.clock()) // somebody may have written it meanwhile
	a.mu.Unlock()
	if uncovered {
		b.saveNow()
	}
}

// save writes the file.
func (b *Book) save() {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.saveNow()
}

// saveNow writes the count, and a block ahead. b.saving is held.
func (b *Book) saveNow() {
	if b.path == "" || b.closed {
		return
	}
	err := b.write(false)
	if err != nil && !b.failing {
		b.log.Error("the count of what was sent cannot be written: should relayd die now, it may send more than the day's "+
			"limit; make room, or mend the folder", "file", b.path, "error", err)
	}
	if b.failing = err != nil; err == nil {
		b.begun.Store(true)
	}
}
