package sandbox

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The mechanisms in which the client does not show its password but that it knows it. The server must know it too, so
// that they need Options.Username and Options.Password.
const (
	cramMD5         = "CRAM-MD5"
	scramSHA256     = "SCRAM-SHA-256"
	scramSHA256Plus = "SCRAM-SHA-256-PLUS"
)

// scramIterations is the least that RFC 7677 section 4 allows.
const scramIterations = 4096

func proves(mechanism string) bool {
	return slices.Contains([]string{cramMD5, scramSHA256, scramSHA256Plus}, mechanism)
}

// prove runs an exchange of such a mechanism. Whoever proves to know the password has credentials with it.
func (c *session) prove(mechanism, initial string, hasInitial bool, prompt string) (credentials, error) {
	if mechanism == cramMD5 {
		return c.cram(hasInitial)
	}
	return c.scram(mechanism, initial, hasInitial, prompt)
}

// cram is the server's part of RFC 2195.
func (c *session) cram(hasInitial bool) (credentials, error) {
	if hasInitial {
		c.violation("AUTH CRAM-MD5 with an initial response (RFC 2195 has the server speak first)")
		return credentials{}, refusal("501 5.5.2 CRAM-MD5 has no initial response")
	}
	challenge := "<" + rand.Text() + "@" + c.server.opts.Hostname + ">"
	answer, err := c.ask("334 " + base64.StdEncoding.EncodeToString([]byte(challenge)))
	if err != nil {
		return credentials{}, err
	}
	at := strings.LastIndexByte(answer, ' ')
	if at < 0 {
		c.violation("the answer to CRAM-MD5 is not a name, a space and a digest (RFC 2195 section 2)")
		return credentials{}, refusal("501 5.5.2 malformed answer")
	}
	digest := hmac.New(md5.New, []byte(c.server.opts.Password))
	digest.Write([]byte(challenge))
	return c.known(answer[:at], hmac.Equal([]byte(answer[at+1:]), []byte(hex.EncodeToString(digest.Sum(nil))))), nil
}

// known returns credentials of user with the password when that was proven.
func (c *session) known(user string, proven bool) credentials {
	if !proven {
		return credentials{user: user}
	}
	return credentials{user, c.server.opts.Password}
}

// scramFirst is a client-first-message (RFC 5802 section 7).
type scramFirst struct {
	gs2, flag, authzid, bare string
	user, nonce              string
}

func parseScramFirst(text string) (m scramFirst, err error) {
	parts := strings.SplitN(text, ",", 3)
	if len(parts) < 3 {
		return m, errors.New("it has no GS2 header")
	}
	m.flag, m.bare = parts[0], parts[2]
	m.gs2 = parts[0] + "," + parts[1] + ","
	m.authzid = strings.TrimPrefix(parts[1], "a=")
	attributes := strings.Split(m.bare, ",")
	if len(attributes) < 2 || !strings.HasPrefix(attributes[0], "n=") || !strings.HasPrefix(attributes[1], "r=") {
		return m, errors.New("it does not begin with n= and r=")
	}
	m.user = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(attributes[0][2:])
	m.nonce = attributes[1][2:]
	if m.nonce == "" || m.authzid != "" && m.authzid != m.user {
		return m, errors.New("its nonce is empty, or it acts for another")
	}
	return m, nil
}

