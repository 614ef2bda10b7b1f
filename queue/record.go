package queue

import (
	"encoding/binary"
	"math"
	"strings"
	"time"
	"unique"

	"relayd/internal/envelope"
)

// record is what the store keeps of a message beside its content. It is a value: a change is made on a copy that
// replaces the whole record in one commit.
type record struct {
	ID         ID                `json:"-"`
	Envelope   envelope.Envelope `json:"envelope"`
	Origin     envelope.Origin   `json:"origin,omitzero"`
	ReceivedAt time.Time         `json:"received_at"`
	Size       int64             `json:"size"`
	Sum        uint32            `json:"sum"` // CRC-32C of the content
	Spooled    bool              `json:"spooled,omitempty"`
	Held       bool              `json:"held,omitempty"`
	// Report is set on the reports that the relay wrote itself: no report is ever made about one (RFC 3461 section 6.1).
	Report bool `json:"report,omitempty"`
	// Plain is set on a report without quotation, which went out in place of one that had failed.
	Plain bool `json:"plain,omitempty"`
	// Undeliverable is set on a report that nobody got and nobody was told of. It is held for an operator.
	Undeliverable bool             `json:"undeliverable,omitempty"`
	Attempts      int              `json:"attempts,omitempty"`
	Panics        int              `json:"panics,omitempty"` // attempts that a fault in the relay ended
	Recipients    []recipientState `json:"recipients"`       // beside Envelope.Recipients, in order
	Smarthost     string           `json:"smarthost,omitempty"`
	LastError     string           `json:"last_error,omitempty"`
	Events        []Event          `json:"events,omitempty"`
	// From is the id that the message was received under, when an import gave it another one.
	From ID `json:"from,omitempty"`
	// Gone is set in the line of history that stays when the message is no longer queued.
	Gone bool `json:"gone,omitempty"`

	blocks uint16 // that it takes as it was read, and words of hosts in it; see slot
	words  uint16
}

// recipientState is how far one recipient has come. Next is when it is tried again while it waits.
type recipientState struct {
	Status    string    `json:"status"`
	Attempts  int       `json:"attempts,omitempty"`
	LastReply string    `json:"last_reply,omitempty"`
	Next      time.Time `json:"next,omitzero"`
	// Route is the one that its last attempt took, from which it waits now; "" where an earlier version has noted none.
	Route string `json:"route,omitempty"`
	// Waited is how long the pauses between its attempts were in sum; max_age is measured in it. No clock that is set,
	// no outage of a smarthost and no time that the daemon was down counts.
	Waited time.Duration `json:"waited,omitempty"`
	// Doubts counts the attempts that may have delivered to it (RFC 1047).
	Doubts int `json:"doubts,omitempty"`
	// Warned is set when the sender was told that this recipient waits.
	Warned bool `json:"warned,omitempty"`
}

// note adds an event. Few are kept: the first and the latest ones.
func (r *record) note(e Event) { r.Events = queuedLimits().boundEvents(append(r.Events, e)) }

// clone returns a copy whose slices can be changed without touching r's.
func (r *record) clone() *record {
	c := *r
	c.Recipients = append([]recipientState(nil), r.Recipients...)
	c.Events = append([]Event(nil), r.Events...)
	return &c
}

// next returns when the first waiting recipient is due; ok is false when none waits.
func (r *record) next() (at time.Time, ok bool) {
	for _, s := range r.Recipients {
		if s.Status == StatusWaiting && (!ok || s.Next.Before(at)) {
			at, ok = s.Next, true
		}
	}
	return at, ok
}

// later returns when the first recipient is due that waits and is not due at now; zero when there is none.
func (r *record) later(now time.Time) (at time.Time) {
	for _, s := range r.Recipients {
		if s.Status == StatusWaiting && s.Next.After(now) && (at.IsZero() || s.Next.Before(at)) {
			at = s.Next
		}
	}
	return at
}

// unsettled returns the indexes of all recipients that wait.
func (r *record) unsettled() []int {
	var all []int
	for i, s := range r.Recipients {
		if s.Status == StatusWaiting {
			all = append(all, i)
		}
	}
	return all
}

// waiting returns the indexes of the recipients that wait and are due at now.
func (r *record) waiting(now time.Time) []int {
	var due []int
	for i, s := range r.Recipients {
		if s.Status == StatusWaiting && !s.Next.After(now) {
			due = append(due, i)
		}
	}
	return due
}

// pick returns the envelope with only the recipients at the given indexes.
func (r *record) pick(indexes []int) envelope.Envelope {
	env := r.Envelope
	env.Recipients = make([]envelope.Recipient, len(indexes))
	for i, n := range indexes {
		env.Recipients[i] = r.Envelope.Recipients[n]
	}
	return env
}

