package smarthost

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// impatient is a host that offers PIPELINING and does not keep to it: it hangs up when an envelope follows RSET or a body
// before it has answered, as Dovecot does, or throws away what follows a body, as chasquid did.
type impatient struct {
	greeting    string
	panics      bool
	throwsAway  bool
	mu          sync.Mutex
	taken       map[string]int // by sender
	followed    int            // bodies with an envelope right behind
	trials      int            // RSET with an envelope right behind
	hungUp      int
	connections int
}

func (h *impatient) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	h.mu.Lock()
	h.connections++
	h.mu.Unlock()
	go func() {
		defer server.Close()
		h.serve(server)
	}()
	return client, nil
}

// serve answers a client after a moment, so that others come to wait for the connection.
func (h *impatient) serve(nc net.Conn) {
	br := bufio.NewReader(nc)
	say := func(text string) bool {
		_, err := io.WriteString(nc, text+"\r\n")
		return err == nil
	}
	from := ""
	for ok := say(h.greeting); ok; {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "EHLO"):
			ok = say("250-host\r\n250-8BITMIME\r\n250 PIPELINING")
		case line == "RSET":
			ok = !h.behind(br, &h.trials) && say("250 ok")
		case line == "DATA":
			if ok = say("354 go"); !ok {
				return
			}
			for line != ".\r\n" {
				if line, err = br.ReadString('\n'); err != nil {
					return
				}
			}
			time.Sleep(10 * time.Millisecond)
			h.mu.Lock()
			h.taken[from]++
			h.mu.Unlock()
			if h.behind(br, &h.followed) {
				return
			}
			if h.throwsAway {
				br.Discard(br.Buffered())
			}
			ok = say("250 taken")
		case line == "QUIT":
			say("221 bye")
			return
		default:
			if strings.HasPrefix(line, "MAIL") {
				from = line
			}
			ok = say("250 ok")
		}
	}
}

// behind counts input that has come early, and reports whether the host hangs up at it.
func (h *impatient) behind(br *bufio.Reader, n *int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if br.Buffered() == 0 {
		return false
	}
	*n++
	if h.panics {
		h.hungUp++
	}
	return h.panics
}

// run sends n messages at once through a new router, which knows what was learnt, and returns how long that took and what
// is learnt now.
func (h *impatient) run(t *testing.T, n int, learnt map[string]HostFacts) (time.Duration, map[string]HostFacts) {
	t.Helper()
	h.mu.Lock()
	h.taken, h.followed, h.trials, h.hungUp = map[string]int{}, 0, 0, 0
	h.mu.Unlock()
	now := maps.Clone(learnt)
	if now == nil {
		now = map[string]HostFacts{}
	}
	var mu sync.Mutex
	r, err := New(Options{Hostname: "relay.example.com", Dial: h.dial, Learnt: learnt,
		Routes: []Route{{Name: "isp", Hosts: []string{"one:25"}, TLS: ModeOff, MaxConnections: 1}},
		Learn: func(addr string, f HostFacts) {
			mu.Lock()
			defer mu.Unlock()
			now[addr] = f
		}})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if a := r.Deliver(t.Context(), "isp", mailOf("s"+string(rune('a'+i)))); a.PossibleDuplicate {
				t.Error(show(a))
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	if err := r.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if got := slices.Collect(maps.Values(h.taken)); len(got) != n || slices.Max(got) != 1 {
		t.Errorf("taken: %v", h.taken)
	}
	return took, now
}

// A host that hangs up at an envelope that comes early takes no message twice, neither in the run that finds out nor in
// the next, which does not try it again.
func TestTrial_HostThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &impatient{greeting: "220 host Dovecot ready.", panics: true}
		_, learnt := h.run(t, 20, nil)
		if h.hungUp != maxDoubts || h.followed != 0 {
			t.Errorf("it hung up %d times, %d times with a message at stake", h.hungUp, h.followed)
		}
		if !learnt["one:25"].Pipelining["Dovecot ready."].LockStep {
			t.Errorf("learnt: %+v", learnt)
		}
		if h.run(t, 20, learnt); h.hungUp != 0 {
			t.Errorf("at the next start it hung up %d times", h.hungUp)
		}
	})
}

