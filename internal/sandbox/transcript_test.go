package sandbox_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"

	"relayd/internal/sandbox"
)

// record is a transcript that may be read while it is written.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func TestTranscript_ShowsTheDialogueAndAbbreviatesBodies(t *testing.T) {
	var r record
	s, p := open(t, sandbox.Options{Transcript: &r, Extensions: []string{"PIPELINING"}})
	p.transact("Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("y", 500)+"\r\n", 1000) + ".\r\n")
	p.readReply()
	p.send("NOOP \x1b[2J\r\n")
	p.readReply()
	p.send("QUIT\r\n")
	p.readReply()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, dialogue, _ := strings.Cut(r.String(), "\n")
	want := `[1] S: 220 localhost ESMTP relayd sandbox
[1] C: EHLO relay.example
[1] S: 250-localhost greets relay.example
[1] S: 250 PIPELINING
[1] C: MAIL FROM:<a@example.com>
[1] S: 250 2.1.0 sender ok
[1] C: RCPT TO:<b@example.com>
[1] S: 250 2.1.5 recipient ok
[1] C: DATA
[1] S: 354 end data with <CR><LF>.<CR><LF>
[1] C: Subject: x
[1] C: 
` + strings.Repeat("[1] C: "+strings.Repeat("y", 100)+"\n", 6) + `[1] C: ... (1002 lines, 502014 octets in all)
[1] C: .
[1] S: 250 2.0.0 kept as sbx000001
[1] C: NOOP \x1b[2J
[1] S: 250 2.0.0 ok
[1] C: QUIT
[1] S: 221 2.0.0 localhost closing connection
`
	if !strings.HasPrefix(dialogue, want) {
		t.Errorf("the transcript is\n%s", dialogue)
	}
}

func TestTranscript_HoldsNoSecret(t *testing.T) {
	const password = "correct horse battery staple"
	secret := base64.StdEncoding.EncodeToString([]byte(password))
	plain := base64.StdEncoding.EncodeToString([]byte("\x00me\x00" + password))
	for _, dialogue := range []string{
		"AUTH PLAIN " + plain,
		"AUTH PLAIN\r\n" + plain,
		"AUTH LOGIN bWU=\r\n" + secret,
		"AUTH LOGIN\r\nbWU=\r\n" + secret,
		"auth\tplain\t" + plain,
		"  AUTH PLAIN " + plain,
		"AUTH " + plain,
		"AUTH\x0bPLAIN " + plain,
		"AUTH PLAIN  " + plain,
		"AUTH NTLM " + plain,
		"AUTH NTLM\r\nbWU=\r\n" + secret, // goes on although it was refused
		"AUTH LOGIN\r\n*\r\nbWU=\r\n" + secret,
		"AUTH PLAIN " + plain + "\r\nAUTH PLAIN " + plain,
		"AUTH PLAIN\n" + plain,
	} {
		var r record
		s, p := open(t, sandbox.Options{Transcript: &r, AuthInClear: true, Username: "me", Password: password})
		p.send(dialogue + "\r\nQUIT\r\n")
		var replies strings.Builder
		for {
			line, err := p.in.ReadString('\n')
			if err != nil {
				break
			}
			replies.WriteString(line)
		}
		s.Close()
		all := fmt.Sprint(r.String(), replies.String(), s.Violations(), s.Messages(), s.Stats())
		for _, hidden := range []string{password, secret, plain, plain[:12]} {
			if strings.Contains(strings.ToUpper(all), strings.ToUpper(hidden)) {
				t.Errorf("%q brings %q to light:\n%s", dialogue, hidden, all)
			}
		}
	}
}
