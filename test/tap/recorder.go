package tap

import (
	"path/filepath"
	"sync"
)

// Recorder is an Observer that keeps what a process does to the files beneath a folder, and words that its user puts in
// between. The folder's state at the start is not kept: what the process makes is what an Image shows.
type Recorder struct {
	root string

	mu     sync.Mutex
	events []event
	begun  map[*Call]int
	inodes map[string]int // by path, as the process sees them
	ends   map[int]int64  // where the next write without an offset goes
	last   int
}

// event is one thing that was done. A sync has the number of the event it began before: what came later it may have
// missed.
type event struct {
	op     Op
	path   string
	to     string
	inode  int // 0 is none that is known
	offset int64
	data   []byte
	began  int
	text   string
}

// More kinds of events.
const (
	opMark Op = "mark"
	opDrop Op = "drop" // a sync failed: what it should have flushed is clean to the kernel and not on the disk
)

// NewRecorder returns a Recorder of root.
func NewRecorder(root string) *Recorder {
	return &Recorder{root: root, begun: map[*Call]int{}, inodes: map[string]int{}, ends: map[int]int64{}}
}

// Begin lets every call be done.
func (r *Recorder) Begin(c *Call) Answer {
	if c.Op == OpSync {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.begun[c] = len(r.events)
	}
	return Answer{}
}

// Drop notes that a sync that has begun fails, as a disk's error makes it fail: the kernel forgets what it should have
// written, and does not try again.
func (r *Recorder) Drop(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event{op: opDrop, path: c.Path, inode: r.inodes[c.Path], began: len(r.events)})
	delete(r.begun, c)
}

// Mark notes that something has happened now, and returns after how many events.
func (r *Recorder) Mark(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event{op: opMark, text: text})
	return len(r.events)
}

// Len returns how many events there are.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

// Marks returns the marks among the first n events with the number of events up to and with each.
func (r *Recorder) Marks(n int) (texts []string, at []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, e := range r.events[:n] {
		if e.op == opMark {
			texts, at = append(texts, e.text), append(at, i+1)
		}
	}
	return texts, at
}

// Syncs returns after how many events a sync of the file or folder called name was over, for each.
func (r *Recorder) Syncs(name string) (at []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, e := range r.events {
		if e.op == OpSync && filepath.Base(e.path) == name {
			at = append(at, i+1)
		}
	}
	return at
}

// End notes a call that was done.
func (r *Recorder) End(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := event{op: c.Op, path: c.Path, to: c.To, inode: r.inodes[c.Path], offset: c.Offset, data: c.Data}
	switch c.Op {
	case OpSend:
		return
	case OpCreate:
		r.create(e, c.Trunc)
		return
	case OpWrite:
		if c.Offset < 0 {
			e.offset = r.ends[e.inode]
			r.ends[e.inode] += int64(len(c.Data))
		}
	case OpTruncate:
		e.offset = c.Size
	case OpSync:
		e.began = r.begun[c]
		delete(r.begun, c)
	case OpRename:
		r.inodes[c.To] = e.inode
		delete(r.inodes, c.Path)
	case OpUnlink:
		delete(r.inodes, c.Path)
	}
	r.events = append(r.events, e)
}

func (r *Recorder) create(e event, trunc bool) {
	if e.inode == 0 {
		r.last++
		e.inode = r.last
		r.inodes[e.path] = r.last
		r.events = append(r.events, e)
	} else if trunc {
		r.events = append(r.events, event{op: OpTruncate, path: e.path, inode: e.inode})
		r.ends[e.inode] = 0
	}
}
