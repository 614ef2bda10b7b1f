package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Who takes what is offered for Microsoft 365 gets OAuth2, by a person's login.
func TestInit_Microsoft365IsOAuth2First(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "relayd.toml")
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe", "--network", "none", "--postmaster", "none")
	c.expect("Provider, your address there")
	c.enter("microsoft365")
	c.expect("switches password logins off at the end of December 2026")
	c.expect("Log in with oauth2 or with a password [oauth2]: ")
	c.enter("perhaps")
	c.expect("Say oauth2, or password.")
	c.expect("[oauth2]: ")
	c.enter("")
	c.expect("Account name: the full address")
	c.enter("printer@contoso.example")
	c.expect("Who logs in: a person, or the application by its secret or certificate [person]: ")
	c.enter("nobody")
	c.expect("Say person, secret, or certificate.")
	c.expect("[person]: ")
	c.enter("")
	c.expect("entra.microsoft.com")
	c.expect("Client ID of that application: ")
	c.enter("1111-2222")
	c.expect("Tenant (its ID, or one of its domains) [contoso.example]: ")
	c.enter("")
	c.expect("oauth login microsoft365")
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	wantLines(t, readText(t, config), `provider = "microsoft365"`, `username = "printer@contoso.example"`, `[smarthost.oauth2]`,
		`tenant_id = "contoso.example"`, `client_id = "1111-2222"`)
	if names := filesIn(t, dir); names != "relayd.toml" {
		t.Errorf("files: %s", names)
	}
}

func TestInit_Microsoft365StillWithAPassword(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "relayd.toml")
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe", "--network", "none", "--postmaster", "none", "--provider", "microsoft365")
	c.expect("Log in with oauth2 or with a password [oauth2]: ")
	c.enter("password")
	c.expect("Account name")
	c.enter("printer@contoso.example")
	c.expect("Password (not shown): ")
	c.hidden(true)
	c.enter(rightPassword)
	c.expect("Wrote")
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	if text := readText(t, config); strings.Contains(text, "oauth2") {
		t.Error(text)
	}
}

// Gmail has the app password first. With OAuth2 the client's secret is not shown, and gets a file of its own.
func TestInit_GmailWithOAuth2(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "relayd.toml")
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe", "--network", "none", "--postmaster", "none")
	c.expect("Provider, your address there")
	c.enter("me@gmail.com")
	c.expect("Log in with oauth2 or with an app password [app password]: ")
	c.enter("oauth2")
	c.expect("Account name: the full address [me@gmail.com]: ")
	c.enter("")
	c.expect("console.cloud.google.com")
	c.expect("Client ID of that application: ")
	c.enter("1-a.apps.googleusercontent.com")
	c.expect("Client secret (not shown): ")
	c.hidden(true)
	c.enter("GOCSPX-gehe1m")
	c.expect("oauth login gmail")
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	text := readText(t, config)
	wantLines(t, text, `provider = "gmail"`, `username = "me@gmail.com"`, `client_id = "1-a.apps.googleusercontent.com"`,
		`client_secret_file = "gmail.secret"`)
	if got := readText(t, filepath.Join(dir, "gmail.secret")); got != "GOCSPX-gehe1m\n" {
		t.Errorf("secret's file: %q", got)
	}
	if strings.Contains(text, "gehe1m") || strings.Contains(c.all(), "gehe1m") {
		t.Error("the secret is shown")
	}
}

func TestInit_GmailWithAnAppPassword(t *testing.T) {
	config := filepath.Join(t.TempDir(), "relayd.toml")
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe", "--network", "none", "--postmaster", "none")
	c.expect("Provider, your address there")
	c.enter("me@gmail.com")
	c.expect("[app password]: ")
	c.enter("")
	c.expect("[me@gmail.com]: ")
	c.enter("")
	c.expect("myaccount.google.com/apppasswords")
	c.expect("Password (not shown): ")
	c.hidden(true)
	c.enter(rightPassword)
	c.expect("Wrote")
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	wantLines(t, readText(t, config), `provider = "gmail"`, `password_file = "gmail.password"`)
}

