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
	"os"
	"path/filepath"
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
	seq   uint32 // of the next frame
	at    int64  // where the next frame goes
	buf   []byte
	// unsynced leaves the flushing out, for tests in which nobody pulls the plug.
	unsynced bool
}

// journalState is what the database knows of the journal.
type journalState struct {
	gen  uint64 // the last generation that the database holds whole
	salt uint64
}

// A frame begins at a block of its own, so that a write that is cut short cannot damage one that was synced before.
// Its header is: magic, generation, number within the generation from 0 on, length of the payload, and the checksum of
// the salt, the header before it and the payload. All numbers are big-endian.
const (
	frameBlock  = 4096
	frameHeader = 4 + 8 + 4 + 4 + 4
	frameMagic  = 0x726c796a // "rlyj"
	// journalKeep is how large a file may stay when it is written over from its start.
	journalKeep = 32 << 20
	// frameBuffer is how large the buffer may stay.
	frameBuffer = 1 << 20
)

func journalName(gen uint64) string { return fmt.Sprintf("journal-%d", gen&1) }

// openJournal begins generation gen with a new salt. The database must know both before the first append.
func openJournal(dir string, gen uint64) (*journal, error) {
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return nil, err
	}
	j := &journal{dir: dir, gen: gen, salt: binary.BigEndian.Uint64(salt[:])}
	for i := range j.files {
		f, err := os.OpenFile(filepath.Join(dir, journalName(uint64(i))), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, errors.Join(err, j.close())
		}
		j.files[i] = f
	}
	if err := j.shrink(); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return j, syncDir(dir)
}

// append adds a frame of the changes and returns once it is on disk. After an error nothing is known of it, and no
// other may be appended.
func (j *journal) append(deltas []delta) error {
	buf := append(j.buf[:0], make([]byte, frameHeader)...)
	for i := range deltas {
		buf = deltas[i].append(buf)
	}
	binary.BigEndian.PutUint32(buf, frameMagic)
	binary.BigEndian.PutUint64(buf[4:], j.gen)
	binary.BigEndian.PutUint32(buf[12:], j.seq)
	binary.BigEndian.PutUint32(buf[16:], uint32(len(buf)-frameHeader))
	binary.BigEndian.PutUint32(buf[20:], frameSum(j.salt, buf))
	buf = append(buf, make([]byte, (frameBlock-len(buf)%frameBlock)%frameBlock)...)
	if j.buf = nil; cap(buf) <= frameBuffer {
		j.buf = buf
	}
	f := j.files[j.gen&1]
	if _, err := f.WriteAt(buf, j.at); err != nil {
		return err
	}
	if !j.unsynced {
		if err := fdatasync(f); err != nil {
			return err
		}
	}
	j.seq++
	j.at += int64(len(buf))
	return nil
}

// frameSum returns the checksum of a frame that begins with its header and ends with its payload.
func frameSum(salt uint64, frame []byte) uint32 {
	sum := crc32.Update(0, castagnoli, binary.BigEndian.AppendUint64(nil, salt))
	sum = crc32.Update(sum, castagnoli, frame[:20])
	return crc32.Update(sum, castagnoli, frame[frameHeader:])
}

// rotate begins the next generation, in the other file. The generation that the file held must be in the database.
func (j *journal) rotate() error {
	j.gen++
	j.seq, j.at = 0, 0
	return j.shrink()
}

func (j *journal) shrink() error {
	f := j.files[j.gen&1]
	info, err := f.Stat()
	if err != nil || info.Size() <= journalKeep {
		return err
	}
	return f.Truncate(journalKeep)
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

// replay calls apply with the changes of every frame that the database does not hold, in order. It returns the last
// generation that it met, and how many frames are missing that others came after: a frame that is cut short at the end
// was never answered for, but one in the middle was.
func (s journalState) replay(dir string, apply func(delta)) (gen uint64, missing int, err error) {
	gen = s.gen
	for next := s.gen + 1; next <= s.gen+2; next++ {
		n, lost, err := s.replayFile(filepath.Join(dir, journalName(next)), next, apply)
		if err != nil {
			return gen, missing, err
		}
		if missing += lost; n > 0 {
			gen = next
		}
	}
	return gen, missing, nil
}

func (s journalState) replayFile(path string, gen uint64, apply func(delta)) (frames, missing int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	var expected uint32
	for at := int64(0); at+frameHeader <= info.Size(); {
		frame, seq, err := s.readFrame(f, at, gen, info.Size())
		if err != nil {
			return frames, missing, err
		}
		if frame == nil || seq < expected {
			at += frameBlock
			continue
		}
		if err := eachDelta(frame[frameHeader:], apply); err != nil {
			return frames, missing, fmt.Errorf("%s, frame %d: %w", path, seq, err)
		}
		missing += int(seq - expected)
		expected = seq + 1
		frames++
		at += (int64(len(frame)) + frameBlock - 1) / frameBlock * frameBlock
	}
	return frames, missing, nil
}

// readFrame returns the frame of generation gen at an offset and its number, or nil when there is none.
func (s journalState) readFrame(f io.ReaderAt, at int64, gen uint64, size int64) (frame []byte, seq uint32, err error) {
	header := make([]byte, frameHeader)
	if _, err := f.ReadAt(header, at); err != nil {
		return nil, 0, err
	}
	length := int64(binary.BigEndian.Uint32(header[16:]))
	if binary.BigEndian.Uint32(header) != frameMagic || binary.BigEndian.Uint64(header[4:]) != gen || at+frameHeader+length > size {
		return nil, 0, nil
	}
	frame = make([]byte, frameHeader+length)
	if _, err := f.ReadAt(frame, at); err != nil {
		return nil, 0, err
	}
	// What was read twice must be the same twice.
	if !bytes.Equal(frame[:frameHeader], header) || frameSum(s.salt, frame) != binary.BigEndian.Uint32(header[20:]) {
		return nil, 0, nil
	}
	return frame, binary.BigEndian.Uint32(header[12:]), nil
}
