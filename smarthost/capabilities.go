package smarthost

import (
	"slices"
	"strconv"
	"strings"
)

// capabilities are what a host offered in its reply to EHLO (RFC 5321 section 4.1.1.1).
type capabilities struct {
	startTLS, pipelining, eightBit, utf8, dsn, requireTLS bool
	// size is set when SIZE is offered; maxSize is its limit in octets, 0 for none (RFC 1870).
	size    bool
	maxSize int64
	// doubtedSize is set when maxSize is the host's and seems to be a slip.
	doubtedSize bool
	// auth holds the mechanisms, in upper case, in the host's order.
	auth []string
}

// carryLike reports whether a transaction that was made for c is right for o too.
func (c capabilities) carryLike(o capabilities) bool {
	return c.pipelining == o.pipelining && c.eightBit == o.eightBit && c.utf8 == o.utf8 && c.dsn == o.dsn &&
		c.requireTLS == o.requireTLS && c.size == o.size && c.maxSize == o.maxSize
}

// parseCapabilities reads the text of a reply to EHLO. Its first line is the host's name. Servers of the time before
// RFC 2554 write "AUTH=LOGIN PLAIN", some beside the line of today.
func parseCapabilities(text string) capabilities {
	var c capabilities
	_, text, _ = strings.Cut(text, "\n")
	for line := range strings.SplitSeq(strings.ToUpper(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "AUTH="); ok {
			line = "AUTH " + rest
		}
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		c.add(words[0], words[1:])
	}
	return c
}

func (c *capabilities) add(keyword string, params []string) {
	switch keyword {
	case "STARTTLS":
		c.startTLS = true
	case "PIPELINING":
		c.pipelining = true
	case "8BITMIME":
		c.eightBit = true
	case "SMTPUTF8":
		c.utf8 = true
	case "DSN":
		c.dsn = true
	case "REQUIRETLS":
		c.requireTLS = true
	case "SIZE":
		c.size = true
		if len(params) > 0 {
			// A limit that cannot be read is no limit: the host will say itself what it does not take.
			if n, err := strconv.ParseInt(params[0], 10, 64); err == nil && n > 0 {
				c.maxSize = n
			}
		}
	case "AUTH":
		for _, m := range params {
			if !slices.Contains(c.auth, m) {
				c.auth = append(c.auth, m)
			}
		}
	}
}

// smaller returns the smaller of two limits, of which 0 is none.
func smaller(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
