// Package pace keeps what is sent through an account within what its provider allows: so many messages a minute or an
// hour, and so many recipients in any 24 hours. It knows no network and no message; it counts and says when.
//
// A Book holds the accounts. Whoever wants to send asks Admit for leave, and Begin and End bracket what is then sent.
// What is over the limits is told when to come again; nothing is an error.
//
// The rate of N messages in a unit of time is a token bucket: a tenth of N (at least one) may go at once, and the rest
// evenly, so that no span shorter than the unit sees more than N. That makes the long run slower than N by what may go at
// once, less one.
//
// The day counts recipients that a host took or may have taken, in buckets of a minute; a recipient counts for 24 hours
// and at most a minute more. The count is on disk before the recipients are sent to: it is written ahead in blocks (a
// hundredth of the cap, at most 1,000), each good for ten minutes. So after a crash the count is never too low, and too
// high by at most one block and what was under way; an orderly end writes it exactly. After a crash the bucket of the rate
// begins empty.
//
// A Book runs on the monotonic clock: a wall clock that is set changes nothing while it runs. What a restart took is
// measured by the system's time since its boot where that is the same boot. Otherwise the wall clock is believed, within
// bounds: no less than nothing and no more than 12 hours have passed. So a clock that is wrong never holds mail for longer
// than 24 hours, and frees nothing of the last 12.
//
// A provider that asks for less gets it: each throttling reply halves the rate, which then grows back by a tenth of the
// whole every five minutes, also while the relay is off. Where no rate is set, the one of the last minute or two is what is
// halved.
package pace
