// Package envelope holds the value types that the rooms of the relay hand to each other: the envelope of a mail
// transaction, its paths and recipients, a server's reply, and what an attempt to hand a message on came to.
//
// The names are those of RFC 5321 (transport), RFC 3461 (delivery status notification parameters), RFC 3463
// (enhanced status codes) and RFC 5598 (architecture). The package imports no other room, holds no state and does
// no I/O; a value that one of its Parse functions returned is safe to write to a wire, because nothing that could
// end a command line or add a parameter to it survives parsing.
package envelope
