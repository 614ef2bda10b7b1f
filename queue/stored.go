package queue

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"
	"unicode/utf8"
)

// How a record is stored. Its size has a bound that its recipients alone decide (see recordBound), whatever hosts
// answer and however often it is tried: words are cut, words that repeat are stored once, and few events are kept.

// limits bound what a record holds, in octets as they are stored.
type limits struct {
	// words is how much of a reply is kept, and short how much of it once the words of a record have taken table.
	words, short, table int
	// events is how many events are kept, octets how much room they take, and said how much of the words of one is kept:
	// the first and the latest ones stay.
	events, octets, said int
}

// queuedLimits are those of a message in the queue, goneLimits those of its line of history.
func queuedLimits() limits {
	return limits{words: 500, short: 80, table: 32 << 10, events: 16, octets: 2560, said: 200}
}

func goneLimits() limits {
	return limits{words: 200, short: 40, table: 4 << 10, events: 8, octets: 1 << 10, said: 200}
}

func (r *record) limits() limits {
	if r.Gone {
		return goneLimits()
	}
	return queuedLimits()
}

const (
	// maxName is how much of a host or an address an event keeps, and maxWhat of an event's name.
	maxName = 128
	maxWhat = 32
	// eventNames is how many recipients an event names.
	eventNames = 2
)

// What a record takes at most beside its words: for each recipient, for each event, for each word of its table.
const (
	recipientOctets = 256
	eventOctets     = 160
	wordOctets      = 3
)

// growth returns how many octets a record may grow by while n of its recipients wait, at most.
func (l limits) growth(n int) int64 {
	waiting, words := int64(n), int64(l.words+wordOctets)
	replies := min(waiting*words, int64(l.table)+words+waiting*int64(l.short+wordOctets))
	// The first event and the latest one may go beyond the limit. The last error and the host come on top.
	event := int64(eventOctets+l.said) + (1+eventNames)*(maxName+wordOctets)
	return waiting*recipientOctets + replies + int64(l.octets) + 2*event + words + maxName
}

// storedRecord is a record as it is stored. Words has the strings that it holds, each once; the numbers of words in the
// rest count from 1, and 0 is the empty string.
type storedRecord struct {
	*record
	Words  []string      `json:"words,omitempty"`
	States []storedState `json:"states"`
	// Recipients has three numbers for each run of recipients: how many they are, their state, and the word that is their
	// last reply.
	Recipients []int         `json:"recipients"`
	Smarthost  int           `json:"smarthost,omitempty"`
	LastError  int           `json:"last_error,omitempty"`
	Events     []storedEvent `json:"events,omitempty"`
}

// storedState is what recipients have in common that were tried together.
type storedState struct {
	Status   string        `json:"status"`
	Attempts int           `json:"attempts,omitempty"`
	Next     time.Time     `json:"next,omitzero"`
	Route    int           `json:"route,omitempty"`
	Waited   time.Duration `json:"waited,omitempty"`
	Doubts   int           `json:"doubts,omitempty"`
	Warned   bool          `json:"warned,omitempty"`
}

type storedEvent struct {
	At         time.Time `json:"at"`
	What       string    `json:"what"`
	Host       int       `json:"host,omitempty"`
	Recipients []int     `json:"to,omitempty"`
	More       int       `json:"more,omitempty"`
	Words      int       `json:"words,omitempty"`
}

// wordTable gathers the strings of a record.
type wordTable struct {
	limits
	list    []string
	numbers map[string]int
	taken   int
}

// number returns the number of a string that is stored as it is.
func (t *wordTable) number(s string) int {
	if s == "" {
		return 0
	}
	if n, ok := t.numbers[s]; ok {
		return n
	}
	t.list = append(t.list, s)
	t.taken += len(s) + wordOctets
	t.numbers[s] = len(t.list)
	return len(t.list)
}

// reply returns the number of words that are cut to what there is room for.
func (t *wordTable) reply(s string) int {
	s = clip(s, t.words)
	if _, ok := t.numbers[s]; !ok && t.taken >= t.table {
		s = clip(s, t.short)
	}
	return t.number(s)
}