// A host that throws away what follows a body costs a short wait, once. It is tried again when it greets in other words,
// and when what is known of it is old.
func TestTrial_HostThatThrowsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &impatient{greeting: "220 host ESMTP chasquid 1.11", throwsAway: true}
		took, learnt := h.run(t, 10, nil)
		if took > 2*unprovenPatience || h.followed != 1 {
			t.Errorf("the first run took %v, with %d envelopes thrown away", took, h.followed)
		}
		if took, _ := h.run(t, 10, learnt); took > time.Second || h.followed+h.trials != 0 {
			t.Errorf("the next run took %v, with %d trials", took, h.followed+h.trials)
		}
		h.greeting, h.throwsAway = "220 host ESMTP chasquid 1.12", false
		if h.run(t, 10, learnt); h.trials != 1 || h.followed == 0 {
			t.Errorf("after its update: %d trials, %d envelopes behind bodies", h.trials, h.followed)
		}
		h.greeting = "220 host ESMTP chasquid 1.11"
		time.Sleep(pipeliningAge)
		if h.run(t, 10, learnt); h.trials != 1 || h.followed == 0 {
			t.Errorf("after a week: %d trials, %d envelopes behind bodies", h.trials, h.followed)
		}
	})
}

// A host that keeps order is tried once, and from then on has envelopes behind bodies, at the next start from the first.
func TestTrial_HostThatKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &impatient{greeting: "220 host ESMTP"}
		_, learnt := h.run(t, 10, nil)
		if h.trials != 1 || h.followed < 8 {
			t.Errorf("%d trials, %d envelopes behind bodies", h.trials, h.followed)
		}
		if h.run(t, 10, learnt); h.trials != 0 || h.followed < 8 {
			t.Errorf("the next run: %d trials, %d envelopes behind bodies", h.trials, h.followed)
		}
	})
}

// What a host refuses for now and takes a moment later is no sign that it is out of step.
func TestOrder_RefusalForNowIsNoDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		h.pipelining = true
		from, refused := "", map[string]bool{}
		h.answer = func(line string) string {
			if strings.HasPrefix(line, "MAIL") {
				from = line
			}
			if line != "." {
				return ""
			}
			time.Sleep(time.Second)
			if !refused[from] {
				refused[from] = true
				return "451 4.3.0 try again"
			}
			return ""
		}
		r := p.router(t, limit(1), "one:25")
		r.Deliver(t.Context(), "isp", mailOf("before"))
		for i := range maxDoubts {
			var wg sync.WaitGroup
			first, release := held(mailOf("first" + string(rune('a'+i))))
			wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", first), "one:25") })
			settle()
			wg.Go(func() { r.Deliver(t.Context(), "isp", mailOf("second"+string(rune('a'+i)))) })
			settle()
			release()
			wg.Wait()
		}
		if r.table.Load().routes[0].hosts[0].order.strict.Load() {
			t.Error("the host is used in lock-step")
		}
	})
}

// A greeting's words stay, and its versions; its name, times and ids do not.
func TestTrial_BannerIsWhatStaysTheSame(t *testing.T) {
	for greeting, want := range map[string]string{
		"mx1.example ESMTP Postfix (Debian/GNU)":                                            "ESMTP Postfix (Debian/GNU)",
		"mx ESMTP Exim 4.96 Sun, 29 Nov 2026 09:10:11 +0000":                                "ESMTP Exim 4.96",
		"smtp.gmail.com ESMTP 5b1f17b1804b1-477 - gsmtp":                                    "ESMTP - gsmtp",
		"AM0.outlook.office365.com Microsoft ESMTP MAIL Service ready at Sun, 1 [08DD2A1B]": "Microsoft ESMTP MAIL Service ready at",
		"host": "", "": "",
	} {
		if got := bannerOf(greeting); got != want {
			t.Errorf("%q: %q, want %q", greeting, got, want)
		}
	}
}
