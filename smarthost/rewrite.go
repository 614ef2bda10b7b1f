package smarthost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/rewrite"
)

// Senders are rewritten at each attempt, so that a corrected configuration reaches mail that is already queued. What the
// queue holds stays as it came: its reports go to the sender that it knows. Hosts are shown the rewritten message alone,
// so that what is declared of it (SIZE, SMTPUTF8) and its encoding for a host without 8BITMIME are right.

// ClientRules are what becomes of the senders of mail that came in from some networks.
type ClientRules struct {
	Networks []netip.Prefix
	Rewrite  rewrite.Rules
}

// clientSet is ClientRules made ready.
type clientSet struct {
	networks []netip.Prefix
	rules    *rewrite.Set
}

// compileRewrites makes the rules of o ready: those of each route, nil where there are none, and those of clients.
func compileRewrites(o Options) (routes []*rewrite.Set, clients []clientSet, err error) {
	var errs []error
	for _, r := range o.Routes {
		var set *rewrite.Set
		if !r.Rewrite.IsZero() {
			r.Rewrite.Name = "smarthost " + r.Name
			set, err = rewrite.Compile(r.Rewrite)
			errs = append(errs, err)
		}
		routes = append(routes, set)
	}
	for _, c := range o.Clients {
		set, err := rewrite.Compile(c.Rewrite)
		errs = append(errs, err)
		clients = append(clients, clientSet{c.Networks, set})
	}
	return routes, clients, errors.Join(errs...)
}

// rules returns the rules for mail of o that goes by rt, those of the client first.
func (t *table) rules(rt *route, o envelope.Origin) rewrite.Chain {
	var chain rewrite.Chain
	addr := o.Addr.Unmap()
	for _, c := range t.clients {
		if slices.ContainsFunc(c.networks, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			chain = append(chain, c.rules)
			break
		}
	}
	if rt.rewrites != nil {
		chain = append(chain, rt.rewrites)
	}
	return chain
}

// SenderView is what becomes of a sender on one route. The rules are in words, and "" where the address stays.
type SenderView struct {
	Route       string
	ReversePath envelope.Path
	ReverseRule string
	// Author is what the address becomes where it stands in From or Sender.
	Author     envelope.Path
	AuthorRule string
}

// Senders returns what becomes of the sender reverse on each route that takes its mail, in their order; which one it is
// depends on the recipients.
func (r *Router) Senders(o envelope.Origin, reverse envelope.Path) []SenderView {
	t := r.table.Load()
	var out []SenderView
	for _, rt := range t.routes {
		if !rt.selects.matchMessage(o, reverse) {
			continue
		}
		v, rules := SenderView{Route: rt.name}, t.rules(rt, o)
		v.ReversePath, v.ReverseRule = rules.ReversePath(reverse)
		if !reverse.IsNull() {
			v.Author, v.AuthorRule = rules.Author(reverse)
		}
		out = append(out, v)
	}
	return out
}

// Outgoing returns the reverse-paths under which mail of the sender reverse may leave, each once. Without a route for
// that sender it is reverse alone.
func (r *Router) Outgoing(o envelope.Origin, reverse envelope.Path) []envelope.Path {
	var out []envelope.Path
	for _, v := range r.Senders(o, reverse) {
		if !slices.Contains(out, v.ReversePath) {
			out = append(out, v.ReversePath)
		}
	}
	if len(out) == 0 {
		return []envelope.Path{reverse}
	}
	return out
}

// deliverAs delivers m by rt as the rules have it.
func (t *table) deliverAs(ctx context.Context, rt *route, turn *turn, m envelope.Message) envelope.Attempt {
	rules := t.rules(rt, m.Origin)
	if len(rules) == 0 && m.ReceivedAt.IsZero() {
		return rt.deliver(ctx, turn, m) // nothing can be asked of it, so that its head need not be read
	}
	plan, err := t.plan(rules, m)
	if err != nil {
		w := newWork(m)
		f := contentFailure(&contentError{err})
		w.settleRest(f)
		return w.attempt(f, time.Time{})
	}
	a := rt.deliver(ctx, turn, planned(m, plan))
	if a.Site == nil { // while no host answers there is nothing new to say
		t.tell(rt, rules, m.ID, plan)
	}
	return a
}

func (t *table) plan(rules rewrite.Chain, m envelope.Message) (*rewrite.Plan, error) {
	content, err := m.Open()
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return rules.Plan(rewrite.Job{ReversePath: m.Envelope.ReversePath, ID: m.ID, ReceivedAt: m.ReceivedAt,
		Hostname: t.hostname}, content)
}

// planned returns m as plan has it.
func planned(m envelope.Message, plan *rewrite.Plan) envelope.Message {
	m.Envelope.ReversePath = plan.ReversePath
	if plan.Untouched() {
		return m
	}
	open := m.Open
	m.Size = plan.Size(m.Size)
	m.Open = func() (io.ReadCloser, error) {
		content, err := open()
		if err != nil {
			return nil, err
		}
		return plannedContent{plan.Reader(content), content}, nil
	}
	return m
}

// plannedContent is content as a plan has it.
type plannedContent struct {
	io.Reader
	io.Closer
}

// WriteTo lets io.Copy take the way that Reader has for it.
func (c plannedContent) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, c.Reader) }

// tell logs what was done to a message that a host was shown.
func (t *table) tell(rt *route, rules rewrite.Chain, id string, p *rewrite.Plan) {
	if p.Quiet() {
		return
	}
	log := t.log.With("queue_id", id, "route", rt.name)
	if len(p.Changes) > 0 {
		var words []string
		for _, c := range p.Changes {
			was := c.From.String()
			if c.From.IsNull() {
				was = "without a legible address"
			}
			words = append(words, fmt.Sprintf("%s %s to %s (%s)", c.Where, was, c.To, c.Rule))
		}
		log.Info("sender rewritten", "changes", firstFew(words, "; "))
	}
	if len(p.Removed) > 0 {
		log.Info("signature removed", "fields", firstFew(p.Removed, " "),
			"reason", "it covered a header field that the relay changed, so that it would fail")
	}
	if len(p.Added) > 0 {
		log.Debug("missing header fields added", "fields", strings.Join(p.Added, " "))
	}
	if len(p.Unclear) > 0 && len(rules) > 0 {
		log.Warn("no address found in a header field that was to be rewritten", "fields", firstFew(p.Unclear, " "),
			"remedy", "correct it in the sending program, or set header_from, which replaces what is not legible")
	}
	if p.TooLong {
		log.Warn("the header is too long to be rewritten or completed; it goes as it came")
	}
}

// firstFew joins words for the log; a line is not to grow with a message.
func firstFew(words []string, separator string) string {
	const few = 10
	if len(words) <= few {
		return strings.Join(words, separator)
	}
	return fmt.Sprintf("%s%sand %d more", strings.Join(words[:few], separator), separator, len(words)-few)
}
