package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// spool writes messages to a folder. A nil spool writes nothing.
type spool struct{ dir string }

func openSpool(dir string) (*spool, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("sandbox: no folder for messages: %w", err)
	}
	return &spool{dir: dir}, nil
}

// envelopeFile is what the .json file beside an .eml file holds.
type envelopeFile struct {
	ID          string          `json:"id"`
	ReceivedAt  time.Time       `json:"received_at"`
	ReversePath string          `json:"reverse_path"`
	MailParams  []string        `json:"mail_params,omitempty"`
	Recipients  []recipientFile `json:"recipients"`
	Hello       string          `json:"hello"`
	TLS         string          `json:"tls,omitempty"`
	User        string          `json:"user,omitempty"`
	Size        int64           `json:"size"`
	SHA256      string          `json:"sha256"`
}

type recipientFile struct {
	Address string   `json:"address"`
	Params  []string `json:"params,omitempty"`
}

// write stores body byte for byte as NAME.eml and the envelope as NAME.json, and returns the path of the .eml. Names
// sort by time of arrival. The .json comes first, so that who sees an .eml can read its envelope.
func (s *spool) write(m Message, body []byte) (string, error) {
	if s == nil {
		return "", nil
	}
	e := envelopeFile{
		ID: m.ID, ReceivedAt: m.At, ReversePath: m.ReversePath, MailParams: m.MailParams, Hello: m.Hello,
		TLS: m.TLSVersion, User: m.User, Size: m.Size, SHA256: m.SHA256,
	}
	for i, address := range m.Recipients {
		e.Recipients = append(e.Recipients, recipientFile{address, m.RcptParams[i]})
	}
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return "", fmt.Errorf("sandbox: envelope: %w", err)
	}
	name := filepath.Join(s.dir, m.At.Format("20060102T150405.000000Z")+fmt.Sprintf("-%06d", m.Number))
	if err := writeAtomic(name+".json", append(text, '\n'), 0o644); err != nil {
		return "", err
	}
	if err := writeAtomic(name+".eml", body, 0o644); err != nil {
		os.Remove(name + ".json")
		return "", err
	}
	return name + ".eml", nil
}

// writeAtomic writes a file that is seen whole or not at all. It is not made to survive a power cut.
func writeAtomic(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".sandbox-*.tmp")
	if err != nil {
		return err
	}
	_, werr := tmp.Write(data)
	err = errors.Join(werr, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
