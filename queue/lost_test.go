package queue

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// waitingQueue is a folder as a crash leaves it: messages in the database, in both files of the journal and in the spool.
type waitingQueue struct {
	dir    string
	bodies map[string][]byte // by id
}

func newWaitingQueue(t *testing.T) waitingQueue {
	t.Helper()
	r := openRig(t, t.TempDir(), newFakeTransport(), testPolicy)
	w := waitingQueue{bodies: make(map[string][]byte)}
	submit := func(n int) {
		for i := range n {
			body := fmt.Appendf(nil, "Subject: %d\r\n\r\n", len(w.bodies))
			if i%5 == 4 {
				body = append(body, bytes.Repeat([]byte("spool\r\n"), 10_000)...)
			}
			w.bodies[r.submit(body, testEnvelope(fmt.Sprintf("u%d@example.com", len(w.bodies))))] = body
		}
	}
	submit(10)
	if err := settled(r.committer.store); err != nil {
		t.Fatal(err)
	}
	st := still(r.committer.store)
	submit(10)
	st.commits.Lock()
	if err := st.journal.rotate(); err != nil {
		t.Fatal(err)
	}
	st.mu.Lock()
	st.frozen, st.active = st.active, newLayer(st.journal.gen)
	st.frozen.seq = st.journal.seq
	st.mu.Unlock()
	st.commits.Unlock()
	submit(10)
	w.dir = crashed(t, r.dir, st)
	r.stop()
	return w
}

// aftermath is what became of the messages of a damaged queue.
type aftermath struct {
	refused, recovered bool
	told               bool // an error is in the log, or what recover says names a fault
	lost, named, wrong int  // messages that were not delivered, those of them that the log names, and those delivered otherwise
	spooled            int  // of lost, those with a file in the spool
	log                string
}

// live starts a queue in dir, after a recovery when the start refuses it, and delivers what it has.
func (w waitingQueue) live(t *testing.T, dir string) (a aftermath) {
	t.Helper()
	tr, log := newFakeTransport(), &syncBuffer{}
	open := func() (*Queue, error) {
		return Open(Options{hasty: true, Dir: dir, Hostname: "relay.example", Transport: tr, Policy: testPolicy,
			Log: slog.New(slog.NewTextHandler(log, nil))})
	}
	q, err := open()
	if err != nil {
		a.refused = true
		got, rerr := Recover(dir)
		if rerr != nil {
			return aftermath{refused: true, told: true, lost: len(w.bodies), log: fmt.Sprint(err, rerr)}
		}
		a.recovered, a.told = true, got.FaultCount+got.Commits+got.Quarantined+got.Orphans+got.Held > 0
		log.Write(fmt.Appendf(nil, "start: %v\nrecover: %+v\n", err, got))
		if q, err = open(); err != nil {
			t.Fatalf("after the recovery: %v", err)
		}
	}
	r := &rig{Queue: q, t: t, dir: dir, transport: tr, log: log}
	defer r.stop()
	r.Start()
	if _, err := r.ApplyAll(ActionRelease); err != nil {
		t.Fatal(err)
	}
	until(t, "the queue to be empty", func() bool {
		c := r.Counts()
		return c.Active+c.Deferred+c.Held == 0
	})
	until(t, "the log to name what is in quarantine", func() bool {
		return strings.Count(log.String(), "message quarantined") == r.Counts().Quarantined
	})
	a.log = log.String()
	a.told = a.told || strings.Contains(a.log, "level=ERROR")
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for id, body := range w.bodies {
		switch got, ok := tr.bodies[id]; {
		case !ok:
			a.lost++
			if len(body) > inlineLimit {
				a.spooled++
			}
			if strings.Contains(a.log, id) {
				a.named++
			}
		case !bytes.Equal(got, body):
			a.wrong++
		}
	}
	return a
}

// A file of the journal that is missing after a crash, or shorter than it was made, is told of at the start and by a
// recovery, whether or not it held anything; the files of the spool whose records are lost with it are kept.
func TestLost_JournalThatIsMissingOrCut(t *testing.T) {
	w := newWaitingQueue(t)
	cut := func(size int64) func(string) error { return func(path string) error { return os.Truncate(path, size) } }
	for _, c := range []struct {
		name  string
		files []int
		do    func(string) error
		lost  int // of 20; 0 says that it may be any
	}{
		{"one is missing", []int{0}, os.Remove, 10}, {"the other is missing", []int{1}, os.Remove, 10}, {"both are missing", []int{0, 1}, os.Remove, 20},
		{"one is empty", []int{0}, cut(0), 10}, {"the other is empty", []int{1}, cut(0), 10}, {"both are empty", []int{0, 1}, cut(0), 20},
		{"one is cut", []int{0}, cut(3 * frameBlock), 0}, {"the other is cut", []int{1}, cut(3 * frameBlock), 0},
		{"its last octet is missing", []int{0}, cut(journalReserve - 1), -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			dirs := [2]string{t.TempDir(), t.TempDir()}
			for _, dir := range dirs {
				if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
					t.Fatal(err)
				}
				for _, n := range c.files {
					if err := c.do(filepath.Join(dir, journalName(uint64(n)))); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := Recover(dirs[1])
			if err != nil || got.FaultCount == 0 || !strings.Contains(strings.Join(got.Faults, "\n"), "journal-") {
				t.Errorf("recover: %+v, %v", got, err)
			}
			a := w.live(t, dirs[0])
			if a.refused || !strings.Contains(a.log, "the journal is damaged") || !strings.Contains(a.log, "fault=") {
				t.Errorf("log:\n%s", a.log)
			}
			if c.lost > 0 && a.lost != c.lost || c.lost == 0 && a.lost == 0 || c.lost < 0 && a.lost != 0 {
				t.Errorf("%d messages are lost", a.lost)
			}
			orphans := spoolFiles(t, filepath.Join(lostFolder(t, dirs[0]), "spool"))
			if orphans != a.spooled || got.Orphans != a.spooled {
				t.Errorf("%d files of the spool were kept, by recover %d; want %d", orphans, got.Orphans, a.spooled)
			}
		})
	}
}

