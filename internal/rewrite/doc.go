// Package rewrite gives a message the sender that a smarthost accepts, and completes the header of one that a device
// left incomplete. It decides from an envelope, rules and the head of the message, and does no I/O of its own: [Chain.Plan]
// reads the head and returns a [Plan], and [Plan.Reader] gives out the message as planned. The same message, rules and
// job give the same octets every time, so that each attempt of a message sends the same Message-ID and Date.
//
// It reads and writes message content as it travels after DATA: CRLF line ends, no dot-stuffing. The body is never
// changed nor looked at, and a message in which there is nothing to do passes octet by octet.
//
// # Senders
//
// A set of rules has a map of patterns, an address for all other reverse-paths and one for all other authors. For each
// address the most exact pattern decides: a whole address, then a whole local part ("scanner@*"), then a whole domain
// ("*@example.com", the same as "@example.com"), then the one with more letters. What a rule writes is not looked up
// again. Of a [Chain] the first set that says anything about an address decides it.
//
// The reverse-path is rewritten unless it is null: a report must stay one (RFC 5321 section 4.5.5). In the header the
// addresses of From and Sender are rewritten, each by its own rule, in every mailbox and inside of groups, in the place
// where they stand: display names, comments, folding and encoded-words keep their octets. This is done to messages with
// a null reverse-path as well, since smarthosts judge the author of a report like any other. The Resent- fields, which
// say who handed the message on before, are left alone.
//
// Where From changes and there is no Reply-To, one with the original value of From is added behind it.
//
// A From or Sender in which no address can be found, because it is empty, broken or an empty group, keeps its octets
// unless there is an address for all authors; that one then takes the place of the whole value, and as nobody could
// answer to the original, no Reply-To is made of it.
//
// # Missing fields
//
// RFC 6409 section 8 lets a submission server add what a message must have. A message whose arrival is known gets, and
// only where they are missing, a Date (its arrival, in UTC), a Message-ID (its queue id and the relay's name) and a From
// (its reverse-path as the rules have it for authors; for the null one MAILER-DAEMON of the relay). They stand behind the
// trace fields at the top. If nothing but trace fields was there, the empty line that ends a header is added too. What is
// there counts, be it empty or wrong. A field that a DKIM signature covers though it is missing, so that none can be added
// (RFC 6376 section 5.4), is not added, except for From.
//
// # Signatures
//
// A DKIM-Signature whose h= names a field that was changed or added no longer holds. It is removed, because a signature
// that fails is taken for worse than none by some; [Plan.Removed] counts it. The sets of ARC (RFC 8617) vouch for a
// message as it was; if the ARC-Message-Signature of any covers such a field, all of them are removed, since a chain with
// a link missing fails as well.
//
// # Bounds
//
// A header section of more than 256 KiB is left as it is, for what is missing or signed in it is not known;
// [Plan.TooLong] says so, and the reverse-path is rewritten all the same.
package rewrite
