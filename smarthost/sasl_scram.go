package smarthost

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"
)

const (
	scramSHA256     = "SCRAM-SHA-256"
	scramSHA256Plus = "SCRAM-SHA-256-PLUS"
)

// maxIterations bounds the work that a host may ask for: about a second of one processor. Hosts ask for 4,096 to some
// hundred thousand. Fewer than 4,096 are refused (RFC 7677 section 4).
const maxIterations = 2_000_000

var (
	// errImpostor: the host took the login, or said so, without a signature that only one who knows the password can
	// make. Who it is, is then not known, so that it is the site's failure: no message is to blame, and none goes there.
	errImpostor   = errors.New("its SCRAM signature is wrong or missing")
	errIterations = fmt.Errorf("it asks for more than %d iterations of SCRAM", maxIterations)
	// errSASLprep stands for the library's error, which names the character: it may be one of the password's.
	errSASLprep = errors.New(`username or password holds a character that SCRAM does not allow (RFC 4013); set auth = "auto"`)
)

// scramClient is SCRAM-SHA-256 (RFC 5802, RFC 7677), with or without channel binding. The host does not learn the
// password, and has to prove that it knows it.
type scramClient struct {
	credentials
	mech  string
	nonce func() string // nil for a random one
	// binding ties the login to the TLS session, for the PLUS variant. unbound says that the relay could have done that,
	// and that the host did not offer it: a host that did offer it then knows of somebody between who took it away.
	binding scram.ChannelBinding
	unbound bool

	talk *scram.ClientConversation
	step int
}

// secured tells the client of the session that it logs in on. wanted is Route.Auth, offered what the host offers.
func (s *scramClient) secured(state *tls.ConnectionState, wanted string, offered []string) {
	binding, err := channelBinding(state)
	switch {
	case err != nil:
	case s.mech == scramSHA256Plus:
		s.binding = binding
	default:
		s.unbound = wanted == AuthAuto && !slices.Contains(offered, scramSHA256Plus)
	}
}

// channelBinding returns what binds a login to a TLS session: tls-exporter with TLS 1.3 (RFC 9266), and
// tls-server-end-point (RFC 5929) before, where tls-unique would be open to the triple handshake attack.
func channelBinding(state *tls.ConnectionState) (scram.ChannelBinding, error) {
	if state.Version >= tls.VersionTLS13 {
		return scram.NewTLSExporterBinding(state)
	}
	return scram.NewTLSServerEndpointBinding(state)
}

// canUse reports whether a mechanism that the host offers can be used. SCRAM-SHA-256-PLUS cannot be where the session has
// nothing to bind to, nor any SCRAM with a password that it does not allow, unless the route wants just that.
func (e *endpoint) canUse(mech string, state *tls.ConnectionState) bool {
	if mech == scramSHA256Plus {
		if _, err := channelBinding(state); err != nil {
			return false
		}
	}
	if e.auth != AuthAuto || mech != scramSHA256 && mech != scramSHA256Plus {
		return true
	}
	_, err := scram.SHA256.NewClient(e.credentials.username, e.credentials.password, "")
	return err == nil
}

func (s *scramClient) Start() (mech string, ir []byte, err error) {
	c, err := scram.SHA256.NewClient(s.username, s.password, "")
	if err != nil {
		return "", nil, errSASLprep
	}
	if s.nonce != nil {
		c.WithNonceGenerator(s.nonce)
	}
	switch {
	case s.mech == scramSHA256Plus:
		s.talk = c.NewConversationWithChannelBinding(s.binding)
	case s.unbound:
		s.talk = c.NewConversationAdvertisingChannelBinding()
	default:
		s.talk = c.NewConversation()
	}
	first, err := s.talk.Step("")
	return s.mech, []byte(first), err
}

func (s *scramClient) Next(challenge []byte) ([]byte, error) {
	s.step++
	text := string(challenge)
	switch {
	case s.step > 2:
		return nil, sasl.ErrUnexpectedServerChallenge
	case s.step == 2 && !strings.HasPrefix(text, "e="):
		if _, err := s.talk.Step(text); err != nil {
			return nil, errImpostor
		}
		return []byte{}, nil
	case strings.HasPrefix(text, "e="):
		return nil, &proofRefusedError{text}
	case tooManyIterations(text):
		return nil, errIterations
	}
	final, err := s.talk.Step(text)
	if err != nil {
		return nil, fmt.Errorf("its SCRAM challenge is of no use: %s", shortened(err.Error()))
	}
	return []byte(final), nil
}

// proofRefusedError is a host that ends SCRAM with an error of its own, such as "e=invalid-proof" (RFC 5802 section 7).
type proofRefusedError struct{ said string }

func (e *proofRefusedError) Error() string { return "it answers " + shortened(e.said) }

// proven returns errImpostor unless the host has shown that it knows the password.
func (s *scramClient) proven() error {
	if s.talk == nil || !s.talk.Valid() {
		return errImpostor
	}
	return nil
}

// tooManyIterations reads the "i=" of a server-first-message.
func tooManyIterations(text string) bool {
	for attribute := range strings.SplitSeq(text, ",") {
		if digits, ok := strings.CutPrefix(attribute, "i="); ok {
			n, err := strconv.Atoi(digits)
			return err != nil || n > maxIterations
		}
	}
	return false
}

// shortened quotes what a host sent in base64, which may be anything.
func shortened(s string) string { return strconv.QuoteToASCII(s[:min(len(s), 80)]) }

// refusedLogin is a login that the host refused, and the mechanism that was tried.
type refusedLogin struct {
	mech    string
	offered []string
	reply   string
}

func (e *refusedLogin) Error() string { return e.mech + " refused: " + e.reply }

// words says what else to try where the password is right. The relay does not try that by itself: each try more would
// be a wrong password more, until the account locks.
func (e *refusedLogin) words() string {
	if !slices.Contains([]string{scramSHA256Plus, scramSHA256, cramMD5}, e.mech) {
		return ""
	}
	var others []string
	for _, m := range mechanisms {
		if m.name != e.mech && m.name != scramSHA256Plus && slices.Contains(e.offered, m.name) {
			others = append(others, strconv.Quote(strings.ToLower(m.name)))
		}
	}
	text := ". It was tried with " + e.mech
	if len(others) > 0 {
		text += "; if the password is right, the host may not be able to check it that way: set auth = " +
			strings.Join(others, " or ") + " in [[smarthost]] %ROUTE"
	}
	return text
}
