package config

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// account is a smarthost with a table for tokens: what host is, and what the table says.
func tokenLogin(host, table string) string {
	return "[[smarthost]]\nhosts = ['" + host + "']\nusername = 'me@example.com'\n[smarthost.oauth2]\n" + table
}

func TestOAuth2_TheKnownProvidersNeedFewLines(t *testing.T) {
	for name, c := range map[string]struct {
		host, table string
		want        OAuth2
	}{
		"Microsoft, an application": {"smtp.office365.com", "tenant_id = 'contoso.onmicrosoft.com'\nclient_id = 'app'\nclient_secret_file = 'isp.password'",
			OAuth2{Provider: "microsoft", Flow: "client_credentials", TokenURL: "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token",
				Scopes: []string{"https://outlook.office365.com/.default"}}},
		"Microsoft, a person": {"smtp.office365.com", "client_id = 'app'",
			OAuth2{Provider: "microsoft", Flow: "device", TokenURL: "https://login.microsoftonline.com/organizations/oauth2/v2.0/token",
				Scopes: []string{"https://outlook.office.com/SMTP.Send", "offline_access"}}},
		"Outlook.com": {"smtp-mail.outlook.com", "client_id = 'app'",
			OAuth2{Provider: "microsoft", Flow: "device", TokenURL: "https://login.microsoftonline.com/consumers/oauth2/v2.0/token",
				Scopes: []string{"https://outlook.office.com/SMTP.Send", "offline_access"}}},
		"Gmail, a person": {"smtp.gmail.com", "client_id = 'app'\nclient_secret = 'x'",
			OAuth2{Provider: "google", Flow: "refresh_token", TokenURL: "https://oauth2.googleapis.com/token", Scopes: []string{"https://mail.google.com/"}}},
		"Gmail by device": {"smtp.gmail.com", "client_id = 'app'\nflow = 'device'",
			OAuth2{Provider: "google", Flow: "device", TokenURL: "https://oauth2.googleapis.com/token", Scopes: []string{"https://mail.google.com/"}}},
		"another": {"smtp.isp.example", "client_id = 'app'\nflow = 'device'\ntoken_url = 'https://a.example/t'\ndevice_url = 'http://127.0.0.1:1/d'\nscopes = ['mail']",
			OAuth2{Flow: "device", TokenURL: "https://a.example/t", Scopes: []string{"mail"}}},
		"Microsoft of the US government": {"smtp.office365.us", "tenant_id = 'agency.example'\nclient_id = 'app'\nclient_secret = 's'",
			OAuth2{Provider: "microsoft", Flow: "client_credentials", TokenURL: "https://login.microsoftonline.us/agency.example/oauth2/v2.0/token",
				Scopes: []string{"https://outlook.office365.us/.default"}}},
		"Microsoft in China": {"smtp.partner.outlook.cn", "tenant_id = 'firma.example'\nclient_id = 'app'",
			OAuth2{Provider: "microsoft", Flow: "device", TokenURL: "https://login.partner.microsoftonline.cn/firma.example/oauth2/v2.0/token",
				Scopes: []string{"https://partner.outlook.cn/SMTP.Send", "offline_access"}}},
		"Microsoft in China without a tenant": {"smtp.partner.outlook.cn", "client_id = 'app'",
			OAuth2{Provider: "microsoft", Flow: "device", TokenURL: "https://login.partner.microsoftonline.cn/organizations/oauth2/v2.0/token",
				Scopes: []string{"https://partner.outlook.cn/SMTP.Send", "offline_access"}}},
		"own URL at Microsoft": {"smtp.office365.com", "client_id = 'app'\ntoken_url = 'https://login.microsoftonline.us/t'\nscopes = ['s']",
			OAuth2{Provider: "microsoft", Flow: "device", TokenURL: "https://login.microsoftonline.us/t", Scopes: []string{"s"}}},
	} {
		s := good(t, tokenLogin(c.host, c.table)).Smarthosts[0]
		o := s.OAuth2
		if o.Provider != c.want.Provider || o.Flow != c.want.Flow || o.TokenURL != c.want.TokenURL || fmt.Sprint(o.Scopes) != fmt.Sprint(c.want.Scopes) ||
			o.ClientID != "app" || s.Auth != "auto" || s.Password != "" {
			t.Errorf("%s: %+v", name, o)
		}
		if o.Flow == "device" && o.Provider != "google" && o.DeviceURL == "" || o.Flow == "refresh_token" && o.AuthURL == "" {
			t.Errorf("%s: nowhere to log in: %+v", name, o)
		}
	}
}

