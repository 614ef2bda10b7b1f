package smarthost

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/pace"
)

// Router hands messages on by its routes. Its methods may be called at the same time.
type Router struct {
	table atomic.Pointer[table]
	book  *pace.Book
	// background are the goroutines that say QUIT.
	background sync.WaitGroup

	machine machine

	// swap keeps the accounts and the table that names them together: a leave that Admit gave by the old table after the
	// accounts have taken theirs back would be used up by nobody.
	swap sync.RWMutex

	mu     sync.Mutex // of Reconfigure and Close
	closed bool
}

// table is what one configuration amounts to. It does not change.
type table struct {
	routes []*route
	byName map[string]*route
	retry  time.Duration // when there is no route at all
	log    *slog.Logger
	own    *ownRules
	// hostname and clients are for the rewriting of senders.
	hostname string
	clients  []clientSet
}

// New returns a Router that works by o. It connects to nothing yet. An error names all that is wrong with o.
func New(o Options) (*Router, error) {
	log := cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	book, err := pace.Open(pace.Options{Path: o.PaceFile, Log: log})
	if err != nil {
		log.Warn("the count of what each account has sent is lost", "error", err)
	}
	r := &Router{book: book}
	r.table.Store(&table{})
	if err := r.Reconfigure(o); err != nil {
		return nil, err
	}
	return r, nil
}

// Reconfigure changes the options. A host whose endpoint and credentials stay the same keeps its connections, its health
// and its logger; one that is gone or changed closes its idle connections, and those in use when their transactions are
// done. A host with new credentials is tried afresh. After an error nothing has changed.
func (r *Router) Reconfigure(o Options) error {
	o, err := o.orDefaults()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errClosed
	}
	old := r.table.Load()
	own, err := compileReplies(o.Replies)
	if err != nil {
		return err
	}
	own = own.keep(old.own)
	t := &table{byName: make(map[string]*route), retry: o.ProbeMax, log: o.Log, own: own, hostname: o.Hostname}
	rewrites, clients, err := compileRewrites(o)
	if err != nil {
		return err
	}
	t.clients = clients
	kept := make(map[*host]bool)
	for i, spec := range o.Routes {
		rt := &route{name: spec.Name, selects: newSelector(spec), limit: spec.MaxConnections, mode: spec.TLS, rewrites: rewrites[i],
			recipients: spec.MaxRecipients, rated: !spec.Rate.IsZero()}
		if spec.login() {
			rt.username = spec.Username
		}
		for _, addr := range spec.Hosts {
			h := newHost(o, spec, addr, own, &r.background)
			h.machine = &r.machine
			if same := old.find(h); same != nil {
				h = same
				h.pool.resize(spec.MaxConnections)
				kept[h] = true
			}
			rt.hosts = append(rt.hosts, h)
		}
		t.routes = append(t.routes, rt)
		t.byName[rt.name] = rt
	}
	t.shareSecrets()
	r.swapTable(t, accountsOf(o.Routes))
	for h := range old.hosts {
		if !kept[h] {
			h.pool.close()
		}
	}
	return nil
}

// swapTable makes t the table, whose routes use these accounts.
func (r *Router) swapTable(t *table, accounts []pace.Spec) {
	r.swap.Lock()
	defer r.swap.Unlock()
	for i, a := range r.book.Configure(accounts) {
		t.routes[i].account = a
	}
	r.table.Store(t)
}

// hosts yields all hosts of all routes.
func (t *table) hosts(yield func(*host) bool) {
	for _, rt := range t.routes {
		for _, h := range rt.hosts {
			if !yield(h) {
				return
			}
		}
	}
}

// find returns the host that is what h would be.
func (t *table) find(h *host) *host {
	for have := range t.hosts {
		if have.place == h.place && have.endpoint.equal(&h.endpoint) && have.health.pauses == h.health.pauses {
			return have
		}
	}
	return nil
}

