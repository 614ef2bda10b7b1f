// Package sendermx knows whether the domain of a sender has an MX record, which some smarthosts demand (Cox since 2004),
// and says what to publish where there is none.
//
// # What counts
//
// An MX record that names a host. That a domain has an address, which would do to deliver to it (RFC 5321 section 5.1),
// does not count, since it does not for those smarthosts; a null MX (RFC 7505) is the statement that there is none. An
// address literal has no domain that could have a record. A domain that is not ASCII is not looked up and counts as
// unknown, and so does a DNS that fails, does not answer, or answers with what makes no sense. The null reverse-path is
// not to be asked about.
//
// # When DNS is slow or away
//
// A question waits for a bounded time; the look-up goes on without it, and its answer is kept for the next. Questions about
// the same domain share one look-up, and only so many run at once; a question beyond that is unknown at once. An unknown
// answer is kept for a short time, so that an outage costs one wait for each domain now and then, and not one for each
// message. Nothing that is unknown keeps mail from passing.
package sendermx
