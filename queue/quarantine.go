package queue

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"relayd/internal/envelope"
)

// The quarantine has the messages whose record or content is damaged. They are not delivered. Each is told of once: to
// its sender, as any failure is, or to the postmaster when its envelope cannot be trusted. An operator ends it with a
// release, once the content is back as it was, or with a deletion.

// ErrQuarantined: the message is damaged and set aside. Release it once its content is back, or delete it.
var ErrQuarantined = errors.New("the message is in quarantine")

// aside is what the store keeps of a message in quarantine. Its content stays where it was.
type aside struct {
	ID     ID        `json:"-"`
	At     time.Time `json:"at"`
	Why    string    `json:"why"`
	Record []byte    `json:"record,omitempty"` // as it was stored; empty when there was none
	Told   bool      `json:"told,omitempty"`   // everybody knows who is to know
}

func (a *aside) encode() ([]byte, error) {
	payload, err := json.Marshal(a)
	return sealValue(payload), err
}

// decodeAside returns what v holds. Of a damaged value nothing is known but the id.
func decodeAside(id ID, v []byte) *aside {
	a := &aside{}
	if payload, err := openValue(v); err != nil || json.Unmarshal(payload, a) != nil {
		*a = aside{At: id.time(), Why: errDamaged.Error()}
	}
	a.ID = id
	return a
}

// record returns what can be read of the message's record, or nil. It is sound when its checksum is right: otherwise any
// of its words may be wrong.
func (a *aside) record() (r *record, sound bool) {
	if r, err := decodeRecord(a.ID, a.Record); err == nil {
		return r, true
	}
	if len(a.Record) < valueHeader {
		return nil, false
	}
	if r, err := decodePayload(a.ID, a.Record[valueHeader:]); err == nil && len(r.Recipients) > 0 {
		return r, false
	}
	return nil, false
}

func (a *aside) entry(now time.Time) Entry {
	r, _ := a.record()
	if r == nil {
		r = &record{ID: a.ID, ReceivedAt: a.ID.time()}
	}
	e := r.entry(now)
	e.State, e.NextAttempt, e.LastError = StateQuarantined, time.Time{}, a.Why
	return e
}

func (a *aside) detail(now time.Time) Detail {
	d := Detail{Entry: a.entry(now)}
	if r, _ := a.record(); r != nil {
		d.Envelope, d.Origin, d.Events = r.Envelope, r.Origin, r.Events
	}
	d.Events = append(d.Events, a.event())
	return d
}

func (a *aside) event() Event { return Event{At: a.At, What: "quarantined", Words: a.Why} }

func (b buckets) setAside(id ID, why string) error {
	key := idKey(id)
	old := bytes.Clone(b.envelopes.Get(key))
	if old == nil && b.quarantine.Get(key) != nil {
		return nil // applied before, in a commit that said it had failed
	}
	v, err := (&aside{At: time.Now(), Why: why, Record: old}).encode()
	if err == nil {
		err = b.quarantine.Put(key, v)
	}
	return errors.Join(err, b.envelopes.Delete(key)) // its content stays in bodies or in the spool
}

// tell notes that everybody knows of a message in quarantine.
func (b buckets) tell(id ID) error {
	v := b.quarantine.Get(idKey(id))
	if v == nil {
		return nil
	}
	a := decodeAside(id, v)
	a.Told = true
	v, err := a.encode()
	if err != nil {
		return err
	}
	return b.quarantine.Put(idKey(id), v)
}

// asides returns messages in quarantine with ids above after, as page does, and whether there are more.
func (s *store) asides(after ID, limit int) (found []*aside, more bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		octets := 0
		c := tx.Bucket(bucketQuarantine()).Cursor()
		for k, v := c.Seek(idKey(after + 1)); k != nil && !more; k, v = c.Next() {
			if more = limit > 0 && len(found) == limit || octets >= pageOctets; !more {
				found = append(found, decodeAside(ID(binary.BigEndian.Uint64(k)), v))
				octets += 4 * len(v) // as a list has it, about
			}
		}
		return nil
	})
	return found, more, err
}

// aside returns a message in quarantine, or ErrNotFound.
func (s *store) aside(id ID) (a *aside, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketQuarantine()).Get(idKey(id))
		if v == nil {
			return ErrNotFound
		}
		a = decodeAside(id, v)
		return nil
	})
	return a, err
}

