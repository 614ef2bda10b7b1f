package queue

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
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

// maxEvents bounds the events kept with a message: the first and the latest ones stay.
const maxEvents = 40

func (r *record) note(e Event) {
	if len(r.Events) >= maxEvents {
		r.Events = append(r.Events[:1:1], r.Events[2:]...)
	}
	r.Events = append(r.Events, e)
}

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

// Stored values begin with a version and a checksum, because bbolt does not notice a flipped byte in a value.
const (
	valueVersion = 1
	valueHeader  = 1 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged: a stored value fails its checksum or cannot be decoded. Its message is set aside in quarantine.
var errDamaged = errors.New("the stored record is damaged")

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func sealValue(payload []byte) []byte {
	v := make([]byte, valueHeader, valueHeader+len(payload))
	v[0] = valueVersion
	binary.BigEndian.PutUint32(v[1:], checksum(payload))
	return append(v, payload...)
}

// openValue returns the payload of a stored value. It points into v.
func openValue(v []byte) ([]byte, error) {
	switch {
	case len(v) < valueHeader:
		return nil, errDamaged
	case v[0] != valueVersion:
		return nil, fmt.Errorf("%w: version %d is not known here", errDamaged, v[0])
	case binary.BigEndian.Uint32(v[1:]) != checksum(v[valueHeader:]):
		return nil, fmt.Errorf("%w: its checksum does not match", errDamaged)
	}
	return v[valueHeader:], nil
}

func encodeRecord(r *record) ([]byte, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return sealValue(payload), nil
}

func decodeRecord(id ID, v []byte) (*record, error) {
	payload, err := openValue(v)
	if err != nil {
		return nil, err
	}
	r := &record{ID: id}
	if err := json.Unmarshal(payload, r); err != nil {
		return nil, fmt.Errorf("%w: %v", errDamaged, err)
	}
	if len(r.Recipients) != len(r.Envelope.Recipients) {
		return nil, fmt.Errorf("%w: it has %d recipients and the state of %d", errDamaged, len(r.Envelope.Recipients), len(r.Recipients))
	}
	return r, nil
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
	// Source is where it came from (see sourceOf), and Recipients how many of its recipients wait; 0 in a line of an earlier
	// version.
	Source     uint16
	Recipients int32
}

// slot returns the line of the due index of a message that takes routes.
func (r *record) slot(routes string) slot {
	at, _ := r.next()
	sl := slot{ID: r.ID, Due: at.UnixNano(), Size: r.Size, Routes: routes,
		Source: sourceOf(r.Origin, r.Envelope.ReversePath), Recipients: int32(len(r.unsettled()))}
	if r.Held {
		sl.Due = heldDue
	}
	if r.Undeliverable {
		sl.Due = undeliverableDue
	}
	return sl
}

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
	slotHeader       = 8
	// slotMark begins the part of a line behind the routes: the source in four hexadecimal digits, and the recipients in as
	// many as they need. To an earlier version it is the name of one more route, the last, that nobody has: a hint that leads
	// nowhere, and that it replaces when it looks at the message. So this needs no new format.
	slotMark   = routeSeparator + "\x1e"
	slotSource = 4
	slotTail   = len(slotMark) + slotSource + 8
)

func (s slot) key() []byte {
	k := make([]byte, slotKey)
	binary.BigEndian.PutUint64(k, uint64(s.Due))
	binary.BigEndian.PutUint64(k[8:], uint64(s.ID))
	return k
}

func (s slot) value() []byte {
	v := make([]byte, slotHeader, slotHeader+len(s.Routes)+slotTail)
	binary.BigEndian.PutUint64(v, uint64(s.Size))
	return sealValue(s.appendTail(append(v, s.Routes...)))
}

func (s slot) appendTail(b []byte) []byte {
	if s.Source == 0 && s.Recipients == 0 {
		return b
	}
	b = append(b, slotMark...)
	for shift := 4 * (slotSource - 1); shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[s.Source>>shift&0xf])
	}
	return strconv.AppendUint(b, uint64(uint32(s.Recipients)), 16)
}

// cutTail returns a line's routes, and sets what stands behind them.
func (s *slot) cutTail(b []byte) (routes []byte) {
	at := bytes.LastIndex(b, []byte(slotMark))
	if at < 0 || len(b) < at+len(slotMark)+slotSource {
		return b
	}
	digits := b[at+len(slotMark):]
	source, err := strconv.ParseUint(string(digits[:slotSource]), 16, 16)
	recipients, rerr := strconv.ParseUint(string(digits[slotSource:]), 16, 32)
	tail := slot{Source: uint16(source), Recipients: int32(recipients)}
	var again [slotTail]byte
	if err != nil || rerr != nil || !bytes.Equal(tail.appendTail(again[:0]), b[at:]) {
		return b
	}
	s.Source, s.Recipients = tail.Source, tail.Recipients
	return b[:at]
}

func decodeSlot(k, v []byte) (slot, error) {
	v, err := openValue(v)
	if err != nil || len(k) != slotKey || len(v) < slotHeader {
		return slot{}, errDamaged
	}
	s := slot{
		Due:  int64(binary.BigEndian.Uint64(k)),
		ID:   ID(binary.BigEndian.Uint64(k[8:])),
		Size: int64(binary.BigEndian.Uint64(v)),
	}
	// A million messages take the same few routes.
	s.Routes = unique.Make(string(s.cutTail(v[slotHeader:]))).Value()
	return s, nil
}

func idKey(id ID) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(id))
}