func newHost(o Options, spec Route, addr string, own *ownRules, background *sync.WaitGroup) *host {
	e, _ := parseEntry(addr) // which orDefaults has seen
	var found *lookup
	if e.kind != byName {
		found = newLookup(e, spec.TLSName, o.Resolver)
	}
	return &host{
		endpoint: endpoint{
			hostname:    o.Hostname,
			addr:        addr,
			mode:        spec.TLS,
			auth:        spec.Auth,
			login:       spec.login(),
			credentials: credentials{spec.Username, spec.Password},
			tokens:      spec.Tokens,
			timeouts:    o.Timeouts,
			dial:        o.Dial,
			loops:       selfCheck{hostname: o.Hostname, isSelf: o.IsSelf},
			tls:         newTLSConfig(spec, cmp.Or(spec.TLSName, e.host)),
			pins:        spec.Pins,
			maxSize:     spec.MaxSize,
			lookup:      found,
		},
		place: place{route: spec.Name, addr: addr, username: spec.Username, mode: spec.TLS, login: spec.login(),
			token: spec.Tokens != nil, general: newPatterns(spec.Recipients).general(), own: own},
		pool:  newPool(spec.MaxConnections, o.Timeouts.Idle, background),
		log:   o.Log.With("route", spec.Name, "host", addr),
		facts: o.Learnt[addr],
		order: new(order),
		learn: o.Learn,
		health: health{state: StateUnknown, since: time.Now(), pauses: pauses{
			probeMin: o.ProbeMin, probeMax: o.ProbeMax, loginMin: o.AuthProbeMin, loginMax: o.AuthProbeMax,
			quotaMin: o.QuotaProbeMin, quotaMax: o.QuotaProbeMax}},
	}
}

// Legs groups the recipients of env by the route that each takes: the first whose conditions are met. Those that no
// route takes come as a leg of the route "", which Deliver declines for now, saying what to add to the configuration.
func (r *Router) Legs(o envelope.Origin, env envelope.Envelope) []envelope.Leg {
	return legs(r.table.Load().routes, o, env)
}

// Deliver makes one try to hand m on by the named route, and returns what that came to. It waits while all connections
// to the host in turn are in use. When every host is in its pause it returns at once. When ctx ends, it gives up; once a
// final dot is sent it first waits Timeouts.Grace for the reply. Where the pace or the route's limit of recipients does not
// let all of them go now, it takes the first ones and leaves the rest.
func (r *Router) Deliver(ctx context.Context, name string, m envelope.Message) envelope.Attempt {
	t := r.table.Load()
	rt := t.byName[name]
	if rt == nil {
		return envelope.Attempt{Site: t.noRoute(name, m.Envelope), RetryAt: time.Now().Add(t.retry)}
	}
	return t.deliverPaced(ctx, rt, m)
}

// noRoute is the failure of mail that has no way out. It waits, since a line in the configuration will mend that.
func (t *table) noRoute(name string, env envelope.Envelope) *envelope.Failure {
	f := &envelope.Failure{Scope: envelope.ScopeSite, Stage: stageDial}
	if name != "" {
		f.Reason = "there is no [[smarthost]] of the name " + name + " any more; the message takes another route when it " +
			"is tried again"
		return f
	}
	to := "its recipients"
	if len(env.Recipients) > 0 {
		to = env.Recipients[0].Path.String()
	}
	f.Reason = "no [[smarthost]] takes mail from " + env.ReversePath.String() + " to " + to + ": add one without " +
		"senders, recipients and clients, or widen those of one. The message waits"
	return f
}

// Concurrency is how many Deliver calls on the named route at once are useful now: one while every host is down.
func (r *Router) Concurrency(name string) int {
	rt := r.table.Load().byName[name]
	if rt == nil {
		return 1
	}
	return rt.concurrency()
}

// ProbeNow ends all pauses: the next Deliver tries each host again.
func (r *Router) ProbeNow() {
	for h := range r.table.Load().hosts {
		h.probeNow()
	}
}

// ProbeRoute ends the pauses of the named route's hosts: what kept them from being used may be over.
func (r *Router) ProbeRoute(name string) {
	rt := r.table.Load().byName[name]
	if rt == nil {
		return
	}
	for _, h := range rt.hosts {
		h.probeNow()
	}
}

// probeNow ends the host's pause.
func (h *host) probeNow() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.health.forget()
}

// Close says QUIT to the idle connections and waits for their goodbyes. Deliver gives no more mail to any host; what is
// under way may finish. When ctx ends first, Close closes whatever is still open and returns ctx's error.
func (r *Router) Close(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	t := r.table.Load()
	for h := range t.hosts {
		h.pool.close()
	}
	quiet := make(chan struct{})
	go func() {
		r.background.Wait()
		close(quiet)
	}()
	counted := r.book.Close()
	select {
	case <-quiet:
		return counted
	case <-ctx.Done():
		for h := range t.hosts {
			h.pool.abort()
		}
		<-quiet
		return errors.Join(errClosed, cmp.Or(context.Cause(ctx), ctx.Err()), counted)
	}
}