func TestOAuth2_Faults(t *testing.T) {
	const office = "smtp.office365.com"
	for table, want := range map[string]string{
		"flow = 'devise'":                                                           `:5: smarthost.oauth2.flow: "devise" is not known; did you mean "device"?`,
		"client_secret = 'x'":                                                       ":4: smarthost.oauth2.client_id: is missing",
		"client_id = 'a'\nclient_secret = 'x'":                                      ":4: smarthost.oauth2.tenant_id: is missing: an application logs in to one tenant",
		"client_id = 'a'\ntenant_id = 'x/y'":                                        ":6: smarthost.oauth2.tenant_id: is neither",
		"client_id = 'a'\ntenant_id = 'x'\nflow = 'client_credentials'":             "smarthost.oauth2.client_secret_file: is missing",
		"client_id = 'a'\nflow = 'device'\ncert_file = 'x'":                         "smarthost.oauth2.cert_file: stands alone",
		"client_id = 'a'\nservice_account_file = 'isp.password'":                    "isp.password is not the key of a service account",
		"client_id = 'a'\nflow = 'device'\nservice_account_file = 'none'":           `service_account_file: has no effect with flow = "device"`,
		"client_id = 'a'\nclient_secret = 'x'\nclient_secret_file = 'isp.password'": "the secret is given more than once, by client_secret and client_secret_file",
		"client_id = 'a'\nclient_secret_env = 'NO_SUCH_VARIABLE_HERE'":              "NO_SUCH_VARIABLE_HERE is not set; set it where relayd is started, or use client_secret_file",
		"client_id = 'a'\nsecret_expires = 'soon'":                                  `"soon" is not a date; write secret_expires = "2027-12-31"`,
		"client_id = 'a'\ntoken_url = 'http://login.example/t'":                     "must begin with https://",
		"client_id = 'a'\ntoken_url = 'https://me:pw@login.example/t'":              "holds a user or a fragment",
		"client_id = 'a'\ndevice_url = 'login.example'":                             "device_url: is not a URL",
		"client_id = 'a'\nusername = 'me'":                                          "it belongs to [[smarthost]]: move the line there",
		"client_id = 'a'\nclientsecret = 'x'":                                       "did you mean client_secret?",
	} {
		wantAll(t, faultsOf(t, tokenLogin(office, table)), want)
	}
	for text, want := range map[string]string{
		tokenLogin("a.example", "client_id = 'a'"):                                                 "smarthost.oauth2.flow: is missing",
		tokenLogin("a.example", "client_id = 'a'\nflow = 'device'\ntoken_url='https://a.example'"): "smarthost.oauth2.device_url: is missing",
		tokenLogin("a.example", "client_id = 'a'\nflow = 'refresh_token'"):                         "smarthost.oauth2.auth_url: is missing",
		"[[smarthost]]\nhosts = ['a']\nclient_id = 'x'":                                            "it belongs to [smarthost.oauth2]: move the line there",
		"[[smarthost]]\nhosts = ['a']\nusername = 'me'\npassword = 'x'\nauth = 'xoauth2'":          "nothing says where they come from; add [smarthost.oauth2]",
		"[[smarthost]]\nhosts = ['a']\n[[smarthost.oauth2]]\nflow = 'device'":                      "there is one of it: write [smarthost.oauth2], once",
	} {
		wantAll(t, faultsOf(t, text), want)
	}
	const table = "[smarthost.oauth2]\nclient_id = 'a'\n"
	for keys, want := range map[string]string{
		"":                                                  "smarthost.oauth2: there is no username for it",
		"username = 'me'\npassword = 'x'\n":                 "smarthost.password: has no effect with [smarthost.oauth2]",
		"username = 'me'\nauth = 'plain'\n":                 `smarthost.auth: "plain" is a login with a password`,
		"username = 'me'\nauth = 'cram-md5'\n":              `smarthost.auth: "cram-md5" is a login with a password`,
		"username = 'me'\nauth = 'scram-sha-256'\n":         `smarthost.auth: "scram-sha-256" is a login with a password`,
		"username = 'me'\nauth = 'off'\n":                   `smarthost.oauth2: has no effect with auth = "off"`,
		"username = 'me'\ntls = 'off'\n":                    `"off" would send the token in the clear`,
		"username = 'me'\npassword_file = 'isp.password'\n": "smarthost.password_file: has no effect",
	} {
		wantAll(t, faultsOf(t, "[[smarthost]]\nhosts = ['"+office+"']\n"+keys+table), want)
	}
}