// Quarantined is List for the messages in quarantine.
func (q *Queue) Quarantined(after string, limit int) ([]Entry, string, error) {
	return listQuarantined(q.committer.read, after, limit, q.now())
}

// Quarantined is Queue.Quarantined.
func (r *Reader) Quarantined(after string, limit int) ([]Entry, string, error) {
	return listQuarantined(r.read, after, limit, time.Now())
}

func listQuarantined(read reading, after string, limit int, now time.Time) (entries []Entry, next string, err error) {
	from, err := parseAfter(after)
	if err != nil {
		return nil, "", err
	}
	var found []*aside
	var more bool
	if err := read(func(s *store) error { found, more, err = s.asides(from, limit); return err }); err != nil {
		return nil, "", err
	}
	if more {
		next = found[len(found)-1].ID.String()
	}
	for _, a := range found {
		entries = append(entries, a.entry(now))
	}
	return entries, next, nil
}

// quarantinePause is how long the queue waits at most before it looks whether everybody knows of what is in quarantine.
const quarantinePause = time.Minute

// tellQuarantine tells of what a recovery or the last run has set aside, and of what is set aside from now on.
func (q *Queue) tellQuarantine() {
	for {
		q.safely("the reports about quarantine", q.tellAsides)
		select {
		case <-q.ctx.Done():
			return
		case <-q.setAside:
		case <-time.After(quarantinePause):
		}
	}
}

// noteAside has tellQuarantine look at once.
func (q *Queue) noteAside() {
	select {
	case q.setAside <- struct{}{}:
	default:
	}
}

func (q *Queue) tellAsides() {
	for after := ID(0); q.ctx.Err() == nil && q.quarantined.Load() > 0; {
		var found []*aside
		err := q.committer.read(func(s *store) (err error) { found, _, err = s.asides(after, asidePage); return err })
		if err != nil || len(found) == 0 {
			return
		}
		for _, a := range found {
			if after = a.ID; !a.Told {
				q.tellAside(a.ID)
			}
		}
	}
}

// asidePage is how many messages in quarantine are looked at in one go.
const asidePage = 100

// tellAside logs that a message is in quarantine, and writes the reports that this calls for.
func (q *Queue) tellAside(id ID) {
	q.asideMu.Lock()
	defer q.asideMu.Unlock()
	var a *aside
	if q.committer.read(func(s *store) (err error) { a, err = s.aside(id); return err }) != nil || a.Told {
		return
	}
	r, sound := a.record()
	v := verdict{words: map[int]string{}}
	var reports []*report
	if sound {
		v.record, v.failed = r.clone(), r.unsettled()
		for _, i := range v.failed {
			v.words[i] = "The message was damaged on the disk of the mail relay and cannot be sent; please send it again."
		}
		reports = q.reports(&v, v.notices(envelope.Attempt{}, false), "", nil)
	} else if to := q.policy.Load().Postmaster; !to.IsNull() {
		reports = []*report{q.asideNotice(a, to)}
	}
	changes := []*change{{id: id, told: true}}
	for _, rep := range reports {
		changes = append(changes, rep.change())
	}
	if q.committer.commit(true, changes...) != nil {
		return
	}
	attrs := []any{"queue_id", id.String()}
	if r != nil {
		attrs = append(attrs, "from", r.Envelope.ReversePath.String(), "to", firstFew(paths(r)))
	}
	q.log.Error("message quarantined: it is damaged", append(attrs, "error", a.Why, "sound_record", sound)...)
	if sound {
		q.logUnreported(&v)
	}
	q.takeOver(id, reports)
}

func paths(r *record) []string {
	var all []string
	for _, rcpt := range r.Envelope.Recipients {
		all = append(all, string(rcpt.Path))
	}
	return all
}

// asideNotice is what the postmaster gets about a message whose sender is not known for sure.
func (q *Queue) asideNotice(a *aside, to envelope.Path) *report {
	rep, host := q.newReport(to), q.hostname()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("From: \"Mail delivery at %s\" <postmaster@%s>", host, host)
	line("To: %s", to)
	line("Date: %s", rep.record.ReceivedAt.Format(time.RFC1123Z))
	line("Message-ID: <%s@%s>", rep.record.ID, host)
	line("Subject: A message is damaged and was not delivered")
	line("Auto-Submitted: auto-generated")
	line("MIME-Version: 1.0")
	line("Content-Type: text/plain; charset=us-ascii")
	line("")
	line("The record of message %s is damaged on the disk of the mail relay.", a.ID)
	line("It is not delivered. Its sender cannot be told, since the address may be wrong.")
	line("")
	line("See what is left of it:  relayctl queue show %s", a.ID)
	line("Remove it:               relayctl queue delete %s", a.ID)
	rep.seal([]byte(b.String()), "a notice about "+a.ID.String())
	return rep
}

