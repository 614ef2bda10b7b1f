package smarthost

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// disorders are the ways in which a modelHost gets an envelope behind a body wrong.
const (
	keepsOrder       = "keeps order"
	throwsAway       = "throws away what comes with a body"
	hangsUp          = "hangs up on what comes with a body"
	hangsUpAtDot     = "hangs up at the dot when there is something behind it"
	answers503       = "answers 503 to what comes with a body"
	answersOwnWords  = "refuses what comes with a body in words of its own"
	answers354       = "answers 354 to what comes with a body"
	refusesTheBody   = "refuses a body that something comes with"
	refusesAndLeaves = "refuses what comes with a body, and hangs up"
)

var disorders = []string{keepsOrder, keepsOrder, keepsOrder, throwsAway, hangsUp, hangsUpAtDot, answers503, answersOwnWords,
	answers354, refusesTheBody, refusesAndLeaves}

// plan is how a modelHost answers one transaction: by "mail", "rcpt0", "rcpt1" ..., "data" and "dot", what it says there.
// What has no entry is accepted. Two words are no replies: "hang up", and "take and hang up" at the dot.
type plan map[string]string

const takeAndHangUp = "take and hang up"

// modelHost is a host that keeps a ledger. It answers the nth transaction of a message by the nth of the message's plans,
// and well when there is none.
type modelHost struct {
	pipelining bool
	disorder   string
	plans      map[int][]plan
	open       sync.WaitGroup

	mu     sync.Mutex
	tries  map[int]int
	taken  map[string]int  // by recipient "r0.m3", how often the host took a message for it
	final  map[string]bool // by recipient, whether it was refused for good, by a plan
	lost   map[int]bool    // by message, whether a dot was not answered
	wrongs []string        // what the client did that no client may
}

func (h *modelHost) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	h.open.Go(func() {
		s := modelSession{host: h, nc: server, br: bufio.NewReaderSize(server, 64<<10)}
		s.run()
		server.Close()
	})
	return client, nil
}

func (h *modelHost) wrong(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrongs = append(h.wrongs, fmt.Sprintf(format, args...))
}

// modelSession is one connection of a modelHost.
type modelSession struct {
	host *modelHost
	nc   net.Conn
	br   *bufio.Reader
	// The transaction: whose it is, -1 for none, the recipients asked for and those that were accepted.
	message int
	plan    plan
	asked   int
	rcpts   []string
	// wary is set while commands come that were there before the reply to a dot.
	wary bool
}

// say sends a reply, and reports whether the session goes on.
func (s *modelSession) say(reply string) bool {
	if reply == hangUp {
		return false
	}
	_, err := io.WriteString(s.nc, reply+"\r\n")
	return err == nil && !strings.HasPrefix(reply, "421")
}

func (s *modelSession) run() {
	s.message = -1
	if !s.say("220 model") {
		return
	}
	for {
		line, err := s.br.ReadString('\n')
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		if !s.command(strings.ToUpper(verb), rest) {
			return
		}
		s.wary = s.wary && s.br.Buffered() > 0
	}
}

func (s *modelSession) command(verb, rest string) bool {
	if s.wary && s.host.disorder != keepsOrder {
		return s.confused(verb)
	}
	switch {
	case strings.HasPrefix(verb, "EHLO"):
		if s.host.pipelining {
			return s.say("250-model\r\n250-8BITMIME\r\n250 PIPELINING")
		}
		return s.say("250 model")
	case verb == "QUIT":
		s.say("221 bye")
		return false
	case verb == "RSET":
		s.message = -1
		return s.say("250 reset")
	case verb == "MAIL FROM":
		return s.mail(rest)
	case verb == "RCPT TO":
		return s.rcpt(rest)
	case verb == "DATA":
		return s.data()
	}
	s.host.wrong("the command %q", verb)
	return s.say("500 what")
}

// confused answers a command that was there before the reply to a dot.
func (s *modelSession) confused(verb string) bool {
	switch s.host.disorder {
	case answersOwnWords:
		if verb == "MAIL FROM" {
			return s.say("554 5.7.1 not like this")
		}
		return s.say("503 5.5.1 what for")
	case answers354:
		s.say("354 a body?")
		return false
	case refusesAndLeaves:
		s.say("554 5.7.1 not like this")
		return false
	}
	return s.say("503 5.5.1 out of order")
}

