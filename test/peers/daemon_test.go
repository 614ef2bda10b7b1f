//go:build peers

package peers

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is a program that runs until it is stopped, in a process group of its own. Its output is a log of the room.
type daemon struct {
	name    string
	cmd     *exec.Cmd
	done    chan struct{}
	release func() // of its guard
}

// start runs argv until stop is called, or the test ends.
func (r room) start(t *testing.T, name string, env []string, argv ...string) *daemon {
	t.Helper()
	return r.startIn(t, name, env, 0, argv...)
}

// startIn also gives the program new namespaces, by the flags of clone(2).
func (r room) startIn(t *testing.T, name string, env []string, namespaces uintptr, argv ...string) *daemon {
	t.Helper()
	out, err := os.OpenFile(r.log(name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	argv = append(append([]string(nil), r.within...), argv...)
	d := &daemon{name: name, cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	d.cmd.Env, d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = env, r.dir, out, out
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: namespaces}
	err = d.cmd.Start()
	out.Close()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		d.cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() { d.stop(t) })
	if d.release, err = guard(d.pid()); err != nil {
		t.Fatal(err)
	}
	return d
}

// guard sees to it that a process group ends with this process, also when this one is killed: the guard's standard
// input then ends, too. (PR_SET_PDEATHSIG would not do, as a program that changes users is rid of it.) It lets the group
// be when release was called.
func guard(group int) (release func(), err error) {
	g := exec.Command("sh", "-c", `read -r released || kill -s TERM -- "-$1"`, "guard", strconv.Itoa(group))
	g.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	leash, err := g.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := g.Start(); err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() {
		leash.Write([]byte("released\n"))
		g.Wait()
	}), nil
}

func (d *daemon) pid() int { return d.cmd.Process.Pid }

func (d *daemon) ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// stop ends the program and all that it started. It may be called again.
func (d *daemon) stop(t *testing.T) {
	t.Helper()
	deadline := time.After(patience)
	d.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case <-d.done:
	case <-deadline:
		t.Errorf("%s did not end in %v after SIGTERM", d.name, patience)
		d.signalGroup(syscall.SIGKILL)
		<-d.done
	}
	// Its children are this process's now, see adoptOrphans.
	for d.signalGroup(0) {
		if pid, err := syscall.Wait4(-d.pid(), nil, syscall.WNOHANG, nil); pid > 0 && err == nil {
			continue
		}
		select {
		case <-deadline:
			t.Errorf("children of %s did not end in %v after SIGTERM", d.name, patience)
			d.signalGroup(syscall.SIGKILL)
			deadline = nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	if d.release != nil {
		d.release()
	}
}

// signalGroup reports whether there is anybody in the daemon's process group that s could be sent to.
func (d *daemon) signalGroup(s syscall.Signal) bool { return syscall.Kill(-d.pid(), s) == nil }

// adoptOrphans makes processes whose parents end children of this one (PR_SET_CHILD_SUBREAPER in prctl(2)), so that
// their ends can be seen and they do not stay behind as zombies where nobody else reaps them, as in a container.
func adoptOrphans() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// waitForPort waits until somebody in the daemon's network namespace listens on port.
func (d *daemon) waitForPort(t *testing.T, port string) {
	t.Helper()
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	poll(t, d.name+" listens on port "+port, func() string {
		if d.ended() {
			t.Fatalf("%s has ended: %v", d.name, d.cmd.ProcessState)
		}
		if !d.listens(number) {
			return "nobody listens"
		}
		return ""
	})
}

// listens looks into the kernel's tables, where asking costs the server no connection (proc_pid_net(5)).
func (d *daemon) listens(port int) bool {
	const stateListen = "0A"
	for _, table := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", d.pid(), table))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && f[3] == stateListen {
				return true
			}
		}
	}
	return false
}

// reapOrphans takes leave of those that were adopted and have ended. Exim's deliveries leave their process group.
func reapOrphans() {
	for {
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}
