package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"
	"relayd/internal/dsn"
)

// disk is all that a store holds.
type disk struct {
	queued      map[string]*record
	gone        map[string][]byte // lines of history
	bodies      map[string][]byte
	due         map[string][]slot
	quarantined int
}

func readDisk(s *store) (*disk, error) {
	d := &disk{map[string]*record{}, map[string][]byte{}, map[string][]byte{}, map[string][]slot{}, 0}
	each := func(b *bolt.Bucket, f func(id ID, v []byte) error) error {
		return b.ForEach(func(k, v []byte) error { return f(ID(binary.BigEndian.Uint64(k)), v) })
	}
	if err := settled(s); err != nil {
		return nil, err
	}
	err := s.db.View(func(tx *bolt.Tx) error {
		d.quarantined = tx.Bucket(bucketQuarantine()).Inspect().KeyN
		return errors.Join(
			each(tx.Bucket(bucketEnvelopes()), func(id ID, v []byte) (err error) {
				d.queued[id.String()], err = decodeRecord(id, v)
				return err
			}),
			each(tx.Bucket(bucketHistory()), func(id ID, v []byte) error {
				d.gone[id.String()] = bytes.Clone(v)
				return nil
			}),
			each(tx.Bucket(bucketBodies()), func(id ID, v []byte) error {
				d.bodies[id.String()] = bytes.Clone(v)
				return nil
			}),
			tx.Bucket(bucketDue()).ForEach(func(k, v []byte) error {
				sl, err := decodeSlot(k, v)
				d.due[sl.ID.String()] = append(d.due[sl.ID.String()], sl)
				return err
			}))
	})
	return d, err
}

// history returns what stays of a message that is gone, or nil.
func (d *disk) history(id string) *record {
	if d.gone[id] == nil {
		return nil
	}
	r, err := decodeRecord(0, d.gone[id])
	if err != nil {
		return &record{}
	}
	return r
}

// check is the invariant. It waits until nothing moves, and holds the queue against the ledger.
func (w *world) check(rt *rapid.T) {
	synctest.Wait()
	w.reportFaults(rt)
	lf := w.life
	if lf.broken {
		return // and nothing can be read
	}
	var d *disk
	if err := lf.q.committer.read(func(s *store) (err error) { d, err = readDisk(s); return err }); err != nil {
		rt.Fatalf("the store cannot be read: %v", err)
	}
	w.mu.Lock()
	w.learnAll(d)
	for _, l := range w.all {
		if l.buried && d.queued[l.id] == nil && d.gone[l.id] != nil {
			continue // nothing becomes of it any more
		}
		w.adopt(l, d)
		l.doubted = false // the store is back, and has undone what it refused
		w.checkLetter(l, d)
		l.acted = false
	}
	w.checkStore(d, lf.dir, func(id string) bool { return w.byID[id] != nil && w.byID[id].state == arriving })
	w.mu.Unlock()
	w.reportFaults(rt)
	w.checkCounts(rt)
	lf.q.scheduler.do(func() { w.checkLines(rt) })
	w.reportFaults(rt)
}

