package queue

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// exportFrom fills a queue with a small message that has been refused for one of its recipients, a large one, and a held
// one, stops it, and exports it.
func exportFrom(t *testing.T, tr *fakeTransport) (dir, out string, ids []string) {
	t.Helper()
	r := openRig(t, t.TempDir(), tr, testPolicy)
	tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
		a := refused(route, m, 451, false)
		for i, rcpt := range m.Envelope.Recipients {
			if strings.HasPrefix(string(rcpt.Path), "done") {
				a.Results[i] = envelope.Result{Reply: envelope.Reply{Code: 250, Text: "taken"}}
			}
		}
		return a
	})
	r.Start()
	ids = []string{
		r.submit([]byte("Subject: small\r\n\r\n"), testEnvelope("done@example.com", "wait@example.com")),
		r.submit(bytes.Repeat([]byte("large\r\n"), 30_000), testEnvelope("large@example.com")),
		r.submit([]byte("Subject: held\r\n\r\n"), testEnvelope("held@example.com")),
	}
	time.Sleep(time.Second)
	if _, err := r.Apply(ActionHold, ids[2:]); err != nil {
		t.Fatal(err)
	}
	r.stop()
	out = filepath.Join(t.TempDir(), "backup")
	reader, err := OpenReadOnly(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if n, err := exportTo(t, reader, out, nil); n != 3 || err != nil {
		t.Fatalf("%d were exported, %v", n, err)
	}
	return r.dir, out, ids
}

// A queue that runs exports what it would when it is stopped, octet by octet; what has left it is not found, and what ends
// early is not taken for a message.
func TestExport_OfARunningQueue(t *testing.T) {
	dir, out, ids := exportFrom(t, newFakeTransport())
	tr := newFakeTransport()
	tr.set(hostAway)
	r := openRig(t, dir, tr, testPolicy)
	defer r.stop()
	r.Start()
	live := t.TempDir()
	folder := openTestFolder(t, live)
	for _, id := range ids {
		from, err := r.Export(id)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := io.ReadAll(from)
		if err := errors.Join(err, from.Close()); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 10, bytes.IndexByte(whole, '\n'), len(whole) - 1} {
			if err := SaveExported(folder, bytes.NewReader(whole[:n])); err == nil {
				t.Errorf("%s: %d octets of %d were taken for a message", id, n, len(whole))
			}
			if _, err := os.Stat(filepath.Join(live, id+recordSuffix)); err == nil {
				t.Fatalf("%s: there is a record after %d octets of %d", id, n, len(whole))
			}
		}
		if err := SaveExported(folder, bytes.NewReader(whole)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := snapshot(t, live), snapshot(t, out); got != want {
		t.Errorf("of a running queue:\n%s\nof one that is stopped:\n%s", got, want)
	}
	// A large message is delivered between the look at its record and that at its file.
	read := func(f func(*store) error) error {
		err := r.committer.read(f)
		if _, e := r.Apply(ActionDelete, ids[1:2]); e != nil && !errors.Is(e, ErrNotFound) {
			t.Error(e)
		}
		return err
	}
	if _, _, err := openMessage(read, r.spool, ids[1]); !errors.Is(err, ErrNotFound) {
		t.Errorf("a message that has just left: %v", err)
	}
	if _, err := r.Export(ids[1]); !errors.Is(err, ErrNotFound) {
		t.Errorf("a message that has left: %v", err)
	}
}

// A queue that is moved is what it was: content, states, attempts, holds; and is delivered by the routes of its new place.
func TestImport_IntoANewQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		old, out, ids := exportFrom(t, tr)
		dir := filepath.Join(t.TempDir(), "new")
		done, err := Import(dir, os.DirFS(out), false)
		if err != nil || done.Messages != 3 || len(done.Renamed) != 0 {
			t.Fatalf("%+v, %v", done, err)
		}
		for _, id := range ids {
			if before, after := shown(t, old, id), shown(t, dir, id); before != after {
				t.Errorf("%s was\n%s and is\n%s", id, before, after)
			}
		}
		tr.set(nil)
		r := openRig(t, dir, tr, testPolicy)
		r.Start()
		defer r.stop()
		if err := os.RemoveAll(out); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if tr.deliveredTo("done@example.com") != 1 || tr.deliveredTo("wait@example.com") != 1 || tr.deliveredTo("large@example.com") != 1 ||
			tr.deliveredTo("held@example.com") != 0 || r.Counts().Held != 1 {
			t.Errorf("delivered %v, %+v", tr.delivered, r.Counts())
		}
		if body := tr.bodies[ids[1]]; !bytes.Equal(body, bytes.Repeat([]byte("large\r\n"), 30_000)) {
			t.Errorf("the large one has %d octets", len(body))
		}
	})
}

