package issuer

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1" // of a certificate, as a name for it (RFC 7515 section 4.1.7)
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// claims are those of an assertion (RFC 7523 section 3).
type claims struct {
	Iss, Sub, Aud, Jti, Scope string
	Exp, Nbf, Iat             int64
}

type header struct {
	Alg, Typ, Kid string
	X5t           string `json:"x5t"`
	X5tS256       string `json:"x5t#S256"`
}

// clientAssertion checks by which certificate the client shows who it is.
func (s *Server) clientAssertion(client string, form url.Values) error {
	if form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		return errors.New("there is no client assertion")
	}
	key, ok := s.opt.Certificate.PublicKey.(*rsa.PublicKey)
	if !ok {
		return errors.New("the registered certificate has no RSA key")
	}
	h, c, err := s.verified(form.Get("client_assertion"), key)
	if err != nil {
		return err
	}
	long, short := sha256.Sum256(s.opt.Certificate.Raw), sha1.Sum(s.opt.Certificate.Raw)
	switch {
	case h.X5tS256 != base64.RawURLEncoding.EncodeToString(long[:]) || h.X5t != base64.RawURLEncoding.EncodeToString(short[:]):
		return errors.New("the assertion names another certificate")
	case c.Iss != client || c.Sub != client:
		return errors.New("the assertion is another client's")
	case c.Jti == "" || s.seenJTI[c.Jti]:
		return errors.New("the assertion was used before")
	}
	s.seenJTI[c.Jti] = true
	return nil
}

// byAssertion gives a service account a token of the user that its assertion names.
func (s *Server) byAssertion(w http.ResponseWriter, form url.Values) {
	if s.opt.ServiceKey == nil {
		refuse(w, http.StatusBadRequest, "unsupported_grant_type", "")
		return
	}
	_, c, err := s.verified(form.Get("assertion"), s.opt.ServiceKey)
	switch {
	case err != nil:
		refuse(w, http.StatusBadRequest, "invalid_grant", "Invalid JWT: "+err.Error())
	case c.Iss != s.opt.ServiceAccount:
		refuse(w, http.StatusBadRequest, "invalid_grant", "Invalid grant: account not found")
	case c.Sub != s.opt.User || c.Scope == "":
		refuse(w, http.StatusUnauthorized, "unauthorized_client", "Client is unauthorized to retrieve access tokens using this method")
	default:
		s.give(w, &grant{user: c.Sub, scope: c.Scope}, "")
	}
}

// verified returns header and claims of a JWT that key has signed with RS256 (RFC 7518 section 3.3), for this server and
// for now.
func (s *Server) verified(token string, key *rsa.PublicKey) (header, claims, error) {
	var h header
	var c claims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return h, c, errors.New("it is no JWT")
	}
	for i, into := range []any{&h, &c} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			return h, c, err
		}
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return h, c, err
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	now := time.Now().Unix()
	switch {
	case h.Alg != "RS256":
		return h, c, errors.New("its algorithm is " + h.Alg)
	case rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) != nil:
		return h, c, errors.New("its signature is invalid")
	case c.Aud != s.TokenURL():
		return h, c, errors.New("it is for " + c.Aud)
	case now > c.Exp || now < c.Nbf || c.Exp > now+3600:
		return h, c, errors.New("it is not valid now")
	}
	return h, c, nil
}
