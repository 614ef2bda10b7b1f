package oauth

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/issuer"
)

func TestRefusals_SayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		flow              Flow
		of                Provider
		code, description string
		want              string
	}{
		{FlowClientCredentials, ProviderMicrosoft, "invalid_client", "AADSTS7000222: The provided client secret keys for app 'relay' are expired.",
			"the client secret of application relay has expired: make a new one"},
		{FlowClientCredentials, ProviderMicrosoft, "invalid_client", "AADSTS7000215: Invalid client secret provided.", "the secret's value, not its ID"},
		{FlowDevice, ProviderMicrosoft, "invalid_client", "AADSTS7000218: The request body must contain ...", "Allow public client flows"},
		{FlowClientCredentials, ProviderMicrosoft, "unauthorized_client", "AADSTS700016: Application with identifier 'relay' was not found",
			"the tenant has no application relay"},
		{FlowClientCredentials, ProviderMicrosoft, "invalid_request", "AADSTS90002: Tenant 'x' not found.", "no such tenant"},
		{FlowClientCredentials, ProviderMicrosoft, "invalid_client", "AADSTS700027: The certificate ... is not registered", "upload cert_file"},
		{FlowDevice, ProviderMicrosoft, "invalid_grant", "AADSTS65001: The user or administrator has not consented", "grants consent"},
		{FlowDevice, ProviderMicrosoft, "invalid_grant", "AADSTS700082: The refresh token has expired due to inactivity.", "relayctl oauth login isp"},
		{FlowDevice, ProviderMicrosoft, "invalid_grant", "AADSTS50173: The provided grant has expired due to it being revoked", "a new password"},
		{FlowDevice, ProviderMicrosoft, "interaction_required", "AADSTS50076: you must use multi-factor authentication", "confirm the login"},
		{FlowDevice, ProviderMicrosoft, "invalid_grant", "AADSTS53003: Access has been blocked by Conditional Access policies.", "conditional access"},
		{FlowDevice, ProviderMicrosoft, "interaction_required", "something new", "relayctl oauth login isp"},
		{FlowRefreshToken, ProviderGoogle, "invalid_grant", "Token has been expired or revoked.", "in testing: publish it"},
		{FlowServiceAccount, ProviderGoogle, "unauthorized_client", "Client is unauthorized to retrieve access tokens", "Domain-wide delegation"},
		{FlowServiceAccount, ProviderGoogle, "invalid_grant", "Invalid email or User ID", "Google knows no account " + user},
		{FlowServiceAccount, ProviderGoogle, "invalid_grant", "Invalid JWT Signature.", "clock"},
		{FlowRefreshToken, ProviderOther, "invalid_grant", "", "the grant of " + user + " has ended"},
		{FlowRefreshToken, ProviderOther, "invalid_client", "", "check client_id"},
		{FlowRefreshToken, ProviderOther, "invalid_scope", "", "check scopes"},
		{FlowRefreshToken, ProviderOther, "something_new", "", "check [smarthost.oauth2] of isp"},
	} {
		a := account(c.flow)
		a.Provider = c.of
		if c.flow == FlowServiceAccount {
			a.ServiceAccount = &ServiceAccount{Email: "relay@project.example", Key: pemKey(t, rsaKey(t))}
		}
		g := newRig(t, options(), a)
		fault := issuer.Refusal(c.code, c.description)
		g.server.Fail(&fault)
		err := g.refusal(t)
		wantAll(t, err.Error(), c.want, c.code)
		if strings.Contains(err.Error(), "%") {
			t.Errorf("a placeholder is left: %v", err)
		}
	}
}

func TestErrors_HoldNoSecretAndNoPage(t *testing.T) {
	for name, fault := range map[string]issuer.Fault{
		"echoed":     issuer.Refusal("invalid_client", "no client has the secret "+secret+" or \x1b[2J\r\n"+strings.Repeat("words ", 500)+" Trace ID: 1"),
		"in a page":  {Status: 500, Body: "you sent " + secret},
		"in a form":  {Status: 400, Body: "client_secret=" + secret},
		"in a token": {Status: 200, Body: `{"access_token": "", "token_type": "` + secret + `"}`},
		"in a type":  {Status: 200, Body: `{"access_token": "x", "token_type": "` + secret + `", "expires_in": 3600}`},
	} {
		g := newRig(t, confidential(), account(FlowClientCredentials))
		g.server.Fail(&fault)
		_, err := g.Token(t.Context(), "")
		text := fmt.Sprint(err, g.Status(), g.log)
		if err == nil || strings.Contains(text, secret) || strings.ContainsAny(text, "\x1b\r") || len(err.Error()) > 1000 ||
			strings.Contains(text, "Trace ID") {
			t.Errorf("%s: %s", name, text)
		}
	}
	a := account(FlowDevice)
	g := newRig(t, options(), a)
	have, err := g.store.Load("isp")
	if err != nil {
		t.Fatal(err)
	}
	fault := issuer.Refusal("invalid_grant", "the token "+have.RefreshToken+" is old")
	g.server.Fail(&fault)
	text := fmt.Sprintf("%v %+v %#v %v %+v", g.refusal(t), have, have, g.log, a)
	if strings.Contains(text, have.RefreshToken) {
		t.Error(text)
	}
	c := account(FlowClientCredentials)
	c.ServiceAccount = &ServiceAccount{Email: "relay@project.example", Key: []byte("gehe1m")}
	if text := fmt.Sprintf("%v %+v %#v %v %#v", c, c, c, []any{c, &c}, c.ServiceAccount); strings.Contains(text, secret) || strings.Contains(text, "gehe1m") {
		t.Error(text)
	}
}

