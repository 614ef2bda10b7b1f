// Package sandbox is a smarthost for trying things out: a real one, with STARTTLS, implicit TLS, AUTH and a CA of its
// own, that keeps what it takes and sends nothing on. It is what the relay's tests deliver to, and what a person can
// run beside the relay to see what it does, and what it does on a bad day.
//
//	s, err := sandbox.Start(sandbox.Options{Username: "me@isp.example", Password: "secret"})
//	...
//	defer s.Close()
//	s.Inject(sandbox.Fault{Stage: sandbox.StageRcpt, Match: "bob@", Reply: "450 4.2.1 later", Times: 3})
//	// point a relay at s.Addr(), with s.CAFile() as its ca_file
//	messages, err := s.Wait(ctx, 1)
//
// # What it demands
//
// TLS before AUTH and AUTH before MAIL, unless Options say otherwise. Which login it takes, which lines its EHLO reply
// has, how large a message may be, how many connections, recipients and transactions it puts up with, and whether its
// certificate is good or faulty are options too. A Personality makes it sound like a certain provider's host; those
// show what the host shows, except CHUNKING and BINARYMIME, which the sandbox does not have.
//
// # What it keeps
//
// Each message that it answers with 250, in memory and, with Options.Dir, as NAME.eml, the body byte for byte, so that a
// mail program opens it, and NAME.json, its envelope. A file is there before the 250 is sent, and whole when it is
// there, but it is not synced: what a power cut leaves is not the sandbox's business. When a file cannot be written the
// message is answered 451 and not kept.
//
// # What goes wrong on purpose
//
// Faults, put in force with Inject and taken away with Clear while sessions run, refuse, defer, drop, reset, hang or
// delay at any stage of a session; ParseFault reads them from a command line. Stop makes the server go away as a host
// does whose power fails: connections break and new ones are refused; Resume brings it back on the same port, which
// the system gives to nobody else meanwhile.
//
// # What it watches
//
// It does not use the relay's protocol code, so that it is an independent check of what the relay sends. Only CRLF ends
// a line and only CRLF dot CRLF a body. Whatever a client does against the RFCs, such as a bare LF, a line over 1000
// octets, 8-bit text that was not declared, a command behind one that must end its group, or credentials before TLS, is
// recorded and read with Violations; a test of a client asserts that there are none. What was pipelined behind STARTTLS
// is refused and the connection closed (CVE-2011-0411).
//
// The transcript shows the dialogues with credentials masked; no reply, violation or message holds a password.
//
// It is for loopback and trusted networks: it bounds a command line and a body, but nothing keeps a client from opening
// connections or sending messages until memory is full, unless DiscardBodies, MaxConnections and MaxSize are set.
package sandbox
