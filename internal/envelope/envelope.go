package envelope

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Envelope is the envelope of one mail transaction (RFC 5321 section 2.3.1) with the extension parameters that
// must follow the message to the next hop.
type Envelope struct {
	ReversePath Path        `json:"reverse_path"`
	Recipients  []Recipient `json:"recipients"`
	// Body is the BODY parameter: "7BIT", "8BITMIME" (RFC 6152), or "" when the client declared nothing.
	Body string `json:"body,omitempty"`
	// UTF8 is set by the SMTPUTF8 parameter (RFC 6531).
	UTF8 bool `json:"smtputf8,omitempty"`
	// RequireTLS is set by the REQUIRETLS parameter (RFC 8689).
	RequireTLS bool `json:"requiretls,omitempty"`
	// Ret is the RET parameter: "FULL", "HDRS" or "" (RFC 3461 section 4.3).
	Ret string `json:"ret,omitempty"`
	// EnvID is the ENVID parameter, still xtext-encoded (RFC 3461 section 4.4).
	EnvID string `json:"envid,omitempty"`
}

// Recipient is one forward-path with its RFC 3461 parameters.
type Recipient struct {
	Path   Path   `json:"path"`
	Notify Notify `json:"notify,omitempty"`
	// ORcpt is the ORCPT parameter as it was sent, "rfc822;" and xtext included (RFC 3461 section 4.2).
	ORcpt string `json:"orcpt,omitempty"`
}

// Notify is the set of conditions of the NOTIFY parameter (RFC 3461 section 4.1). The zero value means that the
// parameter was absent, which asks for failure reports and leaves delay reports to the relay.
type Notify uint8

const (
	NotifySuccess Notify = 1 << iota
	NotifyFailure
	NotifyDelay
	NotifyNever
)

var notifyNames = []struct {
	n    Notify
	word string
}{{NotifyNever, "NEVER"}, {NotifySuccess, "SUCCESS"}, {NotifyFailure, "FAILURE"}, {NotifyDelay, "DELAY"}}

// ParseNotify parses a NOTIFY parameter's value. NEVER stands alone.
func ParseNotify(s string) (Notify, error) {
	var n Notify
words:
	for _, word := range strings.Split(strings.ToUpper(s), ",") {
		for _, k := range notifyNames {
			if word == k.word {
				n |= k.n
				continue words
			}
		}
		return 0, fmt.Errorf("NOTIFY knows NEVER, or a list of SUCCESS, FAILURE and DELAY; not %q", word)
	}
	if n&NotifyNever != 0 && n != NotifyNever {
		return 0, errors.New("NOTIFY=NEVER stands alone")
	}
	return n, nil
}

// String returns the parameter's value, or "" when it is absent.
func (n Notify) String() string {
	var words []string
	for _, k := range notifyNames {
		if n&k.n != 0 {
			words = append(words, k.word)
		}
	}
	return strings.Join(words, ",")
}

// WantsFailure reports whether the sender is to be told that delivery failed.
func (n Notify) WantsFailure() bool { return n == 0 || n&NotifyFailure != 0 }

// WantsDelay reports whether the sender is to be told that delivery is late.
func (n Notify) WantsDelay() bool { return n == 0 || n&NotifyDelay != 0 }

// WantsSuccess reports whether the sender asked to be told of delivery.
func (n Notify) WantsSuccess() bool { return n&NotifySuccess != 0 }

// Origin says where a message came from: the client of the inbound session.
type Origin struct {
	// Addr is the client's address, IPv4-mapped IPv6 already unmapped; invalid for mail that the relay wrote itself.
	Addr netip.Addr `json:"addr,omitzero"`
	// Helo is the name that the client gave in EHLO or HELO.
	Helo string `json:"helo,omitempty"`
	// Protocol is the "with" word of the trace header: SMTP, ESMTP, ESMTPS (RFC 3848).
	Protocol string `json:"protocol,omitempty"`
}

// Message is a mail object to be handed on (RFC 5321 section 2.3.1): an envelope and its content.
type Message struct {
	ID       string
	Envelope Envelope
	Origin   Origin
	// Size is the content's length in octets, trace header included, before dot-stuffing.
	Size int64
	// ReceivedAt is when the relay took the message; zero when that is not known.
	ReceivedAt time.Time
	// Open returns the content from its start: CRLF line ends throughout, no bare CR or LF, not dot-stuffed. It may be
	// called once per try.
	Open func() (io.ReadCloser, error)
	// Contended is set while mail of other clients waits for the same route.
	Contended bool
}