// A company's own server has a certificate of nobody's. Its key can be pinned, by a person who says that it is right, and
// the password is shown to nobody before.
func TestInit_ACertificateOfNobodyIsPinnedOnAYes(t *testing.T) {
	for answer, want := range map[string]int{"y": exitDone, "": exitFailed} {
		s, dir := startSmarthost(t), t.TempDir()
		config := filepath.Join(dir, "relayd.toml")
		c := newConsole(t)
		wait := c.start("--config", config, "init", "--server", s.Addr(), "--username", "me@isp.example", "--network", "none", "--postmaster", "none")
		c.expect("Password (not shown): ")
		c.hidden(true)
		c.enter(rightPassword)
		c.expect("certificate FAILED")
		c.expect("openssl x509 -in CERTIFICATE -noout")
		c.expect("Is that the right key? [y/N] ")
		if st := s.Stats(); st.AuthOK+st.AuthFailed != 0 {
			t.Errorf("a login was shown: %+v", st)
		}
		c.enter(answer)
		if answer == "" {
			c.expect("Write the configuration all the same? [y/N] ")
			c.enter("n")
		}
		if code := wait(); code != want {
			t.Errorf("exit code %d", code)
		}
		if want == exitFailed {
			if names := filesIn(t, dir); names != "" {
				t.Errorf("files: %s", names)
			}
			continue
		}
		if text := readText(t, config); !strings.Contains(text, "\npin_sha256 = [\"") || strings.Contains(text, "ca_file") {
			t.Error(text)
		}
	}
}

