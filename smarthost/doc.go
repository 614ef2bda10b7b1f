// Package smarthost hands messages on to the smarthosts of the configured routes: it chooses the route and the host,
// keeps warm connections, does TLS and AUTH, runs the mail transaction (RFC 5321) and decides what every failure means.
//
// A Router holds the routes. A route is an ordered list of hosts with one set of credentials; Deliver tries its hosts
// in order and returns what the attempt came to for each recipient. What can go wrong, and what then happens:
//
//   - The host, the line or the account is the trouble (scope "site": dial, TLS, certificate, login, 421, a connection
//     lost before the final dot, several senders refused in a row, and what replies.go knows to mean the account wherever it
//     is said: throttling, a quota, a block). The host is left alone for a growing pause, after which one message at
//     a time may probe it, and the next host of the list is tried with the same message. When no host is left, Deliver
//     says so at once, without touching the network: no recipient has spent an attempt and the message waits.
//   - The login is refused. The other hosts that check the same account are left alone, too: one wrong password is one
//     refusal, and not one for each host, on the way to a locked account. After the pause it is the next one's turn.
//   - The sender, the message or a recipient is refused. That is the answer; no other host is asked.
//   - One message meets the site's failure time and again while others get through. Then it is that message's own, for
//     now, so that no table and no odd message can stop a route for ever.
//   - The host cannot carry the message (SIZE, SMTPUTF8, REQUIRETLS): the next host that can, and a permanent failure
//     when no host of the list could.
//   - The message is 8-bit and the host without 8BITMIME: the next host that has it; when there is none, the MIME parts
//     are encoded. 8-bit octets never go where they were not offered a way.
//   - The host is this relay itself, by its address or its name: a site failure, before any mail could go in a circle.
//   - The connection is lost after the final dot and before its reply: nobody knows whether the host took the message
//     (RFC 1047). The attempt fails for now and is marked as a possible duplicate; no other host gets the message.
//   - The host cannot take the body of a message and the envelope of the next as one group, as RFC 2920 lets them travel
//     where PIPELINING is offered: it is used in lock-step from then on. What it refuses for that reason goes again.
//   - A connection kept from an earlier transaction turns out to be dead before DATA was answered: a new one replaces
//     it, and nobody hears of it.
//   - The route logs in with OAuth2 tokens and has none, or the host refuses one: a refused token is renewed once, at
//     once. After that it is a refused login, a site failure like any other. A password is never tried in its place.
//
// An entry of a route's hosts may name a service or a domain whose hosts DNS knows; to all else it is one host.
//
// Mail never travels without the TLS and the login that the route asks for, and a password or token is never sent before
// TLS. No log line, error or status holds a password or a token.
package smarthost
