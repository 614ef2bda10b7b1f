package smarthost

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
	"relayd/internal/envelope"
)

// letter is a message of the model, and what is to happen to its delivery.
type letter struct {
	m      envelope.Message
	at     time.Duration // when it is delivered
	cancel time.Duration // when it is given up, after that; 0 for never
	got    envelope.Attempt
}

// The promise of a delivery as a property: whatever a host answers, in whatever order it gets confused, wherever
// connections break and deliveries are given up, what Deliver says of each recipient is what the host did. A recipient
// is taken once at most; a message that was taken and is not said to be delivered is marked as a possible duplicate; what
// fails for good was refused for good, and not because of what travelled with it; no body follows a refused envelope.
//
// More of it: go test ./smarthost -run SaysWhatTheHostDid -rapid.checks=5000
func TestDeliver_SaysWhatTheHostDid(t *testing.T) {
	checks := flag.Lookup("rapid.checks").Value
	if checks.String() == "100" { // nobody has asked for another number than rapid's own
		t.Cleanup(func() { _ = checks.Set("100") })
		if err := checks.Set("200"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			w := drawWorld(rt)
			w.run(rt)
			w.check(rt)
		})
	})
}

type modelWorld struct {
	host        *modelHost
	connections int
	letters     []*letter
	calm        bool // no plan refuses anything and nothing is given up
	log         safeBuffer
	took        time.Duration // until the last delivery had ended

	mu         sync.Mutex
	conns      int // open at the relay's end
	mostAtOnce int
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	close func() error
}

func (c counted) Close() error { return c.close() }

// dial counts the connections of near.
func (w *modelWorld) dial(near func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := near(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.conns++
		w.mostAtOnce = max(w.mostAtOnce, w.conns)
		return counted{nc, sync.OnceValue(func() error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.conns--
			return nc.Close()
		})}, nil
	}
}

func drawWorld(rt *rapid.T) *modelWorld {
	w := &modelWorld{connections: rapid.IntRange(1, 3).Draw(rt, "connections"), calm: rapid.Bool().Draw(rt, "calm")}
	w.host = &modelHost{
		pipelining: rapid.IntRange(0, 4).Draw(rt, "pipelining") > 0,
		disorder:   rapid.SampledFrom(disorders).Draw(rt, "disorder"),
		plans:      make(map[int][]plan), tries: make(map[int]int), taken: make(map[string]int),
		final: make(map[string]bool), lost: make(map[int]bool),
	}
	for i := range rapid.IntRange(1, 12).Draw(rt, "messages") {
		n := rapid.IntRange(1, 3).Draw(rt, "recipients")
		var to []string
		for r := range n {
			to = append(to, fmt.Sprintf("r%d.m%d@example.net", r, i))
		}
		l := &letter{m: mail(fmt.Sprintf("Subject: m%d\r\n\r\nhello\r\n", i), to...)}
		l.m.ID, l.m.Envelope.ReversePath = fmt.Sprint(i), envelope.Path(fmt.Sprintf("m%d@example.com", i))
		l.at = time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 15, 40, 10000}).Draw(rt, "at")) * time.Millisecond
		if !w.calm {
			w.host.plans[i] = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) plan { return drawPlan(rt, n) }), 0, 2).Draw(rt, "plans")
			if rapid.IntRange(0, 2).Draw(rt, "given up") == 2 {
				l.cancel = time.Duration(rapid.IntRange(1, 250).Draw(rt, "cancel")) * time.Millisecond
			}
		}
		w.letters = append(w.letters, l)
	}
	return w
}

func drawPlan(rt *rapid.T, recipients int) plan {
	p := make(plan)
	refusals := []string{"", "", "", "", "", "", "450 4.2.1 later", "550 5.7.1 no", "550 5.7.1 no", "421 4.3.2 closing", hangUp}
	draw := func(step string, replies []string) {
		if r := rapid.SampledFrom(replies).Draw(rt, step); r != "" {
			p[step] = r
		}
	}
	draw("mail", append([]string{"", "", "", ""}, refusals...))
	for i := range recipients {
		draw(fmt.Sprintf("rcpt%d", i), refusals)
	}
	draw("data", append([]string{"", "", "", ""}, refusals...))
	draw("dot", append([]string{takeAndHangUp, "451 4.7.500 server busy"}, refusals...))
	if rapid.Bool().Draw(rt, "354 without recipients") {
		p["empty"] = "354"
	}
	return p
}

