//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
	"relayd/queue"
	"relayd/smarthost"
)

// poisonHost is a host in memory that hangs up at the stage named at, in transactions of senders that begin with
// "poison". It takes dotTime for each message.
type poisonHost struct {
	at   string
	mu   sync.Mutex
	away bool
	// took counts good messages by sender, and dots the final dots of poison ones; reports are the recipients of mail from
	// the null path. all is closed when took has want messages.
	took, dots map[string]int
	reports    map[string]int
	want       int
	all        chan struct{}
}

const dotTime = 20 * time.Millisecond

func (h *poisonHost) dial(context.Context, string, string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return nil, errors.New("away")
	}
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		h.serve(server)
	}()
	return client, nil
}

func (h *poisonHost) serve(nc net.Conn) {
	br := bufio.NewReader(nc)
	io.WriteString(nc, "220 host ESMTP\r\n")
	var from, to string
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		verb := strings.ToUpper(line[:4])
		reply := "250 ok"
		switch verb {
		case "EHLO":
			reply = "250-host\r\n250 PIPELINING"
		case "MAIL":
			from = line[strings.Index(line, "<")+1 : strings.Index(line, ">")]
		case "RCPT":
			to = line[strings.Index(line, "<")+1 : strings.Index(line, ">")]
		case "DATA":
			reply = "354 go"
		case "QUIT":
			io.WriteString(nc, "221 bye\r\n")
			return
		}
		if verb == h.at && strings.HasPrefix(from, "poison") {
			return
		}
		if _, err := io.WriteString(nc, reply+"\r\n"); err != nil {
			return
		}
		if verb == "DATA" && !h.body(br, nc, from, to) {
			return
		}
	}
}

// body reads a message to its final dot and answers that, if it is to be answered.
func (h *poisonHost) body(br *bufio.Reader, nc net.Conn, from, to string) bool {
	for line := ""; line != ".\r\n"; {
		var err error
		if line, err = br.ReadString('\n'); err != nil {
			return false
		}
	}
	time.Sleep(dotTime)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case strings.HasPrefix(from, "poison"):
		h.dots[from+to]++
		return false
	case from == "":
		h.reports[to]++
	default:
		h.took[from+to]++
		if len(h.took) == h.want && h.all != nil {
			close(h.all)
		}
	}
	_, err := io.WriteString(nc, "250 taken\r\n")
	return err == nil
}

// Twenty messages at which the host hangs up, the oldest of the queue, cost the others a few short pauses, however many
// they are and whoever sent them; and they end, reported.
func TestPoison_DoesNotHoldUpOthers(t *testing.T) {
	const poisons, goods = 20, 300
	type source struct{ client, sender string }
	for layout, of := range map[string]func(i int) (poison, good source){
		"one source": func(int) (poison, good source) {
			return source{"192.168.1.1", "poison@lan.example"}, source{"192.168.1.2", "good@lan.example"}
		},
		"a client each": func(i int) (poison, good source) {
			letter := string(rune('a' + i%26))
			return source{fmt.Sprintf("192.168.2.%d", i%200), "poison." + letter + "@lan.example"}, source{"192.168.1.2", "good@lan.example"}
		},
		"a sender each of the same client": func(i int) (poison, good source) {
			letter := string(rune('a' + i%26))
			return source{"192.168.1.2", "poison." + letter + "@lan.example"}, source{"192.168.1.2", "good@lan.example"}
		},
		"more than the good": func(i int) (poison, good source) {
			return source{"192.168.1.1", "poison@lan.example"}, source{fmt.Sprintf("192.168.2.%d", i%200), "good@lan.example"}
		},
	} {
		for _, stage := range []string{"MAIL", "RCPT", "DATA", "dot"} {
			t.Run(layout+" at "+stage, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := &poisonHost{at: stage, away: true, want: goods, took: map[string]int{}, dots: map[string]int{},
						reports: map[string]int{}, all: make(chan struct{})}
					q := poisonQueue(t, h)
					for i := range poisons {
						from, _ := of(i)
						submitTo(t, q, from.client, from.sender, fmt.Sprintf("bad%d@example.com", i))
					}
					time.Sleep(time.Minute)
					for i := range goods {
						_, from := of(i)
						submitTo(t, q, from.client, from.sender, fmt.Sprintf("rcpt%d@example.com", i))
					}
					h.mu.Lock()
					h.away = false
					h.mu.Unlock()
					begun := time.Now()
					select {
					case <-h.all:
					case <-time.After(time.Hour):
						t.Fatalf("%d of %d good messages were taken within an hour", len(h.took), goods)
					}
					if took := time.Since(begun); took > time.Minute { // the outage's last pause is 20 s, and the draw may miss a few times
						t.Errorf("the good messages took %v", took)
					}
					for i := 0; q.Counts().Active+q.Counts().Deferred > 0; i++ {
						if i == 24 {
							t.Fatalf("left in the queue after two days: %+v", q.Counts())
						}
						submitTo(t, q, "192.168.1.9", "good@lan.example", fmt.Sprintf("later%d@example.com", i))
						time.Sleep(2 * time.Hour)
					}
					h.wellEnded(t, poisons)
				})
			})
		}
	}
}

// wellEnded looks whether each good message went once, and each poison one not too often and with a report.
func (h *poisonHost) wellEnded(t *testing.T, poisons int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for m, n := range h.took {
		if n != 1 {
			t.Errorf("%s was taken %d times", m, n)
		}
	}
	for m, n := range h.dots {
		if n > 5 {
			t.Errorf("the final dot of %s was sent %d times", m, n)
		}
	}
	reports := 0
	for _, n := range h.reports {
		reports += n
	}
	if reports != poisons {
		t.Errorf("%d reports for %d poison messages", reports, poisons)
	}
}

// poisonQueue is a queue with the daemon's usual pauses whose mail goes to h.
func poisonQueue(t *testing.T, h *poisonHost) *queue.Queue {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	router, err := smarthost.New(smarthost.Options{Hostname: "relay.example", Dial: h.dial, Log: log, ProbeMin: probeMin,
		ProbeMax: probeMax, Routes: []smarthost.Route{{Name: "isp", Hosts: []string{"host:25"}, TLS: smarthost.ModeOff}}})
	if err != nil {
		t.Fatal(err)
	}
	q, err := queue.Open(queue.Options{Dir: t.TempDir(), Hostname: "relay.example", Transport: router, Log: log,
		Policy: queue.Policy{RetryMin: time.Minute, RetryMax: time.Hour, MaxAge: 12 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	q.Start()
	t.Cleanup(func() {
		if err := errors.Join(q.Close(context.Background()), router.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	return q
}

// submitTo queues a message.
func submitTo(t *testing.T, q *queue.Queue, client, sender, to string) {
	t.Helper()
	env := envelope.Envelope{ReversePath: envelope.Path(sender), Recipients: []envelope.Recipient{{Path: envelope.Path(to)}}}
	w, err := q.Begin(env, envelope.Origin{Addr: netip.MustParseAddr(client)})
	if err == nil {
		_, err = io.WriteString(w, "Subject: test\r\n\r\nbody\r\n")
	}
	if err == nil {
		err = w.Commit(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
}
