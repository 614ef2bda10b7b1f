package issuer

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const base = "https://login.example"

// post sends a form, and returns the answer's fields.
func post(t *testing.T, s *Server, path string, form url.Values) map[string]any {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, base+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	if _, refused := got["error"]; refused != (w.Code >= 400) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return got
}

func refresh(t *testing.T, s *Server, token any) map[string]any {
	t.Helper()
	return post(t, s, "/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"relay"}, "refresh_token": {token.(string)}})
}

func TestRefresh_AnOldTokenRevokesTheGrant(t *testing.T) {
	s := New(Options{Rotate: true}, base)
	first := s.Grant("me")
	got := refresh(t, s, first)
	if !s.Verify("me", got["access_token"].(string)) || s.Verify("you", got["access_token"].(string)) || got["refresh_token"] == first {
		t.Fatal(got)
	}
	if again := refresh(t, s, first); again["error"] != "invalid_grant" {
		t.Error(again)
	}
	if next := refresh(t, s, got["refresh_token"]); next["error"] != "invalid_grant" || s.Verify("me", got["access_token"].(string)) {
		t.Error("the grant lives on", next)
	}
}

func TestAccess_TokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{}, base)
		token := refresh(t, s, s.Grant("me"))["access_token"].(string)
		time.Sleep(time.Hour - time.Second)
		if !s.Verify("me", token) {
			t.Error("ended too soon")
		}
		time.Sleep(time.Second)
		if s.Verify("me", token) || post(t, s, "/introspect", url.Values{"token": {token}})["active"] != false {
			t.Error("never ended")
		}
	})
}

func TestDevice_PollsAreHeldToTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{}, base)
		d := post(t, s, "/device", url.Values{"client_id": {"relay"}})
		poll := func() any {
			return post(t, s, "/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {"relay"},
				"device_code": {d["device_code"].(string)}})["error"]
		}
		for _, step := range []struct {
			pause time.Duration
			want  any
		}{{5 * time.Second, "authorization_pending"}, {time.Second, "slow_down"}, {5 * time.Second, "slow_down"}, {15 * time.Second, "authorization_pending"}} {
			time.Sleep(step.pause)
			if got := poll(); got != step.want {
				t.Errorf("after %v: %v, want %v", step.pause, got, step.want)
			}
		}
		s.Approve(d["user_code"].(string), "me")
		time.Sleep(time.Minute)
		if got := poll(); got != nil {
			t.Error(got)
		}
		if got := poll(); got != "invalid_grant" {
			t.Error("a device code serves twice:", got)
		}
	})
}

func TestCode_NeedsItsVerifierAndServesOnce(t *testing.T) {
	s := New(Options{User: "me"}, base)
	sum := sha256.Sum256([]byte("verifier"))
	q := url.Values{"response_type": {"code"}, "client_id": {"relay"}, "redirect_uri": {"http://127.0.0.1:1/"}, "state": {"x"},
		"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}}
	authorize := func(q url.Values) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, base+"/authorize?"+q.Encode(), nil))
		return w
	}
	back, err := authorize(q).Result().Location()
	if err != nil || back.Query().Get("state") != "x" {
		t.Fatal(back, err)
	}
	form := url.Values{"grant_type": {"authorization_code"}, "client_id": {"relay"}, "redirect_uri": {"http://127.0.0.1:1/"},
		"code": {back.Query().Get("code")}, "code_verifier": {"guess"}}
	if got := post(t, s, "/token", form); got["error"] != "invalid_grant" {
		t.Error(got)
	}
	form.Set("code_verifier", "verifier")
	got := post(t, s, "/token", form)
	if !s.Verify("me", got["access_token"].(string)) {
		t.Error(got)
	}
	if again := post(t, s, "/token", form); again["error"] != "invalid_grant" || s.Verify("me", got["access_token"].(string)) {
		t.Error("a code serves twice", again)
	}
	for key, value := range map[string]string{"redirect_uri": "https://thief.example/", "code_challenge": "", "code_challenge_method": "plain"} {
		bad := url.Values{}
		for k, v := range q {
			bad[k] = v
		}
		bad.Set(key, value)
		if w := authorize(bad); w.Code != http.StatusBadRequest {
			t.Errorf("%s=%s: %d", key, value, w.Code)
		}
	}
}

func TestClient_NeedsItsSecret(t *testing.T) {
	s := New(Options{ClientID: "relay", ClientSecret: "right", User: "me"}, base)
	for _, form := range []url.Values{{}, {"client_id": {"relay"}}, {"client_id": {"relay"}, "client_secret": {"wrong"}},
		{"client_id": {"other"}, "client_secret": {"right"}}} {
		form.Set("grant_type", "client_credentials")
		if got := post(t, s, "/token", form); got["error"] != "invalid_client" {
			t.Errorf("%v: %v", form, got)
		}
	}
	public := New(Options{User: "me"}, base)
	if got := post(t, public, "/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {"relay"}}); got["error"] != "unauthorized_client" {
		t.Error(got)
	}
}
