package wiring

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"relayd/internal/config"
	"relayd/internal/oauth"
	"relayd/smarthost"
)

// full is a smarthost of which every key has a value.
func full(t *testing.T) config.Smarthost {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return config.Smarthost{
		Name: "isp", Hosts: []string{"smtp.isp.example:587"}, TLS: "starttls", MinTLS: tls.VersionTLS13, RootCAs: x509.NewCertPool(),
		Pins: [][32]byte{{1}, {2}}, TLSName: "isp.example", ClientCertificates: []tls.Certificate{{}},
		Auth: "plain", Username: "me", Password: "gehe1m", MaxConnections: 7,
		Rate: config.Rate{Messages: 30, Per: time.Minute}, DailyRecipients: 500, MaxRecipients: 50, MaxSize: 1 << 20,
		Senders: []string{"*"}, Recipients: []string{"*"}, Clients: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")},
		Rewrite: config.Rewrite{EnvelopeFrom: "me@isp.example", HeaderFrom: "me@isp.example", Map: map[string]string{"*": "me@isp.example"}},
		OAuth2: &config.OAuth2{Provider: "microsoft", Flow: "client_credentials", ClientID: "app", ClientSecret: "s3cret",
			Certificate: []byte{1}, Key: key, ServiceEmail: "a@b.example", ServiceKeyID: "1", ServiceKey: "PEM",
			TokenURL: "https://t.example", DeviceURL: "https://d.example", AuthURL: "https://a.example", Scopes: []string{"mail"},
			SecretExpires: time.Now()},
	}
}

// wantAllSet fails the test for each field of a struct that was left out.
func wantAllSet(t *testing.T, v any) {
	t.Helper()
	for f, value := range reflect.ValueOf(v).Fields() {
		if value.IsZero() {
			t.Errorf("%T.%s is not filled in", v, f.Name)
		}
	}
}

type source struct{ smarthost.TokenSource }

// What one program would leave out, both would: a route without its pins, say, trusts more than the file says.
func TestRoute_LeavesNothingOut(t *testing.T) {
	s := full(t)
	var asked []string
	tokens := func(s config.Smarthost) smarthost.TokenSource {
		asked = append(asked, s.Name)
		return &source{}
	}
	r := Route(s, tokens)
	wantAllSet(t, r)
	if r.Rewrite.Name != "" {
		t.Error("the smarthost's room names the rules by the route")
	}
	r.Rewrite.Name = "smarthost isp"
	wantAllSet(t, r.Rewrite)
	if len(r.Pins) != 2 || r.Pins[1] != (smarthost.Pin{2}) || r.Password != "gehe1m" || len(asked) != 1 {
		t.Errorf("%+v, tokens asked for %q", r.Pins, asked)
	}
	s.OAuth2 = nil
	if r := Route(s, tokens); r.Tokens != nil || len(asked) != 1 {
		t.Errorf("tokens where there are none to be had: %q", asked)
	}
}

func TestClients_RulesAreNamed(t *testing.T) {
	network := []netip.Prefix{netip.MustParsePrefix("192.168.1.50/32")}
	c := &config.Config{Clients: []config.Client{{Networks: network, Rewrite: full(t).Rewrite}}}
	got := Clients(c)
	if len(got) != 1 {
		t.Fatalf("%+v", got)
	}
	wantAllSet(t, got[0])
	wantAllSet(t, got[0].Rewrite)
	if got[0].Rewrite.Name != "client "+c.Clients[0].Name() {
		t.Error(got[0].Rewrite.Name)
	}
}

func TestAccount_LeavesNothingOut(t *testing.T) {
	s := full(t)
	a := Account(s)
	wantAllSet(t, a)
	wantAllSet(t, *a.Certificate)
	wantAllSet(t, *a.ServiceAccount)
	if a.ClientSecret != "s3cret" || a.Flow != oauth.FlowClientCredentials || a.Provider != oauth.ProviderMicrosoft {
		t.Error(a.Name, a.Flow, a.Provider)
	}
	s.OAuth2.Key, s.OAuth2.ServiceKey = nil, ""
	if a = Account(s); a.Certificate != nil || a.ServiceAccount != nil {
		t.Error("a certificate or key where there is none")
	}
}
