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
// at least one host, share it, and the stricter of their limits. An account that was there goes on counting; one that is
// no longer there is remembered for as long as its count would be.
func (b *Book) Configure(specs []Spec) []*Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := slices.Concat(b.accounts, b.dormant)
	var accounts []*Account
	var names []Name
	var limits []Limits
	out := make([]*Account, len(specs))
	for i, s := range specs {
		at := slices.IndexFunc(names, s.Name.same)
		if at < 0 {
			at = len(accounts)
			accounts, limits = append(accounts, b.takeOver(&before, s.Name)), append(limits, s.Limits)
			names = append(names, Name{Username: s.Name.Username})
		}
		for _, h := range s.Name.Hosts {
			if !names[at].same(Name{names[at].Username, []string{h}}) {
				names[at].Hosts = append(names[at].Hosts, h)
			}
		}
		limits[at] = Limits{Rate: stricter(limits[at].Rate, s.Limits.Rate), Recipients: lower(limits[at].Recipients, s.Limits.Recipients)}
		out[i] = accounts[at]
	}
	for i, a := range accounts {
		a.configure(names[i], limits[i])
	}
	b.accounts, b.dormant = accounts, nil
	for _, a := range before {
		a.configure(a.name, Limits{})
		if a.Status().UsedToday > 0 {
			b.dormant = append(b.dormant, a)
		}
	}
	return out
}

// takeOver returns the account called name out of before, or a new one.
func (b *Book) takeOver(before *[]*Account, name Name) *Account {
	i := slices.IndexFunc(*before, func(a *Account) bool { return a.name.same(name) })
	if i < 0 {
		return &Account{book: b, name: name, bucket: newBucket(Rate{}, b.clock())}
	}
	a := (*before)[i]
	*before = slices.Delete(*before, i, i+1)
	return a
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
	a.mu.Lock()
	uncovered := a.isUncovered(b.clock()) // somebody may have written it meanwhile
	a.mu.Unlock()
	if uncovered {
		b.saveNow()
	}
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
