package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"relayd/internal/control"
	"relayd/internal/issuer"
)

// cmdIssuer starts an authorization server and writes a configuration with smarthosts of several flows that use it:
// "issuer FILE". Its smarthosts are "office" (device), "web" (refresh_token) and "app" (client_credentials).
func cmdIssuer(ts *testscript.TestScript, _ bool, args []string) {
	s, err := issuer.Start(issuer.Options{ClientID: "relay", User: "me@isp.example", Interval: time.Second})
	ts.Check(err)
	ts.Defer(func() { s.Close() })
	issuers.Store(ts.Getenv("SOCKET"), s)
	text := "data_dir = \"" + ts.MkAbs("data") + "\"\ncontrol_socket = \"" + ts.Getenv("SOCKET") + "\"\n"
	for name, more := range map[string]string{
		"office": "flow = 'device'", "web": "flow = 'refresh_token'",
		"app": "flow = 'client_credentials'\nclient_secret = 'gehe1m'\nsecret_expires = '2020-01-31'",
	} {
		text += fmt.Sprintf("[[smarthost]]\nname = %q\nhosts = ['smtp.isp.example']\nsenders = ['@%s.example']\nusername = 'me@isp.example'\n"+
			"[smarthost.oauth2]\nclient_id = 'relay'\ntoken_url = %q\ndevice_url = %q\nauth_url = %q\n%s\n", name, name, s.TokenURL(), s.DeviceURL(),
			s.AuthURL(), more)
	}
	text += "[[smarthost]]\nname = 'plain'\nhosts = ['smtp.isp.example']\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// issuers are the scripts' servers, by $SOCKET, which each script has for itself.
var issuers sync.Map

// cmdPerson is the person at the other end of a login: "person approves", "person declines", or "person browses FILE" and
// "person pastes FILE INTO", where FILE is what relayctl has printed.
func cmdPerson(ts *testscript.TestScript, _ bool, args []string) {
	found, _ := issuers.Load(ts.Getenv("SOCKET"))
	s := found.(*issuer.Server)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch args[0] {
	case "approves", "declines":
		code, err := s.UserCode(ctx)
		ts.Check(err)
		if args[0] == "approves" {
			s.Approve(code, "me@isp.example")
		} else {
			s.Deny(code)
		}
	case "browses":
		resp, err := http.Get(address(ts, args[1]))
		ts.Check(err)
		resp.Body.Close()
	case "pastes":
		client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := client.Get(address(ts, args[1]))
		ts.Check(err)
		resp.Body.Close()
		pipe, err := os.OpenFile(ts.MkAbs(args[2]), os.O_WRONLY, 0)
		ts.Check(err)
		long := strings.Replace(resp.Header.Get("Location"), "?", "?session_state="+strings.Repeat("x", 3000)+"&", 1)
		_, err = pipe.WriteString("what?\n" + long + "\n") // as long as Entra's are
		ts.Check(err)
		ts.Check(pipe.Close())
	default:
		ts.Fatalf("what does the person do?")
	}
}

// address waits until relayctl has printed the address to open.
func address(ts *testscript.TestScript, file string) string {
	re := regexp.MustCompile(`(?m)^http://\S+/authorize\?\S+$`)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(ts.MkAbs(file))
		if m := re.FindString(string(b)); m != "" && strings.Contains(string(b), "Waiting for you") {
			return m
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no address in %q", b)
		}
	}
}

// tokenFixture is what the daemon of the fixture "tokens" tells of OAuth2.
func tokenFixture(fixture string, now time.Time) []control.OAuthStatus {
	if fixture != "tokens" {
		return nil
	}
	return []control.OAuthStatus{
		{Route: "app", Username: "me@contoso.example", Flow: "client_credentials", TokenExpires: now.Add(47*time.Minute + 30*time.Second),
			SecretExpires: now.AddDate(0, 0, 12), Problem: "the token endpoint is on holiday\x1b[2J"},
		{Route: "office", Username: "printer@contoso.example", Flow: "device", Refused: true, Since: now.Add(-3*time.Hour - time.Minute),
			Problem: `the grant of printer@contoso.example has ended or was revoked: run "relayctl oauth login office"`},
		{Route: "spare", Username: "me@isp.example", Flow: "refresh_token", Problem: "no line", TokenExpires: time.Time{}},
		{Route: "new", Username: "me@isp.example", Flow: "service_account"},
	}
}
