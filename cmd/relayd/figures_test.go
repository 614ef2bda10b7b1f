//go:build unix

package main

import (
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// tellFigures has the daemon under test write its figures to standard error at SIGUSR1, after the garbage is gone.
func tellFigures() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	for n := 1; ; n++ {
		<-asked
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintf(os.Stderr, "figures %d: goroutines %d heap %d\n", n, runtime.NumGoroutine(), m.HeapAlloc)
	}
}

// figures is what a process holds while nothing happens.
type figures struct {
	goroutines, descriptors int
	heap, anonymous         int64 // octets: live Go heap, and resident memory that is no file's
}

func (f figures) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.1f MiB heap, %.1f MiB resident",
		f.goroutines, f.descriptors, float64(f.heap)/(1<<20), float64(f.anonymous)/(1<<20))
}

// figures asks the n-th time for the figures.
func (p *process) figures(n int) (f figures) {
	p.t.Helper()
	p.signal(syscall.SIGUSR1)
	told := p.waitFor(fmt.Sprintf(`figures %d: goroutines (\d+) heap (\d+)`, n))
	f.goroutines = number(p.t, told[1])
	f.heap = int64(number(p.t, told[2]))
	proc := "/proc/" + strconv.Itoa(p.cmd.Process.Pid)
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		p.t.Fatal(err)
	}
	f.descriptors = len(fds)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		p.t.Fatal(err)
	}
	resident := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindStringSubmatch(string(status))
	if resident == nil {
		p.t.Fatalf("no RssAnon in %s", strings.TrimSpace(string(status)))
	}
	f.anonymous = int64(number(p.t, resident[1])) << 10
	return f
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
