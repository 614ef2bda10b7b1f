package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/oauth2"
)

// Prompt is what a person needs to give a grant with a code.
type Prompt struct {
	URL, Code string
	Expires   time.Time
}

// LoginByDevice gets a grant by the device flow (RFC 8628): show tells the person the URL and the code, and the provider
// is asked at its pace until the person has used them, the code has expired, or ctx ends.
func LoginByDevice(ctx context.Context, a Account, rt http.RoundTripper, show func(Prompt)) (Grant, error) {
	if rt == nil {
		rt = http.DefaultTransport
	}
	ctx = withClient(ctx, rt)
	c := a.config(oauth2.AuthStyleInParams)
	device, err := c.DeviceAuth(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return Grant{}, context.Cause(ctx)
		}
		at := a
		at.TokenURL = a.DeviceURL
		return Grant{}, at.translate(err)
	}
	if device.DeviceCode == "" || device.UserCode == "" || device.VerificationURI == "" {
		return Grant{}, &EndpointError{Host: hostOf(a.DeviceURL), Words: "its answer holds no code; check device_url"}
	}
	if device.Expiry.IsZero() {
		device.Expiry = time.Now().Add(15 * time.Minute)
	}
	show(Prompt{URL: device.VerificationURI, Code: device.UserCode, Expires: device.Expiry})
	var style oauth2.AuthStyle
	for {
		var tok *oauth2.Token
		err := a.withStyle(&style, func(style oauth2.AuthStyle) (err error) {
			tok, err = a.config(style).DeviceAccessToken(ctx, device)
			return a.translate(err, device.DeviceCode)
		})
		switch {
		case ctx.Err() != nil:
			return Grant{}, context.Cause(ctx)
		case err == nil:
			return a.grant(tok)
		case !time.Now().Before(device.Expiry):
			return Grant{}, &GrantError{Code: "expired_token", Advice: "the code was not used in time; run the command again"}
		}
		if _, away := errors.AsType[*EndpointError](err); !away {
			return Grant{}, err
		}
		device.Interval = min(2*max(device.Interval, 5), 60) // RFC 8628 section 3.5: slower after a time-out
	}
}

// grant makes a login's token a grant to be stored.
func (a *Account) grant(tok *oauth2.Token) (Grant, error) {
	if tok.RefreshToken == "" {
		return Grant{}, fmt.Errorf("%s gave an access token, but no refresh token to go on with: the application needs the permission "+
			"for it (offline_access among scopes, where the provider knows that)", hostOf(a.TokenURL))
	}
	return Grant{RefreshToken: tok.RefreshToken, Username: a.Username, ClientID: a.ClientID, TokenURL: a.TokenURL,
		Obtained: time.Now().UTC()}, nil
}