func TestOAuth2_SecretsAreCheckedAsThePasswordIs(t *testing.T) {
	const table = "tenant_id = 'x'\nclient_id = 'a'\nclient_secret_file = 'app.secret'\n"
	path := write(t, tokenLogin("smtp.office365.com", table))
	file := writeFile(t, filepath.Join(filepath.Dir(path), "app.secret"), "gehe1m\n", 0o620)
	_, _, err := Load(path)
	wantAll(t, fmt.Sprint(err), ":7: smarthost.oauth2.client_secret_file: "+file+" holds a secret, and others than its owner can write it")
	writeFile(t, file, "gehe1m\n", 0o644)
	wantAll(t, warningsOf(t, path), "everybody on this machine can read it")
	writeFile(t, file, "gehe1m\n", 0o600)
	cfg, _, err := Load(path)
	if err != nil || cfg.Smarthosts[0].OAuth2.ClientSecret.Reveal() != "gehe1m" {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%s"} {
		if text := fmt.Sprintf(format, *cfg.Smarthosts[0].OAuth2); strings.Contains(text, "gehe1m") {
			t.Error(text)
		}
	}
	b, err := json.Marshal(cfg.Smarthosts[0])
	if err != nil || strings.Contains(string(b), "gehe1m") || strings.Contains(cfg.Describe(), "gehe1m") {
		t.Errorf("%s %v", b, err)
	}
	wantAll(t, cfg.Describe(), "as me@example.com with XOAUTH2 or OAUTHBEARER, after TLS; tokens from login.microsoftonline.com by client credentials",
		"client_secret_file "+file)
}

func TestOAuth2_SecretsThatEndAreWarnedOf(t *testing.T) {
	day := func(days int) string { return time.Now().AddDate(0, 0, days).UTC().Format(time.DateOnly) }
	for expires, want := range map[string]string{
		day(-1): "has ended on " + day(-1), day(20): "ends on " + day(20), day(40): "",
	} {
		path := write(t, tokenLogin("smtp.office365.com", "tenant_id = 'x'\nclient_id = 'a'\nclient_secret_file = 'isp.password'\nsecret_expires = '"+expires+"'"))
		got := warningsOf(t, path)
		if want == "" && got != "" {
			t.Error(got)
		}
		wantAll(t, got, want)
	}
}

// rsaFiles makes a certificate with an RSA key that ends at notAfter.
func rsaFiles(t *testing.T, dir string, notAfter time.Time) (cert, key string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return writeFile(t, filepath.Join(dir, "app.pem"), encode("CERTIFICATE", der), 0o644),
		writeFile(t, filepath.Join(dir, "app.key"), encode("PRIVATE KEY", keyDER), 0o600)
}

