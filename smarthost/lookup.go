package smarthost

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// lookupTTL is how long an answer is used. The system's resolver does not tell the TTL of the records; it caches by
	// it, and five minutes are what the records of providers that move hosts about have.
	lookupTTL = 5 * time.Minute
	// maxTargets bounds how many hosts of one answer are tried for one connection.
	maxTargets = 8
)

// record is one host of an answer, of SRV (RFC 2782) or MX, where all have the same weight (RFC 5321 section 5.1).
type record struct {
	host, port       string
	priority, weight uint16
	failed           bool // when it was tried last
}

// lookup finds the hosts of an SRV or MX entry, when connections are made, and remembers them for a while. An answer
// that cannot be had is a failure of the site: the entry is left alone for a pause, like a host that is away.
type lookup struct {
	entry    entry
	domain   string // whose hosts are trusted by their own name: Route.TLSName, or the entry's
	resolver *net.Resolver

	asking chan struct{} // holds one token while DNS is asked, so that it is asked once for all

	mu    sync.Mutex
	found []record
	until time.Time
}

func newLookup(e entry, tlsName string, r *net.Resolver) *lookup {
	if tlsName == "" {
		tlsName = e.host
	}
	if r == nil {
		r = net.DefaultResolver
	}
	return &lookup{entry: e, domain: tlsName, resolver: r, asking: make(chan struct{}, 1)}
}

// targets returns the hosts in the order in which to try them.
func (l *lookup) targets(ctx context.Context) ([]target, error) {
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	records := l.known(time.Now())
	if records == nil {
		var err error
		if records, err = l.ask(ctx); err != nil {
			return nil, err
		}
		l.mu.Lock()
		l.found, l.until = slices.Clone(records), time.Now().Add(lookupTTL)
		l.mu.Unlock()
	}
	sortRecords(records, rand.IntN)
	var out []target
	for _, r := range records[:min(len(records), maxTargets)] {
		out = append(out, newTarget(r.host, r.port, l.domain))
	}
	return out, nil
}

// known returns a copy of the last answer, or nil when it is too old, or all of its hosts have failed: perhaps there are
// others now.
func (l *lookup) known(now time.Time) []record {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.After(l.until) || !slices.ContainsFunc(l.found, func(r record) bool { return !r.failed }) {
		return nil
	}
	return slices.Clone(l.found)
}

// tell notes whether a host of the last answer could be used. One that could not comes last from then on.
func (l *lookup) tell(t target, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.found {
		if r := &l.found[i]; newTarget(r.host, r.port, l.domain).addr == t.addr {
			r.failed = !ok
		}
	}
}

// ask asks DNS, with the name as it is and no search domain.
func (l *lookup) ask(ctx context.Context) ([]record, error) {
	var out []record
	var err error
	if l.entry.kind == bySRV {
		var found []*net.SRV
		_, found, err = l.resolver.LookupSRV(ctx, "", "", l.entry.name+".")
		for _, r := range found {
			out = append(out, record{host: r.Target, port: strconv.Itoa(int(r.Port)), priority: r.Priority, weight: r.Weight})
		}
	} else {
		var found []*net.MX
		found, err = l.resolver.LookupMX(ctx, l.entry.host+".")
		for _, r := range found {
			out = append(out, record{host: r.Host, port: l.entry.port, priority: r.Pref})
		}
		if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound && len(out) == 0 {
			// The domain itself is its mail host then (RFC 5321 section 5.1), if it has an address.
			return []record{{host: l.entry.host, port: l.entry.port}}, nil
		}
	}
	if len(out) == 0 && err != nil { // an error beside records tells of some that were of no use
		return nil, err
	}
	out = slices.DeleteFunc(out, func(r record) bool { return r.host == "." || r.host == "" })
	if len(out) == 0 {
		return nil, errNoService
	}
	return out, nil
}

// sortRecords puts records in the order in which to try them: those that have not failed first, then by priority, then
// by chance, in which a weight counts as RFC 2782 says. intn is rand.IntN.
func sortRecords(records []record, intn func(int) int) {
	slices.SortStableFunc(records, func(a, b record) int { return int(a.priority) - int(b.priority) })
	for i := 0; i < len(records); {
		end := i + 1
		for end < len(records) && records[end].priority == records[i].priority {
			end++
		}
		drawLots(records[i:end], intn)
		i = end
	}
	slices.SortStableFunc(records, func(a, b record) int {
		switch {
		case a.failed == b.failed:
			return 0
		case a.failed:
			return 1
		}
		return -1
	})
}

// drawLots orders records of one priority. Those of weight 0 have a small chance each to come before others.
func drawLots(records []record, intn func(int) int) {
	lots := func(r record) int { return 64*int(r.weight) + 1 }
	for ; len(records) > 1; records = records[1:] {
		sum := 0
		for _, r := range records {
			sum += lots(r)
		}
		draw, at := intn(sum), 0
		for draw -= lots(records[0]); draw >= 0; draw -= lots(records[at]) {
			at++
		}
		chosen := records[at]
		copy(records[1:at+1], records[:at])
		records[0] = chosen
	}
}
