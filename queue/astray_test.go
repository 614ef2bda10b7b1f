package queue

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// vanish are the things that happen to the files of a daemon that runs.
var vanishes = []struct {
	name  string
	files []string
	do    func(path string) error
}{
	{"the database is removed", []string{databaseName}, os.Remove},
	{"a journal is removed", []string{journalName(0)}, os.Remove},
	{"the journals are removed", []string{journalName(0), journalName(1)}, os.Remove},
	{"all of them are removed", []string{databaseName, journalName(0), journalName(1), markerName}, os.Remove},
	{"the database is another", []string{databaseName}, replaced},
	{"all of them are others", []string{databaseName, journalName(0), journalName(1)}, replaced},
}

func replaced(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, []byte("a file of somebody else"), 0o600)
}

// astrayQueue is a queue whose host is away, with messages that wait in the database, in the journal and in the spool.
func astrayQueue(t *testing.T, tr *fakeTransport) (r *rig, n int) {
	t.Helper()
	tr.set(hostAway)
	r = openRig(t, t.TempDir(), tr, testPolicy)
	r.lookPause = lookPause
	r.Start()
	for i := range 10 {
		body := fmt.Appendf(nil, "Subject: %d\r\n\r\n", i)
		if i%5 == 4 {
			body = append(body, bytes.Repeat([]byte("spool\r\n"), 10_000)...)
		}
		if i == 5 {
			time.Sleep(3 * time.Second) // the first ones get into the database
		}
		r.submit(body, testEnvelope(fmt.Sprintf("u%d@example.com", i)))
	}
	return r, 10
}

// delivers opens the queue in dir, and checks that it has n messages and delivers each once.
func delivers(t *testing.T, dir string, tr *fakeTransport, n int) {
	t.Helper()
	tr.set(nil)
	r := openRig(t, dir, tr, testPolicy)
	r.Start()
	defer r.stop()
	time.Sleep(2 * time.Hour)
	for i := range n {
		if got := tr.deliveredTo(fmt.Sprintf("u%d@example.com", i)); got != 1 {
			t.Errorf("message %d was delivered %d times; log:\n%s", i, got, r.log)
		}
	}
	if strings.Contains(r.log.String(), "damaged") {
		t.Errorf("log:\n%s", r.log)
	}
}

// Files that vanish under a daemon that runs are noticed within seconds, told of, and written anew: it goes on, and neither
// what was there nor what comes later is lost.
func TestAstray_IsMendedWhileRunning(t *testing.T) {
	for _, v := range vanishes {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				r, n := astrayQueue(t, tr)
				for _, name := range v.files {
					if err := v.do(filepath.Join(r.dir, name)); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(2 * lookPause)
				if log := r.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, v.files[0]) || !strings.Contains(log, "written anew") {
					t.Errorf("log:\n%s", log)
				}
				r.send(fmt.Sprintf("u%d@example.com", n))
				if err := r.Close(context.Background()); err != nil {
					t.Errorf("the stop: %v", err)
				}
				if foreign, _ := filepath.Glob(filepath.Join(r.dir, "*.foreign-*")); strings.Contains(v.name, "other") && len(foreign) != len(v.files) {
					t.Errorf("of the other files there are %q", foreign)
				}
				delivers(t, r.dir, tr, n+1)
			})
		})
	}
}

// A stop right after files have vanished saves what there is, keeps the journal, and fails.
func TestAstray_IsMendedAtTheStop(t *testing.T) {
	for _, v := range vanishes {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				r, n := astrayQueue(t, tr)
				for _, name := range v.files {
					if err := v.do(filepath.Join(r.dir, name)); err != nil {
						t.Fatal(err)
					}
				}
				if err := r.Close(context.Background()); err == nil || !strings.Contains(err.Error(), v.files[0]) {
					t.Errorf("the stop: %v", err)
				}
				if _, err := os.Stat(filepath.Join(r.dir, journalName(0))); err != nil && len(v.files) == 1 && v.files[0] == databaseName {
					t.Errorf("the journal: %v", err)
				}
				delivers(t, r.dir, tr, n)
			})
		})
	}
}

