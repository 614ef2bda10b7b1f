package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"relayd/internal/envelope"
)

// What is kept in memory of messages is bounded in octets, whatever these are of: content, or recipients.
func TestCache_CountsRecipients(t *testing.T) {
	env := testEnvelope()
	for n := range 1000 {
		env.Recipients = append(env.Recipients, envelope.Recipient{Path: envelope.Path(fmt.Sprintf("%s%d@example.com", strings.Repeat("l", 50), n)),
			ORcpt: "rfc822;" + strings.Repeat("o", 400)})
	}
	var c cache
	var kept []*cached
	for e := c.keep(newRecord(1, env, envelope.Origin{}, time.Now()), nil); e != nil; e = c.keep(newRecord(1, env, envelope.Origin{}, time.Now()), nil) {
		kept = append(kept, e)
	}
	if n := len(kept); n < 10 || n > cacheLimit/(1000*450) {
		t.Errorf("%d messages with 1000 recipients of some 450 octets are kept", n)
	}
	for _, e := range kept {
		c.drop(e)
	}
	if n := c.used.Load(); n != 0 {
		t.Errorf("%d octets are in use by nothing", n)
	}
}
