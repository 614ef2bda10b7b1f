package sendermx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"relayd/internal/envelope"
)

// warnAgain is how long a domain that was warned of is not told of again, and maxWarned how many are remembered.
const (
	warnAgain = 24 * time.Hour
	maxWarned = 1024
)

// Judge returns the refusal of a sender, or the zero Reply when the mail passes. outgoing are the reverse-paths under which
// it may leave; one whose domain has an MX record, or of which that is not known, is enough. The null reverse-path passes.
// However many there are, it waits no longer than for one.
func (c *Checker) Judge(ctx context.Context, outgoing []envelope.Path) envelope.Reply {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Wait)
	defer cancel()
	var refusal envelope.Reply
	for _, p := range outgoing {
		if p.IsNull() {
			return envelope.Reply{}
		}
		a := c.Check(ctx, p.Domain())
		if !a.Missing() {
			return envelope.Reply{}
		}
		if refusal.IsZero() {
			refusal = Refusal(p, a)
		}
	}
	return refusal
}

// Refusal is what a client is told whose sender p has no MX record; a says so.
func Refusal(p envelope.Path, a Answer) envelope.Reply {
	r := envelope.Reply{Code: 550, Enhanced: envelope.EnhancedCode{5, 1, 8}}
	domain := strings.TrimSuffix(p.Domain(), ".")
	const mail = "the smarthost takes mail only from domains with one"
	const elsewhere = "set another sender, or have the relay rewrite it"
	switch {
	case strings.HasPrefix(domain, "["):
		r.Text = fmt.Sprintf("the sender is at an address, %.80s, which can have no MX record, and %s:\n"+
			"set the sender to an address in a domain that has one, or have the relay rewrite it", domain, mail)
	case a.Verdict == Null:
		r.Text = fmt.Sprintf("the sender's domain %.200s says by a null MX that it takes no mail, and %s:\n"+
			"publish an MX record in its place, as %q, "+elsewhere, domain, mail, record(domain))
	default:
		r.Text = fmt.Sprintf("the sender's domain %.200s has no MX record, and %s:\n"+
			"publish an MX record for it, as %q, "+elsewhere, domain, mail, record(domain))
	}
	return r
}

// record is an MX record to follow, as it stands in a zone. That of a long domain is written without it, since a reply
// line has 512 octets.
func record(domain string) string {
	if len(domain) > 100 {
		return "@ MX 10 mail"
	}
	return domain + ". MX 10 mail." + domain + "."
}

// ShouldWarn reports whether the domain of p is to be told of: once a day each. While very many are, it tells of no more.
func (c *Checker) ShouldWarn(p envelope.Path) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, domain := time.Now(), p.Domain()
	if at, ok := c.warned[domain]; ok && now.Sub(at) < warnAgain {
		return false
	}
	if len(c.warned) >= maxWarned {
		for d, at := range c.warned {
			if now.Sub(at) >= warnAgain {
				delete(c.warned, d)
			}
		}
		if len(c.warned) >= maxWarned {
			return false
		}
	}
	c.warned[domain] = now
	return true
}

// Explain says in words what a says of the domain of p.
func (a Answer) Explain(p envelope.Path) string {
	domain := p.Domain()
	switch {
	case a.Verdict == Found:
		return fmt.Sprintf("%s has an MX record: %s", domain, strings.Join(a.Hosts, ", "))
	case a.Verdict == Null:
		return fmt.Sprintf("%s has a null MX, which says that it takes no mail", domain)
	case strings.HasPrefix(domain, "["):
		return fmt.Sprintf("%s is an address and can have no MX record", domain)
	case a.Verdict == None:
		return fmt.Sprintf("%s has no MX record", domain)
	case errors.Is(a.Err, context.DeadlineExceeded):
		return fmt.Sprintf("whether %s has an MX record is not known: %v", domain, ErrSlow)
	}
	return fmt.Sprintf("whether %s has an MX record is not known: %v", domain, a.Err)
}