// A folder that was moved away takes no mail while it is away, and is whole where it is, also after a stop.
func TestAstray_FolderThatWasMoved(t *testing.T) {
	for _, back := range []bool{true, false} {
		t.Run(fmt.Sprintf("back %v", back), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				r, n := astrayQueue(t, tr)
				away := r.dir + ".away"
				if err := os.Rename(r.dir, away); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * lookPause)
				if _, reply := r.try("late@example.com", 100); reply.Code != 451 {
					t.Errorf("a client got %v", reply)
				}
				if words := strings.Join(r.Troubles(), "\n"); !strings.Contains(words, "no mail is taken") || !strings.Contains(words, databaseName+" is gone") {
					t.Errorf("the status says:\n%s", words)
				}
				if !back {
					if err := r.Close(context.Background()); err == nil {
						t.Error("the stop says nothing")
					}
					delivers(t, away, tr, n)
					return
				}
				if err := os.Rename(away, r.dir); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * lookPause)
				if words := strings.Join(r.Troubles(), "\n"); words != "" {
					t.Errorf("the status says:\n%s", words)
				}
				r.send(fmt.Sprintf("u%d@example.com", n))
				if err := r.Close(context.Background()); err != nil {
					t.Errorf("the stop: %v", err)
				}
				delivers(t, r.dir, tr, n+1)
			})
		})
	}
}

// While the spool is away, or empty, its messages wait: nothing is quarantined, nobody is told, and status says it.
func TestAstray_SpoolThatIsAway(t *testing.T) {
	for name, c := range map[string]struct {
		away func(path string) error
		back func(path string) error
	}{
		"moved": {func(path string) error { return os.Rename(path, path+".away") }, func(path string) error { return os.Rename(path+".away", path) }},
		"another": {func(path string) error {
			if err := os.Rename(path, path+".away"); err != nil {
				return err
			}
			return os.Mkdir(path, 0o700)
		}, func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Rename(path+".away", path)
		}},
		"emptied":    {func(path string) error { return moveAll(path, path+".away") }, func(path string) error { return moveAll(path+".away", path) }},
		"unreadable": {func(path string) error { return eachFile(path, loop) }, func(path string) error { return eachFile(path, unloop) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				r, n := astrayQueue(t, tr)
				defer r.stop()
				path := filepath.Join(r.dir, "spool")
				if err := c.away(path); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * lookPause)
				tr.set(nil)
				r.Retry()
				time.Sleep(12 * time.Hour)
				if q := r.Counts(); q.Quarantined != 0 || q.Active+q.Deferred != n/5 {
					t.Errorf("%+v; log:\n%s", q, r.log)
				}
				if words := strings.Join(r.Troubles(), "\n"); !strings.Contains(words, "spool") {
					t.Errorf("the status says %q", words)
				}
				if _, reply := r.try("late@example.com", 100_000); (reply.Code != 451) != (name == "unreadable") {
					t.Errorf("a large message got %v", reply)
				}
				synctest.Wait()
				if err := c.back(path); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				for i := range n {
					if got := tr.deliveredTo(fmt.Sprintf("u%d@example.com", i)); got != 1 {
						t.Errorf("message %d was delivered %d times", i, got)
					}
				}
				if words := strings.Join(r.Troubles(), "\n"); words != "" || len(tr.reportsTo("sender@lan.example")) != 0 {
					t.Errorf("the status says %q; %d reports", words, len(tr.reportsTo("sender@lan.example")))
				}
			})
		})
	}
}

func moveAll(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	for _, e := range entries {
		if err == nil {
			err = os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
		}
	}
	return err
}

func eachFile(dir string, do func(path string) error) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if err == nil && !strings.HasSuffix(e.Name(), ".away") {
			err = do(filepath.Join(dir, e.Name()))
		}
	}
	return err
}

// loop puts a link to itself in the place of a file, which not even root can open; unloop puts the file back.
func loop(path string) error {
	if err := os.Rename(path, path+".away"); err != nil {
		return err
	}
	return os.Symlink(filepath.Base(path), path)
}

func unloop(path string) error { return os.Rename(path+".away", path) }

// A queue without the folder of its large messages is not opened: they would all seem damaged.
func TestAstray_StartWithoutASpoolIsRefused(t *testing.T) {
	dir := t.TempDir()
	r := openRig(t, dir, newFakeTransport(), testPolicy)
	r.stop()
	if err := os.Remove(filepath.Join(dir, "spool")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir, Transport: newFakeTransport(), Policy: testPolicy}); err == nil || !strings.Contains(err.Error(), "put it back") {
		t.Errorf("it was opened: %v", err)
	}
}

// A recovery without the spool keeps its messages, for when it is back.
func TestAstray_RecoverWithoutASpool(t *testing.T) {
	w := newWaitingQueue(t)
	path := filepath.Join(w.dir, "spool")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	got, err := Recover(w.dir)
	if err != nil || got.Quarantined != 0 || got.Messages != len(w.bodies) || got.FaultCount == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if a := w.live(t, w.dir); a.lost+a.wrong != 0 {
		t.Errorf("%+v", a)
	}
}
