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

	"relayd/smarthost"
)

// facts remembers across restarts what each smarthost is like, by "host:port": a message that is too large for all is
// then refused also before the first connection. It is kept in a file beside the queue. A file that is lost costs
// nothing: the relay learns it all again with the next connections.
type facts struct {
	path string
	mu   sync.Mutex
	m    map[string]smarthost.HostFacts
}

// openFacts reads what an earlier run has learnt. With an error it starts with nothing.
func openFacts(dir string) (*facts, error) {
	f := &facts{path: filepath.Join(dir, "hosts.json"), m: make(map[string]smarthost.HostFacts)}
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &f.m)
	}
	if err != nil || f.m == nil {
		f.m = make(map[string]smarthost.HostFacts)
		return f, fmt.Errorf("%s cannot be read: %w", f.path, err)
	}
	return f, nil
}

func (f *facts) known() map[string]smarthost.HostFacts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.m)
}

// learn notes what is known of a host.
func (f *facts) learn(host string, known smarthost.HostFacts) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known.Pipelining == nil { // by a host of another table that does not know yet
		known.Pipelining = f.m[host].Pipelining
	}
	f.m[host] = known
	text, err := json.MarshalIndent(f.m, "", "\t")
	if err != nil {
		return
	}
	next := f.path + ".new"
	if os.WriteFile(next, append(text, '\n'), 0o600) == nil {
		_ = os.Rename(next, f.path) // without it the old facts stay, and are corrected by the next connection
	}
}
