package queue

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// journal is what makes a commit durable: a file that each commit is appended to as one frame, and synced once. The
// database gets the same changes later, many commits in one transaction (see store). A commit so costs one flush of
// consecutive blocks instead of two of scattered pages, and what has come and gone in between never reaches the
// database.
//
// There are two files. The one of the present generation is written; the other holds the generation before it until
// that is in the database, and is then written over from its start for the next. The database names the last
// generation that it holds, and a salt: a frame counts only when its checksum, begun with the salt, is right, so that
// neither what an earlier use left in the file nor content that looks like a frame is taken for one.
type journal struct {
	dir   string
	files [2]*os.File // by the lowest bit of the generation
	gen   uint64      // that is being written
	salt  uint64
	seq   uint64   // of the next frame; it goes on through the generations
	at    int64    // where the next frame goes
	room  [2]int64 // octets of each file that are known to have their place on the disk
	made  int64    // octets that each file has at least
	buf   []byte
	// unsynced leaves the flushing out, for tests in which nobody pulls the plug.
	unsynced bool
}

// journalState is what the database knows of the journal.
type journalState struct {
	gen  uint64 // the last generation that the database holds whole
	salt uint64
	seq  uint64 // the number of the first frame that came after it
	// made is how many octets each file of the journal has at least; 0 when there is no journal, after an orderly stop.
	made int64
}

// A file begins with a block that names its generation and the salt, for a recovery that has no database to ask. It is
// written with the first frame of the generation.
//
// A frame begins at a block of its own, so that a write that is cut short cannot damage one that was synced before.
// Its header is: magic, generation, number, length of the payload, the checksum of the salt and the header before it,
// and the checksum of the salt, the header and the payload. The numbers run on from one generation to the next, so that
// a gap is noticed wherever it is. All numbers are big-endian.
//
// The first block of the other file also has a tally: the number of the next frame, written after each commit and
// not synced. Frames that are lost at the journal's end are noticed by it. A power cut may leave an older tally.
const (
	frameBlock  = 4096
	frameHeader = 4 + 8 + 8 + 4 + 4 + 4
	frameMagic  = 0x726c796a // "rlyj"
	fileHeader  = 4 + 8 + 8 + 4
	fileMagic   = 0x726c7966 // "rlyf"
	tallyMagic  = 0x726c7974 // "rlyt"
	tallyLength = 4 + 8 + 4
	tallyAt     = 2048 // a sector of its own
	// journalKeep is how large a file may stay when it is written over from its start.
	journalKeep = 32 << 20
	// journalReserve is how much room each file is given at the start, and journalAhead how much of it new messages leave,
	// so that outcomes can be recorded when the disk is full.
	journalReserve = 4 << 20
	journalAhead   = 2 << 20
	// frameBuffer is how large the buffer may stay.
	frameBuffer = 1 << 20
)

// errNoRoom: the disk is full. Nothing was written, and what was to be can be tried again.
var errNoRoom = errors.New("no room on the disk of the queue")

// noRoom makes an error of a full disk errNoRoom, if it came from a write: one of a flush leaves nothing to rely on.
func noRoom(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Op == "write" && isFull(err) {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return err
}

func journalName(gen uint64) string { return fmt.Sprintf("journal-%d", gen&1) }

// openJournal begins generation gen with a new salt. The database must know both before the first append. The files are
// left as they are: one of them may hold what the database does not have yet.
func openJournal(dir string, gen uint64) (*journal, error) {
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return nil, err
	}
	j := &journal{dir: dir, gen: gen, salt: binary.BigEndian.Uint64(salt[:]), made: journalReserve}
	for i := range j.files {
		f, err := openFile(filepath.Join(dir, journalName(uint64(i))), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, errors.Join(err, j.close())
		}
		j.files[i] = f
		if preallocate(f, journalReserve) == nil {
			j.room[i] = journalReserve
		}
		if err := lengthen(f, j.made); err != nil {
			return nil, errors.Join(err, j.close())
		}
	}
	if err := syncDir(dir); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return j, nil
}

