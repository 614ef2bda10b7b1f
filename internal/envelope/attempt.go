package envelope

import "time"

// Scope is how far a failure reaches, and so what it may stop.
type Scope string

const (
	// ScopeSite: the host, the line to it or the account is the trouble. No message is to blame; the host is left
	// alone for a while and the next one is tried.
	ScopeSite Scope = "site"
	// ScopeSender: this reverse-path is refused; messages of other senders flow.
	ScopeSender Scope = "sender"
	// ScopeMessage: this content is refused.
	ScopeMessage Scope = "message"
	// ScopeRecipient: this forward-path is refused; the message's other recipients go on.
	ScopeRecipient Scope = "recipient"
)

// Failure is why an attempt, or one recipient of it, did not end in delivery.
type Failure struct {
	Scope     Scope `json:"scope"`
	Permanent bool  `json:"permanent,omitempty"`
	// Stage is where it happened: "dial", "tls", "greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data" or
	// "dot".
	Stage string `json:"stage"`
	// Reply is the peer's own reply; zero when there was none, as when a connection was refused or timed out.
	Reply Reply `json:"reply,omitzero"`
	// Local is set when the verdict is the relay's own: no host was asked, and Reply is what it would have said.
	Local bool `json:"local,omitempty"`
	// Reason says in words what is wrong and, where it can be known, what to do. It holds no secret.
	Reason string `json:"reason,omitempty"`
}

// String returns the peer's words, or the reason where the peer said nothing.
func (f *Failure) String() string {
	switch {
	case f.Reply.IsZero():
		return f.Reason
	case f.Reason == "":
		return f.Reply.String()
	}
	return f.Reply.String() + " (" + f.Reason + ")"
}

// Result is what an attempt came to for one recipient. Failure is nil when the host took the message for this
// recipient; Reply is then its reply to the final dot.
type Result struct {
	Reply   Reply
	Failure *Failure
}

// Attempt is what one try to hand a message on came to.
type Attempt struct {
	// Host is the host and port that gave the outcome, or the last one tried.
	Host string
	// Site is set when no host could be used at all. No recipient has then spent an attempt, Results is empty, and the
	// route is worth trying again at RetryAt.
	Site    *Failure
	RetryAt time.Time
	// Amid is set with Site when a host failed in the midst of this message's own transaction, so that the message may be
	// what it fails at.
	Amid bool
	// Results holds one entry for each recipient of the message, in order, but for the Left last ones.
	Results []Result
	// Left is how many recipients, the last ones, were not tried: one transaction does not take so many, or the pace no
	// more now. They are as they were. When it is all of them, the route is worth trying again at RetryAt.
	Left int
	// PossibleDuplicate is set when the connection was lost after the final dot and before its reply, so that the host
	// may have taken the message (RFC 1047).
	PossibleDuplicate bool
	// DSNOffered is set when the host offered DSN, so that it and not the relay answers for RFC 3461 reports.
	DSNOffered bool
}

// Leg is the part of a message that takes one route.
type Leg struct {
	Route string
	// Recipients are indexes into the envelope's recipients.
	Recipients []int
}

// Decided reports whether a came to an outcome for any recipient that must not be forgotten.
func (a Attempt) Decided() bool {
	for _, r := range a.Results {
		if r.Failure == nil || r.Failure.Permanent {
			return true
		}
	}
	return false
}
