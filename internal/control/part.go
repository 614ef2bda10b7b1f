package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"relayd/queue"
	"relayd/smarthost"
)

// statusPatience is how long an answer about the status waits for its parts. A part that comes later, such as from a
// disk that hangs, is shown as it was last.
const statusPatience = time.Second

// part is a part of the status, which somebody else computes. There is one computation at a time, however many ask, so
// that nothing piles up behind one that hangs.
type part[T any] struct {
	what    string // it shows, for an operator
	compute func() T

	mu       sync.Mutex
	last     T
	panicked any
	began    time.Time
	running  chan struct{} // closed when the computation has ended; nil when there is none
}

// begin has the part computed, unless it is under way, and returns what takes the value. That waits until ctx is done,
// and then takes the last value and says in late what it is.
func (p *part[T]) begin() (take func(context.Context) (value T, late string)) {
	if p.compute == nil {
		return func(context.Context) (value T, late string) { return value, "" }
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		p.began, p.running = time.Now(), make(chan struct{})
		go p.run(p.running)
	}
	done, began := p.running, p.began
	return func(ctx context.Context) (value T, late string) {
		select {
		case <-done:
		case <-ctx.Done():
		}
		select {
		case <-done: // also when both happened
		default:
			late = fmt.Sprintf("%s: no answer since %s; what is shown is older", p.what, began.Format(time.DateTime))
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.panicked != nil {
			panic(p.panicked)
		}
		return p.last, late
	}
}

func (p *part[T]) run(done chan struct{}) {
	var value T
	defer func() {
		panicked := recover() // for those who asked
		p.mu.Lock()
		defer p.mu.Unlock()
		p.last, p.panicked, p.running = value, panicked, nil
		close(done)
	}()
	value = p.compute()
}

// parts are those that may have to wait for the disk, or for somebody who does.
type parts struct {
	queue         part[queue.Counts]
	routes        part[[]smarthost.RouteStatus]
	paused        part[[]string]
	oauth         part[[]OAuthStatus]
	traffic       part[queue.Traffic]
	undeliverable part[[]string]
}

// newParts returns the parts that opt has functions for.
func newParts(opt Options) *parts {
	p := &parts{}
	p.queue.what, p.queue.compute = "the numbers of the queue", opt.Queue.Counts
	p.routes.what, p.routes.compute = "the smarthosts", opt.Smarthost
	p.paused.what, p.paused.compute = "what keeps mail from being taken", opt.Paused
	p.oauth.what, p.oauth.compute = "the logins by OAuth2", opt.OAuth
	p.undeliverable.what, p.undeliverable.compute = "the undeliverable bounces", opt.Undeliverable
	p.traffic.what, p.traffic.compute = "the traffic", opt.Traffic
	return p
}

// fill has all parts computed at the same time, and puts them into st within statusPatience. It returns which of them
// are older, in words.
func (p *parts) fill(st *Status) (late []string) {
	counts, routes, paused, oauth := p.queue.begin(), p.routes.begin(), p.paused.begin(), p.oauth.begin()
	traffic, undeliverable := p.traffic.begin(), p.undeliverable.begin()
	ctx, cancel := context.WithTimeout(context.Background(), statusPatience)
	defer cancel()
	note := func(words string) {
		if words != "" {
			late = append(late, words)
		}
	}
	var words string
	st.Queue, words = counts(ctx)
	note(words)
	st.Routes, words = routes(ctx)
	note(words)
	st.Paused, words = paused(ctx)
	note(words)
	st.OAuth, words = oauth(ctx)
	note(words)
	st.Undeliverable, words = undeliverable(ctx)
	note(words)
	if p.traffic.compute != nil {
		t, words := traffic(ctx)
		st.Traffic = &t
		note(words)
	}
	return late
}
