package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// console is a terminal with a program on it and somebody who watches and types.
type console struct {
	t        *testing.T
	keyboard *os.File // the other end of screen
	screen   *os.File

	mu      sync.Mutex
	changed *sync.Cond
	text    string // all that was shown
	seen    int    // up to where expect has looked
	gone    bool
}

func newConsole(t *testing.T) *console {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, keyboard: keyboard, screen: screen}
	c.changed = sync.NewCond(&c.mu)
	go c.watch()
	return c
}

func (c *console) watch() {
	for b := make([]byte, 4096); ; {
		n, err := c.keyboard.Read(b)
		c.mu.Lock()
		c.text += strings.ReplaceAll(string(b[:n]), "\r\n", "\n")
		c.gone = err != nil
		c.changed.Broadcast()
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// expect waits until words are shown behind what was expected before.
func (c *console) expect(words string) {
	c.t.Helper()
	late := time.AfterFunc(time.Minute, func() {
		c.mu.Lock()
		c.gone = true
		c.changed.Broadcast()
		c.mu.Unlock()
	})
	defer late.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !strings.Contains(c.text[c.seen:], words) {
		if c.gone {
			c.t.Fatalf("%q is not shown:\n%s", words, c.text[c.seen:])
		}
		c.changed.Wait()
	}
	c.seen += strings.Index(c.text[c.seen:], words) + len(words)
}

func (c *console) enter(line string) {
	c.t.Helper()
	if _, err := c.keyboard.WriteString(line + "\n"); err != nil {
		c.t.Fatal(err)
	}
}

// hidden waits until what is typed is not shown, which is a moment after the question.
func (c *console) hidden(want bool) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		t, err := unix.IoctlGetTermios(int(c.screen.Fd()), unix.TCGETS)
		if err != nil {
			c.t.Fatal(err)
		}
		if (t.Lflag&unix.ECHO == 0) == want {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("what is typed is hidden: %v, want %v", !want, want)
		}
	}
}

// start runs relayctl on the console, and returns what gives its exit code.
func (c *console) start(args ...string) (wait func() int) {
	done := make(chan int, 1)
	go func() { done <- run(args, c.screen, c.screen, c.screen) }()
	return func() int {
		c.t.Helper()
		select {
		case code := <-done:
			return code
		case <-time.After(time.Minute):
			c.mu.Lock()
			defer c.mu.Unlock()
			c.t.Fatalf("relayctl does not end:\n%s", c.text)
			return -1
		}
	}
}

// all returns everything that was shown.
func (c *console) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text
}
