//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"relayd/internal/envelope"
	"relayd/queue"
)

// routeName is the route of relayd's configuration, which messages that are put into its queue here name too.
const routeName = "smarthost"

// shut is a transport by which nothing goes.
type shut struct{}

func (shut) Legs(_ envelope.Origin, env envelope.Envelope) []envelope.Leg {
	leg := envelope.Leg{Route: routeName}
	for i := range env.Recipients {
		leg.Recipients = append(leg.Recipients, i)
	}
	return []envelope.Leg{leg}
}

func (shut) Concurrency(string) int { return 0 }

func (shut) Admit(string) (time.Time, bool) { return time.Time{}, true }
func (shut) Forgo(string)                   {}

func (shut) Deliver(context.Context, string, envelope.Message) envelope.Attempt {
	panic("a transport without room was used")
}

// fillers is how many write to a queue at the same time, so that a commit serves many.
const fillers = 256

// fill puts messages of 2 KiB into the queue in dir until there are n, by the queue's own code, each as durable as one
// that came by SMTP. It returns how many it wrote.
func fill(ctx context.Context, dir string, n int) (wrote int, err error) {
	q, err := queue.Open(queue.Options{Dir: dir, Hostname: "bench.lan.example", Transport: shut{},
		Policy: queue.Policy{RetryMin: time.Minute, RetryMax: time.Hour, MaxAge: 5 * 24 * time.Hour, History: 30 * 24 * time.Hour},
		Log:    slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	q.Start()
	defer func() { err = errors.Join(err, q.Close(context.Background())) }()
	have := q.Counts()
	env := envelope.Envelope{ReversePath: "a@lan.example", Recipients: []envelope.Recipient{{Path: "b@dest.example"}}}
	body := []byte("Subject: waiting\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 28))
	var left atomic.Int64
	wrote = max(0, n-have.Active-have.Deferred)
	left.Store(int64(wrote))
	failed := make(chan error, fillers)
	var all sync.WaitGroup
	for range fillers {
		all.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				if err := put(ctx, q, env, body); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return wrote, errors.Join(<-failed, ctx.Err())
}

func put(ctx context.Context, q *queue.Queue, env envelope.Envelope, body []byte) error {
	w, err := q.Begin(env, envelope.Origin{Helo: "lan.example", Protocol: "ESMTP"})
	if err != nil {
		return err
	}
	if _, err := w.Write(body); err != nil {
		return errors.Join(err, w.Abort())
	}
	return w.Commit(ctx)
}

// backlog is what relayd comes to with a queue of some length.
type backlog struct {
	waiting    int
	filled     float64       // messages a second that went in before
	size       int64         // of the queue's folder, octets
	first      time.Duration // from the start of the program to the smarthost's first message
	page       time.Duration // from the start of relayctl queue list to the last line of its first page
	peak       int64         // resident, octets, at most
	anonymous  int64         // of it what is not the database's file, at the end
	delivered  float64       // messages a second afterwards
	cost       float64       // milliseconds of processor time for each of them
	intake     float64       // messages a second taken from 16 sessions meanwhile
	cleanStop  time.Duration // how long an orderly stop took
	afterCrash time.Duration // as first, when the relay before was killed
}

// measureBacklogs looks at relayd with queues of growing length. The same folder is filled up in between.
func (l *lab) measureBacklogs(ctx context.Context) ([]backlog, error) {
	dir, remove, err := l.room()
	if err != nil {
		return nil, err
	}
	defer remove()
	var all []backlog
	for _, n := range []int{shortBacklog, 100_000, 1_000_000} {
		if n > l.waiting || n > max(shortBacklog, l.most(n)) {
			continue
		}
		l.say("backlog: filling up to %d", n)
		begun := time.Now()
		wrote, err := fill(ctx, filepath.Join(dir, "queue"), n)
		if err != nil {
			return all, err
		}
		b := backlog{waiting: n, filled: float64(wrote) / time.Since(begun).Seconds()}
		if err := l.measureBacklog(ctx, dir, &b); err != nil {
			return all, err
		}
		l.say("backlog: %d: %s s to the first delivery, %s s to the first page, peak %s MiB", n, show(b.first), show(b.page),
			peak.show(float64(b.peak)))
		all = append(all, b)
	}
	return all, nil
}

// Bounds of the look at a relay that works off a backlog.
const (
	shortBacklog  = 10_000
	backlogWindow = 3 * time.Second
	backlogIntake = 2000
)

func (l *lab) measureBacklog(ctx context.Context, dir string, b *backlog) error {
	ctx, cancel := context.WithTimeout(ctx, 2*runPatience)
	defer cancel()
	to, err := startSink("", true)
	if err != nil {
		return err
	}
	defer to.close()
	b.size = sizeOf(filepath.Join(dir, "queue"))
	r, err := l.startWith(ctx, dir, to, &b.first)
	if err != nil {
		return err
	}
	if err := errors.Join(b.noteMemory(r), r.kill()); err != nil {
		return err
	}
	if r, err = l.startWith(ctx, dir, to, &b.afterCrash); err != nil {
		return err
	}
	defer r.stop()
	if b.page, err = l.firstPage(ctx, r); err != nil {
		return err
	}
	if err := b.window(ctx, r, to); err != nil {
		return err
	}
	took, err := l.send(ctx, r.addr(), load{16, l.most(backlogIntake), 2 << 10, true})
	if err != nil {
		return err
	}
	b.intake = float64(l.most(backlogIntake)) / took.Seconds()
	if err := b.noteMemory(r); err != nil {
		return err
	}
	begun := time.Now()
	r.stop()
	b.cleanStop = time.Since(begun)
	return nil
}

// noteMemory notes what a relay had in memory at most, and what of it now is not the database's file.
func (b *backlog) noteMemory(r *relay) error {
	most, err := r.peakResident()
	if err != nil {
		return err
	}
	b.peak = max(b.peak, most)
	pid, err := r.main(false)
	if err != nil {
		return err
	}
	b.anonymous, err = field(fmt.Sprintf("/proc/%d/status", pid), "RssAnon:")
	return err
}

// startWith starts relayd in dir and notes how long it took until the smarthost had a message from it.
func (l *lab) startWith(ctx context.Context, dir string, to *sink, first *time.Duration) (*relay, error) {
	goal := to.count() + 1
	told := to.expect(goal)
	begun := time.Now()
	r, err := l.startRelayd(dir, setup{sink: to.addr()})
	if err != nil {
		return nil, err
	}
	at, err := to.receive(ctx, told, goal)
	if err != nil {
		r.stop()
		return nil, err
	}
	*first = at.Sub(begun)
	return r, nil
}

// window measures the deliveries of a moment.
func (b *backlog) window(ctx context.Context, r *relay, to *sink) error {
	before, err := r.cpu()
	if err != nil {
		return err
	}
	have, begun := to.count(), time.Now()
	patience, cancel := context.WithTimeout(ctx, backlogWindow)
	defer cancel()
	at, err := to.wait(patience, have+min(b.waiting*3/4, 10_000))
	if err != nil {
		at = time.Now() // the window was the shorter one
	}
	after, err := r.cpu()
	if err != nil {
		return err
	}
	n := to.count() - have
	if n == 0 {
		return errors.Join(errors.New("no message was delivered in the window"), ctx.Err())
	}
	b.delivered = float64(n) / at.Sub(begun).Seconds()
	b.cost = (after - before).Seconds() * 1000 / float64(n)
	return ctx.Err()
}

// kill ends relayd as a power cut would.
func (r *relay) kill() error {
	pid, err := r.main(false)
	if err != nil {
		return err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	if err := p.Kill(); err != nil {
		return err
	}
	r.stop()
	return nil
}

// pageLines is the first page of relayctl queue list.
const pageLines = 1000

// firstPage returns how long relayctl took until it had printed its first page.
func (l *lab) firstPage(ctx context.Context, r *relay) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends it
	cmd := exec.CommandContext(ctx, l.ctl, "--config", r.config, "queue", "list")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(out)
	n := 0
	for n < pageLines && lines.Scan() {
		n++
	}
	took := time.Since(begun)
	cancel()
	cmd.Wait() // it was killed
	if n < pageLines {
		return 0, errors.Join(fmt.Errorf("relayctl queue list printed %d lines of %d", n, pageLines), lines.Err())
	}
	return took, nil
}

func sizeOf(dir string) (n int64) {
	filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			n += info.Size()
		}
		return nil
	})
	return n
}
