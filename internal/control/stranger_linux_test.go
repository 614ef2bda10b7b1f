package control_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"relayd/internal/control"
)

// asStranger runs f on a thread of its own that has the user id of nobody, and ends with f. The raw system call is the
// point: Go's own would change every thread of the process.
func asStranger(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Error(errno)
			return
		}
		f()
	}()
	<-done
}

// open lets everybody into the folder of the socket, as into /run.
func open(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestStranger_IsDeniedByTheSocketsMode(t *testing.T) {
	_, path := start(t, control.Options{})
	open(t, path)
	asStranger(t, func() {
		_, err := control.Dial(t.Context(), path)
		if !errors.Is(err, control.ErrDenied) || !strings.Contains(err.Error(), path) {
			t.Errorf("Dial = %v; want ErrDenied with the path", err)
		}
	})
}

func TestStranger_IsDeniedByCredentialsWhereTheModeIsLost(t *testing.T) {
	q := &fakeQueue{entries: messages("a")}
	_, path := start(t, control.Options{Queue: q})
	open(t, path)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	asStranger(t, func() {
		c, err := control.Dial(t.Context(), path)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := c.Status(t.Context()); !errors.Is(err, control.ErrDenied) {
			t.Errorf("Status = %v; want ErrDenied", err)
		}
	})
	if got := q.done(); got != nil {
		t.Errorf("done all the same: %q", got)
	}
}
