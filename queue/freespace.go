package queue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// freeSpace knows how much room the file system of dir has, and whether the spool can be written. It asks once a second,
// since others write there too, and whenever what was promised since comes near the minimum. The disk is asked on a
// goroutine of its own, so that nobody but those who need the answer waits for a disk that hangs.
type freeSpace struct {
	dir   string
	spool string       // folder of large messages; not looked at when empty
	spare func() int64 // octets that the database has for itself; negative when it will take some without anybody asking
	watch *watch

	mu     sync.Mutex
	min    int64
	known  room  // as the disk said last; octets are less what was promised since
	own    int64 // octets that the database has beside them
	asked  time.Time
	asking chan struct{} // closed when the disk has answered; nil while it is not asked
	// large is the most octets that a large message was refused for since there was room for so many.
	large int64
	// refused and unspooled are what a write for new mail last failed with, until one succeeds.
	refused, unspooled error
}

// room is what the disk says of itself.
type room struct {
	octets   int64 // free for relayd
	files    int64 // that can still be made
	writable error // why the spool cannot be written
	err      error // why nothing is known
}

const (
	// freeSlack is how near to the minimum the free space is asked for anew at each message.
	freeSlack = 64 << 20
	// minFiles is how many files must be left to make: the spool needs one for each large message.
	minFiles = 16
	// statPatience is how long an answer of the disk is waited for by those who can do without a new one.
	statPatience = 500 * time.Millisecond
	// probeRoom is how much room a look for a quota asks for, in octets.
	probeRoom = 2 * journalAhead
)

func (f *freeSpace) setMin(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.min = n
}

// refresh asks the disk, or joins those who wait for it already, and waits for its answer at most for patience.
func (f *freeSpace) refresh(patience time.Duration) {
	f.mu.Lock()
	if f.asking == nil {
		f.asking = make(chan struct{})
		go f.ask(f.asking)
	}
	answered := f.asking
	f.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
	}
}

func (f *freeSpace) ask(answered chan<- struct{}) {
	defer close(answered)
	defer f.watch.begin("asking for its free space")()
	f.mu.Lock()
	refused, unspooled := f.refused, f.unspooled
	f.mu.Unlock()
	now, own := f.look(), int64(0)
	if refused != nil {
		refused = f.probeQuota()
	}
	if unspooled != nil && now.writable == nil {
		unspooled = probeFolder(f.spool)
	}
	if f.spare != nil {
		own = f.spare()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known, f.own, f.asked, f.asking = now, own, time.Now(), nil
	f.refused, f.unspooled = refused, unspooled
	if f.roomFor(f.large, false) {
		f.large = 0
	}
}

func (f *freeSpace) look() (r room) {
	if r.octets, r.files, r.err = diskFree(f.dir); r.err != nil {
		r.err = fmt.Errorf("cannot ask %s for its free space: %w", f.dir, r.err)
	}
	if f.spool != "" {
		r.writable = writable(f.spool)
	}
	return r
}

// probeQuota reports whether the disk gives room as new mail needs it. Free space does not tell: there are quotas.
func (f *freeSpace) probeQuota() error {
	file, err := os.CreateTemp(f.dir, ".room-*")
	if err == nil {
		if err = preallocate(file, probeRoom); !isFull(err) {
			err = nil
		}
		err = errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	return err
}

// probeFolder reports whether a file can be made, written and synced in dir.
func probeFolder(dir string) error {
	file, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return err
	}
	_, err = file.Write(make([]byte, frameBlock))
	if err == nil {
		err = fdatasync(file)
	}
	return errors.Join(err, file.Close(), os.Remove(file.Name()))
}

// roomFor reports whether n octets can be taken and min still be free. What is for the database may use what that has
// free within its file, which would otherwise never be used again once the disk was full; a file of the spool may not.
// f.mu is held.
func (f *freeSpace) roomFor(n int64, database bool) bool {
	own := f.own
	if !database {
		own = min(own, 0)
	}
	return f.min <= 0 || f.known.octets+own-n >= f.min
}

// reserve takes n octets when there is room for them, asking the disk when that is not sure.
func (f *freeSpace) reserve(n int64, database bool) (bool, error) {
	f.mu.Lock()
	near := f.min > 0 && f.known.octets+min(f.own, 0)-n < f.min+freeSlack || time.Since(f.asked) >= time.Second
	f.mu.Unlock()
	if near {
		f.refresh(diskPatience)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known.err != nil {
		return false, f.known.err
	}
	if !f.roomFor(n, database) {
		return false, nil
	}
	f.known.octets -= n
	return true, nil
}

// refuseLarge notes that a large message of n octets so far was refused.
func (f *freeSpace) refuseLarge(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.large = max(f.large, n)
}

// wrote notes what a write of a new message into the database or, with spooled, into the spool came to.
func (f *freeSpace) wrote(spooled bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if spooled {
		f.unspooled = err
	} else if err == nil || isFull(err) {
		f.refused = err
	}
}

// state returns what is known, without asking.
func (f *freeSpace) state() (r room, small, large bool, refused, unspooled error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked.IsZero() { // nothing is known yet
		return room{files: minFiles}, true, true, nil, nil
	}
	return f.known, f.roomFor(inlineRoom, true), f.roomFor(max(spoolStep, f.large), false), f.refused, f.unspooled
}

// where says in words which disk is meant.
func (f *freeSpace) where() string { return "the disk of " + filepath.Clean(f.dir) }
