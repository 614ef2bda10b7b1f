package queue

import (
	"log/slog"
	"testing"
	"time"

	"relayd/internal/envelope"
)

// History that has filled a disk gives way: no mail is refused.
func TestHistory_StopsNoMailOnASmallDisk(t *testing.T) {
	onSmallDisk(t, 128<<20, func(t *testing.T, dir string) {
		p := testPolicy
		p.MinFree = 48 << 20 // the journal needs some of it
		r := openRig(t, dir, newFakeTransport(), p)
		r.Queue.log = slog.New(slog.DiscardHandler)
		for free := int64(1 << 40); free > p.MinFree+1<<20; {
			var lines []*change
			for range 500 {
				line := newRecord(r.ids.next(time.Now()), testEnvelope("a@example.com"), envelope.Origin{}, time.Now())
				line.Gone = true
				line.note(Event{At: time.Now(), What: "delivered"})
				lines = append(lines, &change{id: line.ID, history: line})
			}
			if err := r.committer.commit(true, lines...); err != nil {
				t.Fatal(err)
			}
			var err error
			if free, _, err = diskFree(dir); err != nil {
				t.Fatal(err)
			}
		}
		before, err := r.committer.store.historyOctets()
		if err != nil {
			t.Fatal(err)
		}
		r.Start()
		defer r.stop()
		until(t, "room for mail", func() bool { r.free.refresh(time.Second); return !r.free.short(pruneRoom) })
		for n := range 5000 {
			if id, reply := r.try("a@example.com", 2000); id == "" {
				t.Fatalf("message %d is answered with %s", n, replyCode(reply))
			}
		}
		until(t, "all delivered", func() bool { return r.total.Load() == 0 })
		after, err := r.committer.store.historyOctets()
		t.Logf("%d octets of history, and %d before", after, before)
		if err != nil || after >= before {
			t.Errorf("%d octets of history, and %d before, %v", after, before, err)
		}
	})
}