// checkRerouted holds letters that were rerouted just now against the routes: a recipient waits after an attempt on the one
// that it takes, and after no other.
func (w *world) checkRerouted(rt *rapid.T, letters []*letter) {
	synctest.Wait()
	if w.life.broken {
		return
	}
	var d *disk
	if err := w.life.q.committer.read(func(s *store) (err error) { d, err = readDisk(s); return err }); err != nil {
		rt.Fatalf("the store cannot be read: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range letters {
		r := d.queued[l.id]
		if r == nil || l.busy { // what is asked of a busy one is done later
			continue
		}
		for _, leg := range w.life.Legs(r.Origin, r.Envelope) {
			for _, i := range leg.Recipients {
				if s := r.Recipients[i]; s.Status == StatusWaiting && s.Next.After(time.Now()) && s.Route != leg.Route {
					w.fault("%s, %s: waits until %s after an attempt on %q, and takes %q", l.name, l.to[i].Path, s.Next, s.Route, leg.Route)
				}
			}
		}
	}
}

// checkTurns returns the flows of line that have a turn to come, its front included.
func (w *world) checkTurns(l *lane, line *fairLine) map[*flow]bool {
	clients, turns := map[*client]bool{}, map[*flow]bool{&line.front: true}
	for c := range line.turns.all {
		if clients[c] || line.clients[c.hash] != c {
			w.faultf("%s: client %x has no place of its own, or two turns", l.name, c.hash)
		}
		clients[c] = true
		n := 0
		for fl := range c.senders.all {
			if turns[fl] || line.flows[fl.source] != fl || fl.client != c {
				w.faultf("%s: source %x has no line of its own, or two turns", l.name, fl.source)
			}
			turns[fl] = true
			n += fl.size()
		}
		if n != c.n {
			w.faultf("%s: client %x has %d items, and counts %d", l.name, c.hash, n, c.n)
		}
	}
	if len(clients) != len(line.clients) {
		w.faultf("%s: %d turns for %d clients", l.name, len(clients), len(line.clients))
	}
	return turns
}

// checkLines holds the lines of the lanes against the items: each that is due stands in that of its source, once, and each
// source that has one has its turn to come.
func (w *world) checkLines(rt *rapid.T) {
	s, standing := w.life.q.scheduler, 0
	for _, l := range s.lanes {
		for _, line := range []*fairLine{&l.fresh, &l.backlog} {
			n, turns := 0, w.checkTurns(l, line)
			for it := range line.all {
				n++
				of := w.nameOf(it.slot.ID.String())
				if it.state != itemReady || it.lane != l || s.items[it.slot.ID] != it || it.fresh != (line == &l.fresh) {
					w.faultf("%s: %s stands where it does not belong", l.name, of)
				}
				if !turns[it.flow] || it.flow != &line.front && it.flow.source != it.slot.Source {
					w.faultf("%s: %s of source %x stands with source %x", l.name, of, it.slot.Source, it.flow.source)
				}
			}
			if n != line.n || len(turns) != len(line.flows)+1 {
				w.faultf("%s: %d stand in a line of %d, %d turns for %d sources", l.name, n, line.n, len(turns)-1, len(line.flows))
			}
			standing += n
		}
	}
	for _, it := range s.items {
		if it.state == itemReady {
			standing--
		}
	}
	if standing != 0 {
		w.faultf("%d more stand in the lines than are due", standing)
	}
}

func (w *world) reportFaults(rt *rapid.T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) > 0 {
		rt.Fatal(strings.Join(w.faults, "\n"))
	}
}

// learnAll enters the reports that nobody has seen yet.
func (w *world) learnAll(d *disk) {
	for id, r := range d.queued {
		if w.byID[id] != nil {
			continue
		}
		if !r.Report {
			w.fault("the queue has a message that nobody sent, from %s", r.Envelope.ReversePath)
			continue
		}
		w.learn(id, r.Envelope, d.bodies[id])
	}
}

// adopt takes from the disk which came first, where that was left open.
func (w *world) adopt(l *letter, d *disk) {
	for i, a := range l.to {
		if r := either(d.queued[l.id], d.history(l.id)); a.mayFail && r != nil && (r.Recipients[i].Status == StatusFailed || r.Undeliverable) {
			w.life.fail(l, a)
		}
		a.mayFail = false
	}
	if !l.loose || l.busy {
		return
	}
	l.loose = false
	if r := d.queued[l.id]; r != nil {
		l.held, l.undeliverable = r.Held, r.Undeliverable
	} else if r := d.history(l.id); r != nil && l.waits() && wasDeleted(r) {
		l.deleted = true
	}
}

func either(a, b *record) *record {
	if a != nil {
		return a
	}
	return b
}

// asLeft returns the state of r's i-th recipient, of a deleted message as it was before that.
func asLeft(r *record, i int) recipientState {
	s := r.Recipients[i]
	if s.Status == "deleted" {
		s.Status = StatusWaiting
	}
	return s
}

func wasDeleted(r *record) bool {
	return slices.ContainsFunc(r.Events, func(e Event) bool { return e.What == "deleted" })
}

// checkLetter holds what the disk has of a letter against the ledger.
func (w *world) checkLetter(l *letter, d *disk) {
	queued, gone := d.queued[l.id], d.history(l.id)
	if l.state != accepted {
		if queued != nil || gone != nil {
			w.fault("%s was %s and is in the queue or its history", l.name, l.state)
		}
		return
	}
	r := queued
	if l.report && r != nil {
		l.at = r.ReceivedAt // to the nanosecond
	}
	if lines, source := d.due[l.id], sourceOf(l.origin, l.env.ReversePath); r != nil && (len(lines) != 1 || lines[0].Source != source) {
		w.fault("%s is of source %x; the index has %+v", l.name, source, lines)
	}
	switch {
	case l.gone():
		if queued != nil || gone == nil || !gone.Gone || l.deleted && l.waits() && !wasDeleted(gone) {
			w.fault("%s is done with (deleted: %v); queued: %v, history: %+v", l.name, l.deleted, queued != nil, gone)
		}
		r, l.buried = gone, true
	case queued == nil || gone != nil:
		w.fault("%s waits; queued: %v, in the history: %v", l.name, queued != nil, gone != nil)
	case !l.loose && (queued.Held != l.held || queued.Undeliverable != l.undeliverable):
		w.fault("%s: held: %v, undeliverable: %v, and should be: %v, %v", l.name, queued.Held, queued.Undeliverable, l.held,
			l.undeliverable)
	}
	if r == nil {
		return
	}
	for i, a := range l.to {
		if s := asLeft(r, i); s.Status != a.status || s.Attempts != a.tries {
			w.fault("%s, %s: %s after %d attempts; should be %s after %d",
				l.name, a.Path, s.Status, s.Attempts, a.status, a.tries)
		}
		a.firm = a.status
		w.checkTold(l, a)
	}
}

