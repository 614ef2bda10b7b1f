package main

import (
	"context"
	"strings"

	"relayd/internal/envelope"
)

// senderCheck is what require_sender_mx asks of senders, nil when that is nothing. What counts is the address under which
// the mail will leave: that of a device is often from a domain that exists on its LAN alone, and rewritten.
func (d *daemon) senderCheck(require string) func(context.Context, envelope.Origin, envelope.Path) envelope.Reply {
	if require == "off" {
		return nil
	}
	return func(ctx context.Context, o envelope.Origin, reverse envelope.Path) envelope.Reply {
		refusal := d.mx.Judge(ctx, d.router.Outgoing(o, reverse))
		if refusal.IsZero() || require == "reject" {
			return refusal
		}
		if d.mx.ShouldWarn(reverse) {
			d.log.Warn("the sender's domain has no MX record; some smarthosts refuse its mail", "from", reverse.String(),
				"client", o.Addr.String(), "remedy", strings.ReplaceAll(refusal.Text, "\n", " "))
		}
		return envelope.Reply{}
	}
}
