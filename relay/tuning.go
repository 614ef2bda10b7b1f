package relay

import (
	"net"
	"time"
)

// tuning holds the times and bounds that are not configured. They are values of a Server so that tests can use small
// ones.
type tuning struct {
	// command is how long a whole command line may take to come (RFC 5321 section 4.5.3.2.7), and dawdle how long a session may
	// keep the relay waiting in all for commands, and for its replies to be read, since its last accepted message.
	command, dawdle time.Duration
	// block is how long a body may stand still (RFC 5321 section 4.5.3.2.5).
	block time.Duration
	// grace and rate bound a whole body: its lag, in which rate octets are worth a second, may grow to grace. So no time is
	// longer than grace in which fewer than rate octets a second come, however many came before. A scanner that sends each page
	// as it scans it is well within.
	grace time.Duration
	rate  int64
	// write is how long a client may leave replies unread.
	write time.Duration
	// handshake bounds a TLS handshake.
	handshake time.Duration
	// linger and lingerBytes bound the wait for a client to read a last reply and go.
	linger      time.Duration
	lingerBytes int64
	// lingerers is the number of refused clients that are waited for at once.
	lingerers int
	// drain is how much of a refused body is read so that the client gets to see the reply, in octets.
	drain int64
	// errors, recipients and idle are how many refused commands, refused recipients, and commands that lead nowhere a
	// session has, counted from its last accepted message.
	errors, recipients, idle int
	// stale is the lag from which a full listener gives a session's place away. In it, lively octets are worth a second, an
	// accepted command is worth commandWorth, and an accepted message half of stale.
	stale  time.Duration
	lively int64
	// full is how long a listener that refused a client for want of a place is reported as full.
	full time.Duration
	// scarce reports whether a new connection has one of the last descriptors.
	scarce func(net.Conn) bool
	// hops is the number of Received fields that a message may come with (RFC 5321 section 6.3).
	hops int
	// ownRoom is how many octets of memory the recipients of each transaction may take, and sharedRoom how many more those of
	// all transactions together.
	ownRoom, sharedRoom int64
	// quiet is the time in which refusals of one client and one cause make a few log lines.
	quiet time.Duration
}

func standardTuning() tuning {
	return tuning{
		command:     5 * time.Minute,
		dawdle:      15 * time.Minute,
		block:       3 * time.Minute,
		grace:       5 * time.Minute,
		rate:        100,
		write:       time.Minute,
		handshake:   30 * time.Second,
		linger:      5 * time.Second,
		lingerBytes: 256 << 10,
		lingerers:   64,
		drain:       16 << 20,
		errors:      20,
		recipients:  1000,
		idle:        100,
		stale:       10 * time.Second,
		lively:      1000,
		full:        time.Minute,
		scarce:      scarce,
		hops:        100,
		ownRoom:     32 << 10,
		sharedRoom:  32 << 20,
		quiet:       10 * time.Minute,
	}
}

// maxLine is the longest command line in octets, its line end included: RFC 5321 section 4.5.3.1.4 asks for 512, and
// the parameters of RFC 3461 and RFC 6531 add about a thousand.
const maxLine = 4096

// commandWorth is what an accepted MAIL or RCPT counts for against the time that a session waits: a client that needs longer
// for one, again and again, is slow.
const commandWorth = 100 * time.Millisecond

// smallChunk is how long a chunk that is not the last must be, in octets, to count as progress of a message: chunks of an
// octet make the relay work and lead nowhere.
const smallChunk = 512

// bodyBuffer is the read buffer of a session while a body of more than a few KiB comes in, in octets.
const bodyBuffer = 64 << 10
