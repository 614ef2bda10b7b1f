package queue

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"syscall"
	"time"

	"relayd/internal/envelope"
)

// inlineLimit is the largest content that is stored in the database, in octets; larger content goes to the spool,
// because a large value holds up everybody who waits for the same commit.
const inlineLimit = 64 << 10

// Writer takes the content of one message. Write, Commit and Abort may be called from one goroutine at a time.
type Writer struct {
	q    *Queue
	rec  *record
	buf  []byte // content until it is larger than inlineLimit
	file *os.File
	out  *bufio.Writer
	sum  uint32
	done bool
	// reserved is what is left of the room that was reserved in the spool.
	reserved int64
}

// Begin opens a new message; Start must have been called. It answers an envelope.Reply in its error when the queue has no room: 452 4.3.1.
func (q *Queue) Begin(env envelope.Envelope, origin envelope.Origin) (*Writer, error) {
	if len(env.Recipients) == 0 {
		return nil, errors.New("a message needs a recipient")
	}
	if err := q.admit(origin); err != nil {
		return nil, err
	}
	now := q.now()
	return &Writer{q: q, rec: newRecord(q.ids.next(now), env, origin, now)}, nil
}

func newRecord(id ID, env envelope.Envelope, origin envelope.Origin, now time.Time) *record {
	r := &record{ID: id, Envelope: env, Origin: origin, ReceivedAt: now, Recipients: make([]recipientState, len(env.Recipients))}
	for i := range r.Recipients {
		r.Recipients[i] = recipientState{Status: StatusWaiting, Next: now}
	}
	return r
}

// ID returns the id that the message will have.
func (w *Writer) ID() string { return w.rec.ID.String() }

// Write adds content. Line ends are CRLF already; the queue keeps what it is given.
func (w *Writer) Write(p []byte) (int, error) {
	w.sum = crc32.Update(w.sum, castagnoli, p)
	w.rec.Size += int64(len(p))
	if w.file == nil {
		if len(w.buf)+len(p) <= inlineLimit {
			w.buf = append(w.buf, p...)
			return len(p), nil
		}
		if err := w.spill(); err != nil {
			return 0, err
		}
	}
	if err := w.reserve(len(p)); err != nil {
		return 0, err
	}
	end := w.q.watch.begin("writing a large message")
	n, err := w.out.Write(p)
	end()
	return n, w.spooled(err)
}

// spoolStep is how many octets of a large message are reserved at a time while it arrives.
const spoolStep = 1 << 20

// reserve makes sure that large messages that arrive do not eat up what is kept free for the outcomes of others.
func (w *Writer) reserve(n int) error {
	for int64(n) > w.reserved {
		if ok, err := w.q.free.reserve(spoolStep, false); err != nil {
			return err
		} else if !ok {
			w.q.free.refuseLarge(w.rec.Size + spoolStep)
			if err := w.q.refusal(true); err != nil {
				return err
			}
			return errDiskFull // there is room again by now, but this message has none
		}
		w.reserved += spoolStep
	}
	w.reserved -= int64(n)
	w.q.free.release(int64(n), int64(n), false)
	return nil
}

// unreserve gives back what a large message has not used.
func (w *Writer) unreserve() {
	w.q.free.release(w.reserved, 0, false)
	w.reserved = 0
}

// spill moves the message to a spool file.
func (w *Writer) spill() error {
	if err := w.q.spoolLost(); err != nil {
		return err
	}
	end := w.q.watch.begin("making a file for a large message")
	f, err := w.q.spool.create(w.rec.ID)
	end()
	if err != nil {
		return w.spooled(err)
	}
	w.file, w.out = f, bufio.NewWriterSize(f, 64<<10)
	w.rec.Spooled = true
	_, err = w.out.Write(w.buf)
	w.buf = nil
	return w.spooled(err)
}

// spooled notes what a write to the spool came to.
func (w *Writer) spooled(err error) error {
	if err != nil {
		w.q.free.wrote(true, err)
		_ = w.q.refusal(true) // for the log
	}
	return diskError(err)
}

// inlineRoom is the room on disk that a message must find before it begins: what the largest takes that is stored inline.
const inlineRoom = 3*(inlineLimit+roomBlock) + outcomeRoom + recipientOutcome