// checkTold holds the reports about one recipient against what has become of it.
func (w *world) checkTold(l *letter, a *addressee) {
	known := !l.report && !l.env.ReversePath.IsNull()
	want := map[dsn.Action]bool{
		dsn.Failed:  a.status == StatusFailed && known && a.Notify.WantsFailure(),
		dsn.Relayed: a.status == StatusDelivered && known && a.Notify.WantsSuccess() && !a.offered,
	}
	if l.report && a.status == StatusFailed {
		want[dsn.Failed] = true
	}
	for _, action := range []dsn.Action{dsn.Failed, dsn.Relayed} {
		if n := a.told[action]; (n == 1) != want[action] || n > 1 {
			w.fault("%s, %s: %s, and %d reports say %q", l.name, a.Path, a.status, n, action)
		}
	}
	may := known && a.Notify.WantsDelay() && w.policy.DelayWarning > 0 && time.Since(l.at) >= w.policy.DelayWarning
	if n := a.told[dsn.Delayed]; n > 1 || n > 0 && !may {
		w.fault("%s, %s: %d reports of delay after %s", l.name, a.Path, n, time.Since(l.at))
	}
	if a.status == StatusDelivered && a.taken == 0 {
		w.fault("%s, %s: delivered, and no host has it", l.name, a.Path)
	}
}

// checkStore holds the store against itself: each queued message has exactly one line in the due index, and its
// content inline or in the spool; nothing is left of others. arrives says whose spool files may be there as well.
func (w *world) checkStore(d *disk, dir string, arrives func(id string) bool) {
	for id, r := range d.queued {
		due := int64(heldDue)
		if at, ok := r.next(); !ok {
			w.fault("%s is queued, and nobody waits for it", w.nameOf(id))
		} else if !r.Held {
			due = at.UnixNano()
		} else if r.Undeliverable {
			due = undeliverableDue
		}
		// Source and recipients are all that a start knows of it.
		if lines := d.due[id]; len(lines) != 1 || lines[0].Due != due || lines[0] != r.slot(lines[0].Routes) {
			w.fault("%s is due at %d, and should have %+v in the index; there is %+v", w.nameOf(id), due, r.slot("..."), lines)
		}
		body, inline := d.bodies[id]
		if r.Spooled {
			var err error
			if body, err = os.ReadFile(filepath.Join(dir, "spool", id)); err != nil {
				w.fault("%s: %v", w.nameOf(id), err)
			}
		}
		if r.Spooled == inline || int64(len(body)) != r.Size || checksum(body) != r.Sum {
			w.fault("%s: spooled: %v, inline: %v, %d octets; %d were accepted",
				w.nameOf(id), r.Spooled, inline, len(body), r.Size)
		}
	}
	for id := range d.due {
		if d.queued[id] == nil {
			w.fault("the index has a line of %s, which is not queued", w.nameOf(id))
		}
	}
	for id := range d.bodies {
		if d.queued[id] == nil {
			w.fault("content is left of %s, which is not queued", w.nameOf(id))
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, "spool"))
	if err != nil {
		w.fault("the spool: %v", err)
	}
	for _, f := range files {
		if r := d.queued[f.Name()]; (r == nil || !r.Spooled) && !arrives(f.Name()) {
			w.fault("the spool has a file of %s, which does not need it", w.nameOf(f.Name()))
		}
	}
	if d.quarantined != 0 {
		w.fault("%d messages are in quarantine", d.quarantined)
	}
}

func (w *world) nameOf(id string) string {
	if l := w.byID[id]; l != nil {
		return l.name
	}
	return "an unknown message"
}