// lengthen gives a file at least size octets, which it keeps after a power cut.
func lengthen(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil || info.Size() >= size {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return fdatasync(f)
}

// append adds a frame of the changes and returns once it is on disk. After errNoRoom it is not there, and the next one
// takes its place. After any other error nothing is known of it, and no other may be appended.
func (j *journal) append(deltas []delta) error {
	buf := j.buf[:0]
	if j.at == 0 {
		buf = appendFileHeader(buf, j.gen, j.salt)
	}
	start := len(buf)
	buf = append(buf, make([]byte, frameHeader)...)
	for i := range deltas {
		buf = deltas[i].append(buf)
	}
	frame := buf[start:]
	binary.BigEndian.PutUint32(frame, frameMagic)
	binary.BigEndian.PutUint64(frame[4:], j.gen)
	binary.BigEndian.PutUint64(frame[12:], j.seq)
	binary.BigEndian.PutUint32(frame[20:], uint32(len(frame)-frameHeader))
	binary.BigEndian.PutUint32(frame[24:], saltedSum(j.salt, frame[:24]))
	binary.BigEndian.PutUint32(frame[28:], saltedSum(j.salt, frame[:28], frame[frameHeader:]))
	buf = append(buf, make([]byte, (frameBlock-len(buf)%frameBlock)%frameBlock)...)
	if j.buf = nil; cap(buf) <= frameBuffer {
		j.buf = buf
	}
	f := j.files[j.gen&1]
	if slices.ContainsFunc(deltas, func(d delta) bool { return d.intake }) {
		if err := j.secure(f, j.at+int64(len(buf))+journalAhead); err != nil {
			return err
		}
	}
	if n, err := f.WriteAt(buf, j.at); err != nil {
		return j.unwrite(f, n, noRoom(err))
	}
	if !j.unsynced {
		if err := fdatasync(f); err != nil {
			return err
		}
	}
	j.seq++
	j.at += int64(len(buf))
	j.tally()
	return nil
}

// tally notes in the other file how many frames there are. A failure is no harm: the frames are on disk.
func (j *journal) tally() {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, tallyLength), tallyMagic)
	b = binary.BigEndian.AppendUint64(b, j.seq)
	b = binary.BigEndian.AppendUint32(b, saltedSum(j.salt, b))
	_, _ = j.files[(j.gen+1)&1].WriteAt(b, tallyAt)
}

// tally returns the highest number that the next frame has by the tallies of the journal in dir, or 0.
func (s journalState) tally(dir string) (next uint64) {
	for n := range uint64(2) {
		f, err := openFile(filepath.Join(dir, journalName(n)), os.O_RDONLY, 0)
		if err != nil {
			continue
		}
		b := make([]byte, tallyLength)
		_, err = f.ReadAt(b, tallyAt)
		if err == nil && binary.BigEndian.Uint32(b) == tallyMagic && binary.BigEndian.Uint32(b[12:]) == saltedSum(s.salt, b[:12]) {
			next = max(next, binary.BigEndian.Uint64(b[4:]))
		}
		_ = f.Close() // it was only read
	}
	return next
}

// faults says which files of the journal in dir are missing, or shorter than they were made.
func (s journalState) faults(dir string) (faults []string) {
	if s.made == 0 {
		return nil
	}
	for n := range uint64(2) {
		path := filepath.Join(dir, journalName(n))
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			faults = append(faults, path+" is missing")
		case err != nil:
			faults = append(faults, err.Error())
		case info.Size() < s.made:
			faults = append(faults, fmt.Sprintf("%s was cut: it has %d octets of at least %d", path, info.Size(), s.made))
		}
	}
	return faults
}

