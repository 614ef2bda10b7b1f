package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"time"
)

// This file reads the pages of a bbolt database without bbolt and without mapping the file into memory: bbolt trusts
// what it maps, so that a damaged or short file ends the process, in goroutines in which nobody can prevent it. Before
// bbolt gets to see a file it is therefore looked through here, page by page, for all that bbolt takes for granted. A
// start reads all pages anyhow, to find those that are free. What is damaged is walked as far as it can be, for a
// recovery.
//
// The format: a page has a header of id, flags, count and overflow (how many pages more it takes). Pages 0 and 1 hold a
// meta each, of which the newer one counts. A leaf holds keys and values, a branch holds keys and pages; an element is a
// fixed part, with the offset of its key from itself, and key and value after all fixed parts. A value that is a bucket
// is a page id and, when that is 0, a page within the value.

// errDatabase: the database cannot be used as it is.
var errDatabase = errors.New("the database is damaged")

const (
	pageHeader  = 16
	pageElement = 16
	pageBranch  = 0x01
	pageLeaf    = 0x02
	pageMeta    = 0x04
	pageFree    = 0x10
	leafBucket  = 0x01
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaLength  = 64
	bucketHead  = 16
	pageDepth   = 64 // no tree is so deep
)

// pages is a database's file as it lies on the disk.
type pages struct {
	f    io.ReaderAt
	size int64
	page int64  // octets of a page
	meta meta   // the newer one that is whole
	torn bool   // the other one is not
	seen []bool // by page; as many as the file has
	// buckets has the names of those that walk has met at the root.
	buckets map[string]bool
	spare   [][]byte // buffers for pages
	// fault is called with what is wrong; the walk goes on behind it.
	fault func(error)
}

// meta is what one of the two meta pages says. free is the page of the list of free pages, or noFreelist.
type meta struct{ pageSize, root, free, end, txid uint64 }

const noFreelist = 1<<64 - 1

// openPages reads the metas of a database.
func openPages(f *os.File) (*pages, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p := &pages{f: f, size: info.Size(), buckets: make(map[string]bool), fault: func(error) {}}
	first, firstErr := p.readMeta(0)
	page := int64(os.Getpagesize())
	if firstErr == nil {
		page = int64(first.pageSize)
	}
	second, secondErr := p.readMeta(page)
	switch {
	case firstErr != nil && secondErr != nil:
		p.page = page
		p.seen = make([]bool, p.size/page+1)
		return p, fmt.Errorf("%w: neither of its two meta pages can be read (%w)", errDatabase, firstErr)
	case firstErr != nil || secondErr == nil && second.txid > first.txid:
		p.meta = second
	default:
		p.meta = first
	}
	p.page, p.torn = int64(p.meta.pageSize), firstErr != nil || secondErr != nil
	p.seen = make([]bool, max(p.size/p.page, 2)+1)
	return p, nil
}

func (p *pages) readMeta(at int64) (m meta, err error) {
	b := make([]byte, pageHeader+metaLength)
	if _, err := p.f.ReadAt(b, at); err != nil {
		return m, fmt.Errorf("the file ends at octet %d", p.size)
	}
	flags := binary.NativeEndian.Uint16(b[8:])
	b = b[pageHeader:]
	sum := fnv.New64a()
	sum.Write(b[:metaLength-8])
	m = meta{pageSize: uint64(binary.NativeEndian.Uint32(b[8:])), root: binary.NativeEndian.Uint64(b[16:]),
		free: binary.NativeEndian.Uint64(b[32:]),
		end:  binary.NativeEndian.Uint64(b[40:]), txid: binary.NativeEndian.Uint64(b[48:])}
	switch {
	case flags&pageMeta == 0, binary.NativeEndian.Uint32(b) != metaMagic, binary.NativeEndian.Uint64(b[56:]) != sum.Sum64():
		return m, errors.New("a meta page is not one, or fails its checksum")
	case binary.NativeEndian.Uint32(b[4:]) != metaVersion:
		return m, fmt.Errorf("version %d of the database's format is not known here", binary.NativeEndian.Uint32(b[4:]))
	case m.pageSize < 1024 || m.pageSize > 64<<10 || m.pageSize&(m.pageSize-1) != 0:
		return m, fmt.Errorf("a page size of %d cannot be", m.pageSize)
	}
	return m, nil
}