// room returns how many octets on disk a new message takes beside its file in the spool, about: blocks of the journal, and
// twice the pages of the database, for the record and for what is stored beside it.
func (c *change) room() int64 {
	return 3 * (int64(len(c.putValue)+len(c.body)) + roomBlock)
}

const roomBlock = 4096 // octets

// Commit makes the message durable and due. Only when it returns nil may the client be told 250. It does not end
// before the outcome is known, whatever becomes of ctx: a commit cannot be called back.
func (w *Writer) Commit(context.Context) error {
	if w.done {
		return errors.New("the message has been committed or aborted already")
	}
	w.rec.Sum = w.sum
	ch := w.q.intake(w.rec, w.buf)
	if err := ch.encode(); err != nil {
		return w.fail(err)
	}
	stored := ch.room()
	need := stored + ch.newSlot.outcomeRoom()
	if ok, err := w.q.free.reserve(need, true); err != nil {
		return w.fail(err)
	} else if !ok {
		return w.fail(errDiskFull)
	}
	defer w.q.free.release(need, stored, true)
	defer w.unreserve()
	w.done = true
	if w.file != nil {
		end := w.q.watch.begin("syncing a large message")
		err := w.out.Flush()
		if err == nil {
			err = w.q.spool.keep(w.file)
		} else {
			err = errors.Join(err, w.file.Close())
		}
		w.file = nil
		end()
		if err = w.spooled(err); err != nil {
			return errors.Join(err, w.discard())
		}
		w.q.free.wrote(true, nil)
	}
	if err := w.q.admitNew(ch); err != nil {
		w.q.arriving(clientOf(w.rec.Origin), -1)
		w.q.free.wrote(false, err)
		_ = w.q.refusal(false) // for the log
		if errors.Is(err, errStore) {
			// The record may have reached the disk all the same: its file stays until that is undone, or the next start.
			return err
		}
		return errors.Join(err, w.removeFile())
	}
	w.q.free.wrote(false, nil)
	return nil
}

func (w *Writer) fail(err error) error { return errors.Join(err, w.Abort()) }

// Abort forgets the message. After a Commit it does nothing.
func (w *Writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	w.unreserve()
	var err error
	if w.file != nil {
		err = w.file.Close()
		w.file = nil
	}
	return errors.Join(err, w.discard())
}

func (w *Writer) discard() error {
	w.q.arriving(clientOf(w.rec.Origin), -1)
	return w.removeFile()
}

func (w *Writer) removeFile() error {
	if !w.rec.Spooled {
		return nil
	}
	return w.q.spool.remove(w.rec.ID)
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// diskError turns a full disk into the reply that says so.
func diskError(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", errDiskFull, err)
	}
	return err
}

// intake returns the change that stores a new message.
func (q *Queue) intake(r *record, body []byte) *change {
	r.Events = []Event{{At: r.ReceivedAt, What: "received", Host: originHost(r.Origin)}}
	if body == nil && !r.Spooled {
		body = []byte{}
	}
	return &change{id: r.ID, put: r, body: body, newSlot: q.slotOf(r), hasNew: true}
}

// admitNew commits a new message and makes it known to the scheduler.
func (q *Queue) admitNew(ch *change) error {
	r := ch.put
	done := make(chan error, 1)
	q.committer.submit(&request{
		changes: []*change{ch},
		done:    func(err error) { done <- err },
		undone:  func() { q.removeSpooled(r.ID) },
	})
	if err := <-done; err != nil {
		return err
	}
	q.traffic.received.Add(1)
	q.log.LogAttrs(context.Background(), slog.LevelInfo, "received",
		slog.String("queue_id", r.ID.String()), slog.String("client", originHost(r.Origin)),
		slog.String("helo", r.Origin.Helo), slog.String("protocol", r.Origin.Protocol),
		slog.String("from", r.Envelope.ReversePath.String()), slog.Int("recipients", len(r.Recipients)),
		slog.Int64("size", r.Size))
	q.scheduler.add(ch.newSlot, q.cache.keep(r, ch.body))
	q.arriving(ch.newSlot.Source.client, -1)
	return nil
}

func originHost(o envelope.Origin) string {
	if !o.Addr.IsValid() {
		return ""
	}
	return o.Addr.String()
}
