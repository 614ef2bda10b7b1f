package oauth

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // of a certificate, as a name for it (RFC 7515 section 4.1.7)
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"time"
)

// assertionLife is how long a client assertion is good for. Entra takes ten minutes at most without a word.
const assertionLife = 5 * time.Minute

// assertionType is what RFC 7523 section 2.2 calls a client assertion that is a JWT.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// assertion returns a signed JWT by which the client shows that it has the certificate's key (RFC 7523 section 3). Both
// names of the certificate are given: Entra knows x5t, and x5t#S256 is what replaces it.
func (c *Certificate) assertion(clientID, audience string, now time.Time) (string, error) {
	short, long := sha1.Sum(c.Leaf), sha256.Sum256(c.Leaf)
	id := make([]byte, 16)
	rand.Read(id)
	b64 := base64.RawURLEncoding.EncodeToString
	head, err := json.Marshal(map[string]string{
		"alg": "RS256", "typ": "JWT", "x5t": b64(short[:]), "x5t#S256": b64(long[:]),
	})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": clientID, "sub": clientID, "aud": audience, "jti": b64(id),
		"nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if err != nil {
		return "", err
	}
	text := b64(head) + "." + b64(claims)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, c.Key, crypto.SHA256, digest[:])
	if err != nil {
		return "", err
	}
	return text + "." + b64(signature), nil
}
