package smarthost

import (
	"context"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/pace"
)

// accountsOf returns whose accounts the routes use, and what they may send.
func accountsOf(routes []Route) []pace.Spec {
	specs := make([]pace.Spec, len(routes))
	for i, r := range routes {
		specs[i] = pace.Spec{Name: pace.Name{Hosts: r.Hosts}, Limits: pace.Limits{Rate: r.Rate, Recipients: r.DailyRecipients}}
		if r.login() {
			specs[i].Name.Username = r.Username
		}
	}
	return specs
}

// Admit gives leave for one Deliver on the named route, now: that uses it up, and Forgo gives it back. Otherwise the pace
// allows none before at.
func (r *Router) Admit(name string) (at time.Time, ok bool) {
	r.swap.RLock()
	defer r.swap.RUnlock()
	rt := r.table.Load().byName[name]
	if rt == nil {
		return time.Time{}, true
	}
	return rt.account.Admit()
}

// Forgo gives back the leave of an Admit that no Deliver followed.
func (r *Router) Forgo(name string) {
	r.swap.RLock()
	defer r.swap.RUnlock()
	if rt := r.table.Load().byName[name]; rt != nil {
		rt.account.Forgo()
	}
}

// turn is what a delivery has used of the pace.
type turn struct {
	transactions int
	slower       bool
}

// deliverPaced delivers m, or as much of it as may go now, by rt, and counts what went.
func (t *table) deliverPaced(ctx context.Context, rt *route, m envelope.Message) envelope.Attempt {
	all := m.Envelope.Recipients
	n := len(all)
	if rt.recipients > 0 {
		n = min(n, rt.recipients)
	}
	leave, at := rt.account.Begin(n, m.Contended)
	if leave == nil {
		return envelope.Attempt{Left: len(all), RetryAt: at}
	}
	n = min(n, leave.Recipients)
	m.Envelope.Recipients = all[:n]
	used := new(turn)
	transactions, taken := 1, n // if it panics, it may all have been sent
	defer func() { leave.End(transactions, taken, used.slower) }()
	a := t.deliverAs(ctx, rt, used, m)
	transactions, taken = used.transactions, takenOf(a)
	if a.Site == nil {
		a.Left = len(all) - n
	}
	return a
}

// takenOf returns how many recipients a host took the message for, or may have.
func takenOf(a envelope.Attempt) int {
	taken := 0
	for _, r := range a.Results {
		if r.Failure == nil || a.PossibleDuplicate && !r.Failure.Permanent {
			taken++
		}
	}
	return taken
}

// deliver hands m on by the route, and notes in used what that took.
func (rt *route) deliver(ctx context.Context, used *turn, m envelope.Message) envelope.Attempt {
	w := newWork(m)
	a := rt.deliverAll(ctx, w)
	used.transactions, used.slower = w.transactions, w.slower
	return a
}

// asksForLess reports whether the host said that it wants less mail from this account. Fewer connections, where that is
// what it wants, are the pool's to see to. A quota that is spent says something of a rate that is set, and nothing of what
// another might be.
func (rt *route) asksForLess(o outcome) bool {
	if o.site == nil || o.site.crowded {
		return false
	}
	return o.site.trouble == throttled || o.site.trouble == quotaSpent && rt.rated
}

// PaceStatus is how a route's account is doing, and what waits for it.
type PaceStatus struct {
	pace.Status
	// MaxRecipients and MaxSize are the limits of one transaction, in recipients and octets; 0 for none.
	MaxRecipients int   `json:"max_recipients,omitempty"`
	MaxSize       int64 `json:"max_size,omitempty"`
	// Messages and Recipients are what waits for the route, a message that may take several for each of them; Paced are
	// those of the messages that wait for nothing but the pace. EmptiesAt is when that and what waits for other routes of the
	// account will have been sent at this pace, if nothing else comes; zero when nothing waits.
	Messages   int       `json:"messages"`
	Recipients int       `json:"recipients"`
	Paced      int       `json:"paced"`
	EmptiesAt  time.Time `json:"empties_at,omitzero"`
}

// Waiting is what waits for a route.
type Waiting struct{ Messages, Recipients, Paced int }

// StatusWith is Status, with what waits by the names of the routes.
func (r *Router) StatusWith(waiting map[string]Waiting) []RouteStatus {
	t := r.table.Load()
	out := t.status()
	sums := make(map[*pace.Account]Waiting)
	for _, rt := range t.routes {
		w, sum := waiting[rt.name], sums[rt.account]
		transactions := w.Messages
		if rt.recipients > 0 {
			transactions = max(transactions, (w.Recipients+rt.recipients-1)/rt.recipients)
		}
		sums[rt.account] = Waiting{Messages: sum.Messages + transactions, Recipients: sum.Recipients + w.Recipients}
	}
	now := time.Now()
	for i, rt := range t.routes {
		p := out[i].Pace
		if p == nil {
			continue
		}
		sum := sums[rt.account]
		p.Messages, p.Recipients, p.Paced = waiting[rt.name].Messages, waiting[rt.name].Recipients, waiting[rt.name].Paced
		if p.Messages > 0 && p.Limited() {
			p.EmptiesAt = now.Add(rt.account.Span(sum.Messages, sum.Recipients))
		}
	}
	return out
}

// paceStatus returns how the account of rt is doing; nil when nothing is limited.
func (rt *route) paceStatus() *PaceStatus {
	p := &PaceStatus{Status: rt.account.Status(), MaxRecipients: rt.recipients, MaxSize: rt.hosts[0].endpoint.maxSize}
	if !p.Limited() && p.MaxRecipients == 0 && p.MaxSize == 0 {
		return nil
	}
	return p
}
