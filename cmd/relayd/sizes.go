package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
)

// sizes remembers across restarts how large a message each smarthost takes, by "host:port", so that one that is too
// large for all is refused also before the first connection. It is kept in a file beside the queue. A file that is lost
// costs nothing: the sizes are learnt again with the next connection.
type sizes struct {
	path string
	mu   sync.Mutex
	m    map[string]int64
}

// openSizes reads what an earlier run has learnt. With an error it starts with nothing.
func openSizes(dir string) (*sizes, error) {
	s := &sizes{path: filepath.Join(dir, "hosts.json"), m: make(map[string]int64)}
	text, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s.m)
	}
	if err != nil || s.m == nil {
		s.m = make(map[string]int64)
		return s, fmt.Errorf("%s cannot be read: %w", s.path, err)
	}
	return s, nil
}

func (s *sizes) known() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.m)
}

// learn notes a host's SIZE in octets; 0 is none.
func (s *sizes) learn(host string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[host] = size
	text, err := json.MarshalIndent(s.m, "", "\t")
	if err != nil {
		return
	}
	next := s.path + ".new"
	if os.WriteFile(next, append(text, '\n'), 0o600) == nil {
		_ = os.Rename(next, s.path) // without it the old sizes stay, and are corrected by the next connection
	}
}
