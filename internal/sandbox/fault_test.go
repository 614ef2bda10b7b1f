package sandbox_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"relayd/internal/sandbox"
)

func TestFault_SkipAndTimesCountTheEventsThatMatch(t *testing.T) {
	s, p := open(t, sandbox.Options{},
		sandbox.Fault{Stage: sandbox.StageNoop, Match: "x", Reply: "450 no", Skip: 2, Times: 2})
	var got []string
	for _, command := range []string{"NOOP x", "NOOP", "NOOP X", "NOOP x", "NOOP", "NOOP x", "NOOP x"} {
		if command == "NOOP" {
			p.send("NOOP\r\n")
			p.expect("250*")
			continue
		}
		p.send(command + "\r\n")
		got = append(got, p.readReply())
		if len(got) == 3 {
			left := s.Faults()
			if len(left) != 1 || left[0].Times != 1 || left[0].Skip != 0 {
				t.Errorf("after one strike Faults returns %v", left)
			}
		}
	}
	if want := "250 250 450 450 250"; strings.Join(got, " ") != want {
		t.Errorf("the replies are %s, not %s", got, want)
	}
	if len(s.Faults()) != 0 || s.Stats().Faults[sandbox.StageNoop] != 2 {
		t.Errorf("a spent fault is left: %v, struck %v", s.Faults(), s.Stats().Faults)
	}
}

func TestFault_TheFirstThatMatchesStrikesAlone(t *testing.T) {
	s, p := open(t, sandbox.Options{}, sandbox.Fault{Stage: sandbox.StageNoop, Reply: "250 one", Times: 1},
		sandbox.Fault{Stage: sandbox.StageNoop, Reply: "250 two"}, sandbox.Fault{Stage: sandbox.StageRset, Reply: "250 three"})
	p.send("NOOP\r\n")
	p.expect("250 one")
	p.send("NOOP\r\n")
	p.expect("250 two")
	s.Clear(sandbox.StageNoop)
	p.send("NOOP\r\n")
	p.expect("250 2.0.0 ok")
	p.send("RSET\r\n")
	p.expect("250 three")
	s.Clear()
	p.send("RSET\r\n")
	p.expect("250 2.0.0 ok")
}

func TestFault_HangEndsWithClearAndLosesNothingOfTheGroup(t *testing.T) {
	for _, stage := range []sandbox.Stage{sandbox.StageConnect, sandbox.StageGreeting, sandbox.StageEHLO, sandbox.StageMail,
		sandbox.StageRcpt, sandbox.StageBody, sandbox.StageDot} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			s := start(t, sandbox.Options{OptionalTLS: true, OptionalAuth: true})
			inject(t, s, sandbox.Fault{Stage: stage, Hang: true, Times: 1})
			p := &player{t: t, file: t.Name(), server: s}
			p.connect(false)
			defer p.conn.Close()
			p.send("EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nbody\r\n.\r\nQUIT\r\n")
			if err := s.WaitFor(patient(t), func(st sandbox.Stats) bool { return st.Faults[stage] == 1 }); err != nil {
				t.Fatal(err)
			}
			if kept := len(s.Messages()); stage == sandbox.StageDot {
				if _, err := s.Wait(patient(t), 1); err != nil {
					t.Error(err)
				}
			} else if kept != 0 {
				t.Errorf("%d messages were kept before the fault was cleared", kept)
			}
			s.Clear()
			for _, code := range []string{"220", "250", "250", "250", "354", "250", "221"} {
				if got := p.readReply(); got != code {
					t.Fatalf("in place of %s came %s", code, got)
				}
			}
			if got := s.Messages(); len(got) != 1 || string(got[0].Data) != "body\r\n" {
				t.Errorf("messages: %v", got)
			}
		})
	}
}

func TestFault_HangEndsWhenTheClientLeaves(t *testing.T) {
	for _, stage := range []sandbox.Stage{sandbox.StageConnect, sandbox.StageNoop, sandbox.StageDot} {
		s := start(t, sandbox.Options{OptionalTLS: true, OptionalAuth: true})
		inject(t, s, sandbox.Fault{Stage: stage, Hang: true})
		p := &player{t: t, file: t.Name(), server: s}
		p.connect(false)
		p.send("EHLO x\r\nNOOP\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nbody\r\n.\r\n")
		if err := s.WaitFor(patient(t), func(st sandbox.Stats) bool { return st.Faults[stage] == 1 }); err != nil {
			t.Fatal(err)
		}
		p.conn.Close()
		if err := s.WaitFor(patient(t), func(st sandbox.Stats) bool { return st.Open == 0 }); err != nil {
			t.Fatalf("%s: %v", stage, err)
		}
	}
}

