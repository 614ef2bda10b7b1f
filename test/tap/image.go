package tap

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Image is what a Recorder's folder holds at one moment: what is safe, and what the disk may or may not have.
//
// A sync makes safe what was written to its file before it began, and of a folder the names made, renamed and removed in
// it. That is all POSIX promises; file systems keep more, and a daemon that needs no more is safe on each of them.
type Image struct {
	r       *Recorder
	at      int
	files   map[int]*file
	names   map[string]int // that are safe; 0 is a folder
	unsafe  []nameChange
	folders map[string]bool
}

type file struct {
	safe    []byte
	pending []pending
}

// pending is a write or, without data, a truncation to offset.
type pending struct {
	number int
	offset int64
	data   []byte
}

// nameChange gives path to an inode, or takes it away.
type nameChange struct {
	number int
	path   string
	inode  int // gone: path is taken away
	from   string
}

const gone = -1

// Image returns the state before the first event.
func (r *Recorder) Image() *Image {
	return &Image{r: r, files: map[int]*file{}, names: map[string]int{r.root: 0}, folders: map[string]bool{r.root: true}}
}

// Advance moves the image to the moment after n events. It only goes forward.
func (m *Image) Advance(n int) {
	m.r.mu.Lock()
	events := m.r.events[:n]
	m.r.mu.Unlock()
	for ; m.at < n; m.at++ {
		m.apply(m.at, events[m.at])
	}
}

func (m *Image) apply(i int, e event) {
	f := m.files[e.inode]
	if f == nil && e.inode != 0 {
		f = &file{}
		m.files[e.inode] = f
	}
	switch e.op {
	case OpWrite, OpTruncate:
		if f != nil {
			f.pending = append(f.pending, pending{i, e.offset, e.data})
		}
	case OpCreate:
		m.unsafe = append(m.unsafe, nameChange{number: i, path: e.path, inode: e.inode})
	case OpMkdir:
		m.folders[e.path] = true
		m.unsafe = append(m.unsafe, nameChange{number: i, path: e.path})
	case OpUnlink:
		m.unsafe = append(m.unsafe, nameChange{number: i, path: e.path, inode: gone})
	case OpRename:
		m.unsafe = append(m.unsafe, nameChange{number: i, path: e.to, inode: e.inode, from: e.path})
	case OpSync:
		if f != nil {
			f.flush(e.began)
		} else if m.folders[e.path] {
			m.flush(e.path, e.began)
		}
	case opDrop:
		if f != nil {
			f.pending = nil
		}
	}
}

// flush makes safe what was pending before event number before.
func (f *file) flush(before int) {
	var left []pending
	for _, p := range f.pending {
		if p.number < before {
			f.safe = p.onto(f.safe)
		} else {
			left = append(left, p)
		}
	}
	f.pending = left
}

func (m *Image) flush(folder string, before int) {
	var left []nameChange
	for _, c := range m.unsafe {
		if c.number < before && filepath.Dir(c.path) == folder {
			c.apply(m.names)
		} else {
			left = append(left, c)
		}
	}
	m.unsafe = left
}

func (c nameChange) apply(names map[string]int) {
	if c.from != "" {
		delete(names, c.from)
	}
	if c.inode == gone {
		delete(names, c.path)
	} else {
		names[c.path] = c.inode
	}
}

// onto returns b with p done to it.
func (p pending) onto(b []byte) []byte {
	size := p.offset + int64(len(p.data))
	if p.data == nil && size < int64(len(b)) {
		b = b[:size]
	}
	if int64(len(b)) < size {
		b = append(b, make([]byte, size-int64(len(b)))...)
	}
	copy(b[p.offset:], p.data)
	return b
}

// WriteSafe writes to folder what is safe at this moment, and nothing else.
func (m *Image) WriteSafe(folder string) error { return m.write(folder, nil) }

// WriteTorn writes to folder what is safe, and of the rest what chance lets through: names each by itself, writes sector
// by sector.
func (m *Image) WriteTorn(folder string, chance *rand.Rand) error { return m.write(folder, chance) }

func (m *Image) write(folder string, chance *rand.Rand) error {
	names := map[string]int{}
	for path, inode := range m.names {
		names[path] = inode
	}
	likely, sector := 0.0, 512
	if chance != nil {
		likely, sector = chance.Float64(), []int{512, 4096}[chance.IntN(2)]
	}
	lets := func() bool { return chance != nil && chance.Float64() < likely }
	for _, c := range m.unsafe {
		if lets() {
			c.apply(names)
		}
	}
	var errs []error
	for path, inode := range names {
		relative, err := filepath.Rel(m.r.root, path)
		if err != nil {
			return err
		}
		if inode == 0 {
			errs = append(errs, os.MkdirAll(filepath.Join(folder, relative), 0o700))
			continue
		}
		if _, ok := names[filepath.Dir(path)]; !ok {
			continue // its folder is not there
		}
		errs = append(errs, writeSparse(filepath.Join(folder, relative), m.files[inode].torn(lets, sector)))
	}
	return errors.Join(errs...)
}

// torn returns the file's content with those sectors of what is pending that lets lets through.
func (f *file) torn(lets func() bool, sector int) []byte {
	if f == nil {
		return nil
	}
	if len(f.pending) == 0 {
		return f.safe
	}
	b := bytes.Clone(f.safe)
	for _, p := range f.pending {
		if p.data == nil {
			if lets() {
				b = p.onto(b)
			}
			continue
		}
		for done := 0; done < len(p.data); {
			n := min(sector-int((p.offset+int64(done))%int64(sector)), len(p.data)-done)
			if lets() {
				b = pending{offset: p.offset + int64(done), data: p.data[done : done+n]}.onto(b)
			}
			done += n
		}
	}
	return b
}

// writeSparse writes a file without the blocks that are empty, as databases that grow ahead have many.
func writeSparse(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(int64(len(b)))
	none := make([]byte, 64<<10)
	for at := 0; at < len(b) && err == nil; at += len(none) {
		part := b[at:min(at+len(none), len(b))]
		if !bytes.Equal(part, none[:len(part)]) {
			_, err = f.WriteAt(part, int64(at))
		}
	}
	return errors.Join(err, f.Close())
}
