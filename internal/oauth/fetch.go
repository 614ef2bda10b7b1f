package oauth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/oauth2/jwt"
)

// fetch asks the token endpoint once for an access token; refresh is the refresh token of a flow that has one. style says
// how the client shows its secret.
func (a *Account) fetch(ctx context.Context, style oauth2.AuthStyle, refresh string) (*oauth2.Token, error) {
	var tok *oauth2.Token
	var err error
	switch a.Flow {
	case FlowClientCredentials:
		c := clientcredentials.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret, TokenURL: a.TokenURL, Scopes: a.Scopes,
			AuthStyle: style}
		if a.Certificate != nil {
			assertion, err := a.Certificate.assertion(a.ClientID, a.TokenURL, time.Now())
			if err != nil {
				return nil, &GrantError{Advice: "the certificate's key cannot sign: check key_file in [smarthost.oauth2]"}
			}
			c.ClientSecret, c.AuthStyle = "", oauth2.AuthStyleInParams
			c.EndpointParams = map[string][]string{"client_assertion_type": {assertionType}, "client_assertion": {assertion}}
		}
		tok, err = c.Token(ctx)
	case FlowServiceAccount:
		s := a.ServiceAccount
		c := jwt.Config{Email: s.Email, PrivateKey: s.Key, PrivateKeyID: s.KeyID, Subject: a.Username, Scopes: a.Scopes,
			TokenURL: a.TokenURL, Expires: assertionLife}
		tok, err = c.TokenSource(ctx).Token()
	default:
		tok, err = a.config(style).TokenSource(ctx, &oauth2.Token{RefreshToken: refresh}).Token()
	}
	if err != nil {
		return nil, a.translate(err, refresh)
	}
	if tok.AccessToken == "" {
		return nil, a.translate(errors.New("its answer holds no access token"))
	}
	if t := tok.Type(); t != "Bearer" {
		return nil, a.translate(fmt.Errorf("it gives tokens of the type %q, which no mail server takes", t))
	}
	return tok, nil
}

// config is the account as x/oauth2 wants it for the flows of a person.
func (a *Account) config(style oauth2.AuthStyle) *oauth2.Config {
	return &oauth2.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret, Scopes: a.Scopes, Endpoint: oauth2.Endpoint{
		AuthURL: a.AuthURL, DeviceAuthURL: a.DeviceURL, TokenURL: a.TokenURL, AuthStyle: style}}
}

// withStyle calls ask with the client's secret in the request's parameters, which Microsoft and Google want and nearly all
// others take. One that takes it in the header alone (RFC 6749 section 2.3.1) says invalid_client, which costs no grant.
func (a *Account) withStyle(known *oauth2.AuthStyle, ask func(oauth2.AuthStyle) error) error {
	if *known != oauth2.AuthStyleAutoDetect {
		return ask(*known)
	}
	err := ask(oauth2.AuthStyleInParams)
	refused, ok := errors.AsType[*GrantError](err)
	if !ok || refused.Code != "invalid_client" || a.ClientSecret == "" || a.Provider != ProviderOther {
		return err
	}
	if again := ask(oauth2.AuthStyleInHeader); again == nil || !isClientRefused(again) {
		*known = oauth2.AuthStyleInHeader
		return again
	}
	return err
}

func isClientRefused(err error) bool {
	refused, ok := errors.AsType[*GrantError](err)
	return ok && refused.Code == "invalid_client"
}
