//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/smtp"
	"net/textproto"
	"regexp"
	"strings"
	"sync"
	"testing"

	"relayd/internal/sandbox"
	"relayd/queue"
)

// ledger is what clients were told of their letters, and what operators asked for. At the end it is held against what
// the smarthost has: each 250 ends delivered, reported, or deleted by an operator, for each recipient.
type ledger struct {
	mu      sync.Mutex
	letters map[string]*letter // by key
	deleted map[string]bool    // ids that an operator wanted gone
	refused int                // 4yz
	faults  []string
}

type letter struct {
	key  string
	to   []string
	body []byte
	id   string // "" until its 250
}

func newLedger() *ledger { return &ledger{letters: map[string]*letter{}, deleted: map[string]bool{}} }

func (l *ledger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, fmt.Sprintf(format, args...))
}

// The smarthosts of these tests refuse whom the first word of the address says.
func trouble(later int) []sandbox.Fault {
	return []sandbox.Fault{
		{Stage: sandbox.StageRcpt, Match: "<never.", Reply: "550 5.1.1 nobody here"},
		{Stage: sandbox.StageRcpt, Match: "<later.", Reply: "450 4.2.1 later", Times: later},
	}
}

// compose makes the n-th letter of a client: mostly small, to one recipient; some with several, some refused at once or
// at first by their mailbox, some large enough for the spool.
func (l *ledger) compose(client string, n int) *letter {
	key := fmt.Sprintf("%s.%d", client, n)
	words := []string{"good"}
	switch n % 8 {
	case 3:
		words = []string{"never"}
	case 5:
		words = []string{"later"}
	case 7:
		words = []string{"good", "never", "later", "fine"}
	}
	m := &letter{key: key}
	for _, w := range words {
		m.to = append(m.to, w+"."+key+"@example.com")
	}
	lines := 5
	if n%6 == 4 {
		lines = 5000 // 90 kB: through the spool
	}
	m.body = []byte("Subject: " + key + "\r\n\r\n" + strings.Repeat("0123456789abcdef\r\n", lines))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.letters[key] = m
	return m
}

var queuedAs = regexp.MustCompile(`queued as (\w+)`)

// send hands a letter in, and notes its id when it gets its 250. Any refusal must be temporary: the client has done
// nothing wrong. The error is the connection's end, or a refusal.
func (l *ledger) send(c *smtp.Client, m *letter) error {
	words, err := transact(c, m)
	if refusal, ok := errors.AsType[*textproto.Error](err); ok {
		if refusal.Code < 400 || refusal.Code > 499 {
			l.fault("%s was answered %v", m.key, refusal)
		}
		l.mu.Lock()
		l.refused++
		l.mu.Unlock()
	}
	if err != nil {
		return err
	}
	id := queuedAs.FindStringSubmatch(words)
	if id == nil {
		l.fault("%s: a 250 without an id: %s", m.key, words)
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m.id = id[1]
	return nil
}

func transact(c *smtp.Client, m *letter) (words string, err error) {
	if err := c.Mail("from." + m.key + "@lan.example"); err != nil {
		return "", err
	}
	for _, to := range m.to {
		if err := c.Rcpt(to); err != nil {
			return "", err
		}
	}
	if err := c.Text.PrintfLine("DATA"); err != nil {
		return "", err
	}
	if _, _, err := c.Text.ReadResponse(354); err != nil {
		return "", err
	}
	w := c.Text.DotWriter()
	if _, err := w.Write(m.body); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	_, words, err = c.Text.ReadResponse(250)
	return words, err
}

// outcome sums up what has become of the letters.
type outcome struct {
	begun, accepted, refused, delivered, reported, deleted, duplicates, lost int
	// unheard are letters that arrived though their clients never saw the 250.
	unheard int
}

func (o outcome) String() string {
	return fmt.Sprintf("%d messages begun, %d got a 250, %d a 4yz; recipients: %d delivered, %d reported, %d deleted by an operator; "+
		"%d lost, %d duplicates; %d messages arrived without their client having seen the 250",
		o.begun, o.accepted, o.refused, o.delivered, o.reported, o.deleted, o.lost, o.duplicates, o.unheard)
}

var toldOf = regexp.MustCompile(`(?m)^Final-Recipient: rfc822; ?(\S+)\r?\nAction: failed\r?$`)

// settle holds the ledger against what has arrived. show tells what the relay knows of a message.
func (l *ledger) settle(t *testing.T, arrived []sandbox.Message, show func(id string) (queue.Detail, error)) (o outcome) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		t.Error(f)
	}
	delivered, reported := map[string]int{}, map[string]int{}
	for _, m := range arrived {
		l.arrive(t, m, delivered, reported)
	}
	o.refused = l.refused
	for _, m := range l.letters {
		o.begun++
		if m.id != "" {
			o.accepted++
		}
		seen := false
		for _, to := range m.to {
			d, r := delivered[to], reported[to]
			seen = seen || d+r > 0
			o.duplicates += max(d-1, 0) + max(r-1, 0)
			never := strings.HasPrefix(to, "never.")
			switch {
			case never && d > 0 || !never && r > 0:
				t.Errorf("%s was delivered to %d times and reported %d times", to, d, r)
			case d > 0:
				o.delivered++
			case r > 0:
				o.reported++
			case m.id == "":
			default:
				d, err := show(m.id)
				if l.deleted[m.id] && wasDeleted(d) {
					o.deleted++
					continue
				}
				o.lost++
				t.Errorf("%s got its 250 as %s, and %s has neither the message nor a report; the relay knows: %+v, %v", m.key, m.id, to, d, err)
			}
		}
		if seen && m.id == "" {
			o.unheard++
		}
	}
	return o
}

// arrive counts one message of the smarthost: a letter as it was sent, or a report.
func (l *ledger) arrive(t *testing.T, m sandbox.Message, delivered, reported map[string]int) {
	t.Helper()
	if m.ReversePath == "" {
		told := toldOf.FindAllSubmatch(m.Data, -1)
		if len(told) == 0 {
			t.Errorf("a report that tells of nobody:\n%s", m.Data)
		}
		for _, to := range told {
			reported[string(to[1])]++
		}
		return
	}
	key := strings.TrimSuffix(strings.TrimPrefix(m.ReversePath, "from."), "@lan.example")
	sent := l.letters[key]
	if sent == nil || !bytes.HasSuffix(m.Data, sent.body) {
		t.Errorf("a message arrived that nobody sent like this: from %q, %d octets", m.ReversePath, len(m.Data))
		return
	}
	for _, to := range m.Recipients {
		asked := false
		for _, want := range sent.to {
			asked = asked || want == to
		}
		if !asked {
			t.Errorf("%s was delivered to %s, who is no recipient", key, to)
		}
		delivered[to]++
	}
}

func wasDeleted(d queue.Detail) bool {
	for _, e := range d.Events {
		if e.What == "deleted" {
			return d.Gone
		}
	}
	return false
}