// stored returns r as it is stored.
func (r *record) stored() *storedRecord {
	t := wordTable{limits: r.limits(), numbers: make(map[string]int)}
	s := &storedRecord{record: r}
	known := make(map[storedState]int)
	for _, rc := range r.Recipients {
		st := storedState{Status: clip(rc.Status, maxWhat), Attempts: rc.Attempts}
		if !r.Gone {
			st.Next, st.Route, st.Waited, st.Doubts, st.Warned = rc.Next.Round(0), t.number(rc.Route), rc.Waited, rc.Doubts, rc.Warned
		}
		state, ok := known[st]
		if !ok {
			state = len(s.States)
			known[st] = state
			s.States = append(s.States, st)
		}
		reply := t.reply(rc.LastReply)
		if n := len(s.Recipients); n > 0 && s.Recipients[n-2] == state && s.Recipients[n-1] == reply {
			s.Recipients[n-3]++
		} else {
			s.Recipients = append(s.Recipients, 1, state, reply)
		}
	}
	s.Smarthost, s.LastError = t.number(clip(r.Smarthost, maxName)), t.reply(r.LastError)
	for _, e := range t.boundEvents(r.Events) {
		se := storedEvent{At: e.At, What: e.What, Host: t.number(e.Host), More: e.More, Words: t.reply(e.Words)}
		for _, name := range e.Recipients {
			se.Recipients = append(se.Recipients, t.number(name))
		}
		s.Events = append(s.Events, se)
	}
	s.Words = t.list
	return s
}

// restore fills in the record from what is stored beside it.
func (s *storedRecord) restore() error {
	r, bad := s.record, false
	word := func(n int) string {
		if n == 0 {
			return ""
		}
		if n < 0 || n > len(s.Words) {
			bad = true
			return ""
		}
		return s.Words[n-1]
	}
	r.Recipients = make([]recipientState, 0, len(r.Envelope.Recipients))
	for runs := s.Recipients; len(runs) > 0; runs = runs[3:] {
		if len(runs) < 3 || runs[0] < 1 || runs[0] > cap(r.Recipients)-len(r.Recipients) || runs[1] < 0 || runs[1] >= len(s.States) {
			return fmt.Errorf("%w: the states of its %d recipients cannot be", errDamaged, len(r.Envelope.Recipients))
		}
		st := s.States[runs[1]]
		state := recipientState{Status: st.Status, Attempts: st.Attempts, LastReply: word(runs[2]), Next: st.Next, Route: word(st.Route),
			Waited: st.Waited, Doubts: st.Doubts, Warned: st.Warned}
		for range runs[0] {
			r.Recipients = append(r.Recipients, state)
		}
	}
	r.Smarthost, r.LastError = word(s.Smarthost), word(s.LastError)
	for _, se := range s.Events {
		e := Event{At: se.At, What: se.What, Host: word(se.Host), More: se.More, Words: word(se.Words)}
		for _, n := range se.Recipients {
			e.Recipients = append(e.Recipients, word(n))
		}
		r.Events = append(r.Events, e)
	}
	if bad {
		return fmt.Errorf("%w: it names words that it does not have", errDamaged)
	}
	return nil
}

// bound cuts what an event says.
func (l limits) bound(e Event) Event {
	e.What, e.Host, e.Words = clip(e.What, maxWhat), clip(e.Host, maxName), clip(e.Words, l.said)
	named := e.Recipients[:min(eventNames, len(e.Recipients))]
	e.More += len(e.Recipients) - len(named)
	e.Recipients = make([]string, len(named))
	for i, name := range named {
		e.Recipients[i] = clip(name, maxName)
	}
	return e
}

// octets returns how much room an event takes, at most.
func (e Event) octets() int {
	n := eventOctets + cost(e.Host) + cost(e.Words)
	for _, name := range e.Recipients {
		n += cost(name) + wordOctets
	}
	return n
}

