package queue

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// left returns how many of the messages have a line of history.
func (r *rig) left(ids []string) (n int) {
	for _, id := range ids {
		if _, err := r.Show(id); err == nil {
			n++
		}
	}
	return n
}

// sendMany has n messages delivered.
func (r *rig) sendMany(n int) (ids []string) {
	for range n {
		ids = append(ids, r.send("a@example.com"))
	}
	synctest.Wait()
	return ids
}

// History takes no more than it may, and the oldest lines go first. A policy that allows less counts at once.
func TestHistory_HasABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy
		p.HistoryMaxSize = 1 << 20
		r := startRig(t, newFakeTransport(), p)
		ids := r.sendMany(4000)
		time.Sleep(10 * time.Second)
		have, err := r.committer.store.historyOctets()
		if err != nil || have > p.HistoryMaxSize+pruneGrowth || have < p.HistoryMaxSize/2 {
			t.Fatalf("%d octets of history, %v", have, err)
		}
		n := r.left(ids)
		if n == 0 || n == len(ids) || r.left(ids[len(ids)-n:]) != n {
			t.Fatalf("%d of %d messages are known, and not the latest ones", n, len(ids))
		}
		t.Logf("a message takes %d octets of history", have/int64(n))
		p.HistoryMaxSize = 100_000
		r.Configure(r.transport, "relay.example", p)
		time.Sleep(10 * time.Second)
		if have, err := r.committer.store.historyOctets(); err != nil || have > p.HistoryMaxSize {
			t.Errorf("%d octets of history, %v", have, err)
		}
	})
}

// A shorter time counts at once, too.
func TestHistory_AShorterTimeCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		ids := r.sendMany(100)
		time.Sleep(2 * time.Hour)
		young := r.sendMany(1)
		time.Sleep(2 * time.Second) // until the database has it
		p := testPolicy
		p.History = time.Hour
		r.Configure(r.transport, "relay.example", p)
		time.Sleep(time.Second)
		if n := r.left(ids); n != 0 || r.left(young) != 1 {
			t.Errorf("%d old messages are known, and %d young ones", n, r.left(young))
		}
	})
}

// A line of history is small, whatever hosts said.
func TestHistory_ALineIsSmall(t *testing.T) {
	r := testRecord(100)
	for i := range r.Recipients {
		r.Recipients[i].LastReply = strings.Repeat("word ", i)
	}
	r.Gone = true
	if n := len(encoded(t, r)); int64(n) > 10_000+goneLimits().growth(0) {
		t.Errorf("%d octets", n)
	}
}

// A look at history that finds nothing old or too large takes nothing of it, also of lines that come meanwhile.
func TestHistory_WithinItsBoundsStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		first := r.sendMany(1)
		p := r.prunes(testPolicy, true)
		later := r.sendMany(10)
		if err := r.committer.commit(true, &change{prune: p}); err != nil {
			t.Fatal(err)
		}
		if n := r.left(append(first, later...)); n != 11 {
			t.Errorf("%d of 11 messages are known", n)
		}
	})
}