func lostFolder(t *testing.T, dir string) string {
	t.Helper()
	found, err := lostFolders(dir)
	if err != nil || len(found) != 1 {
		t.Fatalf("kept in %q, %v", found, err)
	}
	return found[0]
}

func spoolFiles(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(entries)
}

// A spool without any database is not taken for what a crash has left of arriving messages.
func TestLost_SpoolWithoutADatabaseIsKept(t *testing.T) {
	w := newWaitingQueue(t)
	for _, name := range []string{databaseName, markerName, journalName(0), journalName(1)} {
		if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	a := w.live(t, w.dir)
	if n := spoolFiles(t, filepath.Join(lostFolder(t, w.dir), "spool")); n != 6 || !a.told {
		t.Errorf("%d files were kept; the log:\n%s", n, a.log)
	}
}

// An orderly stop leaves no journal, and nobody misses it; a crash before any mail neither.
func TestLost_NothingIsMissedAfterAStop(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		r := openRig(t, dir, newFakeTransport(), testPolicy)
		r.send("a@example.com")
		r.stop()
		again := crashed(t, dir, r.committer.store)
		for _, dir := range []string{dir, again} {
			r := openRig(t, dir, newFakeTransport(), testPolicy)
			r.stop()
			if strings.Contains(r.log.String(), "ERROR") {
				t.Errorf("log:\n%s", r.log)
			}
		}
	}
}

// spoil does one of the things that happen to files to the file at path, by chance, and returns what.
func spoil(t *testing.T, rnd *rand.Rand, path string) string {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(file) == 0 {
		file = []byte{0}
	}
	// Most of a file is empty: what is in use is hit more often.
	used := len(bytes.TrimRight(file, "\x00"))
	if used == 0 || rnd.IntN(5) == 0 {
		used = len(file)
	}
	at := rnd.IntN(used)
	n := min(1+rnd.IntN(1<<rnd.IntN(16)), len(file)-at)
	part := file[at : at+n]
	what := ""
	switch rnd.IntN(8) {
	case 0:
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return "removed"
	case 1:
		file, what = file[:at], "cut"
	case 2:
		file, what = file[:at/4096*4096], "cut at a block"
	case 3:
		clear(part)
		what = "zeros"
	case 4:
		at = at / 4096 * 4096
		clear(file[at:min(len(file), at+4096*(1+rnd.IntN(3)))])
		what = "zero blocks"
	case 5:
		for i := range part {
			part[i] = byte(rnd.Uint32())
		}
		what = "noise"
	case 6:
		part[0] ^= 1 << rnd.IntN(8)
		what = "a bit"
	case 7:
		clear(file)
		what = "all zeros"
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s at %d, %d octets", what, at, n)
}

// Whatever happens to one file after a crash with messages waiting: each message is delivered as it was, or its loss is
// told. RELAYD_HUNT says how many files are spoiled.
func TestLost_NothingIsLostInSilence(t *testing.T) {
	trials := 60
	if n, err := strconv.Atoi(os.Getenv("RELAYD_HUNT")); err == nil {
		trials = n
	}
	w := newWaitingQueue(t)
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	var lost, named, refused, harmed int
	for trial := range trials {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
			t.Fatal(err)
		}
		names := []string{databaseName, databaseName, journalName(0), journalName(0), journalName(1), journalName(1), markerName}
		for id := range w.bodies {
			if _, err := os.Stat(filepath.Join(dir, "spool", id)); err == nil {
				names = append(names, filepath.Join("spool", id))
				break
			}
		}
		name := names[rnd.IntN(len(names))]
		what := spoil(t, rnd, filepath.Join(dir, name))
		a := w.live(t, dir)
		lost, named = lost+a.lost, named+a.named
		if a.lost > 0 {
			harmed++
		}
		if a.refused {
			refused++
		}
		if a.lost > a.named && !a.told || a.wrong > 0 {
			t.Errorf("seed %d, trial %d: %s: %s: %d lost, %d named, %d wrong\n%s", seed, trial, name, what, a.lost, a.named, a.wrong, a.log)
		}
		os.RemoveAll(dir)
	}
	t.Logf("%d files were spoiled: %d starts were refused, %d of %d messages were lost in %d of them, the log names %d; in silence: 0 unless said above",
		trials, refused, lost, trials*len(w.bodies), harmed, named)
}
