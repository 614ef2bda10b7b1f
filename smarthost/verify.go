package smarthost

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"time"
)

// Pin is a SHA-256 of a host's public key (its SubjectPublicKeyInfo, as in RFC 7469 section 2.4) or of its whole
// certificate. Nobody can make another key or certificate with the same one, so that both may stand in one list.
type Pin [sha256.Size]byte

// keyPin is the pin of a certificate's key, which stays the same when the certificate is renewed with that key.
func keyPin(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// String writes the pin as the configuration takes it.
func (p Pin) String() string { return base64.StdEncoding.EncodeToString(p[:]) }

// pinError is a host with another key than the pinned ones.
type pinError struct{ cert *x509.Certificate }

func (e *pinError) Error() string { return "the host's key is none of those in pin_sha256" }

// newTLSConfig returns what sessions with the hosts of a route are secured by.
//
// What a host has to show: a certificate for its name that leads to RootCAs (nil: the system's). With Pins and without
// RootCAs, a pinned key is enough: who has that key is the host, whatever signed it, names it and dates it. With both,
// both must hold. A session that is resumed is held to the same: its certificate is checked again, by crypto/tls for
// dates and name and by VerifyConnection for the rest.
func newTLSConfig(spec Route, name string) *tls.Config {
	c := &tls.Config{
		ServerName:         name,
		RootCAs:            spec.RootCAs,
		MinVersion:         spec.MinTLS,
		Certificates:       spec.Certificates,
		ClientSessionCache: tls.NewLRUClientSessionCache(2 * spec.MaxConnections),
	}
	if len(spec.Pins) > 0 {
		c.InsecureSkipVerify = spec.RootCAs == nil // the pin is the check
		c.VerifyConnection = func(s tls.ConnectionState) error { return checkPin(s, spec.Pins) }
	}
	return c
}

func checkPin(s tls.ConnectionState, pins []Pin) error {
	leaf := s.PeerCertificates[0]
	if slices.Contains(pins, keyPin(leaf)) || slices.Contains(pins, Pin(sha256.Sum256(leaf.Raw))) {
		return nil
	}
	return &pinError{cert: leaf}
}

// forTarget returns base for a host that DNS named, which may have one of several names in its certificate.
func forTarget(base *tls.Config, t target) *tls.Config {
	c := base.Clone()
	c.ServerName = t.names[0]
	if len(t.names) == 1 || base.InsecureSkipVerify {
		return c
	}
	c.InsecureSkipVerify = true // for VerifyConnection knows all the names
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err := checkNames(s, c.RootCAs, t.names); err != nil || base.VerifyConnection == nil {
			return err
		}
		return base.VerifyConnection(s)
	}
	return c
}

// checkNames is the check of crypto/tls, for a certificate that is good with any one of names.
func checkNames(s tls.ConnectionState, roots *x509.CertPool, names []string) error {
	leaf := s.PeerCertificates[0]
	o := x509.VerifyOptions{Roots: roots, CurrentTime: time.Now(), Intermediates: x509.NewCertPool()}
	for _, c := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(o)
	if err == nil {
		for _, name := range names {
			if nameErr := leaf.VerifyHostname(name); nameErr == nil {
				return nil
			} else if err == nil {
				err = nameErr
			}
		}
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
}

// sameTLS reports whether two configurations of newTLSConfig verify the same and show the same certificate. Pins are
// compared by the caller.
func sameTLS(a, b *tls.Config) bool {
	return a.ServerName == b.ServerName && a.MinVersion == b.MinVersion && a.RootCAs.Equal(b.RootCAs) &&
		slices.EqualFunc(a.Certificates, b.Certificates, func(x, y tls.Certificate) bool {
			return slices.EqualFunc(x.Certificate, y.Certificate, bytes.Equal)
		})
}
