package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
