package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Somebody cuts the database short while the queue is being written to it: the daemon lives on, takes no mail, says why, and
// ends in order; what got a 250 since is in the journal, and comes back by a recovery.
func TestStore_DatabaseThatIsCutShortUnderAWriter(t *testing.T) {
	for _, size := range []int64{0, 4096, 2 * 4096, 5 * 4096} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel() // the end of each waits for a store that is away
			tr := newFakeTransport()
			tr.set(hostAway)
			r := openRig(t, t.TempDir(), tr, testPolicy)
			r.Start()
			for n := range 60 {
				r.submit(bytes.Repeat([]byte("line\r\n"), 1000), testEnvelope(fmt.Sprintf("u%d@example.com", n)))
			}
			r.settle(nil)
			path := filepath.Join(r.dir, databaseName)
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
			var taken []string
			until(t, "the queue to notice", func() bool {
				id, reply := r.try(fmt.Sprintf("late%d@example.com", len(taken)), 3000)
				if id != "" {
					taken = append(taken, id)
				} else if replyCode(reply) != "451 4.3.0" {
					t.Fatalf("the answer is %s", reply)
				}
				time.Sleep(time.Millisecond)
				return id == "" && strings.Contains(r.log.String(), "still failing")
			})
			if len(taken) == 0 {
				t.Error("nothing was taken while the journal was well: this test looks at the wrong thing")
			}
			if said := strings.Join(r.Troubles(), "\n"); !strings.Contains(said, "store in "+r.dir+" has failed") {
				t.Errorf("an operator is told: %s", said)
			}
			if err := r.Close(context.Background()); err != nil {
				t.Errorf("Close: %v", err)
			}
			if _, err := openStore(r.dir); err == nil {
				t.Error("it is opened")
			}
			if got, err := Recover(r.dir); err != nil {
				t.Fatalf("%+v, %v", got, err)
			}
			left, err := OpenReadOnly(r.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer left.Close()
			for _, id := range taken {
				if _, err := left.Show(id); err != nil {
					t.Errorf("%s got a 250: %v", id, err)
				}
			}
		})
	}
}

// A fault in the middle of a transaction, where bbolt holds its locks, is an error, and the store can be given up and its
// lock be had again.
func TestStore_FaultAmidATransaction(t *testing.T) {
	for _, size := range []int64{0, 2 * 4096} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			st := still(mustOpenStore(t, dir))
			for id := ID(1); id <= 200; id++ {
				mustCommit(t, st, newMessage(t, id, bytes.Repeat([]byte("x"), 5000)))
			}
			if err := settled(st); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, databaseName)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			err = st.update(func(tx *bolt.Tx) error {
				if err := os.Truncate(path, size); err != nil {
					t.Fatal(err)
				}
				return tx.Bucket(bucketBodies()).Put(idKey(77), []byte("other"))
			})
			if !errors.Is(err, errDatabase) || !strings.Contains(err.Error(), path) {
				t.Errorf("writing: %v", err)
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := st.abandon(); err != nil {
				t.Errorf("giving it up: %v", err)
			}
			st = mustOpenStore(t, dir)
			defer st.close()
			if got := holds(t, st, 200); len(got) != 200 {
				t.Errorf("there are %d messages", len(got))
			}
		})
	}
}
