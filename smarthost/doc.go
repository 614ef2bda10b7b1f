// Package smarthost hands messages on to the smarthosts of the configured routes: it chooses the route and the host,
// keeps warm connections, does TLS and AUTH, runs the mail transaction (RFC 5321) and decides what every failure means.
//
// A Router holds the routes. A route is an ordered list of hosts with one set of credentials; Deliver tries its hosts
// in order and returns what the attempt came to for each recipient. What can go wrong, and what then happens:
//
//   - The host, the line or the account is the trouble (scope "site": dial, TLS, certificate, login, 421, a connection
//     lost before the final dot). The host is left alone for a growing pause, after which one message at a time may
//     probe it, and the next host of the list is tried with the same message. When no host is left, Deliver says so at
//     once, without touching the network: no recipient has spent an attempt and the message waits.
//   - The sender, the message or a recipient is refused. That is the answer; no other host is asked.
//   - The host cannot carry the message (SIZE, SMTPUTF8, REQUIRETLS): the next host that can, and a permanent failure
//     when no host of the list could.
//   - The connection is lost after the final dot and before its reply: nobody knows whether the host took the message
//     (RFC 1047). The attempt fails for now and is marked as a possible duplicate; no other host gets the message.
//   - A connection kept from an earlier transaction turns out to be dead before DATA was answered: a new one replaces
//     it, and nobody hears of it.
//
// Mail never travels without the TLS and the login that the route asks for, and a password is never sent before TLS.
// No log line, error or status holds a password.
package smarthost
