package queue

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"relayd/internal/envelope"
)

// The sender of a message that was damaged on the disk is told that it will not arrive, without the damaged content.
func TestDamage_IsReportedToTheSender(t *testing.T) {
	for name, body := range map[string][]byte{"inline": []byte("Subject: x\r\n\r\nbody\r\n"), "spooled": bytes.Repeat([]byte("line\r\n"), 50_000)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, dir := newFakeTransport(), t.TempDir()
				first := openRig(t, dir, tr, testPolicy)
				env := testEnvelope("a@example.com", "quiet@example.com")
				env.Recipients[1].Notify = envelope.NotifyNever
				id := first.submit(body, env)
				first.stop()
				if name == "inline" {
					damageBody(t, dir, id)
				} else if err := os.WriteFile(filepath.Join(dir, "spool", id), bytes.Repeat([]byte("Line\r\n"), 50_000), 0o600); err != nil {
					t.Fatal(err)
				}
				r := openRig(t, dir, tr, testPolicy)
				r.Start()
				defer r.stop()
				time.Sleep(time.Minute)
				if c := r.Counts(); c.Quarantined != 1 || c.Active+c.Deferred+c.Held != 0 || tr.deliveredTo("a@example.com") != 0 {
					t.Errorf("%+v, delivered %d times", c, tr.deliveredTo("a@example.com"))
				}
				reports := tr.reportsTo("sender@lan.example")
				if len(reports) != 1 {
					t.Fatalf("%d reports", len(reports))
				}
				for _, want := range []string{"Action: failed", "Final-Recipient: rfc822; a@example.com", "was damaged"} {
					if !strings.Contains(reports[0], want) {
						t.Errorf("the report lacks %q:\n%s", want, reports[0])
					}
				}
				if strings.Contains(reports[0], "quiet@example.com") || strings.Contains(reports[0], "Line") || strings.Contains(reports[0], "something else") {
					t.Errorf("report:\n%s", reports[0])
				}
			})
		})
	}
}

// Setting a message aside a second time, as after a commit that failed halfway, keeps the record that was set aside.
func TestDamage_SettingAsideTwiceKeepsTheRecord(t *testing.T) {
	st, err := openStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	put := &change{id: 5, put: newRecord(5, testEnvelope("a@example.com"), envelope.Origin{}, time.Now())}
	if err := put.encode(); err != nil {
		t.Fatal(err)
	}
	aside := &change{id: 5, quarantine: "why"}
	for _, c := range []*change{put, aside, aside} {
		if err := st.commit([]*change{c}); err != nil {
			t.Fatal(err)
		}
	}
	err = st.db.View(func(tx *bolt.Tx) error {
		if a := decodeAside(5, tx.Bucket(bucketQuarantine()).Get(idKey(5))); a.Why != "why" || !bytes.Equal(a.Record, put.putValue) {
			t.Errorf("what was set aside is %+v", a)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A line of the due index that is damaged or missing is made anew from its message, whichever message that is.
func TestDamage_DueIndexIsMadeAnew(t *testing.T) {
	damages := map[string]func(b *bolt.Bucket, k, v []byte) error{
		"damaged": func(b *bolt.Bucket, k, v []byte) error { v[0] ^= 0x20; return b.Put(k, v) },
		"missing": func(b *bolt.Bucket, k, _ []byte) error { return b.Delete(k) },
	}
	for damage, do := range damages {
		for which, hit := range map[string][]bool{"oldest": {true, false}, "newest": {false, true}, "all": {true, true}} {
			t.Run(damage+", "+which, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr, dir := newFakeTransport(), t.TempDir()
					first := openRig(t, dir, tr, testPolicy)
					first.send("a@example.com")
					time.Sleep(time.Second)
					first.send("b@example.com")
					damageDue(t, first, hit, do)
					first.stop()
					r := openRig(t, dir, tr, testPolicy)
					defer r.stop()
					r.Start()
					time.Sleep(time.Minute)
					if a, b := tr.deliveredTo("a@example.com"), tr.deliveredTo("b@example.com"); a != 1 || b != 1 {
						t.Errorf("delivered %d and %d times; the queue: %+v\n%s", a, b, r.Counts(), r.log)
					}
					_ = r.committer.read(func(s *store) error {
						if n := dueLines(t, s); n != 0 {
							t.Errorf("%d lines are left in the due index", n)
						}
						return nil
					})
				})
			})
		}
	}
}

// damageDue does do to the lines of the due index that hit names, in order.
func damageDue(t *testing.T, r *rig, hit []bool, do func(b *bolt.Bucket, k, v []byte) error) {
	t.Helper()
	if err := settled(r.committer.store); err != nil {
		t.Fatal(err)
	}
	err := r.committer.store.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketDue())
		lines := map[string][]byte{}
		i := 0
		if err := b.ForEach(func(k, v []byte) error {
			if hit[i] {
				lines[string(k)] = bytes.Clone(v)
			}
			i++
			return nil
		}); err != nil {
			return err
		}
		for k, v := range lines {
			if err := do(b, []byte(k), v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A held message whose record is damaged goes to quarantine when an operator acts on it, and is no longer in the way.
func TestDamage_HeldMessageCanBeGotRidOf(t *testing.T) {
	for _, action := range []Action{ActionDelete, ActionRelease} {
		t.Run(string(action), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startRig(t, newFakeTransport(), testPolicy)
				r.transport.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
					return refused(route, m, 451, false)
				})
				id := r.send("a@example.com")
				synctest.Wait()
				if _, err := r.Apply(ActionHold, []string{id}); err != nil {
					t.Fatal(err)
				}
				r.change(&change{id: mustID(t, id), putValue: []byte("not a record")})
				if _, err := r.Apply(action, []string{id}); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if c := r.Counts(); c != (Counts{Quarantined: 1}) {
					t.Errorf("%+v", c)
				}
				if list, _, err := r.List("", 0); err != nil || len(list) != 0 {
					t.Errorf("%+v, %v", list, err)
				}
			})
		})
	}
}

// An operator's action that cannot be done after the attempt it waited for is logged, without a race for its message.
func TestDamage_PendingActionOnALostRecordIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.set(func(context.Context, string, envelope.Message) envelope.Attempt {
			time.Sleep(10 * time.Second)
			return siteDown(time.Hour)
		})
		r := startRig(t, tr, testPolicy)
		id := r.send("a@example.com")
		synctest.Wait()
		if _, err := r.Apply(ActionHold, []string{id}); err != nil {
			t.Fatal(err)
		}
		r.change(&change{id: mustID(t, id), remove: true})
		time.Sleep(time.Minute)
		if !strings.Contains(r.log.String(), "could not be done\" queue_id="+id) {
			t.Errorf("log:\n%s", r.log)
		}
	})
}