// answer says what the plan has at step, or what is usual; it reports whether that was a yes, and whether the session goes
// on.
func (s *modelSession) answer(step, usual string) (yes, ok bool) {
	reply, planned := s.plan[step]
	if !planned {
		reply = usual
	}
	return reply[0] == '2' || reply[0] == '3', s.say(reply)
}

func (s *modelSession) mail(rest string) bool {
	if s.message >= 0 {
		s.host.wrong("a second MAIL in a transaction")
		return s.say("503 5.5.1 there is a sender")
	}
	id, err := strconv.Atoi(between(rest, "<m", "@"))
	if err != nil {
		s.host.wrong("MAIL %s", rest)
	}
	h := s.host
	h.mu.Lock()
	s.plan = nil
	if n := h.tries[id]; n < len(h.plans[id]) {
		s.plan = h.plans[id][n]
	}
	h.tries[id]++
	if strings.HasPrefix(s.plan["mail"], "5") {
		h.final[fmt.Sprintf("m%d", id)] = true
	}
	h.mu.Unlock()
	s.asked, s.rcpts = 0, nil
	yes, ok := s.answer("mail", "250 2.1.0 sender ok")
	if yes {
		s.message = id
	}
	return ok
}

func (s *modelSession) rcpt(rest string) bool {
	name := between(rest, "<", "@")
	if s.message < 0 {
		return s.say("503 5.5.1 no sender")
	}
	if !strings.HasSuffix(name, fmt.Sprintf(".m%d", s.message)) {
		s.host.wrong("the recipient %s of another message in that of %d", name, s.message)
	}
	step := fmt.Sprintf("rcpt%d", s.asked)
	s.asked++
	if strings.HasPrefix(s.plan[step], "5") {
		s.host.mu.Lock()
		s.host.final[name] = true
		s.host.mu.Unlock()
	}
	yes, ok := s.answer(step, "250 2.1.5 recipient ok")
	if yes {
		s.rcpts = append(s.rcpts, name)
	}
	return ok
}

func (s *modelSession) data() bool {
	if s.message < 0 {
		return s.say("503 5.5.1 no sender")
	}
	usual := "354 go ahead"
	if len(s.rcpts) == 0 && s.plan["empty"] == "" {
		usual = "554 5.5.1 no valid recipients"
	}
	s.finally("data")
	yes, ok := s.answer("data", usual)
	if !yes || !ok {
		return ok
	}
	return s.body()
}

// finally notes that the accepted recipients are refused for good at step, where they are.
func (s *modelSession) finally(step string) {
	if !strings.HasPrefix(s.plan[step], "5") {
		return
	}
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	for _, r := range s.rcpts {
		s.host.final[r] = true
	}
}

func (s *modelSession) body() bool {
	var lines []string
	for {
		line, err := s.br.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		lines = append(lines, line)
	}
	id, rcpts := s.message, s.rcpts
	s.message = -1
	switch want := fmt.Sprintf("Subject: m%d\r\n", id); {
	case len(rcpts) == 0 && len(lines) > 0:
		s.host.wrong("a body for message %d, of which every recipient was refused", id)
	case len(rcpts) == 0:
		return s.say("554 5.5.1 no valid recipients")
	case len(lines) != 3 || lines[0] != want:
		s.host.wrong("the body %q for message %d", lines, id)
	}
	s.wary = s.br.Buffered() > 0
	if s.wary && !s.behind(id) {
		return false
	}
	reply, planned := s.plan["dot"]
	if !planned {
		reply = fmt.Sprintf("250 2.0.0 took m%d", id)
	}
	s.host.mu.Lock()
	if reply[0] == '2' || reply == takeAndHangUp {
		for _, r := range rcpts {
			s.host.taken[r]++
		}
	}
	if reply == takeAndHangUp || reply == hangUp {
		s.host.lost[id] = true
	}
	s.host.mu.Unlock()
	s.rcpts = rcpts
	s.finally("dot")
	if reply == takeAndHangUp {
		return false
	}
	if !s.say(reply) {
		return false
	}
	return !s.wary || s.host.disorder != hangsUp
}

// behind does what this host does at a dot with something behind it, and reports whether the session goes on.
func (s *modelSession) behind(id int) bool {
	switch s.host.disorder {
	case throwsAway:
		s.br.Discard(s.br.Buffered())
		s.wary = false
	case hangsUpAtDot:
		s.host.mu.Lock()
		s.host.lost[id] = true
		s.host.mu.Unlock()
		return false
	case refusesTheBody:
		s.say("554 SMTP synchronization error")
		return false
	}
	return true
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}