// boundEvents returns the first event and as many of the latest ones as a record keeps, each cut.
func (l limits) boundEvents(events []Event) []Event {
	if len(events) == 0 {
		return nil
	}
	var latest []Event // backwards
	first := l.bound(events[0])
	octets := first.octets()
	for i := len(events) - 1; i > 0 && len(latest) < l.events-1; i-- {
		e := l.bound(events[i])
		if octets += e.octets(); octets > l.octets && len(latest) > 0 {
			break
		}
		latest = append(latest, e)
	}
	slices.Reverse(latest)
	return append([]Event{first}, latest...)
}

// clip returns as much of s as takes limit octets when it is stored, cut between characters; three dots stand for the
// rest.
func clip(s string, limit int) string {
	if len(s) <= limit && (escaped*len(s) <= limit || isPlain(s)) {
		return s
	}
	const dots = "..."
	fits, n := 0, 0
	for i := 0; i < len(s); {
		width, octets := costAt(s[i:])
		if n += octets; n > limit {
			return s[:fits] + dots
		}
		if i += width; n <= limit-len(dots) {
			fits = i
		}
	}
	return s
}

// isPlain reports whether s takes as many octets when it is stored as it has.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// escaped is how many octets a character takes in JSON at most, as \u2028.
const escaped = 6

// cost returns how many octets s takes when it is stored.
func cost(s string) (n int) {
	for len(s) > 0 {
		width, octets := costAt(s)
		n, s = n+octets, s[width:]
	}
	return n
}

// costAt returns the width of the first character of s, and how many octets it takes in JSON.
func costAt(s string) (width, octets int) {
	switch c := s[0]; {
	case c == '"' || c == '\\':
		return 1, 2
	case c < ' ' || c == 0x7f:
		return 1, escaped
	case c < utf8.RuneSelf:
		return 1, 1
	}
	r, width := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError || r == '\u2028' || r == '\u2029' {
		return width, escaped
	}
	return width, width
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
	return seal(append(v, payload...))
}

// seal fills in the header of a value.
func seal(v []byte) []byte {
	v[0] = valueVersion
	binary.BigEndian.PutUint32(v[1:], checksum(v[valueHeader:]))
	return v
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
	value, _, err := encodeCounted(r)
	return value, err
}

// encodeCounted returns the stored record, and how many blocks of it are words of hosts.
func encodeCounted(r *record) (value []byte, words uint16, err error) {
	var b bytes.Buffer
	b.Write(make([]byte, valueHeader))
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // addresses have angle brackets, and replies do
	stored := r.stored()
	if err := enc.Encode(stored); err != nil {
		return nil, 0, err
	}
	return seal(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), stored.wordBlocks(), nil
}

// wordBlocks returns how many whole blocks the words of hosts take.
func (s *storedRecord) wordBlocks() uint16 {
	n := 0
	for _, w := range s.Words {
		n += len(w) + wordOctets
	}
	return uint16(min(n/recordBlock, math.MaxUint16))
}

func decodeRecord(id ID, v []byte) (*record, error) {
	payload, err := openValue(v)
	if err != nil {
		return nil, err
	}
	return decodePayload(id, payload)
}

// decodePayload returns the record in what sealValue was given.
func decodePayload(id ID, payload []byte) (*record, error) {
	r := &record{ID: id, blocks: blocksOf(valueHeader + len(payload))}
	s := &storedRecord{record: r}
	if err := json.Unmarshal(payload, s); err != nil {
		return nil, fmt.Errorf("%w: %v", errDamaged, err)
	}
	r.words = s.wordBlocks()
	if err := s.restore(); err != nil {
		return nil, err
	}
	if len(r.Recipients) != len(r.Envelope.Recipients) {
		return nil, fmt.Errorf("%w: it has %d recipients and the state of %d", errDamaged, len(r.Envelope.Recipients), len(r.Recipients))
	}
	return r, nil
}

// weight returns how many octets of memory a record takes where it is listed, about: there, words are not shared.
func (r *record) weight() int {
	n := 1024 + len(r.LastError)
	for i, s := range r.Recipients {
		rc := &r.Envelope.Recipients[i]
		n += listedRecipient + len(rc.Path) + len(rc.ORcpt) + len(s.LastReply)
	}
	return n
}

// listedRecipient is what a recipient takes in a list beside its words.
const listedRecipient = 256
