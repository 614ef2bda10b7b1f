//go:build unix

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relayd/internal/issuer"
	"relayd/internal/oauth"
	"relayd/internal/sandbox"
)

// A reload changes the account while its refresh token is being exchanged, at an issuer that ends the grant when it sees a
// token twice, and that takes longer than a stop would wait.
func TestRelayd_AReloadDuringARenewalDoesNotCostTheLogin(t *testing.T) {
	is := issuer.New(issuer.Options{ClientID: "relay", User: tokenUser, Rotate: true}, "http://issuer")
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		done := httptest.NewRecorder()
		is.ServeHTTP(done, r)
		asked <- struct{}{}
		<-answer
		for k, v := range done.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(done.Code)
		w.Write(done.Body.Bytes())
	}))
	defer front.Close()
	free := sync.OnceFunc(func() { close(answer) })
	defer free()

	s := newSite(t)
	sb := s.smarthost(sandbox.Options{VerifyToken: is.Verify, Mechanisms: []string{"XOAUTH2"}})
	configure := func(scopes string) {
		s.configure(fmt.Sprintf("[[smarthost]]\nname = \"office\"\nhosts = [%q]\nusername = %q\nca_file = %q\n[smarthost.oauth2]\n"+
			"flow = \"device\"\nclient_id = \"relay\"\ntoken_url = %q\ndevice_url = %q\nscopes = [%q]\n", sb.Addr(), tokenUser, sb.CAFile(),
			front.URL+"/token", front.URL+"/device", scopes))
	}
	configure("mail.send")
	data := filepath.Join(s.dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	store := oauth.NewStore(data)
	if err := store.Save("office", oauth.Grant{RefreshToken: is.Grant(tokenUser), Username: tokenUser, ClientID: "relay",
		TokenURL: front.URL + "/token", Obtained: time.Now()}); err != nil {
		t.Fatal(err)
	}
	p := s.start()
	<-asked
	configure("mail.send.now")
	p.signal(syscall.SIGHUP)
	p.waitFor("the configuration was reloaded")
	p.mustSubmit("a@example.com")
	free()
	arrive(t, sb, 1)
	have, err := store.Load("office")
	if good := is.RefreshTokens(); err != nil || len(good) != 1 || good[0] != have.RefreshToken {
		t.Errorf("the issuer takes %d tokens, and not the stored one: %v", len(good), err)
	}
	if strings.Contains(p.log.String(), "invalid_grant") {
		t.Error("the grant has ended")
	}
}
