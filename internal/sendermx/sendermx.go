package sendermx

import (
	"cmp"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Verdict is what is known of a domain.
type Verdict uint8

const (
	// Unknown: DNS did not say. Mail passes.
	Unknown Verdict = iota
	// Found: there is an MX record.
	Found
	// None: DNS says that there is no MX record, or there is no domain that could have one.
	None
	// Null: there is a null MX (RFC 7505), which says that the domain takes no mail.
	Null
)

// Answer is a verdict and what it rests on.
type Answer struct {
	Verdict Verdict
	// Hosts are the names that the MX records have, the preferred first.
	Hosts []string
	// Err is why it is unknown.
	Err error
}

// Missing reports whether there is, for certain, no MX record that counts.
func (a Answer) Missing() bool { return a.Verdict == None || a.Verdict == Null }

// Options are what a Checker works by. Zero values mean the defaults.
type Options struct {
	// Lookup asks DNS for the MX records of a domain that ends in a dot; nil means the system's resolver.
	Lookup func(ctx context.Context, domain string) ([]*net.MX, error)
	// Wait is how long a question waits, 3 seconds; Timeout how long a look-up takes at most, 20 seconds.
	Wait, Timeout time.Duration
	// KeepFound, KeepMissing and KeepUnknown are how long an answer is kept: an hour, 10 minutes, a minute.
	KeepFound, KeepMissing, KeepUnknown time.Duration
	// MaxDomains bounds how many domains are remembered, 4096; MaxLookups how many look-ups run at once, 32.
	MaxDomains, MaxLookups int
}

func (o Options) orDefaults() Options {
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, domain string) ([]*net.MX, error) {
			return net.DefaultResolver.LookupMX(ctx, domain)
		}
	}
	o.Wait, o.Timeout = cmp.Or(o.Wait, 3*time.Second), cmp.Or(o.Timeout, 20*time.Second)
	o.KeepFound, o.KeepMissing = cmp.Or(o.KeepFound, time.Hour), cmp.Or(o.KeepMissing, 10*time.Minute)
	o.KeepUnknown = cmp.Or(o.KeepUnknown, time.Minute)
	o.MaxDomains, o.MaxLookups = cmp.Or(o.MaxDomains, 4096), cmp.Or(o.MaxLookups, 32)
	return o
}

// Checker answers questions about domains, and remembers the answers. Its methods may be called at the same time.
type Checker struct {
	opts Options

	mu      sync.Mutex
	domains map[string]*entry
	running int
	warned  map[string]time.Time
}

// entry is what is known, or being found out, of a domain.
type entry struct {
	done    chan struct{} // closed when answer holds
	answer  Answer
	expires time.Time // zero while the look-up runs
}

// New returns a Checker that knows nothing yet.
func New(o Options) *Checker {
	return &Checker{opts: o.orDefaults(), domains: make(map[string]*entry), warned: make(map[string]time.Time)}
}

// Errors of answers that are unknown.
var (
	// ErrSlow: DNS did not answer in the time that a question waits. The look-up goes on.
	ErrSlow = errors.New("DNS did not answer in time")
	// ErrBusy: as many look-ups as may be are under way.
	ErrBusy = errors.New("too many look-ups are under way")
	// ErrNotASCII: the domain is not in the form that DNS has.
	ErrNotASCII = errors.New("the domain is not ASCII, and is not looked up")
	// ErrMalformed: there are MX records, and none of them names a host.
	ErrMalformed = errors.New("its MX records are malformed")
)

// Check returns what is known of domain, which may be an address literal, after Options.Wait at the latest, or when ctx
// ends.
func (c *Checker) Check(ctx context.Context, domain string) Answer {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	switch {
	case domain == "", strings.HasPrefix(domain, "["):
		return Answer{Verdict: None}
	case strings.ContainsFunc(domain, func(r rune) bool { return r >= utf8.RuneSelf }):
		return Answer{Err: ErrNotASCII}
	}
	e, ok := c.entry(domain)
	if !ok {
		return Answer{Err: ErrBusy}
	}
	timer := time.NewTimer(c.opts.Wait)
	defer timer.Stop()
	select {
	case <-e.done:
		return e.answer
	case <-timer.C:
		return Answer{Err: ErrSlow}
	case <-ctx.Done():
		return Answer{Err: context.Cause(ctx)}
	}
}

// entry returns what is known of a domain, and begins to find out where nothing is. It returns false when no more can be
// found out now.
func (c *Checker) entry(domain string) (*entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if e := c.domains[domain]; e != nil && (e.expires.IsZero() || now.Before(e.expires)) {
		return e, true
	}
	if c.running >= c.opts.MaxLookups {
		return nil, false
	}
	delete(c.domains, domain)
	c.makeRoom(now)
	e := &entry{done: make(chan struct{})}
	c.domains[domain] = e
	c.running++
	go c.lookUp(domain, e)
	return e, true
}

// makeRoom forgets what has expired when there is no room for one more domain, and then whatever comes first. Look-ups
// that run are fewer than there is room for. c.mu is held.
func (c *Checker) makeRoom(now time.Time) {
	if len(c.domains) < c.opts.MaxDomains {
		return
	}
	for d, e := range c.domains {
		if !e.expires.IsZero() && !now.Before(e.expires) {
			delete(c.domains, d)
		}
	}
	for d, e := range c.domains {
		if len(c.domains) < c.opts.MaxDomains {
			return
		}
		if !e.expires.IsZero() {
			delete(c.domains, d)
		}
	}
}

func (c *Checker) lookUp(domain string, e *entry) {
	ctx, cancel := context.WithTimeout(context.Background(), c.opts.Timeout)
	defer cancel()
	// With the dot the resolver does not append the local search domains.
	answer := judge(c.opts.Lookup(ctx, domain+"."))
	keep := c.opts.KeepUnknown
	switch {
	case answer.Verdict == Found:
		keep = c.opts.KeepFound
	case answer.Missing():
		keep = c.opts.KeepMissing
	}
	c.mu.Lock()
	e.answer, e.expires = answer, time.Now().Add(keep)
	c.running--
	c.mu.Unlock()
	close(e.done)
}

// judge decides what DNS said. Records that came with an error, which is then about others, count.
func judge(records []*net.MX, err error) Answer {
	var a Answer
	null := false
	for _, mx := range records {
		if mx.Host == "." || mx.Host == "" {
			null = true
		} else {
			a.Hosts = append(a.Hosts, mx.Host)
		}
	}
	dns, _ := errors.AsType[*net.DNSError](err)
	switch {
	case len(a.Hosts) > 0:
		a.Verdict = Found
	case null:
		a.Verdict = Null
	case dns != nil && dns.IsNotFound:
		a.Verdict = None
	case err != nil:
		a.Err = err
	default:
		a.Err = ErrMalformed
	}
	return a
}
