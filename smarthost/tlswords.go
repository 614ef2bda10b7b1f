package smarthost

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strconv"
	"strings"
)

// certificateWords says what is wrong with a host's certificate and what to do; "" when err is about something else.
func certificateWords(p place, err error) string {
	if pin, ok := errors.AsType[*pinError](err); ok {
		return "%HOST has another key than those of pin_sha256 in [[smarthost]] %ROUTE: either it has changed its " +
			"certificate or somebody stands between. If its owner says that it is right, write " + pinLine(pin.cert)
	}
	if name, ok := errors.AsType[x509.HostnameError](err); ok {
		text := nameWords(p, name)
		if c := name.Certificate; c != nil && selfSigned(c) {
			text += ". It is signed by itself, too: if its owner says that it is right, pin its key in place of both, " + pinLine(c)
		}
		return text
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return authorityWords(unknown.Cert, shownCertificate(err))
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case !ok:
		return ""
	case invalid.Reason == x509.Expired && invalid.Cert != nil:
		return "the certificate of %HOST is valid from " + invalid.Cert.NotBefore.Format("2006-01-02") + " to " +
			invalid.Cert.NotAfter.Format("2006-01-02") + ": check this machine's clock; if it is right, the host must " +
			"renew its certificate"
	}
	return "the certificate of %HOST is not valid: " + invalid.Error()
}

// shownCertificate returns the host's own certificate of a verification that failed, or nil.
func shownCertificate(err error) *x509.Certificate {
	failed, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok || len(failed.UnverifiedCertificates) == 0 {
		return nil
	}
	return failed.UnverifiedCertificates[0]
}

// selfSigned reports whether a certificate is signed with its own key.
func selfSigned(c *x509.Certificate) bool {
	return c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// pinLine is the line of the configuration that pins the key of c.
func pinLine(c *x509.Certificate) string { return `pin_sha256 = "` + keyPin(c).String() + `"` }

func authorityWords(unknown, shown *x509.Certificate) string {
	pin := ""
	if shown != nil {
		pin = ", or, without ca_file, pin its key: " + pinLine(shown)
	}
	if shown != nil && selfSigned(shown) {
		return "the certificate of %HOST is signed by itself and by no authority: if its owner says that it is right, give " +
			"it as ca_file in [[smarthost]] %ROUTE" + pin
	}
	issuer := "an authority"
	if unknown != nil {
		issuer = strconv.Quote(unknown.Issuer.String())
	}
	return "the certificate of %HOST is signed by " + issuer + ", which this machine does not trust: if that is " +
		"right, give the authority's file as ca_file in [[smarthost]] %ROUTE" + pin + "; otherwise look whether the " +
		"system's certificates (package ca-certificates) are there"
}

func nameWords(p place, name x509.HostnameError) string {
	text := "the certificate of %HOST is for " + certificateNames(name.Certificate) + " and not for " + strconv.Quote(name.Host)
	host, _, _ := strings.Cut(p.addr, ":")
	switch {
	case p.entry == "":
		return text + ": write the name that the certificate has under hosts in [[smarthost]] %ROUTE, or as tls_name"
	case name.Certificate.VerifyHostname(host) != nil:
		return text + ": DNS named this host for " + p.entry + "; ask its owner, and look at hosts and tls_name in [[smarthost]] %ROUTE"
	}
	return text + ". DNS named this host for " + p.entry + ", which anybody who can forge an answer could do, so that its " +
		"own name counts only within that domain: if it is the right host, write tls_name = " + strconv.Quote(host) +
		" in [[smarthost]] %ROUTE"
}

func certificateNames(c *x509.Certificate) string {
	var names []string
	if c != nil {
		names = append(names, c.DNSNames...)
		for _, ip := range c.IPAddresses {
			names = append(names, ip.String())
		}
	}
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names[:min(len(names), 5)], ", ")
}

// alertWords says what a host's alert about the relay's own certificate means (RFC 8446 section 6.2); "" for other
// errors. With TLS 1.3 it comes after the handshake, in place of the next reply. crypto/tls gives alerts no type.
func alertWords(err error) string {
	remote, ok := errors.AsType[*net.OpError](err)
	if !ok || remote.Op != "remote error" {
		return ""
	}
	switch alert := strings.TrimPrefix(remote.Err.Error(), "tls: "); alert {
	case "certificate required":
		return "%HOST wants a client certificate: set client_cert_file and client_key_file in [[smarthost]] %ROUTE"
	case "bad certificate", "unsupported certificate", "revoked certificate", "expired certificate", "unknown certificate",
		"unknown certificate authority", "access denied":
		return "%HOST does not take the relay's client certificate (" + alert + "): check client_cert_file in [[smarthost]] " +
			"%ROUTE, and with the host's owner"
	}
	return ""
}
