//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const after = " S 7 7 7 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 99 10000000 256 18446744073709551615 1 1 0"
	for _, name := range []string{"relayd", "a b) S 9 (c"} {
		p, err := parseStat("42 (" + name + ")" + after)
		want := process{pid: 42, parent: 7, own: 2 * time.Second, reaped: 500 * time.Millisecond, resident: 256 * int64(os.Getpagesize())}
		if err != nil || p != want {
			t.Errorf("%q: %+v, %v; want %+v", name, p, err, want)
		}
	}
	for _, bad := range []string{"", "42", "42 (x) S 7", "x (x)" + after, ") ("} {
		if p, err := parseStat(bad); err == nil {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

func TestTreeOf_FindsThisProcess(t *testing.T) {
	tree, err := treeOf(os.Getpid())
	if err != nil || len(tree) == 0 || tree[0].pid != os.Getpid() || tree[0].parent != os.Getppid() || tree[0].resident <= 0 {
		t.Fatalf("%+v, %v", tree, err)
	}
}

func TestSinkCount(t *testing.T) {
	for line, want := range map[string]int{"sess=1 quit=0 mesg=7": 7, "sess=1 quit=2 mesg=1234567": 1234567} {
		if n, ok := sinkCount(line); !ok || n != want {
			t.Errorf("%q: %d, %v", line, n, ok)
		}
	}
	for _, bad := range []string{"", "sess=1", "sess=1 quit=0 mesg="} {
		if n, ok := sinkCount(bad); ok {
			t.Errorf("%q: %d", bad, n)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestTarget(t *testing.T) {
	targets := map[metric]float64{intake: 5, cpuCost: 0.25}
	for _, c := range []struct {
		m              metric
		ours, theirs   float64
		known          bool
		words, reached string
	}{
		{intake, 500, 100, true, "5x", "yes"}, {intake, 499, 100, true, "5x", "no"}, {intake, 500, 0, false, "5x", ""},
		{cpuCost, 0.5, 2, true, "0.25x", "yes"}, {cpuCost, 0.6, 2, true, "0.25x", "no"},
		{drain, 1, 100, true, "", ""},
		{peak, 80 << 20, 0, false, "80 MiB", "yes"}, {peak, 81 << 20, 500 << 20, true, "80 MiB", "no"},
		{latency, 1.9, 0, false, "under 2 ms", "yes"}, {latency, 2, 9, true, "under 2 ms", "no"},
	} {
		if words, reached := c.m.target(targets, c.ours, c.theirs, c.known); words != c.words || reached != c.reached {
			t.Errorf("%s of %v beside %v: %q %q, want %q %q", c.m.title(), c.ours, c.theirs, words, reached, c.words, c.reached)
		}
	}
}

// Each figure of Postfix is the better one of its two configurations, whichever that is.
func TestRuns_TheBetterPostfixCounts(t *testing.T) {
	of := func(in, cpu float64) []figures {
		return []figures{{values: map[metric]float64{intake: in, cpuCost: cpu}}}
	}
	r := runs{"relayd": of(1000, 1), "Postfix, default": of(300, 2), "Postfix, tuned": of(200, 1.5)}
	if v, ok := r.best(intake); !ok || v != 300 {
		t.Errorf("intake %v, %v", v, ok)
	}
	if v, ok := r.best(cpuCost); !ok || v != 1.5 {
		t.Errorf("cost %v, %v", v, ok)
	}
	if v, ok := r.best(latency); ok {
		t.Errorf("latency %v", v)
	}
}

func TestMarkers_OnlyWhatStandsBetweenThemIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"", beginMarker, endMarker + beginMarker} {
		write(bad)
		if err := checkMarkers(path); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	write("above\n" + beginMarker + "\nold\n" + endMarker + "\nbelow\n")
	for range 2 {
		if err := writeBetweenMarkers(path, "new\n\n"); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if want := "above\n" + beginMarker + "\nnew\n" + endMarker + "\nbelow\n"; err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// peer is a client of a sink that fails the test at a wrong reply.
type peer struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{t, c, bufio.NewReader(c)}
}

// say sends what it is given as one group and reads the last line of as many replies as codes.
func (p *peer) say(group string, codes ...string) {
	p.t.Helper()
	if _, err := io.WriteString(p, group); err != nil {
		p.t.Fatal(err)
	}
	for _, code := range codes {
		for {
			line, err := p.r.ReadString('\n')
			if err != nil || !strings.HasPrefix(line, code) {
				p.t.Fatalf("after %q: %q, %v; want %s", group, line, err, code)
			}
			if line[3] == ' ' {
				break
			}
		}
	}
}

func TestSink_DemandsTLSAndTheLogin(t *testing.T) {
	s, err := startSink(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	login := func(word string) string {
		return "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+username+"\x00"+word)) + "\r\n"
	}
	p := dial(t, s.addr())
	p.say("EHLO c\r\n", "220", "250")
	p.say("MAIL FROM:<>\r\n"+login(password)+"STARTTLS\r\n", "530", "500", "220")
	tc := tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
	p.Conn, p.r = tc, bufio.NewReader(tc)
	p.say("EHLO c\r\n"+login("wrong")+"MAIL FROM:<>\r\n", "250", "535", "530")
	p.say(login(password), "235")
	// A group, and a body with lines that only look like its end, one of them behind a line longer than the buffer.
	p.say("MAIL FROM:<>\r\nRCPT TO:<b@c>\r\nDATA\r\n", "250", "250", "354")
	p.say("..\r\n. \r\n"+strings.Repeat("x", 70<<10)+".\r\n.\r\nMAIL FROM:<>\r\n", "250", "250")
	p.say("QUIT\r\n", "221")
	if s.count() != 1 || s.handshakes.Load() != 1 || s.resumed.Load() != 0 || s.octets.Load() < 70<<10 {
		t.Errorf("%d messages, %d handshakes, %d resumed, %d octets", s.count(), s.handshakes.Load(), s.resumed.Load(), s.octets.Load())
	}
}

func TestCounter_TellsWhenThereAreEnough(t *testing.T) {
	var c counter
	told := c.expect(2)
	c.add()
	select {
	case <-told:
		t.Fatal("told after one")
	default:
	}
	c.set(5)
	if _, err := c.receive(t.Context(), told, 2); err != nil {
		t.Error(err)
	}
	if _, err := c.wait(t.Context(), 5); err != nil {
		t.Errorf("of what is there already: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.wait(ctx, 6); err == nil || !strings.Contains(err.Error(), "5 messages of 6") {
		t.Errorf("got %v", err)
	}
}

// What a client asks costs it a round trip, what it sends in one group costs it one for all, and nothing passes before
// the line is open.
func TestLine_CarriesARoundTripLater(t *testing.T) {
	const roundTrip = 30 * time.Millisecond
	s, err := startSink("", true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	l, err := startLine(s.addr(), roundTrip)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	p := dial(t, l.addr())
	p.SetReadDeadline(time.Now().Add(2 * roundTrip))
	if _, err := p.r.Peek(1); err == nil {
		t.Fatal("the line carries before it is open")
	}
	p.SetReadDeadline(time.Time{})
	l.open()
	p.say("", "220")
	begun := time.Now()
	for range 4 {
		p.say("NOOP\r\n", "250")
	}
	if took := time.Since(begun); took < 4*roundTrip {
		t.Errorf("four round trips took %s", took)
	}
	p.say(strings.Repeat("NOOP\r\n", 4), "250", "250", "250", "250")
	if turns := l.turns.Load(); turns != 5 {
		t.Errorf("%d turns", turns)
	}
}

func TestLineResult_Trips(t *testing.T) {
	r := lineResult{messages: 201, took: 200 * 2 * lineRoundTrip}
	if got := r.trips(); got != 2 {
		t.Errorf("%v", got)
	}
}

func TestCountCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calls")
	var log strings.Builder
	for i, words := range []string{"fdatasync(3) = 0", "fdatasync(3 <unfinished ...>", "<... fdatasync resumed>) = 0", "+++ exited with 0 +++", "fsync(4) = 0"} {
		fmt.Fprintf(&log, "7 %d.5 %s\n", 1000+i, words)
	}
	if err := os.WriteFile(path, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, to, want int64 }{{1000, 1010, 3}, {1001, 1004, 1}} {
		n, err := countCalls(path, time.Unix(c.from, 0), time.Unix(c.to, 0))
		if err != nil || int64(n) != c.want {
			t.Errorf("from %d to %d: %d, %v; want %d", c.from, c.to, n, err, c.want)
		}
	}
}

// The queue that is filled here is one that relayd finds its mail in.
func TestFill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "queue")
	for _, n := range []int{10, 25, 25} {
		if _, err := fill(t.Context(), dir, n); err != nil {
			t.Fatal(err)
		}
	}
	wrote, err := fill(t.Context(), dir, 30)
	if err != nil || wrote != 5 {
		t.Errorf("wrote %d of the 5 that were missing, %v", wrote, err)
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-cases", "idle,large", "-m", "7"}, io.Discard)
	if err != nil || !o.wants("idle") || o.wants("kept1") || o.most(100) != 7 || o.most(3) != 3 || o.repeat != 3 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-cases", "nosuch"}, {"-repeat", "0"}, {"-m", "-1"}, {"word"}, {"-write", "x", "-m", "5"}, {"-write", "x", "-cases", "idle"}} {
		if o, err := parseOptions(bad, io.Discard); err == nil {
			t.Errorf("%v: %+v", bad, o)
		}
	}
	if o, _ := parseOptions(nil, io.Discard); o.most(100) != 100 || !o.wants("backlog") {
		t.Errorf("%+v", o)
	}
}