func TestOAuth2_CertificatesAndServiceAccountsAreRead(t *testing.T) {
	path := write(t, tokenLogin("smtp.office365.com", "tenant_id = 'x'\nclient_id = 'a'\ncert_file = 'app.pem'\nkey_file = 'app.key'"))
	dir := filepath.Dir(path)
	ends := time.Now().Add(10 * 24 * time.Hour)
	_, keyFile := rsaFiles(t, dir, ends)
	cfg, warnings, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	o := cfg.Smarthosts[0].OAuth2
	if o.Flow != "client_credentials" || o.Key == nil || o.Certificate == nil || o.SecretExpires.Sub(ends).Abs() > time.Minute {
		t.Errorf("%+v", o)
	}
	wantAll(t, fmt.Sprint(warnings), "smarthost.oauth2.cert_file: the client's secret or certificate ends on")
	certificateFiles(t, dir, ends) // of ECDSA
	if err := os.Rename(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "app.pem")); err != nil {
		t.Fatal(err)
	}
	_, _, err = Load(path)
	wantAll(t, fmt.Sprint(err), "do not make a certificate")
	if err := os.Rename(filepath.Join(dir, "key.pem"), keyFile); err != nil {
		t.Fatal(err)
	}
	_, _, err = Load(path)
	wantAll(t, fmt.Sprint(err), "is not an RSA key")

	rsaFiles(t, dir, ends)
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	account := map[string]string{"type": "service_account", "client_email": "relay@project.example", "private_key_id": "k1",
		"private_key": string(key), "client_id": "1234"}
	path = writeFile(t, filepath.Join(dir, "gmail.toml"), tokenLogin("smtp.gmail.com", "service_account_file = 'sa.json'"), 0o600)
	save := func() error {
		text, err := json.Marshal(account)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "sa.json"), string(text), 0o600)
		cfg, _, err = Load(path)
		return err
	}
	if err := save(); err != nil {
		t.Fatal(err)
	}
	if o := cfg.Smarthosts[0].OAuth2; o.Flow != "service_account" || o.ServiceEmail != "relay@project.example" || o.ClientID != "1234" ||
		o.ServiceKey.Reveal() != string(key) || o.TokenURL != "https://oauth2.googleapis.com/token" {
		t.Errorf("%+v", o)
	}
	account["token_uri"] = "http://thief.example/"
	wantAll(t, fmt.Sprint(save()), "token_uri in", "must begin with https://")
	account["token_uri"], account["private_key"] = "", "none"
	wantAll(t, fmt.Sprint(save()), "is not the key of a service account")
}

// A provider's row gives the hosts, and these the endpoints; what a row says of passwords is not meant then.
func TestOAuth2_ProvidersRowsNeedFewerLines(t *testing.T) {
	for text, want := range map[string]OAuth2{
		"provider = 'microsoft365'\nusername = 'me@contoso.example'\n[smarthost.oauth2]\ntenant_id = 'contoso.example'\nclient_id = 'app'": {
			Provider: "microsoft", Flow: "device", TokenURL: "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token"},
		"provider = 'outlook'\nusername = 'me@outlook.com'\n[smarthost.oauth2]\nclient_id = 'app'": {
			Provider: "microsoft", Flow: "device", TokenURL: "https://login.microsoftonline.com/consumers/oauth2/v2.0/token"},
		"provider = 'gmail'\nusername = 'me@gmail.com'\n[smarthost.oauth2]\nclient_id = 'app'\nclient_secret_file = 'isp.password'": {
			Provider: "google", Flow: "refresh_token", TokenURL: "https://oauth2.googleapis.com/token"},
		"provider = 'sparkpost'\n[smarthost.oauth2]\nclient_id = 'app'\nflow = 'device'\ntoken_url = 'https://a.example/t'\ndevice_url = 'https://a.example/d'": {
			Flow: "device", TokenURL: "https://a.example/t"}, // whose row has auth = "login"
	} {
		path := write(t, "[[smarthost]]\n"+text)
		cfg, warnings, err := Load(path)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v %v", text, err, warnings)
			continue
		}
		s := cfg.Smarthosts[0]
		if o := s.OAuth2; o.Provider != want.Provider || o.Flow != want.Flow || o.TokenURL != want.TokenURL || s.Auth != "auto" ||
			s.Name != s.Provider || s.Username == "" {
			t.Errorf("%s: %+v %+v", text, s, o)
		}
	}
	wantAll(t, faultsOf(t, "[[smarthost]]\nprovider = 'outlook'\nusername = 'me@outlook.com'"),
		":3: smarthost.username: outlook takes no password, and there is no [smarthost.oauth2] for it; add that table with a client_id")
}

func TestOAuth2_AnEntryOfDNSIsNoProvidersHost(t *testing.T) {
	const table = "client_id = 'a'\nflow = 'device'\ntoken_url = 'https://a.example/t'\ndevice_url = 'https://a.example/d'"
	for _, host := range []string{"_submission._tcp.isp.example", "mx:isp.example"} {
		if o := good(t, tokenLogin(host, table)).Smarthosts[0].OAuth2; o.Provider != "" || o.AuthURL != "" {
			t.Errorf("%s: %+v", host, o)
		}
	}
}