func TestFault_HangWithinTLSEndsWithClear(t *testing.T) {
	s := start(t, sandbox.Options{})
	inject(t, s, sandbox.Fault{Stage: sandbox.StageTLS, Hang: true, Times: 1},
		sandbox.Fault{Stage: sandbox.StageMail, Hang: true, Times: 1})
	sent := make(chan error, 1)
	go func() {
		c, err := login(t, s, nil)
		if err == nil {
			err = submit(c, text("x\r\n"))
		}
		sent <- err
	}()
	for _, stage := range []sandbox.Stage{sandbox.StageTLS, sandbox.StageMail} {
		if err := s.WaitFor(patient(t), func(st sandbox.Stats) bool { return st.Faults[stage] == 1 }); err != nil {
			t.Fatal(err)
		}
		s.Clear(stage)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestFault_HangInABodyStopsReadingIt(t *testing.T) {
	_, p := open(t, sandbox.Options{}, sandbox.Fault{Stage: sandbox.StageBody, Hang: true})
	p.transact("")
	p.conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	body := []byte(strings.Repeat("0123456789012345678901234567890123456789\r\n", 1<<19))
	n, err := p.conn.Write(body)
	if e, ok := err.(net.Error); !ok || !e.Timeout() {
		t.Errorf("%d octets of a body went to a server that hangs: %v", n, err)
	}
}

func TestFault_DelayComesBeforeTheReply(t *testing.T) {
	_, p := open(t, sandbox.Options{},
		sandbox.Fault{Stage: sandbox.StageNoop, Delay: 30 * time.Millisecond, Reply: "450 late"})
	begin := time.Now()
	p.send("NOOP\r\n")
	p.expect("450 late")
	if took := time.Since(begin); took < 30*time.Millisecond {
		t.Errorf("the reply came after %s", took)
	}
}

func TestFault_RefusedLoginIsNoLogin(t *testing.T) {
	s := start(t, sandbox.Options{Username: "me", Password: "pw"})
	inject(t, s, sandbox.Fault{Stage: sandbox.StageAuth, Match: "plain ME", Reply: "535 5.7.8 no", Times: 1})
	if _, err := login(t, s, nil); err == nil || !strings.Contains(err.Error(), "no") {
		t.Fatalf("the login gives %v", err)
	}
	c, err := login(t, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := submit(c, text("x\r\n")); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.AuthFailed != 1 || st.AuthOK != 1 {
		t.Errorf("logins: %d failed, %d ok", st.AuthFailed, st.AuthOK)
	}
}

func TestFault_DroppedHandshake(t *testing.T) {
	s := start(t, sandbox.Options{ImplicitAddress: "127.0.0.1:0"})
	inject(t, s, sandbox.Fault{Stage: sandbox.StageTLS, Drop: true, Times: 2})
	if _, err := secure(s, tlsFor(s)); err == nil {
		t.Error("STARTTLS came through")
	}
	if c, err := smtp.DialTLS(s.ImplicitAddr(), tlsFor(s)); err == nil {
		if err := c.Hello("x"); err == nil {
			t.Error("implicit TLS came through")
		}
		c.Close()
	}
	c, err := smtp.DialTLS(s.ImplicitAddr(), tlsFor(s))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestInject_RefusesWhatCouldNeverHappen(t *testing.T) {
	s := start(t, sandbox.Options{})
	for _, f := range []sandbox.Fault{
		{Stage: "dott", Drop: true},
		{Stage: sandbox.StageMail},
		{Stage: sandbox.StageMail, Lose: true},
		{Stage: sandbox.StageMail, Drop: true, After: 3},
		{Stage: sandbox.StageMail, Drop: true, Times: -1},
	} {
		if err := s.Inject(sandbox.Fault{Stage: sandbox.StageRset, Drop: true}, f); err == nil {
			t.Errorf("%+v was taken", f)
		}
	}
	if left := s.Faults(); len(left) != 0 {
		t.Errorf("faults are in force: %v", left)
	}
}
