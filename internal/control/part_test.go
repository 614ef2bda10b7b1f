package control

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/queue"
	"relayd/smarthost"
)

// hangingQueue counts for as long as the disk hangs.
type hangingQueue struct {
	Queue
	disk chan struct{}
}

func (q hangingQueue) Counts() queue.Counts { <-q.disk; return queue.Counts{Deferred: 7} }

// A status is answered in time whatever part of it hangs: with what was known last, and with a problem that says so.
func TestStatus_AnswersWhileAPartHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := make(chan struct{})
		var asked atomic.Int32
		s := NewServer(Options{Queue: hangingQueue{disk: disk}, Log: slog.New(slog.DiscardHandler),
			Smarthost: func() []smarthost.RouteStatus { return []smarthost.RouteStatus{{Name: "default"}} },
			Paused:    func() []string { asked.Add(1); <-disk; return []string{"the disk has not answered"} }})
		for range 5 {
			began := time.Now()
			st := s.Status()
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("the answer took %s", took)
			}
			said := strings.Join(st.Problems, "\n")
			if len(st.Late) != 2 || !strings.Contains(said, "the numbers of the queue: no answer since") || len(st.Routes) != 1 {
				t.Errorf("%+v", st)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times behind one that hangs", n)
		}
		close(disk)
		synctest.Wait()
		st := s.Status()
		if st.Queue.Deferred != 7 || len(st.Late) != 0 || len(st.Paused) != 1 {
			t.Errorf("afterwards: %+v", st)
		}
	})
}
