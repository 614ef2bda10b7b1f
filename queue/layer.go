package queue

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// delta is a change as the journal holds it: what it puts and removes in each bucket, absolute, so that to apply it
// twice is to apply it once.
type delta struct {
	id       ID
	oldDue   []byte // key of the due index that goes
	newDue   []byte // key that comes, with newSlot as its value
	newSlot  []byte
	envelope []byte
	body     []byte
	history  []byte
	// intake is set when the message is new: nothing of it is in the database.
	intake bool
	remove bool
}

// delta returns what c puts and removes. It must be encoded, and not be one of those that go to the database at once.
func (c *change) delta() delta {
	d := delta{id: c.id, envelope: c.putValue, body: c.body, history: c.historyValue, remove: c.remove,
		intake: c.hasNew && !c.hasOld && c.putValue != nil && !c.again}
	if c.hasOld && (!c.hasNew || c.oldSlot != c.newSlot) {
		d.oldDue = c.oldSlot.key()
	}
	if c.hasNew && (!c.hasOld || c.oldSlot != c.newSlot) {
		d.newDue, d.newSlot = c.newSlot.key(), c.newSlot.value()
	}
	return d
}

// Flags of a delta in the journal; each of the first five says that a value follows.
const (
	deltaOldDue = 1 << iota
	deltaNewDue
	deltaEnvelope
	deltaBody
	deltaHistory
	deltaIntake
	deltaRemove
)

// append adds the delta to a frame: id, flags, and the values in the order of the flags, each behind its length.
func (d *delta) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(d.id))
	at := len(b)
	b = append(b, 0)
	var flags byte
	value := func(flag byte, values ...[]byte) {
		if values[0] == nil {
			return
		}
		flags |= flag
		for _, v := range values {
			b = binary.AppendUvarint(b, uint64(len(v)))
			b = append(b, v...)
		}
	}
	value(deltaOldDue, d.oldDue)
	value(deltaNewDue, d.newDue, d.newSlot)
	value(deltaEnvelope, d.envelope)
	value(deltaBody, d.body)
	value(deltaHistory, d.history)
	if d.intake {
		flags |= deltaIntake
	}
	if d.remove {
		flags |= deltaRemove
	}
	b[at] = flags
	return b
}

// eachDelta calls f with the deltas of a frame's payload, which they point into.
func eachDelta(payload []byte, f func(delta)) error {
	for len(payload) > 0 {
		d, rest, err := decodeDelta(payload)
		if err != nil {
			return err
		}
		f(d)
		payload = rest
	}
	return nil
}

func decodeDelta(b []byte) (d delta, rest []byte, err error) {
	if len(b) < 9 {
		return d, nil, fmt.Errorf("%w: a change of the journal is cut short", errDamaged)
	}
	d.id = ID(binary.BigEndian.Uint64(b))
	flags := b[8]
	b = b[9:]
	value := func(flag byte, to ...*[]byte) {
		if flags&flag == 0 {
			return
		}
		for _, p := range to {
			n, used := binary.Uvarint(b)
			if used <= 0 || n > uint64(len(b)-used) {
				err = fmt.Errorf("%w: a value of the journal is cut short", errDamaged)
				return
			}
			*p = b[used : used+int(n) : used+int(n)]
			b = b[used+int(n):]
		}
	}
	value(deltaOldDue, &d.oldDue)
	value(deltaNewDue, &d.newDue, &d.newSlot)
	value(deltaEnvelope, &d.envelope)
	value(deltaBody, &d.body)
	value(deltaHistory, &d.history)
	d.intake, d.remove = flags&deltaIntake != 0, flags&deltaRemove != 0
	for _, key := range [][]byte{d.oldDue, d.newDue} {
		if err == nil && key != nil && len(key) != slotKey {
			err = fmt.Errorf("%w: a key of the journal is cut short", errDamaged)
		}
	}
	return d, b, err
}

// layer is a generation of the journal in memory: the changes that the database does not have yet, net of each other.
type layer struct {
	gen       uint64
	envelopes map[ID]pending
	bodies    map[ID]pending
	history   map[ID]pending
	due       map[dueKey]pending
	size      int    // octets, about
	seq       uint64 // the number of the first frame after it, once it is frozen
}

// pending is a value that the database does not have yet; nil removes the one that it has. With below, there may be one
// in the database or in an older layer.
type pending struct {
	value []byte
	below bool
}

// dueKey is a key of the due index.
type dueKey [slotKey]byte

func newLayer(gen uint64) *layer {
	return &layer{gen: gen, envelopes: make(map[ID]pending), bodies: make(map[ID]pending), history: make(map[ID]pending),
		due: make(map[dueKey]pending)}
}

func (l *layer) empty() bool {
	return len(l.envelopes)+len(l.bodies)+len(l.history)+len(l.due) == 0
}

// apply adds a delta, whose values the layer keeps.
func (l *layer) apply(d delta) {
	l.size += 64 + len(d.envelope) + len(d.body) + len(d.history)
	if d.oldDue != nil {
		drop(l.due, dueKey(d.oldDue))
	}
	if d.newDue != nil {
		put(l.due, dueKey(d.newDue), d.newSlot, d.intake)
	}
	if d.envelope != nil {
		put(l.envelopes, d.id, d.envelope, d.intake)
	}
	if d.body != nil {
		put(l.bodies, d.id, d.body, d.intake)
	}
	if d.history != nil {
		put(l.history, d.id, d.history, false)
	}
	if d.remove {
		drop(l.envelopes, d.id)
		drop(l.bodies, d.id)
	}
}

func put[K comparable](m map[K]pending, key K, value []byte, intake bool) {
	old, known := m[key]
	m[key] = pending{value: value, below: old.below || !known && !intake}
}

// drop removes a value. One that is only here leaves no trace.
func drop[K comparable](m map[K]pending, key K) {
	if old, known := m[key]; known && !old.below {
		delete(m, key)
		return
	}
	m[key] = pending{below: true}
}

// write applies the layer to the database.
func (l *layer) write(b buckets) error { return b.write(l.writes()) }

// writes returns what the layer writes, bucket by bucket in the order of the keys.
func (l *layer) writes() []write {
	key := func(id ID) []byte { return idKey(id) }
	all := make([]write, 0, len(l.envelopes)+len(l.bodies)+len(l.history)+len(l.due))
	all = writesTo(all, func(b buckets) *bolt.Bucket { return b.envelopes }, l.envelopes, cmp.Compare[ID], key)
	all = writesTo(all, func(b buckets) *bolt.Bucket { return b.bodies }, l.bodies, cmp.Compare[ID], key)
	all = writesTo(all, func(b buckets) *bolt.Bucket { return b.history }, l.history, cmp.Compare[ID], key)
	return writesTo(all, func(b buckets) *bolt.Bucket { return b.due }, l.due,
		func(a, b dueKey) int { return slices.Compare(a[:], b[:]) }, func(k dueKey) []byte { return bytes.Clone(k[:]) })
}

func writesTo[K comparable](all []write, to func(buckets) *bolt.Bucket, m map[K]pending, order func(a, b K) int, key func(K) []byte) []write {
	for _, k := range slices.SortedFunc(maps.Keys(m), order) {
		all = append(all, write{to: to, key: key(k), value: m[k].value})
	}
	return all
}
