package config

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// readHostTLS fills in what is checked of a smarthost's hosts, and shown to them, by TLS.
func readHostTLS(t *table, s *Smarthost) {
	if s.TLS == "off" {
		t.refuseWithoutTLS("ca_file", "min_tls", "pin_sha256", "tls_name", "client_cert_file", "client_key_file")
		return
	}
	if t.has("ca_file") {
		s.CAFile, s.RootCAs = t.authorities()
	}
	s.Pins = t.pins("pin_sha256")
	if t.has("tls_name") {
		s.TLSName = t.tlsName("tls_name")
	}
	s.ClientCertFile, s.ClientCertificates = t.clientCertificate()
}

// pins returns the digests of a list, or of a single string.
func (t *table) pins(key string) [][sha256.Size]byte {
	if !t.has(key) {
		return nil
	}
	entries := []entry{}
	if _, single := t.values[key].(string); single {
		if s, ok := t.text(key); ok {
			entries = append(entries, entry{text: s, line: t.lineOf(key)})
		}
	} else {
		entries = t.list(key, false)
	}
	var out [][sha256.Size]byte
	for _, e := range entries {
		pin, problem, remedy := parsePin(e.text)
		if problem != "" {
			t.fault(e.line, t.full(key), problem, remedy)
			continue
		}
		out = append(out, pin)
	}
	return out
}

// parsePin reads the SHA-256 of a public key or of a certificate: in base64, as relayctl status and "curl
// --pinnedpubkey" write it, or in hex with or without colons, as "openssl x509 -noout -fingerprint -sha256" prints it,
// with or without the words before it.
func parsePin(s string) (pin [sha256.Size]byte, problem, remedy string) {
	const write = `write the SHA-256 of the host's key or certificate, as relayctl status or ` +
		`"openssl x509 -noout -fingerprint -sha256" tells it`
	text := strings.TrimSpace(s)
	if i := strings.Index(strings.ToLower(text), "fingerprint="); i >= 0 {
		text = text[i+len("fingerprint="):]
	}
	for _, prefix := range []string{"sha256//", "sha256/", "sha256:"} {
		if len(text) > len(prefix) && strings.EqualFold(text[:len(prefix)], prefix) {
			text = text[len(prefix):]
		}
	}
	b, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil {
		b, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	}
	switch {
	case err != nil:
		return pin, fmt.Sprintf("%q is neither hex nor base64", s), write
	case len(b) == 20:
		return pin, fmt.Sprintf("%q is a SHA-1 fingerprint", s), write
	case len(b) != len(pin):
		return pin, fmt.Sprintf("%q has %d bytes, and a SHA-256 has 32", s, len(b)), write
	}
	return [sha256.Size]byte(b), "", ""
}

// tlsName returns the name that certificates must have. One label is no name that an authority certifies, and as the
// domain of hosts that DNS names it would let in half the world.
func (t *table) tlsName(key string) string {
	s, ok := t.text(key)
	if !ok {
		return ""
	}
	name := strings.TrimSuffix(s, ".")
	if !isHostname(name, true) || !isHost(name) || isAddress(name) || !strings.Contains(name, ".") {
		t.bad(key, fmt.Sprintf("%q is not the full name of a host or domain", s), t.exampleOf(key))
		return ""
	}
	return name
}

// clientCertificate returns the certificate that the relay shows to hosts, with the path of its file.
func (t *table) clientCertificate() (string, []tls.Certificate) {
	const certKey, keyKey = "client_cert_file", "client_key_file"
	switch {
	case !t.has(certKey) && !t.has(keyKey):
		return "", nil
	case !t.has(certKey):
		if t.path(keyKey) != "" {
			t.bad(keyKey, "there is no certificate for it", "add "+t.form(certKey))
		}
		return "", nil
	case !t.has(keyKey):
		if t.path(certKey) != "" {
			t.bad(certKey, "there is no key for it", "add "+t.form(keyKey))
		}
		return "", nil
	}
	return t.keyPair(certKey, keyKey, "renew it, then reload relayd; hosts refuse it otherwise")
}
