package queue

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"relayd/internal/envelope"
)

var (
	// ErrNotFound: no message of this id is in the queue or in its history. Look at the id again.
	ErrNotFound = errors.New("no such message")
	// ErrLocked: another relayd has the folder open. Stop it, or give this one its own data_dir.
	ErrLocked = errors.New("the queue is in use by another relayd")
	// ErrClosed: the queue has been closed; nothing more is taken or changed.
	ErrClosed = errors.New("the queue is closed")
)

// NotFoundError lists the ids of a request that name no message in the queue.
type NotFoundError struct{ IDs []string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("not in the queue: %s", strings.Join(e.IDs, ", "))
}

// Unwrap makes errors.Is(err, ErrNotFound) true.
func (e *NotFoundError) Unwrap() error { return ErrNotFound }

// States of a message in the queue.
const (
	StateActive   = "active"   // being delivered, or next in line
	StateDeferred = "deferred" // waits for its next attempt, or for its smarthost to be back
	StateHeld     = "held"     // waits for an operator
	// StateUndeliverable is that of a report that nobody got. It is held, too.
	StateUndeliverable = "undeliverable"
	// StateQuarantined is that of a message which is damaged, and is not delivered.
	StateQuarantined = "quarantined"
)

// WaitsForPace: a deferred message waits for its turn in the pace of its route, whose next slot is at NextAttempt. It is
// this message's if it is the next.
const WaitsForPace = "pace"

// States of a recipient.
const (
	StatusWaiting   = "waiting"
	StatusDelivered = "delivered"
	StatusFailed    = "failed"
)

// Entry is a message as `relayctl queue list --json` shows it.
type Entry struct {
	ID          string           `json:"id"`
	State       string           `json:"state"`
	ReversePath envelope.Path    `json:"reverse_path"`
	Recipients  []EntryRecipient `json:"recipients"`
	Size        int64            `json:"size"` // octets
	ReceivedAt  time.Time        `json:"received_at"`
	NextAttempt time.Time        `json:"next_attempt,omitzero"`
	WaitsFor    string           `json:"waits_for,omitempty"` // WaitsForPace, or nothing to tell
	Attempts    int              `json:"attempts"`
	// Asked is what operators want of a message that is being delivered, and that is done when the attempt has ended.
	Asked     []Action `json:"asked,omitempty"`
	LastError string   `json:"last_error"`
	Smarthost string   `json:"smarthost"` // host:port of the last attempt, or the route's name before one
}

// EntryRecipient is one recipient of an Entry.
type EntryRecipient struct {
	Address   string `json:"address"`
	Status    string `json:"status"`
	Attempts  int    `json:"attempts"`
	LastReply string `json:"last_reply"`
}

// Detail is everything the queue knows of one message but its content.
type Detail struct {
	Entry
	Envelope envelope.Envelope `json:"envelope"`
	Origin   envelope.Origin   `json:"origin"`
	Events   []Event           `json:"events"`
	// Gone is set when the message has left the queue and this is its line of history.
	Gone bool `json:"gone"`
}

// Event is one step of a message's life. What is one of received, delivered, deferred, failed, reported, held,
// released, retry, rerouted, quarantined, deleted and asked (for too late).
type Event struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	Host string    `json:"host,omitempty"`
	// Recipients names the first of those that it is about, and More says how many it does not name.
	Recipients []string `json:"recipients,omitempty"`
	More       int      `json:"more,omitempty"`
	Words      string   `json:"words,omitempty"`
}

// Counts sums the queue up.
type Counts struct {
	Active      int       `json:"active"`
	Deferred    int       `json:"deferred"`
	Held        int       `json:"held"`
	Paced       int       `json:"paced,omitempty"` // of the deferred, those that only wait for the pace of their route
	Quarantined int       `json:"quarantined"`
	Bytes       int64     `json:"bytes"`           // of content
	Oldest      time.Time `json:"oldest,omitzero"` // when the oldest message was received
	// Unreported counts the reports, among those held, that nobody got and nobody was told of.
	Unreported int64 `json:"unreported"`
}

// Action is what an operator may do to messages.
type Action string

const (
	ActionHold    Action = "hold"    // keep from delivery until released
	ActionRelease Action = "release" // undo a hold; due at once
	ActionRetry   Action = "retry"   // due at once
	ActionDelete  Action = "delete"  // remove without delivery and without a report
	// ActionReroute decides anew which routes a message takes; what waited on a route that it takes no longer is due at once.
	ActionReroute Action = "reroute"
)

// ParseAction returns the action named s.
func ParseAction(s string) (Action, error) {
	switch a := Action(s); a {
	case ActionHold, ActionRelease, ActionRetry, ActionReroute, ActionDelete:
		return a, nil
	}
	return "", fmt.Errorf("unknown action %q; there are hold, release, retry, reroute and delete", s)
}
