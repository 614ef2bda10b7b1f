// Package oauth gets OAuth2 access tokens for the smarthosts' accounts, and keeps what it takes to get the next one.
//
// A Source stands for one account. It asks the provider's token endpoint (RFC 6749) by the account's flow, renews the
// token ahead of its expiry, once for all connections that want it, and goes on with a token that still lives while the
// endpoint is down. What can go wrong, and what then happens:
//
//   - The provider refuses (*GrantError): the grant is expired or revoked, the secret is wrong or past its date, consent
//     is missing, or nobody has logged in yet. A person must act; the error says how. The endpoint is asked again at
//     growing pauses of up to an hour, and at once when a new login is stored.
//   - The endpoint cannot be asked (*EndpointError): no line, a time-out, a 5xx, an answer that is no token. It is asked
//     again at pauses of up to a minute.
//   - A refresh token that the provider exchanged for a new one cannot be written: the new one is used, the problem is
//     told, and writing is tried again. A Source that takes over the account begins with it.
//
// The flows "device" and "refresh_token" live on a refresh token that a person's login (LoginByDevice,
// LoginByRedirect) left in a Store, one file for each account. A rotated refresh token is on the disk before the old one
// is forgotten, and a login that came in between is never overwritten by one.
//
// No error, log line or status of this package holds a token, a secret or a private key.
package oauth