// secure gives the present file room for its first size octets. Where that cannot be asked for, the writes find out.
func (j *journal) secure(f *os.File, size int64) error {
	room := &j.room[j.gen&1]
	if size <= *room {
		return nil
	}
	size += journalAhead // so that it is not asked for each time
	err := preallocate(f, size)
	if isFull(err) {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	if err == nil {
		*room = size
	}
	return nil
}

// unwrite makes sure that a frame for which there was no room is not taken for one that was answered for. Of n octets
// that were written the blocks are there, so that there is room to write over them.
func (j *journal) unwrite(f *os.File, n int, err error) error {
	if !errors.Is(err, errNoRoom) || n == 0 {
		return err
	}
	zeros := make([]byte, min(n, 2*frameBlock)) // the file's header and the frame's
	if _, e := f.WriteAt(zeros, j.at); e != nil {
		return fmt.Errorf("%v, and what was written of it cannot be undone: %w", err, e)
	}
	return err
}

// appendFileHeader adds the first block of a file to b.
func appendFileHeader(b []byte, gen, salt uint64) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, fileMagic)
	b = binary.BigEndian.AppendUint64(b, gen)
	b = binary.BigEndian.AppendUint64(b, salt)
	b = binary.BigEndian.AppendUint32(b, checksum(b[start:]))
	return append(b, make([]byte, frameBlock-fileHeader)...)
}

