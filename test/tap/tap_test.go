package tap_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"relayd/test/tap"
)

const asWriter = "TAP_TEST_WRITES_TO"

func TestMain(m *testing.M) {
	tap.Enter()
	if dir := os.Getenv(asWriter); dir != "" {
		fmt.Println(write(dir))
		return
	}
	os.Exit(m.Run())
}

// write is what the tapped process does: a file synced, its name synced, then more that is not.
func write(dir string) error {
	f, err := os.Create(filepath.Join(dir, "a"))
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	for _, do := range []func() error{
		func() error { _, err := f.WriteString("safe"); return err },
		f.Sync,
		d.Sync,
		func() error { _, err := f.WriteString(" gone"); return err },
		func() error { return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// script is an Observer that answers the n-th call of an op.
type script struct {
	*tap.Recorder
	op     tap.Op
	n      int
	answer tap.Answer
	mu     sync.Mutex
	log    []string
}

func (s *script) Begin(c *tap.Call) tap.Answer {
	s.Recorder.Begin(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, string(c.Op)+" "+filepath.Base(c.Path))
	if c.Op == s.op {
		if s.n--; s.n == 0 {
			return s.answer
		}
	}
	return tap.Answer{}
}

func (s *script) run(t *testing.T, dir string) (said string) {
	t.Helper()
	s.Recorder = tap.NewRecorder(dir)
	cmd := exec.Command(os.Args[0])
	var out bytes.Buffer
	cmd.Stdout, cmd.Env = &out, append(os.Environ(), asWriter+"="+dir)
	running, err := tap.Start(cmd, dir, s)
	if errors.Is(err, tap.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		out.WriteString(err.Error())
	}
	if err := running.Wait(); err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(out.String())
}

func content(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return "missing"
	}
	return string(b)
}

func TestTap_ShowsEachCallAndDecidesIt(t *testing.T) {
	const all = "create a,write a,sync a,sync %s,write a,rename a"
	for name, c := range map[string]struct {
		op     tap.Op
		n      int
		answer tap.Answer
		says   string
		a, b   string
	}{
		"nothing":               {says: "<nil>", a: "missing", b: "safe gone"},
		"a write fails":         {tap.OpWrite, 2, tap.Answer{Skip: true, Errno: syscall.ENOSPC}, "no space left on device", "safe", "missing"},
		"a write fails halfway": {tap.OpWrite, 2, tap.Answer{Limit: 2, Errno: syscall.EIO}, "input/output error", "safe g", "missing"},
		"a short write":         {tap.OpWrite, 2, tap.Answer{Limit: 2}, "<nil>", "missing", "safe gone"},
		"a rename lies":         {tap.OpRename, 1, tap.Answer{Errno: syscall.EIO}, "input/output error", "missing", "safe gone"},
		"a sync fails":          {tap.OpSync, 2, tap.Answer{Skip: true, Errno: syscall.EIO}, "input/output error", "safe", "missing"},
		"a create fails":        {tap.OpCreate, 1, tap.Answer{Skip: true, Errno: syscall.ENOSPC}, "no space left", "missing", "missing"},
		"a create lies":         {tap.OpCreate, 1, tap.Answer{Errno: syscall.EIO}, "input/output error", "", "missing"},
		"death before a rename": {tap.OpRename, 1, tap.Answer{Skip: true, Kill: true}, "signal: killed", "safe gone", "missing"},
		"death after a rename":  {tap.OpRename, 1, tap.Answer{Kill: true}, "signal: killed", "missing", "safe gone"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := &script{op: c.op, n: c.n, answer: c.answer}
			if says := s.run(t, dir); !strings.Contains(says, c.says) {
				t.Errorf("it says %q, want %q", says, c.says)
			}
			if a, b := content(dir, "a"), content(dir, "b"); a != c.a || b != c.b {
				t.Errorf("a: %q, b: %q; want %q, %q", a, b, c.a, c.b)
			}
			if want := fmt.Sprintf(all, filepath.Base(dir)); name == "nothing" && strings.Join(s.log, ",") != want {
				t.Errorf("calls: %s; want %s", strings.Join(s.log, ","), want)
			}
		})
	}
}

// What is left by a power cut: before the folder's sync nothing; from then on the synced content under its old name,
// and the rest by chance.
func TestRecorder_KeepsWhatWasSynced(t *testing.T) {
	s := &script{}
	s.run(t, t.TempDir())
	image := s.Image()
	seen := map[string]bool{}
	for cut := range s.Len() + 1 {
		image.Advance(cut)
		dir := t.TempDir()
		if err := image.WriteSafe(dir); err != nil {
			t.Fatal(err)
		}
		want := "missing"
		if cut >= 4 { // create, write, sync, sync
			want = "safe"
		}
		if a, b := content(dir, "a"), content(dir, "b"); a != want || b != "missing" {
			t.Errorf("after %d calls: a: %q, b: %q; want %q and nothing", cut, a, b, want)
		}
	}
	for seed := range uint64(60) {
		dir := t.TempDir()
		if err := image.WriteTorn(dir, rand.New(rand.NewPCG(1, seed))); err != nil {
			t.Fatal(err)
		}
		seen[content(dir, "a")+", "+content(dir, "b")] = true
	}
	for _, want := range []string{"safe, missing", "safe gone, missing", "missing, safe", "missing, safe gone"} {
		if !seen[want] {
			t.Errorf("no cut left %q", want)
		}
		delete(seen, want)
	}
	if len(seen) > 0 {
		t.Errorf("cuts left also %v", seen)
	}
}

// After a sync that failed the kernel does not write what it should have written, though a later sync succeeds.
func TestRecorder_FailedSyncForgets(t *testing.T) {
	r := tap.NewRecorder("/r")
	sync := &tap.Call{Op: tap.OpSync, Path: "/r/a"}
	for _, c := range []*tap.Call{{Op: tap.OpCreate, Path: "/r/a"}, {Op: tap.OpSync, Path: "/r"}, {Op: tap.OpWrite, Path: "/r/a", Data: []byte("lost")}} {
		r.Begin(c)
		r.End(c)
	}
	r.Begin(sync)
	r.Drop(sync)
	for _, c := range []*tap.Call{{Op: tap.OpWrite, Path: "/r/a", Offset: 6, Data: []byte("kept")}, sync} {
		r.Begin(c)
		r.End(c)
	}
	image, dir := r.Image(), t.TempDir()
	image.Advance(r.Len())
	if err := image.WriteSafe(dir); err != nil {
		t.Fatal(err)
	}
	if got := content(dir, "a"); got != "\x00\x00\x00\x00\x00\x00kept" {
		t.Errorf("the disk has %q", got)
	}
}
