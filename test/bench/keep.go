//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A keeper stands between this program and each relay that it starts. It is this program itself, started with
// keepCommand. It adopts whatever the relay leaves behind (PR_SET_CHILD_SUBREAPER in prctl(2)), so that the processor
// time of every process of the relay can be found, also of those that have ended; and it ends them all when its
// standard input does, be it that this program asked for that or that it was killed.
const keepCommand = "keep"

// stopPatience is how long a relay may take to stop before it is killed.
const stopPatience = 20 * time.Second

// keep runs argv and returns its exit code once no process of it is left.
func keep(argv []string) int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "keep:", err)
		return 1
	}
	// A group of its own: a signal from a terminal is not for it, and Postfix signals its whole group.
	nowhere, err := os.Open(os.DevNull)
	if err != nil {
		fmt.Fprintln(os.Stderr, "keep:", err)
		return 1
	}
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Files: []*os.File{nowhere, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Setpgid: true}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "keep:", err)
		return 1
	}
	go func() {
		io.Copy(io.Discard, os.Stdin) // ends with it
		stopTree(os.Getpid())
	}()
	code := 0
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return code
		case pid == p.Pid && status.Exited():
			code = status.ExitStatus()
		case pid == p.Pid:
			code = 1
		}
	}
}

// stopTree asks the child of keeper to end, then what it leaves behind, and kills what does not.
func stopTree(keeper int) {
	deadline := time.Now().Add(stopPatience)
	asked := make(map[int]bool)
	for {
		tree, err := treeOf(keeper)
		if err != nil || len(tree) <= 1 {
			return
		}
		sig := syscall.SIGTERM
		if time.Now().After(deadline) {
			sig = syscall.SIGKILL
		}
		for _, p := range tree[1:] {
			if p.parent == keeper && (!asked[p.pid] || sig == syscall.SIGKILL) {
				asked[p.pid] = true
				syscall.Kill(p.pid, sig) // an error means that it has ended
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kept is a program that runs under a keeper.
type kept struct {
	name  string
	cmd   *exec.Cmd
	leash io.WriteCloser
	done  chan struct{}
	log   string
}

// start runs argv under a keeper; what it prints goes to a file.
func (l *lab) start(name, log string, env []string, argv ...string) (*kept, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	return l.startTo(out, out, name, log, env, argv...)
}

// startTo is start with somewhere else for standard output.
func (l *lab) startTo(stdout, stderr *os.File, name, log string, env []string, argv ...string) (*kept, error) {
	k := &kept{name: name, cmd: exec.Command(l.self, append([]string{keepCommand}, argv...)...), done: make(chan struct{}), log: log}
	var err error
	k.cmd.Env, k.cmd.Dir, k.cmd.Stdout, k.cmd.Stderr = env, l.dir, stdout, stderr
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if k.leash, err = k.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := k.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		k.cmd.Wait()
		close(k.done)
	}()
	return k, nil
}

func (k *kept) keeper() int { return k.cmd.Process.Pid }

// stop ends the program with all its processes. It may be called again.
func (k *kept) stop() {
	k.leash.Close()
	<-k.done
}

func (k *kept) ended() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// main returns the process id of the program itself, or of the one that it runs when it is a tracer.
func (k *kept) main(traced bool) (int, error) {
	tree, err := treeOf(k.keeper())
	if err != nil {
		return 0, err
	}
	want := k.keeper()
	for range map[bool]int{false: 1, true: 2}[traced] {
		child := 0
		for _, p := range tree {
			if p.parent == want {
				child = p.pid
				break
			}
		}
		if child == 0 {
			return 0, fmt.Errorf("%s has no process", k.name)
		}
		want = child
	}
	return want, nil
}

// waitForPort waits until somebody listens on port of this machine's loopback address. It looks into the kernel's table
// (proc(5)), because a connection would cost the server something.
func (k *kept) waitForPort(port int) error {
	for deadline := time.Now().Add(stopPatience); ; time.Sleep(5 * time.Millisecond) {
		if listens(port) {
			return nil
		}
		if k.ended() || time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%s does not listen on port %d", k.name, port), k.lastWords())
		}
	}
}

// lastWords returns the end of the program's log as an error.
func (k *kept) lastWords() error {
	const most = 2000
	text, err := os.ReadFile(k.log)
	if err != nil {
		return err
	}
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return fmt.Errorf("its log ends with:\n%s", text)
}

func listens(port int) bool {
	const stateListen = "0A"
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == stateListen && strings.HasSuffix(f[1], ":"+fmt.Sprintf("%04X", port)) {
				return true
			}
		}
	}
	return false
}

// freePort returns a TCP port that nobody uses, below those that the kernel gives to clients. None is returned twice.
func (l *lab) freePort() (int, error) {
	const first, last = 20000, 32000
	for range last - first {
		if l.port++; l.port < first || l.port >= last {
			l.port = first + os.Getpid()%(last-first)
		}
		if !listens(l.port) {
			return l.port, nil
		}
	}
	return 0, fmt.Errorf("no port is free between %d and %d", first, last)
}

func portAddress(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