func (w *world) checkCounts(rt *rapid.T) {
	var all, held, busy, undeliverable int
	var bytes int64
	var oldest time.Time
	loose := false
	for _, l := range w.live() {
		all++
		bytes += int64(len(l.body))
		if oldest.IsZero() || l.at.Before(oldest) {
			oldest = l.at
		}
		if l.busy {
			busy++
		} else if l.held {
			held++
			if l.undeliverable {
				undeliverable++
			}
		}
		loose = loose || l.loose
	}
	c := w.life.q.Counts()
	messages := c.Active+c.Deferred+c.Held == all && c.Held == held && c.Active >= busy && (busy > 0 || c.Active == 0)
	if !messages || c.Bytes != bytes || c.Oldest.Sub(oldest).Abs() >= time.Millisecond || c.Quarantined != 0 ||
		c.Unreported != int64(undeliverable) {
		rt.Fatalf("Counts: %+v; the ledger has %d, held %d, under way %d, octets %d, oldest %s, unreported %d",
			c, all, held, busy, bytes, oldest, undeliverable)
	}
	if n := w.life.q.pending.Load(); n != int64(w.arrivingNow()) {
		rt.Fatalf("%d letters count as arriving; %d are", n, w.arrivingNow())
	}
}

// checkFolder holds the folder of a daemon against itself: one that has stopped, or has opened it and not started.
func (w *world) checkFolder(rt *rapid.T, dir string) {
	var d *disk
	var err error
	if w.life.dir == dir && !w.life.q.closing.Load() {
		err = w.life.q.committer.read(func(s *store) (err error) { d, err = readDisk(s); return err })
	} else {
		var s *Reader
		if s, err = OpenReadOnly(dir); err != nil {
			rt.Fatalf("OpenReadOnly: %v", err)
		}
		defer s.Close()
		d, err = readDisk(s.store)
	}
	if err != nil {
		rt.Fatalf("the store cannot be read: %v", err)
	}
	w.mu.Lock()
	w.checkStore(d, dir, func(string) bool { return false })
	w.mu.Unlock()
	w.reportFaults(rt)
}

// reconcile holds what a daemon finds at its start against what the last one had promised, and takes over what was
// left open: what was recorded before it ended, of that which it had not told anybody yet.
func (w *world) reconcile(rt *rapid.T, lossy bool) {
	d, err := readDisk(w.life.q.committer.store)
	if err != nil {
		rt.Fatalf("the store cannot be read: %v", err)
	}
	w.mu.Lock()
	defer w.reportFaults(rt)
	defer w.mu.Unlock()
	for _, l := range w.all {
		if w.resume(l, d.queued[l.id], d.history(l.id), lossy); lossy && l.waits() {
			w.excuse(l)
		}
	}
}

func (w *world) resume(l *letter, queued, gone *record, lossy bool) {
	l.busy, l.pending = false, nil
	r := either(queued, gone)
	switch {
	case l.state == arriving || l.state == doubtful && r == nil:
		l.state = turnedAway // the client got no answer
	case l.state == doubtful, l.doubted && r != nil:
		l.state = accepted // it got none either, or a refusal, and will send the letter again
	case l.state == accepted && r == nil:
		w.fault("%s was accepted and is lost", l.name)
	case l.buried && queued != nil:
		w.fault("%s was done with and is back", l.name)
	}
	if l.state != accepted || r == nil {
		return
	}
	for i, a := range l.to {
		s := asLeft(r, i)
		if a.mayFail && s.Status == StatusFailed {
			a.status = StatusFailed
		}
		if r.Undeliverable != l.undeliverable && (lossy || a.mayFail) {
			l.held, l.undeliverable = r.Held, r.Undeliverable
		}
		a.mayFail = false
		may := s.Status == a.status && s.Attempts == a.tries
		if lossy {
			may = (s.Status == a.status || s.Status == a.firm) && s.Attempts <= a.tries
		}
		if !may {
			w.fault("%s, %s: %s after %d attempts; was %s, and %s after %d",
				l.name, a.Path, s.Status, s.Attempts, a.firm, a.status, a.tries)
		}
		if s.Status != a.status {
			w.logf("%s: %s is %s again; had been %s", l.name, a.Path, s.Status, a.status)
		}
		a.status, a.firm, a.tries = s.Status, s.Status, s.Attempts
	}
	if queued != nil {
		// What an operator asked for while it was busy is not on disk before its attempt has ended.
		open := l.loose || lossy && l.acted
		if l.deleted && !open {
			w.fault("%s was deleted and is back", l.name)
		}
		l.deleted = false
		if open {
			l.held = queued.Held
		}
	}
}

// checkEnds holds the ends against the promise, when nothing is left in the queue.
func (w *world) checkEnds(rt *rapid.T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.all {
		if l.state != accepted || l.deleted {
			continue
		}
		for _, a := range l.to {
			if a.status == StatusWaiting {
				rt.Fatalf("%s, %s: neither delivered nor failed", l.name, a.Path)
			}
		}
	}
}