// applyAside does an operator's action to messages in quarantine, to all of them or none.
func (q *Queue) applyAside(action Action, ids []ID) error {
	q.asideMu.Lock()
	defer q.asideMu.Unlock()
	var changes []*change
	for _, id := range ids {
		var a *aside
		err := q.committer.read(func(s *store) (err error) { a, err = s.aside(id); return err })
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		var c *change
		switch action {
		case ActionRelease:
			c, err = q.releaseAside(a)
		case ActionDelete:
			c = q.deleteAside(a)
		default:
			err = fmt.Errorf("%w; release it once its content is back, or delete it", ErrQuarantined)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		changes = append(changes, c)
	}
	if len(changes) == 0 {
		return nil
	}
	if err := q.committer.commit(true, changes...); err != nil {
		return err
	}
	for _, c := range changes {
		q.quarantined.Add(-1)
		if c.hasNew {
			q.log.Info("released", "queue_id", c.id.String(), "from_state", StateQuarantined)
			q.scheduler.add(c.newSlot, nil)
			continue
		}
		q.log.Info("deleted", "queue_id", c.id.String(), "from_state", StateQuarantined)
		q.removeSpooled(c.id)
	}
	return nil
}

// releaseAside returns the change that puts a message back into the queue, if its record and its content are sound.
func (q *Queue) releaseAside(a *aside) (*change, error) {
	r, sound := a.record()
	if !sound {
		return nil, fmt.Errorf("%w, and its record is damaged; export what is left of it, and delete it", ErrQuarantined)
	}
	var err error
	if r.Spooled {
		if err = q.spool.verify(r); errors.Is(err, fs.ErrNotExist) {
			err = errors.New("its file in the spool is missing")
		}
	} else {
		err = q.committer.read(func(s *store) error { return s.verifyBody(r) })
	}
	if err != nil {
		return nil, fmt.Errorf("%w, and its content is not as it was: %w; put it back, or export what is left of it and delete it",
			ErrQuarantined, err)
	}
	now := q.now()
	r.Held = false
	dueNow(r, now)
	r.note(a.event())
	r.note(Event{At: now, What: "released", Words: "by an operator"})
	return &change{id: r.ID, put: r, newSlot: q.slotOf(r), hasNew: true, unquarantine: true}, nil
}

func (q *Queue) deleteAside(a *aside) *change {
	c := &change{id: a.ID, remove: true, unquarantine: true}
	if r, _ := a.record(); r != nil {
		r.Gone = true
		r.note(a.event())
		r.note(Event{At: q.now(), What: "deleted", Words: "by an operator"})
		c.history = r
	}
	return c
}

// verifyBody returns an error when the inline content of a message is not there as it was.
func (s *store) verifyBody(r *record) error {
	body, err := s.body(r.ID)
	if errors.Is(err, ErrNotFound) {
		return errors.New("its content is missing")
	}
	if err == nil && checksum(body) != r.Sum {
		err = errors.New("its content does not match its checksum")
	}
	return err
}

// openAside returns a message in quarantine and what there is of its content, which may be nothing.
func openAside(read reading, sp spool, id ID) (a *aside, content io.ReadCloser, err error) {
	var body []byte
	err = read(func(s *store) (err error) {
		if a, err = s.aside(id); err == nil {
			body, err = s.body(id)
		}
		if a != nil && errors.Is(err, ErrNotFound) {
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if body == nil {
		f, err := openFile(sp.path(id), os.O_RDONLY, 0)
		if err == nil {
			return a, f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	return a, io.NopCloser(bytes.NewReader(body)), nil
}

// asidesAmong returns those of ids that are in quarantine.
func (q *Queue) asidesAmong(ids []ID) (found []ID, err error) {
	if q.quarantined.Load() == 0 {
		return nil, nil
	}
	err = q.committer.read(func(s *store) error {
		for _, id := range ids {
			switch _, err := s.aside(id); {
			case err == nil && !slices.Contains(found, id):
				found = append(found, id)
			case err != nil && !errors.Is(err, ErrNotFound):
				return err
			}
		}
		return nil
	})
	return found, err
}
