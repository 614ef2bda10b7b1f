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

	bolt "go.etcd.io/bbolt"

	"relayd/internal/envelope"
)

var spoolBody = append([]byte("Subject: large\r\n\r\n"), bytes.Repeat([]byte("line\r\n"), 50_000)...)

// quarantine returns a queue that runs, in which the only message is in quarantine, since its file of the spool was damaged,
// and the id of that.
func quarantine(t *testing.T, tr *fakeTransport, p Policy) (r *rig, id string) {
	t.Helper()
	dir := t.TempDir()
	first := openRig(t, dir, tr, p)
	id = first.submit(spoolBody, testEnvelope("a@example.com", "b@example.com"))
	first.stop()
	if err := os.WriteFile(filepath.Join(dir, "spool", id), bytes.ToUpper(spoolBody), 0o600); err != nil {
		t.Fatal(err)
	}
	r = openRig(t, dir, tr, p)
	r.Start()
	t.Cleanup(r.stop)
	time.Sleep(time.Minute)
	if c := r.Counts(); c.Quarantined != 1 || c.Active+c.Deferred+c.Held != 0 {
		t.Fatalf("%+v", c)
	}
	return r, id
}

// A message in quarantine is listed, shown, named by the log, and its sender is told, once.
func TestQuarantine_IsListedNamedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		r, id := quarantine(t, tr, testPolicy)
		list, next, err := r.Quarantined("", 10)
		if err != nil || next != "" || len(list) != 1 || list[0].ID != id || list[0].State != StateQuarantined || len(list[0].Recipients) != 2 ||
			!strings.Contains(list[0].LastError, "checksum") {
			t.Errorf("%+v, %v", list, err)
		}
		d, err := r.Show(id)
		if err != nil || d.State != StateQuarantined || d.Envelope.ReversePath != "sender@lan.example" || d.Gone ||
			d.Events[len(d.Events)-1].What != "quarantined" {
			t.Errorf("%+v, %v", d, err)
		}
		var line string
		for l := range strings.Lines(r.log.String()) {
			if strings.Contains(l, "level=ERROR") {
				line += l
			}
		}
		for _, want := range []string{"message quarantined", "queue_id=" + id, "from=<sender@lan.example>", "a@example.com b@example.com"} {
			if strings.Count(line, want) != 1 {
				t.Errorf("the log lacks %q once: %s", want, line)
			}
		}
		r.stop()
		again := openRig(t, r.dir, tr, testPolicy)
		again.Start()
		defer again.stop()
		time.Sleep(time.Hour)
		if n := len(tr.reportsTo("sender@lan.example")); n != 1 || strings.Contains(again.log.String(), "level=ERROR") {
			t.Errorf("%d reports; the log of the second start:\n%s", n, again.log)
		}
	})
}

// Damage can make the content one that the relay itself refuses to send, before its checksum is reached. The message goes to
// quarantine, and is not failed for the wrong cause. A sound message that the relay refuses is failed.
func TestQuarantine_OfContentThatTheRelayRefuses(t *testing.T) {
	for _, damaged := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			tr, dir := newFakeTransport(), t.TempDir()
			refusal := &envelope.Failure{Scope: envelope.ScopeMessage, Permanent: true, Local: true, Stage: "data",
				Reply: envelope.Reply{Code: 554, Text: "the message has an LF without CR"}}
			tr.deliver = func(_ context.Context, _ string, m envelope.Message) envelope.Attempt {
				if m.Envelope.ReversePath.IsNull() {
					return envelope.Attempt{Results: make([]envelope.Result, len(m.Envelope.Recipients))}
				}
				content, err := m.Open()
				if err != nil {
					t.Error(err)
				}
				defer content.Close()
				content.Read(make([]byte, 10))
				return envelope.Attempt{Results: []envelope.Result{{Failure: refusal}}}
			}
			first := openRig(t, dir, tr, testPolicy)
			id := first.submit(spoolBody, testEnvelope("a@example.com"))
			first.stop()
			if damaged {
				if err := os.WriteFile(filepath.Join(dir, "spool", id), bytes.ToUpper(spoolBody), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r := openRig(t, dir, tr, testPolicy)
			r.Start()
			defer r.stop()
			time.Sleep(time.Minute)
			_, err := os.Stat(filepath.Join(dir, "spool", id))
			if got := r.Counts().Quarantined == 1; got != damaged || (err == nil) != damaged {
				t.Errorf("damaged %v, quarantined %v, its file: %v", damaged, got, err)
			}
		})
	}
}

