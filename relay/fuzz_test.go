package relay

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"relayd/internal/envelope"
)

// scripted is a connection on which a client says all that it has to say and hangs up.
type scripted struct {
	input  io.Reader
	once   sync.Once
	closed chan struct{}
}

func (c *scripted) Read(p []byte) (int, error)       { return c.input.Read(p[:min(len(p), 100)]) }
func (c *scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (c *scripted) Close() error                     { c.once.Do(func() { close(c.closed) }); return nil }
func (c *scripted) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *scripted) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (c *scripted) SetDeadline(time.Time) error      { return nil }
func (c *scripted) SetReadDeadline(time.Time) error  { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }

// FuzzSession has a client say anything at all. What reaches the queue is well-formed, every message is committed or
// aborted once, and nothing panics.
func FuzzSession(f *testing.F) {
	for _, seed := range []string{
		"MAIL FROM:<a@b.test> SIZE=1 BODY=8BITMIME\r\nRCPT TO:<c@d.test> NOTIFY=NEVER\r\nDATA\r\nx\r\n..\r\n.\r\nQUIT\r\n",
		"MAIL FROM:<>\r\nRCPT TO:<\"a b\"@[192.0.2.1]>\r\nBDAT 4\r\na\nb\rBDAT 1 LAST\r\n\nNOOP\r\n",
		"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\na\r\r\n.\r\nQUIT\r\n",
		"MAIL FROM:<\xc3\xa9@b.test> SMTPUTF8 RET=FULL ENVID=x+2B\r\nRSET\r\nEHLO y\r\nVRFY z\r\nSTARTTLS\r\nAUTH PLAIN\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		h := open(t, func(o *Options, _ *tuning) { o.Listeners[0].MaxMessageSize = 1000 })
		k := newSocket("", nil)
		k.terms.Store(&terms{set: h.set, Listener: h.set.Listeners[0]})
		c := &scripted{input: strings.NewReader("EHLO fuzz\r\n" + string(said)), closed: make(chan struct{})}
		h.receive(k, c, false)
		h.running.Wait()
		if strings.Contains(h.log.String(), "please report it") {
			t.Error(h.log.String())
		}
		if ids := h.queue.unsettled(); len(ids) > 0 {
			t.Errorf("unsettled: %v", ids)
		}
		for _, m := range h.queue.committed() {
			checkQueued(t, m)
		}
	})
}

func checkQueued(t *testing.T, m *memoryMessage) {
	t.Helper()
	trace, content := m.split()
	if strings.ContainsAny(strings.ReplaceAll(content, "\r\n", ""), "\r\n") || len(content) > 1000 {
		t.Errorf("content %q", content)
	}
	if n := strings.Count(trace, "\r\n"); !strings.HasPrefix(trace, "Received: from ") || n < 3 || n > 4 {
		t.Errorf("trace header %q", trace)
	}
	if len(m.env.Recipients) == 0 {
		t.Error("a message for nobody")
	}
	for _, r := range m.env.Recipients {
		if p, err := envelope.ParsePath(string(r.Path)); err != nil || p != r.Path {
			t.Errorf("recipient %q parses to %q, %v", r.Path, p, err)
		}
	}
	if p := m.env.ReversePath; !p.IsNull() {
		if again, err := envelope.ParsePath(string(p)); err != nil || again != p {
			t.Errorf("sender %q parses to %q, %v", p, again, err)
		}
	}
}

// FuzzCommand reads the arguments of MAIL and RCPT. What is accepted can be written to the next hop as one command whose
// words are the ones that were meant.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"FROM:<a@b.test> SIZE=1 BODY=8BITMIME RET=FULL ENVID=x+2B AUTH=<> SMTPUTF8 REQUIRETLS", "from: <>", `FROM:<"a> SIZE=1 b"@c.test>`,
		"TO:<a@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b", "TO:<@r.test:a@b.test>", "TO:a@[IPv6:::1]", "FROM:<é@b.test> SMTPUTF8",
	} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, arg string, secured bool) {
		if hasControl([]byte(arg)) {
			return // which the guard has refused by then
		}
		if env, refusal := parseMail(arg, 1000, secured); refusal.IsZero() {
			oneWord(t, arg, env.EnvID, env.Ret, env.Body)
			if p := env.ReversePath; !p.IsNull() {
				onePath(t, arg, p)
			}
			if env.RequireTLS && !secured || env.ReversePath.NeedsUTF8() && !env.UTF8 {
				t.Errorf("%q gave %+v", arg, env)
			}
		} else if refusal.Code < 500 || refusal.Code > 599 {
			t.Errorf("%q is refused with %v", arg, refusal)
		}
		if r, refusal := parseRcpt(arg, secured); refusal.IsZero() {
			oneWord(t, arg, r.ORcpt, r.Notify.String())
			onePath(t, arg, r.Path)
		}
	})
}

func oneWord(t *testing.T, arg string, words ...string) {
	t.Helper()
	for _, w := range words {
		if strings.ContainsAny(w, " \r\n\x00") {
			t.Errorf("%q gave the parameter %q", arg, w)
		}
	}
}

// onePath checks that a reader of the command that p is written into finds p and nothing else.
func onePath(t *testing.T, arg string, p envelope.Path) {
	t.Helper()
	again, params, err := envelope.ParseForward(p.String() + " SIZE=7")
	if err != nil || again != p || len(params) != 1 || params[0] != (envelope.Param{Keyword: "SIZE", Value: "7"}) {
		t.Errorf("%q gave %q, which is read as %q %v, %v", arg, p, again, params, err)
	}
}

// FuzzHeader compares what looks at the content as it passes, in pieces cut at random, with itself on the whole.
func FuzzHeader(f *testing.F) {
	f.Add([]byte("Received: a\r\nRECEIVED:b\r\n c\r\n\r\nReceived: body\r\n\x00.\r\n"), []byte{0, 3})
	f.Add([]byte(".\x00\r\n"), []byte{1})
	f.Fuzz(func(t *testing.T, content, sizes []byte) {
		text := strings.NewReplacer("\r", "", "\n", "\r\n").Replace(string(content)) // as the scanner passes it
		var whole, cut hopCounter
		whole.scan([]byte(text))
		for i, rest := 0, text; rest != ""; i++ {
			n := len(rest)
			if len(sizes) > 0 {
				n = min(n, int(sizes[i%len(sizes)])+1)
			}
			cut.scan([]byte(rest[:n]))
			rest = rest[n:]
		}
		if whole.count != cut.count {
			t.Errorf("%q: %d fields whole, %d in pieces", text, whole.count, cut.count)
		}
	})
}