// slot is a message's line in the due index: all that the scheduler keeps in memory of a message that waits. The
// index has one for each message, so that a start reads the index alone.
type slot struct {
	ID   ID
	Due  int64 // nanoseconds since the epoch; heldDue or undeliverableDue for a message that is held
	Size int64
	// Routes are the routes that its waiting recipients take, joined by routeSeparator, as a hint: the routes are decided
	// anew at each attempt.
	Routes string
	// Source is where it came from (see sourceOf), Record how many blocks of recordBlock octets its record takes, Words how
	// many of those are words of hosts, and Recipients how many of its recipients wait.
	Source     source
	Record     uint16
	Words      uint16
	Recipients int32
}

// recordBlock is what the size of a record is counted in, so that a million lines stay small in memory.
const recordBlock = 512

// blocksOf returns how many blocks a record of n octets takes.
func blocksOf(n int) uint16 { return uint16(min((n+recordBlock-1)/recordBlock, math.MaxUint16)) }

// slot returns the line of the due index of a message that takes routes. A record that is new or was changed gets its size
// when it is encoded.
func (r *record) slot(routes string) slot {
	at, _ := r.next()
	sl := slot{ID: r.ID, Due: at.UnixNano(), Size: r.Size, Routes: routes,
		Source: sourceOf(r.Origin, r.Envelope.ReversePath), Recipients: int32(len(r.unsettled())), Record: r.blocks, Words: r.words}
	if r.Held {
		sl.Due = heldDue
	}
	if r.Undeliverable {
		sl.Due = undeliverableDue
	}
	return sl
}

// bound returns how many octets the message's record takes at most, whatever becomes of it: what it takes now, and what
// may come until all of its recipients are settled.
func (s slot) bound() int64 { return s.record() + queuedLimits().growth(int(s.Recipients)) }

// record returns how many octets the message's record takes.
func (s slot) record() int64 { return int64(s.Record) * recordBlock }

// octets returns how many octets of max_bytes the message takes.
func (s slot) octets() int64 { return s.Size + s.record() }

// routeSeparator cannot be in a route's name, which is a TOML string without control characters.
const routeSeparator = "\x1f"

// routes returns the names in Routes, at least one.
func (s slot) routes() []string { return strings.Split(s.Routes, routeSeparator) }

// several reports whether there is more than one name in Routes.
func (s slot) several() bool { return strings.Contains(s.Routes, routeSeparator) }

const (
	heldDue = math.MaxInt64
	// undeliverableDue is that of a message that is held because it is undeliverable: its line alone tells, at a start.
	undeliverableDue = heldDue - 1
	slotKey          = 8 + 8
	// slotHeader is what stands before the routes in a line: size, client and sender, record, words and recipients.
	slotHeader = 8 + 2 + 2 + 2 + 2 + 4
)

func (s slot) key() []byte {
	k := make([]byte, slotKey)
	binary.BigEndian.PutUint64(k, uint64(s.Due))
	binary.BigEndian.PutUint64(k[8:], uint64(s.ID))
	return k
}

func (s slot) value() []byte {
	v := make([]byte, valueHeader, valueHeader+slotHeader+len(s.Routes))
	v = binary.BigEndian.AppendUint64(v, uint64(s.Size))
	v = binary.BigEndian.AppendUint16(v, s.Source.client)
	v = binary.BigEndian.AppendUint16(v, s.Source.sender)
	v = binary.BigEndian.AppendUint16(v, s.Record)
	v = binary.BigEndian.AppendUint16(v, s.Words)
	v = binary.BigEndian.AppendUint32(v, uint32(s.Recipients))
	return seal(append(v, s.Routes...))
}

func decodeSlot(k, v []byte) (slot, error) {
	v, err := openValue(v)
	if err != nil || len(k) != slotKey || len(v) < slotHeader {
		return slot{}, errDamaged
	}
	s := slot{
		Due:        int64(binary.BigEndian.Uint64(k)),
		ID:         ID(binary.BigEndian.Uint64(k[8:])),
		Size:       int64(binary.BigEndian.Uint64(v)),
		Source:     source{binary.BigEndian.Uint16(v[8:]), binary.BigEndian.Uint16(v[10:])},
		Record:     binary.BigEndian.Uint16(v[12:]),
		Words:      binary.BigEndian.Uint16(v[14:]),
		Recipients: int32(binary.BigEndian.Uint32(v[16:])),
	}
	if s.Recipients < 0 {
		return slot{}, errDamaged
	}
	// A million messages take the same few routes.
	s.Routes = unique.Make(string(v[slotHeader:])).Value()
	return s, nil
}

func idKey(id ID) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(id))
}