// shown is a message's record as it is stored.
func shown(t *testing.T, dir, id string) string {
	t.Helper()
	r, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rec, err := r.store.record(mustID(t, id))
	if err != nil {
		t.Fatal(err)
	}
	v, err := encodeRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	return string(v[valueHeader:])
}

func TestImport_NothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		dir, out, ids := exportFrom(t, tr)
		if done, err := Import(dir, os.DirFS(out), false); err != nil || done.Messages != 0 || done.Known != 3 {
			t.Errorf("into the queue that it is from: %+v, %v", done, err)
		}
		// Those that have left are known, too.
		tr.set(nil)
		r := openRig(t, dir, tr, testPolicy)
		r.Start()
		if _, err := r.ApplyAll(ActionRelease); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		r.stop()
		if done, err := Import(dir, os.DirFS(out), false); err != nil || done.Messages != 0 || done.Known != 3 {
			t.Errorf("after it was delivered: %+v, %v", done, err)
		}
		done, err := Import(dir, os.DirFS(out), true)
		if err != nil || done.Messages != 3 || len(done.Renamed) != 3 || done.Renamed[ids[0]] == ids[0] {
			t.Errorf("by force: %+v, %v", done, err)
		}
		if done, err := Import(dir, os.DirFS(out), false); err != nil || done.Messages != 0 || done.Known != 3 {
			t.Errorf("once more: %+v, %v", done, err)
		}
	})
}

// An id that another message has here is exchanged, and the import is known under its old one.
func TestImport_CollidingID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, out, ids := exportFrom(t, newFakeTransport())
		dir := t.TempDir()
		st := mustOpenStore(t, dir)
		mustCommit(t, st, newMessage(t, mustID(t, ids[1]), []byte("another")))
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
		done, err := Import(dir, os.DirFS(out), false)
		if err != nil || done.Messages != 3 || len(done.Renamed) != 1 || done.Renamed[ids[1]] == "" {
			t.Fatalf("%+v, %v", done, err)
		}
		if done, err := Import(dir, os.DirFS(out), false); err != nil || done.Messages != 0 || done.Known != 3 {
			t.Errorf("again: %+v, %v", done, err)
		}
	})
}

// What is not as it was exported is left out and told of; the others are taken.
func TestImport_RefusesWhatIsNotWhole(t *testing.T) {
	for name, spoil := range map[string]func(base string) error{
		"content changed": func(base string) error {
			return os.WriteFile(base+".eml", bytes.Repeat([]byte("Large\r\n"), 30_000), 0o600)
		},
		"content cut":  func(base string) error { return os.Truncate(base+".eml", 1000) },
		"content gone": func(base string) error { return os.Remove(base + ".eml") },
		"no JSON":      func(base string) error { return os.WriteFile(base+".json", []byte("{"), 0o600) },
		"empty JSON":   func(base string) error { return os.WriteFile(base+".json", []byte("{}"), 0o600) },
		"no states": func(base string) error {
			return os.WriteFile(base+".json", []byte(`{"format":1,"id":"1M8063JNNNMR7","message":{"envelope":{"Recipients":[{}]}}}`), 0o600)
		},
		"a command in a path": func(base string) error {
			text, err := os.ReadFile(base + ".json")
			if err != nil {
				return err
			}
			return os.WriteFile(base+".json", bytes.ReplaceAll(text, []byte("large@"), []byte(`x\r\nRCPT TO:<large@`)), 0o600)
		},
		"a parameter in a path": func(base string) error {
			text, err := os.ReadFile(base + ".json")
			if err != nil {
				return err
			}
			return os.WriteFile(base+".json", bytes.ReplaceAll(text, []byte("sender@lan.example"), []byte("sender@lan.example> SIZE=1")), 0o600)
		},
		"newer": func(base string) error { return os.WriteFile(base+".json", []byte(`{"format":2}`), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, out, ids := exportFrom(t, newFakeTransport())
				if err := spoil(filepath.Join(out, ids[1])); err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				done, err := Import(dir, os.DirFS(out), false)
				if err == nil || !strings.Contains(err.Error(), ids[1]) || done.Messages != 2 {
					t.Errorf("%+v, %v", done, err)
				}
				if left, _ := os.ReadDir(filepath.Join(dir, "spool")); len(left) != 0 {
					t.Errorf("%d files are left in the spool", len(left))
				}
			})
		})
	}
}