// checkPages returns an error that is errDatabase when bbolt must not open f. A format above 0 says that it has been a
// queue. With journal, a meta page may be damaged:
// the write of it was cut short, and what it was about is in the journal. Without one the last commit would be lost in
// silence.
func checkPages(f *os.File, format int, journal bool) error {
	p, err := openPages(f)
	if err != nil {
		return err
	}
	if p.torn && !journal {
		return fmt.Errorf("%w: a meta page cannot be read, and with it the last commit is lost", errDatabase)
	}
	if used := int64(p.meta.end) * p.page; used > p.size {
		return fmt.Errorf("%w: it has %d octets and should have %d", errDatabase, p.size, used)
	}
	var faults int
	var first error
	p.fault = func(err error) {
		if faults++; first == nil {
			first = err
		}
	}
	lengths := keyLengths()
	p.walk(func(in [][]byte, key []byte, _ func() []byte) {
		if len(in) != 1 {
			return
		}
		if want := lengths[string(in[0])]; want > 0 && len(key) != want {
			p.fault(fmt.Errorf("a key of %q has %d octets", in, len(key)))
		}
	})
	p.freelist()
	for name := range lengths {
		if format > 0 && !p.buckets[name] {
			p.fault(fmt.Errorf("there is no bucket %q", name))
		}
	}
	if faults > 0 {
		return fmt.Errorf("%w: %d faults, the first: %w", errDatabase, faults, first)
	}
	return nil
}

// checkDatabase looks the database at path through before bbolt opens it. The error is ErrLocked when a daemon has it.
func checkDatabase(path string, format int) error {
	f, err := openFile(path, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", path, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() == 0 {
		return err // bbolt makes a new one; that it was not emptied is for the marker to say
	}
	for try := 0; ; try++ {
		// Somebody who only looks is gone in a moment.
		if err = lockFile(f, false); !errors.Is(err, ErrLocked) || try == lockTries {
			break
		}
		time.Sleep(lockPause)
	}
	if errors.Is(err, ErrLocked) {
		return fmt.Errorf("%w: %s is locked; stop that one, or set another data_dir", ErrLocked, path)
	}
	if err == nil {
		err = checkPages(f, format, format < 2 || hasJournal(filepath.Dir(path)))
	}
	if err != nil {
		return fmt.Errorf("%s: %w%s", path, err, recoverRemedy)
	}
	return nil
}

const recoverRemedy = `; nothing was changed; "relayctl queue recover", with relayd stopped, saves what can be read into a new one`

// hasJournal reports whether the store in dir was not closed in order.
func hasJournal(dir string) bool {
	for gen := range uint64(2) {
		if _, err := os.Stat(filepath.Join(dir, journalName(gen))); err == nil {
			return true
		}
	}
	return false
}

// keyLengths has the buckets that every queue has, and how many octets their keys have; 0 is for the due index, each line
// of which is looked at when it is read.
func keyLengths() map[string]int {
	return map[string]int{string(bucketEnvelopes()): 8, string(bucketBodies()): 8, string(bucketHistory()): 8,
		string(bucketQuarantine()): 8, string(bucketDue()): 0}
}

// walk calls visit with every key of every bucket that can be read, beside the names of the buckets that it is in, and a
// function that returns its value, or nil when that cannot be read.
func (p *pages) walk(visit func(in [][]byte, key []byte, value func() []byte)) {
	p.seen[0], p.seen[1] = true, true
	w := walker{pages: p, visit: visit}
	w.tree(p.meta.root, nil, nil, 0)
}

