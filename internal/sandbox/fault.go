package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Stage is a point of a session at which a fault can strike.
type Stage string

const (
	// StageConnect is before anything was said, and before TLS where that is implicit. A reply ends the connection.
	StageConnect Stage = "connect"
	// StageGreeting is in place of the 220. After a 4xx or 5xx only QUIT is taken (RFC 5321 section 3.1).
	StageGreeting Stage = "greeting"
	// StageEHLO is at EHLO and HELO.
	StageEHLO Stage = "ehlo"
	// StageStartTLS is at the STARTTLS command.
	StageStartTLS Stage = "starttls"
	// StageTLS is in place of the handshake. A reply goes out in the clear and ends the connection.
	StageTLS Stage = "tls"
	// StageAuthCommand is at the AUTH command, before any prompt.
	StageAuthCommand Stage = "auth-command"
	// StageAuth is at the verdict on the credentials. The text to match is "AUTH", the mechanism and the username.
	StageAuth Stage = "auth"
	// StageMail is at MAIL.
	StageMail Stage = "mail"
	// StageRcpt is at RCPT.
	StageRcpt Stage = "rcpt"
	// StageData is at the DATA command. A 354 there takes the body even when no recipient was accepted.
	StageData Stage = "data"
	// StageBody is within the body, after Fault.After octets or at the final dot if that comes first. A reply goes out
	// at once; the rest of the body is then read, but neither kept nor answered.
	StageBody Stage = "body"
	// StageDot is after the final dot and before its reply. The message is kept unless the reply is 4xx or 5xx or
	// Fault.Lose is set, and before the fault waits or hangs; so Drop here is the case of RFC 1047.
	StageDot Stage = "dot"
	// StageRset is at RSET.
	StageRset Stage = "rset"
	// StageNoop is at NOOP.
	StageNoop Stage = "noop"
	// StageQuit is at QUIT.
	StageQuit Stage = "quit"
)

// Stages returns all stages in the order of a session.
func Stages() []Stage {
	return []Stage{StageConnect, StageGreeting, StageEHLO, StageStartTLS, StageTLS, StageAuthCommand, StageAuth,
		StageMail, StageRcpt, StageData, StageBody, StageDot, StageRset, StageNoop, StageQuit}
}

// Fault is a thing that goes wrong on purpose. What is set is done in this order: Delay, Hang, Reply, Drop or Reset.
type Fault struct {
	Stage Stage
	// Match is a part of the text at that stage, in any case of letters: of the command line; at connect, greeting and
	// tls of the client's address; at data, body and dot of any MAIL or RCPT line of the transaction, and at dot also of the
	// message's header. "" is any.
	Match string
	// Reply stands in place of the usual reply. Lines are separated by "\n" and get code, hyphens and CRLF as a
	// multi-line reply needs; text that ends with a "\n" of its own goes out as it is, byte for byte. A 2xx or 3xx
	// reply changes the words only: the command does what it always does, so that a 235 to a wrong password logs nobody
	// in. A 421 also closes the connection.
	Reply string
	// Drop closes the connection without a word (after Reply, when there is one).
	Drop bool
	// Reset is Drop with a TCP RST in place of a FIN.
	Reset bool
	// Hang waits until Clear takes the fault away, the client leaves, or the server stops. After Clear the session goes
	// on as the rest of the fault says, or as if nothing had been.
	Hang bool
	// Delay waits that long.
	Delay time.Duration
	// After is how many octets of the body pass first; only at StageBody.
	After int64
	// Lose forgets a message that would have been kept; only at StageDot.
	Lose bool
	// Skip is how many times the fault lets pass what it matches before it strikes.
	Skip int
	// Times is how often it strikes; 0 is until Clear.
	Times int
}

// armed is a fault in force.
type armed struct {
	Fault
	passed, struck int
	cleared        chan struct{} // closed by Clear
}

func (a *armed) spent() bool { return a.Times > 0 && a.struck >= a.Times }

// Inject puts faults in force, after those that are. At each event the first one that matches and is not spent strikes,
// and no other. The error is about a fault that could never do anything; then none is put in force.
func (s *Server) Inject(faults ...Fault) error {
	for _, f := range faults {
		if err := f.check(); err != nil {
			return fmt.Errorf("sandbox: fault %q: %w", f, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		s.faults = append(s.faults, &armed{Fault: f, cleared: make(chan struct{})})
	}
	return nil
}

// Clear takes away the faults of the given stages, or all faults when none is given, and lets go what hangs in them.
func (s *Server) Clear(stages ...Stage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = slices.DeleteFunc(s.faults, func(a *armed) bool {
		gone := len(stages) == 0 || slices.Contains(stages, a.Stage)
		if gone {
			close(a.cleared)
		}
		return gone
	})
}

// Faults returns the faults that can still strike, with what is left of their Skip and Times.
func (s *Server) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	var left []Fault
	for _, a := range s.faults {
		if a.spent() {
			continue
		}
		f := a.Fault
		f.Skip -= a.passed
		if f.Times > 0 {
			f.Times -= a.struck
		}
		left = append(left, f)
	}
	return left
}

// strike returns the fault that strikes at stage, or nil. Texts are what its Match may be found in.
func (s *Server) strike(stage Stage, texts ...string) *armed {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.faults {
		if a.Stage != stage || a.spent() || !a.matches(texts) {
			continue
		}
		if a.passed < a.Skip {
			a.passed++
			continue
		}
		a.struck++
		if s.stats.Faults == nil {
			s.stats.Faults = map[Stage]int{}
		}
		s.stats.Faults[stage]++
		s.notify()
		return a
	}
	return nil
}

func (f Fault) matches(texts []string) bool {
	if f.Match == "" {
		return true
	}
	match := strings.ToLower(f.Match)
	return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(strings.ToLower(t), match) })
}

func (f Fault) check() error {
	switch {
	case !slices.Contains(Stages(), f.Stage):
		return fmt.Errorf("no stage is called %q; the stages are %s", f.Stage, joinStages())
	case f.Reply == "" && !f.Drop && !f.Reset && !f.Hang && f.Delay == 0 && !f.Lose:
		return errors.New("it does nothing; give it a reply, drop, reset, hang or delay")
	case f.Delay < 0 || f.After < 0 || f.Skip < 0 || f.Times < 0:
		return errors.New("delay, after, skip and times cannot be negative")
	case f.After != 0 && f.Stage != StageBody:
		return fmt.Errorf("after counts octets of the body and belongs to stage %s", StageBody)
	case f.Lose && f.Stage != StageDot:
		return fmt.Errorf("lose belongs to stage %s", StageDot)
	}
	return nil
}

func joinStages() string {
	var names []string
	for _, s := range Stages() {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}
