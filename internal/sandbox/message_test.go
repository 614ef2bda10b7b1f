package sandbox_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"relayd/internal/sandbox"
)

func TestMessages_AreFilesThatAMailProgramOpens(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	s, p := open(t, sandbox.Options{Dir: dir})
	bodies := []string{"Subject: one\r\n\r\n..a\r\n", "Subject: two\r\n\r\nb\r\n"}
	for _, body := range bodies {
		p.transact(body + ".\r\n")
		p.readReply()
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 4 {
		t.Fatalf("the files are %q, %v", files, err)
	}
	messages := s.Messages()
	if !slices.IsSortedFunc(messages, func(a, b sandbox.Message) int { return strings.Compare(a.File, b.File) }) {
		t.Error("the names do not sort by time of arrival")
	}
	for i, m := range messages {
		data, err := os.ReadFile(m.File)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Replace(bodies[i], "..", ".", 1); string(data) != want || string(m.Data) != want {
			t.Errorf("the file has %q, the message %q", data, m.Data)
		}
		if _, err := mail.ReadMessage(strings.NewReader(string(data))); err != nil {
			t.Error(err)
		}
		var envelope struct {
			ID, Hello, SHA256 string
			ReversePath       string    `json:"reverse_path"`
			ReceivedAt        time.Time `json:"received_at"`
			Recipients        []struct{ Address string }
			Size              int64
		}
		text, err := os.ReadFile(strings.TrimSuffix(m.File, ".eml") + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &envelope); err != nil {
			t.Fatal(err)
		}
		if envelope.ID != m.ID || envelope.ReversePath != "a@example.com" ||
			envelope.Recipients[0].Address != "b@example.com" ||
			envelope.Size != m.Size || envelope.SHA256 != m.SHA256 || !envelope.ReceivedAt.Equal(m.At) {
			t.Errorf("the envelope is %s", text)
		}
	}
}

func TestMessages_ThatCannotBeWrittenAreNotTaken(t *testing.T) {
	dir := t.TempDir()
	s, p := open(t, sandbox.Options{Dir: dir})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	p.transact("x\r\n.\r\n")
	if got := p.readReply(); got != "451" || len(s.Messages()) != 0 {
		t.Errorf("the reply is %s, and %d messages were kept", got, len(s.Messages()))
	}
}

func TestMessages_DiscardBodiesKeepsSizeAndSum(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		told := make(chan sandbox.Message, 1)
		s, p := open(t, sandbox.Options{DiscardBodies: true, Dir: dir, OnMessage: func(m sandbox.Message) { told <- m }})
		p.transact("x\r\n.\r\n")
		if got := p.readReply(); got != "250" {
			t.Fatalf("the reply is %s", got)
		}
		m := s.Messages()[0]
		sum := sha256.Sum256([]byte("x\r\n"))
		if m.Data != nil || m.Size != 3 || m.SHA256 != hex.EncodeToString(sum[:]) || s.Stats().Bytes != 3 {
			t.Errorf("the message is %+v", m)
		}
		if first := <-told; fmt.Sprint(first) != fmt.Sprint(m) {
			t.Errorf("OnMessage was told of %+v", first)
		}
		if dir == "" {
			continue
		}
		if data, err := os.ReadFile(m.File); string(data) != "x\r\n" {
			t.Errorf("the file has %q, %v", data, err)
		}
	}
}
