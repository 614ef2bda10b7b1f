package relay

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestDialogues plays the files in testdata, each a session over a real socket. A file's lines are:
//
//	# words            a comment
//	set KEY VALUE      before the session: tls, size, recipients, errors, refused, drain, idle
//	C: text            send text and CRLF, with what was gathered before it, in one write
//	C| text            gather text and CRLF
//	C+ text            send text as it is, with what was gathered
//	S: pattern         the server's next line; "*" stands for anything
//	R: pattern         the server's next reply, of which this is the last line
//	TLS                the client's side of the handshake
//	HALF               the client ends its sending direction
//	EOF                the server has closed the connection and said nothing more
//	QUEUED n           so many messages are committed
//	ABORTED n          so many messages are aborted
//	ENV text           the last committed message's envelope
//	ORIGIN text        its origin
//	TRACE pattern      its trace header, unfolded
//	BODY text          its content without the trace header
//	LOG pattern        a line of the log
//
// In what is sent and in BODY, \r \n \0 \t \\ and \xHH are octets, and \{text*n} is text n times.
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			play(t, strings.Split(string(text), "\n"))
		})
	}
}

// stage is one dialogue under way.
type stage struct {
	t       *testing.T
	house   *house
	client  *client
	pending string
}

func play(t *testing.T, lines []string) {
	st := &stage{t: t, house: open(t, nil)}
	for i, line := range lines {
		verb, text, _ := strings.Cut(line, " ")
		switch {
		case line == "" || verb == "#":
			continue
		case verb == "set":
			st.set(text)
			continue
		case st.client == nil:
			st.begin()
		}
		if err := st.step(verb, text); err != nil {
			t.Fatalf("line %d: %s: %v", i+1, line, err)
		}
		if t.Failed() {
			t.Fatalf("line %d: %s", i+1, line)
		}
	}
}

func (st *stage) set(text string) {
	key, value, _ := strings.Cut(text, " ")
	n, _ := strconv.Atoi(value)
	o, tune := st.house.opts, st.house.tune
	l := &o.Listeners[0]
	switch key {
	case "tls":
		l.TLS = Mode(value)
		l.TLSConfig, _ = testCertificate()
	case "size":
		l.MaxMessageSize = int64(n)
	case "recipients":
		l.MaxRecipients = n
	case "errors":
		tune.errors = n
	case "refused":
		tune.recipients = n
	case "drain":
		tune.drain = int64(n)
	case "idle":
		tune.idle = n
	default:
		st.t.Fatalf("set %s is unknown", key)
	}
	srv, err := newServer(o, tune)
	if err != nil {
		st.t.Fatal(err)
	}
	st.house.Server, st.house.opts = srv, o
}

func (st *stage) begin() {
	st.house.start()
	st.client = st.house.dial()
	if st.house.opts.Listeners[0].TLS == TLSImplicit {
		_, pool := testCertificate()
		if err := st.client.startTLS(pool); err != nil {
			st.t.Fatal(err)
		}
	}
}

func (st *stage) step(verb, text string) error {
	switch verb {
	case "C|":
		st.pending += unescape(text) + "\r\n"
	case "C:", "C+":
		st.pending += unescape(text)
		if verb == "C:" {
			st.pending += "\r\n"
		}
		st.client.send(st.pending)
		st.pending = ""
	case "S:":
		line, err := st.client.line()
		if err != nil || !like(text, line) {
			return fmt.Errorf("server said %q (error %v)", line, err)
		}
	case "R:":
		st.client.expectReply(text)
	case "TLS":
		_, pool := testCertificate()
		return st.client.startTLS(pool)
	case "HALF":
		return st.client.conn.(*net.TCPConn).CloseWrite()
	case "EOF":
		st.client.expectEOF()
	default:
		return st.check(verb, text)
	}
	return nil
}

// check compares what came of the session with what was to come of it.
func (st *stage) check(verb, text string) error {
	q := st.house.queue
	n, _ := strconv.Atoi(text)
	switch verb {
	case "QUEUED":
		eventually(st.t, line(verb, text), func() bool { return len(q.committed()) == n })
		return nil
	case "ABORTED":
		eventually(st.t, line(verb, text), func() bool { return q.aborted() == n })
		return nil
	case "LOG":
		eventually(st.t, line(verb, text), func() bool {
			return slices.ContainsFunc(strings.Split(st.house.log.String(), "\n"), func(l string) bool { return like(text, l) })
		})
		return nil
	}
	done := q.committed()
	if len(done) == 0 {
		return fmt.Errorf("no message is committed")
	}
	m := done[len(done)-1]
	trace, content := m.split()
	var got string
	switch verb {
	case "BODY":
		got, text = content, unescape(text)
		if got != text {
			return fmt.Errorf("got %q", got)
		}
	case "TRACE":
		got = strings.ReplaceAll(strings.TrimSuffix(trace, "\r\n"), "\r\n\t", " ")
	case "ENV":
		got = describe(m)
	case "ORIGIN":
		got = fmt.Sprintf("%s %s %s", m.origin.Addr, m.origin.Helo, m.origin.Protocol)
	default:
		return fmt.Errorf("unknown step")
	}
	if verb != "BODY" && !like(text, got) {
		return fmt.Errorf("got %q", got)
	}
	return nil
}

func line(verb, text string) string { return verb + " " + text }

// describe writes an envelope out: the paths, then whatever parameters are set.
func describe(m *memoryMessage) string {
	words := []string{m.env.ReversePath.String()}
	add := func(key, value string) {
		if value != "" {
			words = append(words, key+"="+value)
		}
	}
	if m.env.RequireTLS {
		words = append(words, "REQUIRETLS")
	}
	add("BODY", m.env.Body)
	add("RET", m.env.Ret)
	add("ENVID", m.env.EnvID)
	if m.env.UTF8 {
		words = append(words, "SMTPUTF8")
	}
	for _, r := range m.env.Recipients {
		words = append(words, r.Path.String())
		add("NOTIFY", r.Notify.String())
		add("ORCPT", r.ORcpt)
	}
	return strings.Join(words, " ")
}

var (
	repeatMacro = regexp.MustCompile(`\\\{(.+?)\*(\d+)\}`)
	escapeMacro = regexp.MustCompile(`\\(r|n|0|t|\\|x[0-9a-fA-F]{2})`)
)

func unescape(s string) string {
	s = repeatMacro.ReplaceAllStringFunc(s, func(m string) string {
		p := repeatMacro.FindStringSubmatch(m)
		n, _ := strconv.Atoi(p[2])
		return strings.Repeat(p[1], n)
	})
	return escapeMacro.ReplaceAllStringFunc(s, func(m string) string {
		switch m[1] {
		case 'r':
			return "\r"
		case 'n':
			return "\n"
		case 't':
			return "\t"
		case '0':
			return "\x00"
		case '\\':
			return `\`
		}
		b, _ := strconv.ParseUint(m[2:], 16, 8)
		return string([]byte{byte(b)})
	})
}