// What a recovery has set aside is told of by the next start.
func TestQuarantine_OfARecoveryIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, dir := newFakeTransport(), t.TempDir()
		first := openRig(t, dir, tr, testPolicy)
		id := first.submit([]byte("Subject: x\r\n\r\n"), testEnvelope("a@example.com"))
		first.stop()
		damageBody(t, dir, id)
		if got, err := Recover(dir); err != nil || got.Quarantined != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		r := openRig(t, dir, tr, testPolicy)
		r.Start()
		defer r.stop()
		time.Sleep(time.Minute)
		if n := len(tr.reportsTo("sender@lan.example")); n != 1 || !strings.Contains(r.log.String(), "queue_id="+id+" from=<sender@lan.example>") {
			t.Errorf("%d reports; log:\n%s", n, r.log)
		}
	})
}

// A record that fails its checksum is shown as far as it can be read, but its addresses get no mail: the postmaster does.
func TestQuarantine_DamagedRecordIsThePostmasters(t *testing.T) {
	for name, c := range map[string]struct {
		damage func([]byte) []byte
		sender envelope.Path
	}{
		"a letter":  {func(v []byte) []byte { return bytes.Replace(v, []byte("sender@"), []byte("sendar@"), 1) }, "sendar@lan.example"},
		"illegible": {func(v []byte) []byte { return v[:len(v)/2] }, ""},
		"empty":     {func([]byte) []byte { return []byte{} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, dir, p := newFakeTransport(), t.TempDir(), testPolicy
				p.Postmaster = "boss@lan.example"
				first := openRig(t, dir, tr, p)
				id := first.submit([]byte("Subject: x\r\n\r\n"), testEnvelope("a@example.com"))
				if err := settled(first.committer.store); err != nil {
					t.Fatal(err)
				}
				err := first.committer.store.db.Update(func(tx *bolt.Tx) error {
					b, key := tx.Bucket(bucketEnvelopes()), idKey(mustID(t, id))
					return b.Put(key, c.damage(bytes.Clone(b.Get(key))))
				})
				if err != nil {
					t.Fatal(err)
				}
				first.stop()
				r := openRig(t, dir, tr, p)
				r.Start()
				defer r.stop()
				time.Sleep(time.Minute)
				told := tr.reportsTo("boss@lan.example")
				if len(told) != 1 || !strings.Contains(told[0], id) || tr.deliveredTo(string(c.sender)) != 0 || tr.deliveredTo("sender@lan.example") != 0 {
					t.Errorf("the postmaster got %q", told)
				}
				d, err := r.Show(id)
				if err != nil || d.State != StateQuarantined || d.ReversePath != c.sender || time.Since(d.ReceivedAt).Abs() > time.Hour {
					t.Errorf("%+v, %v", d, err)
				}
				if _, err := r.Apply(ActionRelease, []string{id}); !errors.Is(err, ErrQuarantined) {
					t.Errorf("release: %v", err)
				}
				if _, err := r.Apply(ActionDelete, []string{id}); err != nil {
					t.Error(err)
				}
				if c := r.Counts(); c.Quarantined != 0 {
					t.Errorf("%+v", c)
				}
			})
		})
	}
}

// A release puts a message back once its content is as it was, and not before.
func TestQuarantine_ReleaseBringsItBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		r, id := quarantine(t, tr, testPolicy)
		path := filepath.Join(r.dir, "spool", id)
		for _, spoil := range []func() error{
			func() error { return nil },
			func() error { return os.Remove(path) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Apply(ActionRelease, []string{id}); !errors.Is(err, ErrQuarantined) || !strings.Contains(err.Error(), id) {
				t.Errorf("release: %v", err)
			}
		}
		for _, a := range []Action{ActionHold, ActionRetry, ActionReroute} {
			if _, err := r.Apply(a, []string{id}); !errors.Is(err, ErrQuarantined) {
				t.Errorf("%s: %v", a, err)
			}
		}
		if err := os.WriteFile(path, spoolBody, 0o600); err != nil {
			t.Fatal(err)
		}
		done, err := r.Apply(ActionRelease, []string{id})
		if err != nil || len(done.Done) != 1 {
			t.Fatalf("%+v, %v", done, err)
		}
		time.Sleep(time.Minute)
		if c := r.Counts(); c != (Counts{}) || tr.deliveredTo("a@example.com") != 1 || !bytes.Equal(tr.bodies[id], spoolBody) {
			t.Errorf("%+v, delivered %d times", c, tr.deliveredTo("a@example.com"))
		}
		d, err := r.Show(id)
		if err != nil || !d.Gone {
			t.Errorf("%+v, %v", d, err)
		}
		if _, err := r.Apply(ActionRelease, []string{id}); !errors.Is(err, ErrNotFound) {
			t.Errorf("a second release: %v", err)
		}
	})
}