// readFileHeader returns what the first block of a journal's file says of it; ok is false when that is nothing.
func readFileHeader(f io.ReaderAt) (gen, salt uint64, ok bool) {
	b := make([]byte, fileHeader)
	if _, err := f.ReadAt(b, 0); err != nil || binary.BigEndian.Uint32(b) != fileMagic ||
		binary.BigEndian.Uint32(b[20:]) != checksum(b[:20]) {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint64(b[12:]), true
}

// saltedSum returns the checksum of the salt and the parts behind it.
func saltedSum(salt uint64, parts ...[]byte) uint32 {
	sum := crc32.Update(0, castagnoli, binary.BigEndian.AppendUint64(nil, salt))
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}

// rotate begins the next generation, in the other file. The generation that the file held must be in the database.
func (j *journal) rotate() error {
	j.gen++
	j.at = 0
	return j.shrink()
}

// shrink cuts the file of the present generation to what it may keep. Nothing in it is needed any more.
func (j *journal) shrink() error {
	keep := j.keep()
	f := j.files[j.gen&1]
	info, err := f.Stat()
	if err != nil || info.Size() <= keep {
		return err
	}
	j.room[j.gen&1] = min(j.room[j.gen&1], keep)
	return f.Truncate(keep)
}

// keep returns how large a file may stay: less on a disk that is nearly full.
func (j *journal) keep() int64 {
	free, _, err := diskFree(j.dir)
	if err != nil {
		return journalKeep
	}
	return min(journalKeep, max(journalReserve, free/4))
}

func (j *journal) close() error {
	var err error
	for _, f := range j.files {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// remove unlinks the files: the database holds all that is in them.
func (j *journal) remove() error {
	var err error
	for gen := range uint64(len(j.files)) {
		if e := os.Remove(filepath.Join(j.dir, journalName(gen))); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// journalEnd is where a journal ends.
type journalEnd struct {
	gen     uint64 // the last generation of which there is a frame, or the last one that the database holds
	first   uint64 // the number of its first frame
	seq     uint64 // of the next frame
	at      int64  // where that goes
	missing int    // frames that others came after, or that a tally counts, and that could not be read
}

// replay calls apply with the changes of every frame that the database does not hold, in order, and returns where the
// journal ends. Frames are missing when others came after them: one that is cut short at the end was never answered
// for, but one in the middle was.
func (s journalState) replay(dir string, apply func(gen uint64, d delta)) (end journalEnd, err error) {
	end = journalEnd{gen: s.gen, seq: s.seq}
	for next := s.gen + 1; next <= s.gen+2; next++ {
		path := filepath.Join(dir, journalName(next))
		f, err := openFile(path, os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return end, err
		}
		r, err := s.replayFile(f, next, end.seq, func(d delta) { apply(next, d) })
		if err = errors.Join(err, f.Close()); err != nil {
			return end, fmt.Errorf("%s: %w", path, err)
		}
		if end.missing += r.missing; r.frames > 0 {
			end.gen, end.first, end.seq, end.at = next, end.seq, r.next, r.end
		}
	}
	if counted := s.tally(dir); counted > end.seq {
		end.missing += int(min(counted-end.seq, math.MaxInt32))
	}
	return end, nil
}

// overtaken returns an error when the journal in dir was written for a later state of the database than s: replay would
// leave out what it does not expect, in silence. So it is when the database's newest meta page cannot be read any more, or
// when the database was replaced by an older copy.
func (s journalState) overtaken(dir string) error {
	for n := range uint64(2) {
		f, err := openFile(filepath.Join(dir, journalName(n)), os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		gen, salt, ok := readFileHeader(f)
		if err := f.Close(); err != nil {
			return err
		}
		// A start leaves the files of the one before it, with its salt, and says that the database holds them.
		if ok && (gen > s.gen+2 || gen > s.gen && salt != s.salt) {
			return fmt.Errorf("%w: it is older than its journal, of which %s has generation %d and the database knows %d",
				errDatabase, f.Name(), gen, s.gen)
		}
	}
	return nil
}

// namedGeneration returns the highest generation that a file of the journal in dir names, or 0. The first frame of a
// generation may have been torn, so that only the file's header is there: no later generation with another salt may have
// that number, or the database would seem to be older than its journal.
func namedGeneration(dir string) (gen uint64) {
	for n := range uint64(2) {
		f, err := openFile(filepath.Join(dir, journalName(n)), os.O_RDONLY, 0)
		if err != nil {
			continue
		}
		if g, _, ok := readFileHeader(f); ok {
			gen = max(gen, g)
		}
		_ = f.Close() // it was only read
	}
	return gen
}

// replayed is what one file of the journal held.
type replayed struct {
	frames, missing int
	next            uint64 // the number that a frame after them has
	end             int64  // where that goes
}

// readerAtSize is a file as replayFile reads it.
type readerAtSize interface {
	io.ReaderAt
	Stat() (fs.FileInfo, error)
}

// replayFile calls apply with the changes of the frames of generation gen whose numbers are expected or higher.
func (s journalState) replayFile(f readerAtSize, gen, expected uint64, apply func(delta)) (r replayed, err error) {
	r.next = expected
	info, err := f.Stat()
	if err != nil {
		return r, err
	}
	for at := int64(0); at+frameHeader <= info.Size(); {
		frame, seq, err := s.readFrame(f, at, gen, info.Size())
		if err != nil {
			return r, err
		}
		if frame == nil || seq < r.next {
			at += frameBlock
			continue
		}
		if err := eachDelta(frame[frameHeader:], apply); err != nil {
			return r, fmt.Errorf("frame %d: %w", seq, err)
		}
		r.missing += int(min(seq-r.next, math.MaxInt32))
		r.next = seq + 1
		r.frames++
		at += (int64(len(frame)) + frameBlock - 1) / frameBlock * frameBlock
		r.end = at
	}
	return r, nil
}

// readFrame returns the frame of generation gen at an offset and its number, or nil when there is none.
func (s journalState) readFrame(f io.ReaderAt, at int64, gen uint64, size int64) (frame []byte, seq uint64, err error) {
	header := make([]byte, frameHeader)
	if _, err := f.ReadAt(header, at); err != nil {
		return nil, 0, err
	}
	length := int64(binary.BigEndian.Uint32(header[20:]))
	switch {
	case binary.BigEndian.Uint32(header) != frameMagic, binary.BigEndian.Uint64(header[4:]) != gen,
		binary.BigEndian.Uint32(header[24:]) != saltedSum(s.salt, header[:24]), at+frameHeader+length > size:
		return nil, 0, nil
	}
	frame = make([]byte, frameHeader+length)
	if _, err := f.ReadAt(frame, at); err != nil {
		return nil, 0, err
	}
	// What was read twice must be the same twice.
	if !bytes.Equal(frame[:frameHeader], header) ||
		saltedSum(s.salt, frame[:28], frame[frameHeader:]) != binary.BigEndian.Uint32(header[28:]) {
		return nil, 0, nil
	}
	return frame, binary.BigEndian.Uint64(header[12:]), nil
}
