package sandbox_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"relayd/internal/sandbox"
)

// patience bounds every wait of these tests. Nothing takes that long unless it is broken, on a loaded machine either.
const patience = time.Minute

// TestDialogues plays the files of testdata/dialogues against a server. A line of a file is one of
//
//	# ...              nothing
//	option NAME VALUE  sets a field of Options before the server starts; lists are separated by "|"
//	fault TEXT         injects a fault
//	clear              clears them
//	connect            opens another connection; "connect implicit" one that begins with TLS. The first C or S opens one
//	C: TEXT            sends TEXT and CRLF
//	C+ TEXT            the same, but held back until the next "C:", so that both go out together
//	C! "TEXT"          sends TEXT, a Go string, and no CRLF
//	S: TEXT            expects this line; "*" stands for anything
//	handshake          TLS from here on
//	closed             expects the end of the connection
//	reset              expects it to end with a RST
//	message "TEXT"     expects that the next message has this body
//	envelope TEXT      expects that the last message has this reverse-path, recipients and parameters
//	violation TEXT     expects that TEXT is in the next violation
//
// At the end no message and no violation may be left that was not expected.
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogues/*.txt")
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
			p := &player{t: t, file: file}
			defer p.end()
			for i, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
				p.line = i + 1
				p.play(line)
			}
			p.finish()
		})
	}
}

type player struct {
	t    *testing.T
	file string
	line int

	options             sandbox.Options
	server              *sandbox.Server
	conn                net.Conn
	in                  *bufio.Reader
	held                string
	messages, violation int
}

func (p *player) fatal(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf("%s:%d: %s", p.file, p.line, fmt.Sprintf(format, args...))
}

func (p *player) play(line string) {
	p.t.Helper()
	word, arg, _ := strings.Cut(line, " ")
	switch word {
	case "", "#":
	case "option":
		p.option(arg)
	case "fault":
		f, err := sandbox.ParseFault(arg)
		p.must(err)
		p.must(p.running().Inject(f))
	case "clear":
		p.server.Clear()
	case "connect":
		p.connect(arg == "implicit")
	case "C:":
		p.send(p.held + arg + "\r\n")
		p.held = ""
	case "C+":
		p.held += arg + "\r\n"
	case "C!":
		p.send(p.unquote(arg))
	case "S:":
		p.expect(arg)
	case "handshake":
		conn := tls.Client(p.conn, &tls.Config{RootCAs: p.server.CertPool(), ServerName: "localhost"})
		p.must(conn.Handshake())
		p.conn, p.in = conn, bufio.NewReader(conn)
	case "closed", "reset":
		p.expectEnd(word == "reset")
	case "message":
		p.expectMessage(p.unquote(arg))
	case "envelope":
		m := p.server.Messages()[p.messages-1]
		if got := fmt.Sprint(m.ReversePath, m.MailParams, m.Recipients, m.RcptParams); got != arg {
			p.fatal("the envelope is %s", got)
		}
	case "violation":
		p.expectViolation(arg)
	default:
		p.fatal("what is %q?", word)
	}
}

func (p *player) must(err error) {
	p.t.Helper()
	if err != nil {
		p.fatal("%v", err)
	}
}

func (p *player) unquote(s string) string {
	text, err := strconv.Unquote(s)
	p.must(err)
	return text
}

func (p *player) option(arg string) {
	name, value, _ := strings.Cut(arg, " ")
	field := reflect.ValueOf(&p.options).Elem().FieldByName(name)
	if !field.IsValid() || p.server != nil {
		p.fatal("no option %q can be set here", name)
	}
	switch field.Kind() {
	case reflect.Bool:
		field.SetBool(true)
	case reflect.String:
		field.SetString(value)
	case reflect.Int, reflect.Int64:
		n, err := strconv.Atoi(value)
		p.must(err)
		field.SetInt(int64(n))
	case reflect.Slice:
		field.Set(reflect.ValueOf(strings.Split(value, "|")))
	}
}

func (p *player) running() *sandbox.Server {
	if p.server == nil {
		p.options.ImplicitAddress = "127.0.0.1:0"
		s, err := sandbox.Start(p.options)
		p.must(err)
		p.server = s
	}
	return p.server
}

func (p *player) connect(implicit bool) {
	address := p.running().Addr()
	if implicit {
		address = p.server.ImplicitAddr()
	}
	if p.conn != nil {
		p.conn.Close()
	}
	conn, err := net.DialTimeout("tcp", address, patience)
	p.must(err)
	conn.SetDeadline(time.Now().Add(patience))
	p.conn, p.in = conn, bufio.NewReader(conn)
}

func (p *player) send(text string) {
	p.t.Helper()
	if p.conn == nil {
		p.connect(false)
	}
	_, err := io.WriteString(p.conn, text)
	p.must(err)
}

func (p *player) expect(pattern string) {
	p.t.Helper()
	if p.conn == nil {
		p.connect(false)
	}
	line, err := p.in.ReadString('\n')
	if err != nil {
		p.fatal("in place of %q came %q and %v", pattern, line, err)
	}
	if !glob(pattern+"\r\n", line) {
		p.fatal("in place of %q came %q", pattern, line)
	}
}

// glob reports whether s is pattern with anything in the place of each "*".
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for i, part := range parts[1:] {
		if i == len(parts)-2 {
			return strings.HasSuffix(s, part)
		}
		at := strings.Index(s, part)
		if at < 0 {
			return false
		}
		s = s[at+len(part):]
	}
	return s == ""
}

func (p *player) expectEnd(reset bool) {
	p.t.Helper()
	rest, err := io.ReadAll(p.in)
	switch {
	case len(rest) > 0:
		p.fatal("in place of the end came %q", rest)
	case reset && !errors.Is(err, syscall.ECONNRESET):
		p.fatal("in place of a RST came %v", err)
	case !reset && err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.ErrUnexpectedEOF):
		p.fatal("in place of the end came %v", err)
	}
}

func (p *player) expectMessage(body string) {
	p.t.Helper()
	all, err := p.server.Wait(patient(p.t), p.messages+1)
	p.must(err)
	m := all[p.messages]
	p.messages++
	if string(m.Data) != body {
		p.fatal("the body is %q", m.Data)
	}
}

func (p *player) expectViolation(text string) {
	p.t.Helper()
	all := p.server.Violations()
	if p.violation >= len(all) {
		p.fatal("no such violation was recorded")
	}
	if !strings.Contains(all[p.violation], text) {
		p.fatal("the violation is %q", all[p.violation])
	}
	p.violation++
}

// finish checks that nothing is left over.
func (p *player) finish() {
	if got := p.server.Messages(); len(got) != p.messages {
		p.fatal("%d messages were kept, but %d expected", len(got), p.messages)
	}
	if got := p.server.Violations(); len(got) != p.violation {
		p.fatal("violations that nobody expected: %q", got[p.violation:])
	}
}

func (p *player) end() {
	if p.conn != nil {
		p.conn.Close()
	}
	if p.server != nil {
		p.must(p.server.Close())
	}
}
