package queue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// freeSpace knows how much room the file system of dir has, and whether the spool can be written. It asks once a second,
// since others write there too, and whenever what was promised since comes near the minimum. The disk is asked on a
// goroutine of its own, so that nobody but those who need the answer waits for a disk that hangs.
type freeSpace struct {
	dir   string
	spool string // folder of large messages; not looked at when empty
	watch *watch
	// has returns the room inside the database's file, in octets, extend gives it more, and owed is what of it the outcomes
	// of all that is queued may need: see reserve.go.
	has    func() int64
	extend func(int64) error
	owed   *atomic.Int64

	mu     sync.Mutex
	min    int64
	known  room  // as the disk said last; octets are less what was written since
	own    int64 // octets inside the database's file, likewise
	taken  int64 // octets that were reserved and are not written yet: of the disk
	within int64 // and of the database
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
	if f.has != nil {
		own = f.has()
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

// lacks returns how many octets the disk must give so that the database has n more beside what the outcomes of all that
// is queued may need; negative when it has more within its file. f.mu is held.
func (f *freeSpace) lacks(n int64) int64 {
	if f.owed == nil {
		return n
	}
	return f.owed.Load() + stepRoom + f.within + n - f.own
}

// spare returns how many octets may be taken of the disk. f.mu is held.
func (f *freeSpace) spare() int64 { return f.known.octets - f.taken - max(f.min, floorRoom) }

// roomFor reports whether there is room for n octets more in the database, or in the spool, with that for all outcomes and
// with min still free on the disk. f.mu is held.
func (f *freeSpace) roomFor(n int64, database bool) bool {
	if database {
		return f.lacks(n) <= f.spare()
	}
	return max(0, f.lacks(0))+n <= f.spare()
}

// near reports whether so little is left that the disk is asked each time. f.mu is held.
func (f *freeSpace) near(n int64) bool {
	return f.spare()-max(0, f.lacks(n))-n < freeSlack || time.Since(f.asked) >= time.Second
}

// reserve takes n octets, of the database or of the disk, when there is room for them, asking the disk when that is not sure.
// The caller gives them back with release.
func (f *freeSpace) reserve(n int64, database bool) (bool, error) {
	f.mu.Lock()
	near := f.near(n)
	f.mu.Unlock()
	if near {
		f.refresh(diskPatience)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.known.err != nil:
		return false, f.known.err
	case !f.roomFor(n, database):
		return false, nil
	case !database:
		f.taken += n
		return true, nil
	}
	more := f.lacks(n)
	f.within += n
	if more > 0 && n > 0 && !f.grow(min(more+extendStep, max(more, f.spare()))) {
		f.within -= n
		return false, nil
	}
	return true, nil
}

// grow gives the database n octets of the disk: once a message has its 250, nobody else may have taken the room for its
// outcome. f.mu is held, but not while the disk works.
func (f *freeSpace) grow(n int64) bool {
	if f.extend == nil {
		return true
	}
	f.mu.Unlock()
	err := f.extend(n)
	f.mu.Lock()
	if err == nil {
		f.own, f.known.octets = f.own+n, f.known.octets-n
	}
	return err == nil
}

// release gives back n octets that were reserved, of which some were written.
func (f *freeSpace) release(n, written int64, database bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if database {
		f.within, f.own = f.within-n, f.own-written
		return
	}
	f.taken, f.known.octets = f.taken-n, f.known.octets-written
}

// keep sees to it that the database has the room that it owes the outcomes of what is queued, when the disk has it by now,
// and leaves min free: what is on its way to the database makes it lack more for a moment than it does.
func (f *freeSpace) keep() {
	f.refresh(statPatience)
	f.mu.Lock()
	defer f.mu.Unlock()
	if more := min(f.lacks(0), f.spare()); f.known.err == nil && more > 0 {
		f.grow(more)
	}
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

// compactWords returns the remedy for large messages that the disk lacks room for while the database's file, which never
// shrinks, has room within; "" when it has not.
func (f *freeSpace) compactWords() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	within := -f.lacks(0)
	if f.owed == nil || within < max(spoolStep, f.large) {
		return ""
	}
	return fmt.Sprintf(", or stop relayd and run \"relayctl queue compact\": %d MB within the database's file are not used", within/1_000_000)
}

// short reports whether less than n octets are free for new mail, as far as is known, or a write has found none.
func (f *freeSpace) short(n int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.asked.IsZero() && (!f.roomFor(inlineRoom+n, true) || f.refused != nil)
}

// shortFor reports whether less than n octets are free for new mail because something takes have octets: without that there
// would be room for mail.
func (f *freeSpace) shortFor(n, have int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return (!f.roomFor(inlineRoom+n, true) || f.refused != nil) && f.roomFor(inlineRoom-have, true)
}

// where says in words which disk is meant.
func (f *freeSpace) where() string { return "the disk of " + filepath.Clean(f.dir) }