// A deletion leaves a line of history and nothing else. It goes with others, and an unknown id stops all.
func TestQuarantine_DeleteEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		r, id := quarantine(t, tr, testPolicy)
		tr.set(hostAway)
		other := r.send("c@example.com")
		synctest.Wait()
		if _, err := r.Apply(ActionDelete, []string{id, other, ID(5).String()}); !errors.Is(err, ErrNotFound) || r.Counts().Quarantined != 1 {
			t.Errorf("%v, %+v", err, r.Counts())
		}
		if _, err := r.Apply(ActionDelete, []string{id, other}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if c := r.Counts(); c != (Counts{}) {
			t.Errorf("%+v", c)
		}
		if _, err := os.Stat(filepath.Join(r.dir, "spool", id)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its file: %v", err)
		}
		d, err := r.Show(id)
		if err != nil || !d.Gone || d.Events[len(d.Events)-1].What != "deleted" {
			t.Errorf("%+v, %v", d, err)
		}
		r.stop()
		again := openRig(t, r.dir, tr, testPolicy)
		again.Start()
		defer again.stop()
		if c := again.Counts(); c.Quarantined != 0 {
			t.Errorf("after a start: %+v", c)
		}
	})
}

// What there is of a message in quarantine can be read and written to files, which no import takes.
func TestQuarantine_Export(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, id := quarantine(t, newFakeTransport(), testPolicy)
		left := bytes.ToUpper(spoolBody)
		body, err := r.Body(id)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, left) {
			t.Errorf("Body gave %d octets, %v", len(got), err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
		online := t.TempDir()
		from, err := r.Export(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(SaveExported(openTestFolder(t, online), from), from.Close()); err != nil {
			t.Fatal(err)
		}
		r.stop()
		reader, err := OpenReadOnly(r.dir)
		if err != nil {
			t.Fatal(err)
		}
		offline := t.TempDir()
		if n, err := exportTo(t, reader, offline, []string{id}); n != 1 || err != nil {
			t.Errorf("offline: %d, %v", n, err)
		}
		if list, _, err := reader.Quarantined("", 0); err != nil || len(list) != 1 {
			t.Errorf("offline: %+v, %v", list, err)
		}
		if err := reader.Close(); err != nil {
			t.Error(err)
		}
		for name, dir := range map[string]string{"online": online, "offline": offline} {
			content, err := os.ReadFile(filepath.Join(dir, id+".damaged.eml"))
			about, aboutErr := os.ReadFile(filepath.Join(dir, id+".damaged"))
			if err != nil || aboutErr != nil || !bytes.Equal(content, left) || !bytes.Contains(about, []byte("sender@lan.example")) ||
				!bytes.Contains(about, []byte("checksum")) {
				t.Errorf("%s: %d octets, %v; %s, %v", name, len(content), err, about, aboutErr)
			}
			if done, err := Import(t.TempDir(), os.DirFS(dir), true); err == nil || done.Messages != 0 {
				t.Errorf("%s: an import took %+v", name, done)
			}
		}
	})
}

// The pages of the quarantine are those of the list.
func TestQuarantine_Pages(t *testing.T) {
	st := mustOpenStore(t, t.TempDir())
	defer st.close()
	for id := ID(1); id <= 5; id++ {
		mustCommit(t, st, newMessage(t, id, []byte("content")))
		mustCommit(t, st, &change{id: id, quarantine: "why"})
	}
	read := func(f func(*store) error) error { return f(st) }
	var got []string
	for after, pages := "", 0; ; pages++ {
		entries, next, err := listQuarantined(read, after, 2, time.Now())
		if err != nil || pages > 3 {
			t.Fatal(pages, err)
		}
		for _, e := range entries {
			got = append(got, e.ID)
		}
		if after = next; next == "" {
			break
		}
	}
	if len(got) != 5 || got[0] != ID(1).String() || got[4] != ID(5).String() {
		t.Errorf("%v", got)
	}
}

// An operator who releases a message twice at once has it delivered once.
func TestQuarantine_TwoReleasesAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		r, id := quarantine(t, tr, testPolicy)
		if err := os.WriteFile(filepath.Join(r.dir, "spool", id), spoolBody, 0o600); err != nil {
			t.Fatal(err)
		}
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			time.Sleep(time.Second)
			return tr.accept(ctx, route, m)
		})
		errs := make(chan error, 2)
		for range 2 {
			go func() { _, err := r.Apply(ActionRelease, []string{id}); errs <- err }()
		}
		<-errs
		<-errs
		time.Sleep(time.Minute)
		if n := tr.deliveredTo("a@example.com"); n != 1 {
			t.Errorf("delivered %d times", n)
		}
	})
}