// scram is the server's part of RFC 5802 with the digest of RFC 7677. In SMTP the server's signature goes as one more
// challenge, which the client answers with nothing (RFC 4954 section 4).
func (c *session) scram(mechanism, initial string, hasInitial bool, prompt string) (credentials, error) {
	first, err := c.scramStart(mechanism, initial, hasInitial, prompt)
	if err != nil {
		return credentials{}, err
	}
	var salt [16]byte
	rand.Read(salt[:])
	nonce := first.nonce + rand.Text()
	challenge := fmt.Sprintf("r=%s,s=%s,i=%d", nonce, base64.StdEncoding.EncodeToString(salt[:]), scramIterations)
	final, err := c.ask("334 " + base64.StdEncoding.EncodeToString([]byte(challenge)))
	if err != nil {
		return credentials{}, err
	}
	bare, proof, _ := strings.Cut(final, ",p=")
	header, ok := c.boundHeader(first)
	if want := "c=" + base64.StdEncoding.EncodeToString(header) + ",r=" + nonce; !ok || bare != want {
		c.violation("the client's final message of SCRAM does not repeat nonce, header and channel binding (RFC 5802 section 6)")
		return c.known(first.user, false), nil
	}
	salted, err := pbkdf2.Key(sha256.New, c.server.opts.Password, salt[:], scramIterations, sha256.Size)
	if err != nil {
		return credentials{}, err
	}
	dialogue := first.bare + "," + challenge + "," + bare
	if got, err := base64.StdEncoding.DecodeString(proof); err != nil || !provesKey(salted, dialogue, got) ||
		first.user != c.server.opts.Username {
		return c.known(first.user, false), nil
	}
	signature := base64.StdEncoding.EncodeToString(mac(mac(salted, "Server Key"), dialogue))
	empty, err := c.ask("334 " + base64.StdEncoding.EncodeToString([]byte("v="+signature)))
	if err == nil && empty != "" {
		c.violation("the answer to the server's SCRAM signature is not empty (RFC 4954 section 4)")
	}
	return c.known(first.user, true), err
}

// scramStart reads the client's first message, and refuses what cannot go on.
func (c *session) scramStart(mechanism, initial string, hasInitial bool, prompt string) (scramFirst, error) {
	var text string
	var err error
	if hasInitial {
		text, err = c.decode(initial)
	} else {
		text, err = c.ask(prompt)
	}
	if err != nil {
		return scramFirst{}, err
	}
	m, err := parseScramFirst(text)
	if err != nil {
		c.violation("the client's first message of SCRAM cannot be used: %v (RFC 5802 section 7)", err)
		return m, refusal("501 5.5.2 malformed message")
	}
	switch bound := strings.HasPrefix(m.flag, "p="); {
	case bound != (mechanism == scramSHA256Plus), !bound && m.flag != "n" && m.flag != "y":
		c.violation("%s with the channel binding flag %q (RFC 5802 section 6)", mechanism, m.flag)
		return m, refusal("501 5.5.2 malformed message")
	case m.flag == "y" && slices.Contains(c.mechanisms(), scramSHA256Plus):
		// Somebody took the offer away, or the client overlooked it.
		return m, refusal("535 5.7.8 channel binding was offered")
	}
	return m, nil
}

// boundHeader returns what c= must hold: the header, and what identifies the TLS session. It is false for a kind of
// channel binding that the sandbox does not have.
func (c *session) boundHeader(m scramFirst) ([]byte, bool) {
	kind, bound := strings.CutPrefix(m.flag, "p=")
	if !bound {
		return []byte(m.gs2), true
	}
	var data []byte
	var err error
	switch kind {
	case "tls-exporter": // RFC 9266
		data, err = c.state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	case "tls-server-end-point": // RFC 5929 section 4.1; the sandbox's certificates are signed with SHA-256
		sum := sha256.Sum256(c.server.ca.serving.Load().Certificate[0])
		data = sum[:]
	default:
		return nil, false
	}
	return append([]byte(m.gs2), data...), err == nil
}

// provesKey reports whether proof is the client key, hidden under its signature (RFC 5802 section 3).
func provesKey(salted []byte, dialogue string, proof []byte) bool {
	key := mac(salted, "Client Key")
	stored := sha256.Sum256(key)
	signature := mac(stored[:], dialogue)
	if len(proof) != len(key) {
		return false
	}
	subtle.XORBytes(proof, proof, signature)
	return hmac.Equal(proof, key)
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// clientName returns what the certificate of the client calls it; "" for none.
func clientName(state tls.ConnectionState) string {
	if len(state.PeerCertificates) == 0 {
		return ""
	}
	return state.PeerCertificates[0].Subject.CommonName
}