func TestExport_Refusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, out, ids := exportFrom(t, newFakeTransport())
		reader, err := OpenReadOnly(dir)
		if err != nil {
			t.Fatal(err)
		}
		some := filepath.Join(out, "some")
		if n, err := exportTo(t, reader, some, []string{ids[0], "nonsense", ID(5).String()}); n != 0 || !errors.Is(err, ErrNotFound) {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := exportTo(t, reader, some, ids[:1]); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "spool", ids[1]), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := exportTo(t, reader, some, nil); n != 2 || err == nil || !strings.Contains(err.Error(), ids[1]) {
			t.Errorf("with one that is damaged: %d, %v", n, err)
		}
		reader.Close()
		for _, path := range []string{ids[0] + ".json", ids[0] + ".eml"} {
			if info, err := os.Stat(filepath.Join(some, path)); err != nil || info.Mode() != 0o600 {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(some, ".new*")); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		running := openRig(t, dir, newFakeTransport(), testPolicy)
		defer running.stop()
		if _, err := Import(dir, os.DirFS(out), false); !errors.Is(err, ErrLocked) {
			t.Errorf("into a queue that is running: %v", err)
		}
	})
}

// A message whose record cannot be read is not left out of an export in silence.
func TestExport_TellsOfADamagedRecord(t *testing.T) {
	dir := t.TempDir()
	st := mustOpenStore(t, dir)
	bad := newMessage(t, 2, []byte("damaged"))
	bad.putValue[len(bad.putValue)-1] ^= 1
	mustCommit(t, st, newMessage(t, 1, []byte("whole")), bad, newMessage(t, 3, []byte("whole")))
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	reader, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if n, err := exportTo(t, reader, t.TempDir(), nil); n != 2 || !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), ID(2).String()) {
		t.Errorf("%d were exported, %v", n, err)
	}
}

// A commit that says that it failed may be on the disk all the same: the message then has its content, too.
func TestImport_FailedCommitKeepsTheFile(t *testing.T) {
	dir := t.TempDir()
	st := mustOpenStore(t, dir)
	im := importer{st: still(st)}
	var err error
	if im.spool, err = openSpool(dir); err != nil {
		t.Fatal(err)
	}
	st.around = func(do func() error) error { return errors.Join(do(), errors.New("the disk is broken")) }
	body := bytes.Repeat([]byte("large\r\n"), 30_000)
	r := newMessage(t, 1, body).put
	if err := im.store(r, bytes.NewReader(body)); err == nil {
		t.Fatal("it is stored")
	}
	_ = st.close()
	st = mustOpenStore(t, dir)
	defer st.close()
	if r, err = st.record(1); err != nil {
		t.Fatalf("it is not there, against the test's plan: %v", err)
	}
	if err := im.spool.verify(r); err != nil {
		t.Errorf("it is there, and its content is not: %v", err)
	}
}

// A commit that says it failed may be on disk all the same: the content of its message has to be there then.
func TestImport_CommitThatFailsAndIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, out, ids := exportFrom(t, newFakeTransport())
		dir := t.TempDir()
		st := mustOpenStore(t, dir)
		im := importer{Imported: Imported{Renamed: make(map[string]string)}, from: os.DirFS(out), st: st}
		var err error
		if im.spool, err = openSpool(dir); err != nil {
			t.Fatal(err)
		}
		if err = im.learn(); err != nil {
			t.Fatal(err)
		}
		broken := errors.New("the disk is broken")
		st.around = func(commit func() error) error { return errors.Join(commit(), broken) }
		if err := im.take(ids[1] + ".json"); !errors.Is(err, broken) {
			t.Fatal(err)
		}
		_ = st.abandon()
		r := openRig(t, dir, newFakeTransport(), testPolicy)
		r.Start()
		defer r.stop()
		time.Sleep(2 * time.Hour)
		if c := r.Counts(); c.Quarantined != 0 || r.transport.deliveredTo("large@example.com") != 1 {
			t.Errorf("%+v, delivered %v", c, r.transport.delivered)
		}
	})
}

// The name of a folder is no pattern.
func TestImport_FolderOfAnyName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, out, _ := exportFrom(t, newFakeTransport())
		from := filepath.Join(t.TempDir(), "monday [1]")
		if err := os.Rename(out, from); err != nil {
			t.Fatal(err)
		}
		if done, err := Import(t.TempDir(), os.DirFS(from), false); err != nil || done.Messages != 3 {
			t.Errorf("%+v, %v", done, err)
		}
		if _, err := Import(t.TempDir(), os.DirFS(from+"/none"), false); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}

// exportTo exports messages to files in a folder, which it makes.
func exportTo(t *testing.T, r *Reader, dir string, ids []string) (int, error) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	to := openTestFolder(t, dir)
	n, err := r.Export(func(from io.Reader) error { return SaveExported(to, from) }, ids)
	return n, errors.Join(err, FinishExport(to))
}

func openTestFolder(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}