func TestRequests_AreBoundedAndGoNowhereElse(t *testing.T) {
	g := newRig(t, confidential(), account(FlowClientCredentials))
	endless := issuer.Fault{Status: 200, Body: strings.Repeat(" ", maxAnswer+1)}
	g.server.Fail(&endless)
	wantAll(t, g.mustBeAway(t).Error(), "larger than 256 KiB")

	g = newRig(t, confidential(), account(FlowClientCredentials))
	asked := map[string]int{}
	g.opt.Transport = inMemory{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Host]++
		http.Redirect(w, r, "https://thief.example/token", http.StatusTemporaryRedirect)
	})}
	g.mustBeAway(t)
	if asked["thief.example"] != 0 || asked["login.example"] != 1 {
		t.Errorf("asked: %v", asked)
	}
}

// A wrong or replayed assertion is refused, so that a right one says something.
func TestCertificate_AnotherOneIsRefusedWithAdvice(t *testing.T) {
	_, registered := certificate(t)
	other, _ := certificate(t)
	o, a := options(), account(FlowClientCredentials)
	o.Certificate, a.Certificate, a.ClientSecret = registered, other, ""
	err := newRig(t, o, a).refusal(t)
	wantAll(t, err.Error(), "Entra does not know the certificate", "AADSTS700027")
}

func TestPause_GrowsToItsBound(t *testing.T) {
	for n, want := range map[int]time.Duration{1: time.Minute, 2: 2 * time.Minute, 6: 32 * time.Minute, 7: time.Hour, 1000: time.Hour} {
		if got := pause(true, n); got != want {
			t.Errorf("refused %d times: %v", n, got)
		}
	}
	for n, want := range map[int]time.Duration{1: 5 * time.Second, 4: 40 * time.Second, 5: time.Minute, 1000: time.Minute} {
		if got := pause(false, n); got != want {
			t.Errorf("away %d times: %v", n, got)
		}
	}
}

func TestSource_RetryEndsThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, confidential(), account(FlowClientCredentials))
		fault := issuer.Refusal("invalid_client", "")
		g.server.Fail(&fault)
		g.refusal(t)
		g.server.Fail(nil)
		g.refusal(t) // without a request
		g.Retry()
		g.must(t, "")
	})
}

// The server that the other tests ask takes an assertion once, for itself, for the client, and signed as it says.
func TestCertificate_AssertionsAreChecked(t *testing.T) {
	cert, registered := certificate(t)
	o := options()
	o.Certificate = registered
	s := issuer.New(o, base)
	sign := func(client, audience string, at time.Time) string {
		t.Helper()
		token, err := cert.assertion(client, audience, at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := sign("relay", base+"/token", time.Now())
	forged := good[:len(good)-8] + "AAAAAAAA"
	for _, c := range []struct{ name, assertion, want string }{
		{"good", good, ""}, {"again", good, "used before"}, {"forged", forged, "signature"},
		{"for another server", sign("relay", "https://other.example/token", time.Now()), "it is for"},
		{"of another client", sign("other", base+"/token", time.Now()), "another client's"},
		{"old", sign("relay", base+"/token", time.Now().Add(-time.Hour)), "not valid now"}, {"none", "", "no JWT"},
	} {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"relay"}, "client_assertion_type": {assertionType},
			"client_assertion": {c.assertion}}
		resp, err := (&http.Client{Transport: inMemory{s}}).PostForm(base+"/token", form)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || (resp.StatusCode == http.StatusOK) != (c.want == "") || !strings.Contains(string(body), c.want) {
			t.Errorf("%s: %d %s %v", c.name, resp.StatusCode, body, err)
		}
	}
}

// A provider may repeat what it was shown in any form; an assertion, which nobody here has kept, is known by its own.
func TestTidy_NoFormOfASecretIsRepeated(t *testing.T) {
	a := account(FlowClientCredentials)
	encode := base64.StdEncoding.EncodeToString
	for _, said := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), encode([]byte(secret)),
		encode([]byte("relay:" + secret)), encode([]byte("ab:" + secret + "x")), base64.URLEncoding.EncodeToString([]byte("c" + secret)),
		"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJyZWxheSJ9.c2lnbmF0dXJl", encode([]byte(`eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJyZWxheSJ9`))} {
		got := a.tidy("it was "+said+" that came", nil)
		wantAll(t, got, "it was ", "[secret]", " that came")
		for _, form := range append(forms(secret), "eyJ", "ZXlK") {
			if strings.Contains(got, form) {
				t.Errorf("%q of %q is in %q", form, said, got)
			}
		}
	}
}