// freelist looks at the list of free pages, after walk: each is within the file, in order, and nowhere else.
func (p *pages) freelist() {
	id := p.meta.free
	if id == noFreelist {
		return // bbolt finds out for itself
	}
	d, err := p.load(id)
	if err == nil && d.flags != pageFree {
		err = fmt.Errorf("it is no list of free pages (%#x)", d.flags)
	}
	if err != nil {
		p.fault(fmt.Errorf("page %d: %w", id, err))
		return
	}
	const entry = 8
	at, n := int64(pageHeader), int64(d.count)
	if n == 0xffff { // then the number is the first entry
		first := p.octets(&d, at, entry) // within the page
		n, at = int64(binary.NativeEndian.Uint64(first)), at+entry
	}
	if n < 0 || n > d.length/entry {
		p.fault(fmt.Errorf("page %d: %d free pages cannot be", id, n))
		return
	}
	list := p.octets(&d, at, n*entry)
	if list == nil {
		p.fault(fmt.Errorf("page %d: the list of free pages is cut short", id))
		return
	}
	var last uint64
	for ; len(list) > 0; list = list[entry:] {
		free := binary.NativeEndian.Uint64(list)
		if free < 2 || free <= last || free >= p.meta.end || p.seen[free] {
			p.fault(fmt.Errorf("page %d: page %d cannot be free", id, free))
			return
		}
		last = free
	}
}

type walker struct {
	*pages
	visit func(in [][]byte, key []byte, value func() []byte)
	in    [][]byte
}

// pageData is a page, or one within a value.
type pageData struct {
	id       uint64
	flags    uint16
	count    int
	overflow uint64
	head     []byte // the header and the fixed parts, and what came with them
	length   int64
	at       int64 // of the page in the file; -1 for one within a value
}

func (w *walker) fail(id uint64, format string, args ...any) {
	w.fault(fmt.Errorf("page %d: "+format, append([]any{id}, args...)...))
}

// load reads the page id, all of it but its overflow. Each can be in the tree once.
func (p *pages) load(id uint64) (d pageData, err error) {
	if id < 2 || id >= p.meta.end || id >= uint64(len(p.seen)) {
		return d, fmt.Errorf("it is not below %d", p.meta.end)
	}
	head := p.buffer()
	if _, err := p.f.ReadAt(head, int64(id)*p.page); err != nil {
		return d, err
	}
	d = parsePage(head)
	d.at = int64(id) * p.page
	switch {
	case d.id != id:
		return d, fmt.Errorf("it says that it is page %d", d.id)
	case id+d.overflow >= p.meta.end, id+d.overflow >= uint64(len(p.seen)):
		return d, errors.New("it ends behind the file")
	}
	d.length = int64(d.overflow+1) * p.page
	element := pageElement
	if d.flags == pageFree {
		element = 0 // freelist looks for itself
	}
	if need := int64(pageHeader + d.count*element); need > d.length {
		return d, fmt.Errorf("%d elements do not fit", d.count)
	} else if need > p.page {
		d.head = make([]byte, need)
		if _, err := p.f.ReadAt(d.head, d.at); err != nil {
			return d, err
		}
	}
	for i := id; i <= id+d.overflow; i++ {
		if p.seen[i] {
			return d, errors.New("it is there twice")
		}
		p.seen[i] = true
	}
	return d, nil
}

// buffer returns room for a page; done gives it back, with the keys that point into it.
func (p *pages) buffer() []byte {
	if n := len(p.spare); n > 0 {
		b := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return b
	}
	return make([]byte, p.page)
}

func (p *pages) done(d *pageData) {
	if int64(len(d.head)) == p.page {
		p.spare = append(p.spare, d.head)
	}
}

func parsePage(b []byte) pageData {
	return pageData{id: binary.NativeEndian.Uint64(b), flags: binary.NativeEndian.Uint16(b[8:]),
		count: int(binary.NativeEndian.Uint16(b[10:])), overflow: uint64(binary.NativeEndian.Uint32(b[12:])),
		head: b, length: int64(len(b)), at: -1}
}

// octets returns length octets of a page from offset at on, or nil.
func (p *pages) octets(d *pageData, at, length int64) []byte {
	switch {
	case at < 0 || length < 0 || at+length > d.length:
		return nil
	case at+length <= int64(len(d.head)):
		return d.head[at : at+length]
	}
	b := make([]byte, length)
	if _, err := p.f.ReadAt(b, d.at+at); err != nil {
		return nil
	}
	return b
}

// tree walks the page id and what is below it. Its keys are from low on and below high, where that is set.
func (w *walker) tree(id uint64, low, high []byte, depth int) {
	d, err := w.load(id)
	switch {
	case err != nil:
		w.fail(id, "%w", err)
	case depth > pageDepth:
		w.fail(id, "it is too deep down")
	default:
		w.page(&d, low, high, depth)
		w.done(&d)
	}
}

