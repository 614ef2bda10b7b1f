package oauth

import (
	"cmp"
	"crypto/rsa"
	"log/slog"
	"time"
)

// Flow is how an account comes by its tokens.
type Flow string

const (
	// FlowClientCredentials: the application itself, by a secret or a certificate (RFC 6749 section 4.4, RFC 7523).
	FlowClientCredentials Flow = "client_credentials"
	// FlowDevice: a person's grant, given by a code that is typed into a browser anywhere (RFC 8628).
	FlowDevice Flow = "device"
	// FlowRefreshToken: a person's grant, given in a browser that comes back to this machine (RFC 6749 section 4.1,
	// RFC 8252).
	FlowRefreshToken Flow = "refresh_token"
	// FlowServiceAccount: a key of Google's that may act for the account (RFC 7523 section 2.1).
	FlowServiceAccount Flow = "service_account"
)

// Personal reports whether the flow lives on a grant that a person gives by logging in.
func (f Flow) Personal() bool { return f == FlowDevice || f == FlowRefreshToken }

// Provider names whose endpoints these are, as far as advice and oddities depend on it.
type Provider string

const (
	ProviderMicrosoft Provider = "microsoft"
	ProviderGoogle    Provider = "google"
	ProviderOther     Provider = ""
)

// Account is what it takes to get tokens for one account. Which fields are needed follows from Flow. It is a value that
// does not change; two accounts with equal fields are the same.
type Account struct {
	// Name is the smarthost's, for words and for the file of the grant.
	Name string
	// Username is the mailbox that logs in with the tokens.
	Username string
	Provider Provider
	Flow     Flow

	TokenURL, DeviceURL, AuthURL string
	Scopes                       []string

	ClientID     string
	ClientSecret string
	// Certificate signs client assertions in place of ClientSecret.
	Certificate *Certificate
	// ServiceAccount is the key of FlowServiceAccount.
	ServiceAccount *ServiceAccount
	// SecretExpires is when the secret or the certificate ends; zero when that is not known.
	SecretExpires time.Time
}

// Certificate is an application's certificate and its key.
type Certificate struct {
	Leaf []byte // DER
	Key  *rsa.PrivateKey
}

// ServiceAccount is a key of a Google service account.
type ServiceAccount struct {
	Email, KeyID string
	Key          []byte // PEM
}

// String returns the account's name. It is there to keep secrets out of whatever prints an Account.
func (a Account) String() string { return a.Name }

// GoString returns the account's name, like String.
func (a Account) GoString() string { return a.Name }

// LogValue returns the account's name, like String.
func (a Account) LogValue() slog.Value { return slog.StringValue(a.Name) }

// String returns the account's address, without the key.
func (s *ServiceAccount) String() string { return s.Email }

// GoString returns the account's address, like String.
func (s *ServiceAccount) GoString() string { return s.Email }

// String names the thing and holds nothing of it.
func (c *Certificate) String() string { return "[certificate]" }

// GoString is like String.
func (c *Certificate) GoString() string { return "[certificate]" }

// client says who asks for tokens, in the words of the provider's console.
func (a *Account) client() string {
	if a.ServiceAccount != nil {
		return cmp.Or(a.ClientID, a.ServiceAccount.Email)
	}
	return a.ClientID
}