// run makes the deliveries, and ends when all that they left behind has ended.
func (w *modelWorld) run(rt *rapid.T) {
	line := &farAway{oneWay: 10 * time.Millisecond}
	r, err := New(Options{
		Hostname: "relay.example.com", Dial: w.dial(line.dial(w.host.dial)), Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Routes: []Route{{Name: "isp", Hosts: []string{"one:25"}, TLS: ModeOff, MaxConnections: w.connections}},
	})
	if err != nil {
		rt.Fatal(err)
	}
	start := time.Now()
	var wg sync.WaitGroup
	for _, l := range w.letters {
		wg.Go(func() {
			time.Sleep(l.at)
			ctx := context.Background()
			if l.cancel > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, l.cancel)
				defer cancel()
			}
			l.got = r.Deliver(ctx, "isp", l.m)
		})
	}
	wg.Wait()
	w.took = time.Since(start)
	if err := r.Close(context.Background()); err != nil {
		rt.Error(err)
	}
	p := r.table.Load().routes[0].hosts[0].pool
	wantEmpty(rt, p)
	p.abort() // so that the test also ends when that fails
	w.host.open.Wait()
	line.open.Wait()
	synctest.Wait()
}

func (w *modelWorld) check(rt *rapid.T) {
	for _, wrong := range w.host.wrongs {
		rt.Errorf("the host saw %s", wrong)
	}
	if w.mostAtOnce > w.connections || w.conns != 0 {
		rt.Errorf("%d connections at once, %d are allowed; %d are left", w.mostAtOnce, w.connections, w.conns)
	}
	if n := strings.Count(w.log.String(), "lock-step"); n > 1 || n == 1 && w.host.disorder == keepsOrder && w.calm {
		rt.Errorf("the log says %d times that the host, which %s, is out of step:\n%s", n, w.host.disorder, w.log.String())
	}
	patience := 15 * time.Second
	if w.host.disorder == throwsAway {
		patience += 3 * unprovenPatience
	}
	if w.took > patience {
		rt.Errorf("a delivery waited for something that could not come: it took %v", w.took)
	}
	for i, l := range w.letters {
		w.checkLetter(rt, i, l)
	}
	if rt.Failed() {
		for i, l := range w.letters {
			rt.Logf("m%d: %s", i, show(l.got))
		}
		rt.Logf("the host took %v and refused %v; it lost the replies to %v", w.host.taken, w.host.final, w.host.lost)
	}
}

func (w *modelWorld) checkLetter(rt *rapid.T, i int, l *letter) {
	if l.got.PossibleDuplicate && !w.host.lost[i] && l.cancel == 0 {
		rt.Errorf("m%d is marked as a possible duplicate; the host answered its dot", i)
	}
	for r := range l.m.Envelope.Recipients {
		name := fmt.Sprintf("r%d.m%d", r, i)
		if l.got.Site == nil && r >= len(l.got.Results) { // the host asked for less mail
			if n := w.host.taken[name]; n > 0 || r < len(l.m.Envelope.Recipients)-l.got.Left {
				rt.Errorf("%s was taken %d times, and is said to be left", name, n)
			}
			continue
		}
		delivered := l.got.Site == nil && l.got.Results[r].Failure == nil
		failed := l.got.Site == nil && !delivered && l.got.Results[r].Failure.Permanent
		switch taken := w.host.taken[name]; {
		case taken > 1:
			rt.Errorf("%s was taken %d times in one attempt", name, taken)
		case delivered && (taken == 0 || !strings.Contains(l.got.Results[r].Reply.Text, fmt.Sprintf("took m%d", i))):
			rt.Errorf("%s is said to be delivered: %s", name, l.got.Results[r].Reply)
		case !delivered && taken > 0 && !l.got.PossibleDuplicate:
			rt.Errorf("%s was taken and is not said to be: %s", name, show(l.got))
		case failed && !w.host.final[name] && !w.host.final[fmt.Sprintf("m%d", i)]:
			rt.Errorf("%s fails for good, which the host did not say of it: %s", name, show(l.got))
		case !delivered && w.calm && w.host.disorder != hangsUpAtDot:
			rt.Errorf("%s is not delivered although nothing speaks against it: %s", name, show(l.got))
		}
	}
}
