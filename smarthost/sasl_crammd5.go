package smarthost

import (
	"crypto/hmac"
	"crypto/md5"
	"encoding/hex"
	"errors"

	"github.com/emersion/go-sasl"
)

const cramMD5 = "CRAM-MD5"

// errNoChallenge: a digest of nothing would be the same each time, and so as good as the password for whoever sees it.
var errNoChallenge = errors.New("its CRAM-MD5 challenge is empty")

// cramClient is CRAM-MD5 (RFC 2195). It shows the host a digest of the password and of the host's challenge.
type cramClient struct {
	credentials
	done bool
}

func (c *cramClient) Start() (mech string, ir []byte, err error) { return cramMD5, nil, nil }

func (c *cramClient) Next(challenge []byte) ([]byte, error) {
	switch {
	case c.done:
		return nil, sasl.ErrUnexpectedServerChallenge
	case len(challenge) == 0:
		return nil, errNoChallenge
	}
	c.done = true
	digest := hmac.New(md5.New, []byte(c.password))
	digest.Write(challenge)
	return []byte(c.username + " " + hex.EncodeToString(digest.Sum(nil))), nil
}
