// Package issuer is an OAuth2 authorization server for trying things out and for tests: a real one on the wire, on
// loopback, with people and consents that are played by method calls.
//
//	s, err := issuer.Start(issuer.Options{ClientID: "relay", ClientSecret: "s3cret"})
//	...
//	defer s.Close()
//	// point a client at s.TokenURL(); a mail server asks s.Verify(user, token)
//
// It has the token endpoint (RFC 6749) with the grants client_credentials, refresh_token, authorization_code with PKCE
// (RFC 7636), device_code (RFC 8628) and jwt-bearer (RFC 7523), the device authorization endpoint, an authorization
// endpoint at which the one person there is always logs in, and introspection (RFC 7662) for mail servers elsewhere.
//
// It is strict where providers are: client authentication by secret, in header or parameters, or by a signed assertion
// of which it checks signature, certificate, audience, times and that it comes once; redirects only to loopback; a code,
// a device code and, with Rotate, a refresh token once only, where the second use of an old one revokes the grant (RFC
// 9700 section 4.14.2). It does not use the relay's own OAuth2 code, so that it is an independent check of it.
package issuer
