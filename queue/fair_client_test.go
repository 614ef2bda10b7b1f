package queue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// inOrder has tr take everything, and returns a function that returns the recipients so far, in the order of the attempts.
func inOrder(tr *fakeTransport) func() []string {
	var mu sync.Mutex
	var order []string
	tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, string(m.Envelope.Recipients[0].Path))
		return tr.accept(ctx, route, m)
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(order)
	}
}

// heldUp has send hand in mail while it cannot go, for each of the causes, and calls check with the order in which all of
// it went afterwards.
func heldUp(t *testing.T, send func(r *rig), check func(t *testing.T, order []string)) {
	for name, restart := range map[string]bool{"paced": false, "in an outage": false, "in an outage with a restart in it": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				tr.concurrency = 1
				var mu sync.Mutex
				closed := name == "paced"
				tr.admit = func(string) (time.Time, bool) {
					mu.Lock()
					defer mu.Unlock()
					return time.Now().Add(time.Minute), !closed
				}
				tr.set(hostAway)
				r := openRig(t, t.TempDir(), tr, testPolicy)
				quicken(r.committer.store)
				r.Start()
				t.Cleanup(r.stop)
				send(r)
				if restart {
					r.stop()
					r = openRig(t, r.dir, tr, testPolicy)
					r.Start()
					t.Cleanup(r.stop)
				}
				order := inOrder(tr)
				mu.Lock()
				closed = false
				mu.Unlock()
				time.Sleep(2 * time.Hour)
				if c := r.Counts(); c.Active+c.Deferred > 0 {
					t.Fatalf("not all is out: %+v", c)
				}
				check(t, order())
			})
		})
	}
}

// within fails unless to is among the first most of order.
func within(t *testing.T, order []string, to string, most int) {
	t.Helper()
	if at := slices.Index(order, to); at < 0 || at >= most {
		t.Errorf("%s is number %d of %d, want at most %d", to, at+1, len(order), most)
	}
}

// word returns a word of letters, another one for each n.
func word(n int) string {
	letters := []byte("aaaa")
	for i := range letters {
		letters[i] += byte(n % 26)
		n /= 26
	}
	return string(letters)
}

func TestFair_ClientOfManySendersDoesNotHoldUpAnother(t *testing.T) {
	heldUp(t, func(r *rig) {
		for i := range 600 {
			r.from("192.168.1.2", word(i*31)+"@"+word(i)+".example", "a@example.com")
		}
		r.from("192.168.1.3", "scanner@lan.example", "boss@example.com")
	}, func(t *testing.T, order []string) { within(t, order, "boss@example.com", 4) })
}

func TestFair_NetworkOfManyAddressesIsOneClient(t *testing.T) {
	heldUp(t, func(r *rig) {
		for i := range 300 {
			r.from(fmt.Sprintf("2001:db8:0:1::%x", i+1), word(i*31)+"@lan.example", "a@example.com")
		}
		r.from("2001:db8:0:2::1", "scanner@lan.example", "boss@example.com")
	}, func(t *testing.T, order []string) { within(t, order, "boss@example.com", 4) })
}

func TestFair_MailingDoesNotHoldUpItsOwnClient(t *testing.T) {
	heldUp(t, func(r *rig) {
		for i := range 300 {
			r.from("192.168.1.2", fmt.Sprintf("news+%d@lan.example", i), "a@example.com")
			if i%10 == 0 {
				r.from("192.168.1.3", "other@lan.example", "b@example.com")
			}
		}
		r.from("192.168.1.2", "boss@lan.example", "boss@example.com")
	}, func(t *testing.T, order []string) { within(t, order, "boss@example.com", 8) })
}

func TestFair_AHundredClientsEachHaveTheirTurn(t *testing.T) {
	heldUp(t, func(r *rig) {
		for i := range 10 {
			for client := range 100 {
				r.from(fmt.Sprintf("192.168.1.%d", client), word(i*100+client)+"@lan.example", fmt.Sprintf("client%d@example.com", client))
			}
		}
		for range 20 {
			r.from("192.168.2.1", "scanner@lan.example", "scan@example.com")
		}
		r.from("192.168.2.2", "late@lan.example", "late@example.com")
	}, func(t *testing.T, order []string) {
		const most = 102*(mostFavour+1)/mostFavour + 2 // all are new, and one of three turns is that of an old one
		within(t, order, "late@example.com", most)
		last := make(map[string]int) // where each had its turn
		for at, to := range order {
			if was, ok := last[to]; ok && at-was > most {
				t.Errorf("%s waited for %d others", to, at-was)
			}
			last[to] = at
		}
	})
}

// Two clients with the same hash share a turn, and neither loses anything by it.
func TestFair_ClientsOfOneHashShareATurn(t *testing.T) {
	const first = "10.0.0.1"
	at := func(n int) string { return fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255) }
	second := 2
	for sourceOf(originAt(at(second)), "") != sourceOf(originAt(first), "") {
		second++
	}
	heldUp(t, func(r *rig) {
		for range 100 {
			r.from(first, "news@lan.example", "a@example.com")
		}
		r.from(at(second), "scanner@lan.example", "boss@example.com")
		r.from("192.168.1.3", "scanner@lan.example", "other@example.com")
	}, func(t *testing.T, order []string) {
		within(t, order, "boss@example.com", 6)
		within(t, order, "other@example.com", 4)
	})
}