// A secret that is given decides for OAuth2, and the rest is asked for.
func TestInit_Microsoft365AsAnApplication(t *testing.T) {
	dir := t.TempDir()
	config, secret := filepath.Join(dir, "relayd.toml"), filepath.Join(dir, "app.secret")
	if err := os.WriteFile(secret, []byte("gehe1m\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe", "--network", "none", "--postmaster", "none", "--provider", "microsoft365",
		"--client-secret-file", secret)
	c.expect("Account name")
	c.enter("printer@contoso.example")
	c.expect("SMTP.SendAsApp")
	c.expect("Client ID of that application: ")
	c.enter("1111-2222")
	c.expect("[contoso.example]: ")
	c.enter("3333-4444")
	c.expect("oauth status")
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	wantLines(t, readText(t, config), `tenant_id = "3333-4444"`, `client_secret_file = "`+secret+`"`)
}

// The application's own logins are a choice like a person's: by a secret, which is not shown, or by a certificate.
func TestInit_Microsoft365AsksWhoLogsIn(t *testing.T) {
	for _, by := range []string{"secret", "certificate"} {
		t.Run(by, func(t *testing.T) {
			dir := t.TempDir()
			config := filepath.Join(dir, "relayd.toml")
			cert, key := writeCertificate(t, t.TempDir())
			c := newConsole(t)
			wait := c.start("--config", config, "init", "--no-probe", "--network", "none", "--postmaster", "none", "--provider", "microsoft365")
			c.expect("[oauth2]: ")
			c.enter("")
			c.expect("Account name")
			c.enter("printer@contoso.example")
			c.expect("[person]: ")
			c.enter(by)
			c.expect("SMTP.SendAsApp")
			c.expect("Client ID of that application: ")
			c.enter("1111-2222")
			want := []string{`client_id = "1111-2222"`, `tenant_id = "contoso.example"`}
			if by == "secret" {
				c.expect("Client secret (not shown): ")
				c.hidden(true)
				c.enter("gehe1m")
				want = append(want, `client_secret_file = "microsoft365.secret"`)
			} else {
				c.expect("Certificate of the application (PEM file): ")
				c.enter(cert + ".nosuch")
				c.expect("no such file")
				c.expect("Certificate of the application (PEM file): ")
				c.enter(cert)
				c.expect("Its key (PEM file) [" + cert + "]: ")
				c.enter(key)
				want = append(want, `cert_file = "`+cert+`"`, `key_file = "`+key+`"`)
			}
			c.expect("[contoso.example]: ")
			c.enter("")
			c.expect("oauth status")
			if code := wait(); code != exitDone {
				t.Errorf("exit code %d", code)
			}
			wantLines(t, readText(t, config), want...)
			if strings.Contains(c.all(), "gehe1m") {
				t.Error("the secret is shown")
			}
		})
	}
}

// A mailbox of a Workspace may be a service account's; one at gmail.com cannot, and is not asked for it.
func TestInit_WorkspaceAsksForAServiceAccount(t *testing.T) {
	dir := t.TempDir()
	config, key := filepath.Join(dir, "relayd.toml"), writeServiceAccount(t, t.TempDir())
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe", "--network", "none", "--postmaster", "none", "--provider", "gmail")
	c.expect("[app password]: ")
	c.enter("oauth2")
	c.expect("Account name")
	c.enter("printer@contoso.example")
	c.expect("Who logs in: a person, or a service account of the Workspace [person]: ")
	c.enter("service account")
	c.expect("admin.google.com")
	c.expect("Key of the service account (its JSON file): ")
	c.enter(key)
	c.expect("oauth status")
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	text := readText(t, config)
	wantLines(t, text, `username = "printer@contoso.example"`, `[smarthost.oauth2]`, `service_account_file = "`+key+`"`)
	if strings.Contains(text, "client_id") || strings.Contains(text, "client_secret") {
		t.Error(text)
	}
}

// The same by flags, and nothing is asked.
func TestInit_ApplicationsByFlags(t *testing.T) {
	cert, key := writeCertificate(t, t.TempDir())
	service := writeServiceAccount(t, t.TempDir())
	both := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(both, []byte(readText(t, cert)+readText(t, key)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"certificate": {[]string{"--provider", "microsoft365", "--client-id", "1-2", "--cert-file", cert, "--key-file", key},
			[]string{`client_id = "1-2"`, `cert_file = "` + cert + `"`, `key_file = "` + key + `"`, `tenant_id = "contoso.example"`}},
		"one file": {[]string{"--provider", "microsoft365", "--client-id", "1-2", "--cert-file", both},
			[]string{`cert_file = "` + both + `"`, `key_file = "` + both + `"`}},
		"service account": {[]string{"--provider", "google-workspace", "--service-account-file", service},
			[]string{`service_account_file = "` + service + `"`}},
	} {
		t.Run(name, func(t *testing.T) {
			config := filepath.Join(t.TempDir(), "relayd.toml")
			args := append([]string{"--config", config, "init", "--username", "printer@contoso.example", "--no-probe", "--yes"}, c.args...)
			var out strings.Builder
			if code := run(args, strings.NewReader(""), &out, &out); code != exitDone {
				t.Fatalf("exit code %d: %s", code, out.String())
			}
			wantLines(t, readText(t, config), c.want...)
			if !strings.Contains(out.String(), "oauth status") || strings.Contains(out.String(), "oauth login") {
				t.Error(out.String())
			}
		})
	}
}

// writeCertificate leaves a certificate and its key in dir.
func writeCertificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, text := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "app.crt"), filepath.Join(dir, "app.key")
	err = errors.Join(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600), os.WriteFile(key, text, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// writeServiceAccount leaves the key of a service account in dir, as Google hands it out.
func writeServiceAccount(t *testing.T, dir string) string {
	t.Helper()
	_, key := newKey(t)
	text, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "robot@project.example", "private_key_id": "k1",
		"private_key": string(key), "token_uri": "https://oauth2.googleapis.com/token"})
	path := filepath.Join(dir, "relay.json")
	if err = errors.Join(err, os.WriteFile(path, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

func newKey(t *testing.T) (*rsa.PrivateKey, []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
