// Package queue owns every message from its 250 until it is delivered or reported.
//
// The contract: when Writer.Commit returns nil, the message is on disk. From then on each of its recipients is at
// every moment exactly one of waiting, delivered, failed and reported to the sender, or deleted by an operator; a
// crash at any point changes that only back to waiting. Delivery is at least once: a recipient is delivered to twice
// only when the daemon dies, or a connection does, between a host's acceptance and the commit that records it.
//
// How it is kept: all that is to be durable goes through one goroutine, the committer, which appends what waits to the
// journal as one frame and syncs it once; the bbolt database gets the same changes in the background, many commits in
// one transaction, and a start writes there what a crash has left in the journal. Another goroutine, the scheduler, owns
// what is due and what is in flight; it starts an attempt when its route has room, and settles the outcome, with the report
// it may need, in one commit.
//
// What happens on failure:
//   - a commit fails: the intake that waits for it gets a 451, no more mail is taken, the store is opened again, and
//     outcomes that must be recorded are recorded then;
//   - a stored record or its content is damaged: it is set aside in quarantine and told of; the others flow;
//   - a route has no host that works (envelope.Attempt.Site): its messages wait in memory without an attempt being
//     counted or the disk being touched, one of them probes, and when it gets through the rest follow at once;
//   - anything has new mail refused: Begin answers with it, and Troubles shows it, by the same list (intake.go); a disk
//     that does not answer is one of these, and holds up no look at the status;
//   - the disk fills up: the room that the outcome of a message may need was reserved before its 250, whatever
//     Policy.MinFree says (reserve.go), so that a full disk drains;
//   - the disk is nearly full: Begin answers 452 while Policy.MinFree is still there to settle what is queued; when it
//     is full to the last block, outcomes go into room that the journal has kept for them, also after a start, and all
//     goes on by itself once there is room;
//   - the database is damaged: Open refuses it and changes nothing; Recover saves what can be read into a new one.
package queue
