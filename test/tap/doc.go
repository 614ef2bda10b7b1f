// Package tap stands between a process and its kernel, for tests that must know, or decide, what becomes of each write.
//
// The calls with which a process changes files go to an Observer before they are done, in one order for all of its
// threads: pwrite64, write, fsync, fdatasync, ftruncate, and those that make, rename and remove names. It is the real
// program and the real kernel; the Observer can let a call be done, in part or not at all, make it return an error, and
// kill the process before it hears how the call went. A Recorder keeps what was done, and rebuilds the folder as it
// would be had the power failed at any moment: what was synced survives, of the rest an arbitrary part.
//
// Linux's seccomp user notification does this without privileges and without another program. Unlike strace, whose
// counters are one for each thread, the n-th call is the n-th of the process.
package tap

import (
	"errors"
	"syscall"
)

// ErrUnsupported: this system or sandbox does not let a process be tapped. It takes Linux 5.9 or later on amd64 or
// arm64, and a container that permits seccomp.
var ErrUnsupported = errors.New("a process cannot be tapped here")

// Op is a kind of call.
type Op string

const (
	OpWrite    Op = "write"    // pwrite64 and write
	OpSync     Op = "sync"     // fsync and fdatasync, of a file or a folder
	OpTruncate Op = "truncate" // ftruncate
	OpCreate   Op = "create"   // openat that may make a file
	OpRename   Op = "rename"
	OpUnlink   Op = "unlink"
	OpMkdir    Op = "mkdir"
	OpSend     Op = "send" // write to a socket; it can be the last call, and cannot fail
)

// Call is one call of the tapped process.
type Call struct {
	Op     Op
	Path   string // of the file or name; of a rename the old name
	To     string // of a rename the new name
	Offset int64  // of a write; -1 is behind what this file was written before
	Size   int64  // of a truncate
	Data   []byte // of a write or send
	Trunc  bool   // a create that empties the file which is there

	fd     int
	flags  int  // of a create
	append bool // a write at the file's own offset
	sync   func(int) error
}

// Answer is what becomes of a call. The zero value lets it be done.
type Answer struct {
	Skip  bool          // it is not done
	Limit int           // when above 0: only so many octets are written
	Errno syscall.Errno // what it returns whether done or not; 0 is what it really came to
	Kill  bool          // the process dies before it hears of it
}

// Observer is told of calls. Begin comes before a call is done, End after it was done without an error and before the
// process knows. Syncs run beside other calls, so that both may come on several goroutines at once.
type Observer interface {
	Begin(*Call) Answer
	End(*Call)
}