func (w *walker) page(d *pageData, low, high []byte, depth int) {
	if d.flags != pageBranch && d.flags != pageLeaf {
		w.fail(d.id, "it is neither branch nor leaf (%#x)", d.flags)
		return
	}
	if d.flags == pageBranch && d.count == 0 {
		w.fail(d.id, "it is a branch without an element")
		return
	}
	keys := make([][]byte, d.count)
	for i := range d.count {
		at := int64(pageHeader + i*pageElement)
		e := d.head[at:]
		pos, size := binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:])
		if d.flags == pageLeaf {
			pos, size = binary.NativeEndian.Uint32(e[4:]), binary.NativeEndian.Uint32(e[8:])
		}
		keys[i] = w.octets(d, at+int64(pos), int64(size))
		switch {
		case keys[i] == nil || size == 0:
			w.fail(d.id, "its element %d has no key", i)
			keys[i] = nil
		case i > 0 && keys[i-1] != nil && bytes.Compare(keys[i-1], keys[i]) >= 0,
			low != nil && bytes.Compare(keys[i], low) < 0, high != nil && bytes.Compare(keys[i], high) >= 0:
			w.fail(d.id, "its element %d is out of order", i)
		}
	}
	for i, key := range keys {
		switch {
		case d.flags == pageBranch:
			upper := high
			if i+1 < len(keys) && keys[i+1] != nil {
				upper = keys[i+1]
			}
			w.tree(binary.NativeEndian.Uint64(d.head[pageHeader+i*pageElement+8:]), key, upper, depth+1)
		case key != nil:
			w.element(d, i, key, depth)
		}
	}
}

// element visits element i of a leaf.
func (w *walker) element(d *pageData, i int, key []byte, depth int) {
	at := int64(pageHeader + i*pageElement)
	e := d.head[at:]
	flags, size := binary.NativeEndian.Uint32(e), int64(binary.NativeEndian.Uint32(e[12:]))
	start := at + int64(binary.NativeEndian.Uint32(e[4:])) + int64(len(key))
	if start+size > d.length {
		w.fail(d.id, "the value of its element %d ends behind it", i)
		return
	}
	if flags&leafBucket == 0 {
		w.visit(w.in, key, func() []byte { return w.octets(d, start, size) })
		return
	}
	v := w.octets(d, start, size)
	if len(v) < bucketHead {
		w.fail(d.id, "the bucket %q is cut short", key)
		return
	}
	if len(w.in) == 0 {
		w.buckets[string(key)] = true
	}
	w.in = append(w.in, bytes.Clone(key))
	defer func() { w.in = w.in[:len(w.in)-1] }()
	if root := binary.NativeEndian.Uint64(v); root != 0 {
		w.tree(root, nil, nil, depth+1)
		return
	}
	inner := v[bucketHead:]
	if len(inner) < pageHeader {
		w.fail(d.id, "the bucket %q is cut short", key)
		return
	}
	sub := parsePage(inner)
	sub.id = d.id
	if pageHeader+sub.count*pageElement > len(inner) || sub.flags != pageLeaf {
		w.fail(d.id, "the bucket %q within it is damaged", key)
		return
	}
	w.page(&sub, nil, nil, depth+1)
}

// strays calls visit with the keys and values of every leaf that walk did not get to: those below a damaged page, and
// those that are free and hold what was there before.
func (p *pages) strays(visit func(key, value []byte)) {
	end := uint64(p.size / p.page)
	w := walker{pages: p, visit: func(_ [][]byte, key []byte, value func() []byte) {
		if v := value(); v != nil {
			visit(key, v)
		}
	}}
	p.meta.end = end
	p.fault = func(error) {}
	for id := uint64(2); id < end; id++ {
		head := make([]byte, pageHeader)
		if p.seen[id] {
			continue
		}
		if _, err := p.f.ReadAt(head, int64(id)*p.page); err != nil {
			continue
		}
		if d := parsePage(head); d.id != id || d.flags != pageLeaf || d.count == 0 {
			continue
		}
		if d, err := p.load(id); err == nil {
			w.page(&d, nil, nil, 0)
		}
	}
}
