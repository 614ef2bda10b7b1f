//go:build unix

package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const withFile = "[[smarthost]]\nhosts = ['a']\nusername = 'me@isp.example'\npassword_file = 'isp.password'\n"

func TestPassword_FileIsReadWithoutItsLineEnd(t *testing.T) {
	for text, want := range map[string]string{
		"hunter2": "hunter2", "hunter2\n": "hunter2", "hunter2\r\n": "hunter2", " hunter 2 \n\n": " hunter 2 ", "\ufeffhunter2\n": "hunter2",
		"pässwörd\n": "pässwörd",
	} {
		path := write(t, withFile)
		writeFile(t, filepath.Join(filepath.Dir(path), "isp.password"), text, 0o400)
		cfg, _, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.Smarthosts[0].Password.Reveal(); got != want {
			t.Errorf("%q was read as %q", text, got)
		}
	}
	for text, want := range map[string]string{
		"": "is empty; put the password there", "\n": "is empty", "a\nb\n": "holds more than one line", "a\rb": "more than one line",
		"h\x00u\x00": "holds a NUL; save it as plain UTF-8 text, not UTF-16", strings.Repeat("x", maxSecretFile+1): "is larger than 1 MiB",
	} {
		path := write(t, withFile)
		file := writeFile(t, filepath.Join(filepath.Dir(path), "isp.password"), text, 0o600)
		_, _, err := Load(path)
		wantAll(t, fmt.Sprint(err), path+":4: smarthost.password_file: "+file, want)
	}
}

func TestPassword_FileMustBeThereAndAFile(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "relayd.toml"), withFile, 0o600)
	file := filepath.Join(dir, "isp.password")
	_, _, err := Load(path)
	wantAll(t, fmt.Sprint(err), path+":4: smarthost.password_file: "+file+": there is no such file; check the path; a relative one starts at "+dir)
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = Load(path) // would wait for ever for somebody to write to it
	wantAll(t, fmt.Sprint(err), file+" is not a regular file")
}

func TestPassword_FilesThatOthersCanWriteAreRefused(t *testing.T) {
	for mode, refused := range map[os.FileMode]bool{0o620: true, 0o602: true, 0o666: true, 0o600: false, 0o400: false, 0o444: false} {
		path := write(t, withFile)
		file := writeFile(t, filepath.Join(filepath.Dir(path), "isp.password"), "hunter2", mode)
		_, _, err := Load(path)
		if refused {
			wantAll(t, fmt.Sprint(err), fmt.Sprintf(":4: smarthost.password_file: %s holds a secret, and others than its owner "+
				"can write it (mode %04o); chmod go-w %s", file, mode, file))
		} else if err != nil {
			t.Errorf("%o: %v", mode, err)
		}

		path = write(t, "[[smarthost]]\nhosts = ['a']\nusername = 'me'\npassword = 'hunter2'\n")
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, warnings, err := Load(path)
		if refused {
			wantAll(t, fmt.Sprint(err), fmt.Sprintf(":4: smarthost.password: %s holds a secret, and others", path), "chmod go-w "+path)
			if len(warnings) > 0 {
				t.Errorf("%o: said twice: %v", mode, warnings)
			}
		} else if err != nil {
			t.Errorf("%o: %v", mode, err)
		}
	}
}

func TestPassword_FilesThatOthersCanReadAreWarnedOfOnceAFile(t *testing.T) {
	two := withFile + "senders = ['@a.example']\n" + strings.Replace(withFile, "'a'", "'b'", 1)
	for mode, warned := range map[os.FileMode]bool{0o444: true, 0o640: false, 0o604: true, 0o600: false, 0o400: false} {
		path := write(t, two)
		file := writeFile(t, filepath.Join(filepath.Dir(path), "isp.password"), "hunter2", mode)
		_, warnings, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if !warned {
			if len(warnings) > 0 {
				t.Errorf("%o: %v", mode, warnings)
			}
			continue
		}
		if len(warnings) != 1 || warnings[0].Line != 4 {
			t.Errorf("%o: warnings %v", mode, warnings)
		}
		wantAll(t, fmt.Sprint(warnings), fmt.Sprintf("%s holds a secret, and everybody on this machine can read it (mode %04o); unless it is", file, mode))
	}
	path := write(t, "[[smarthost]]\nhosts = ['a']\nusername = 'me'\npassword = 'hunter2'\n")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	wantAll(t, warningsOf(t, path), ":4: smarthost.password: ", "can read it (mode 0644)")
}

func TestLoad_AFileThatOthersCanWriteIsWarnedOfWithoutASecretToo(t *testing.T) {
	path := write(t, anySmarthost)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	wantAll(t, warningsOf(t, path), "relayd.toml: others than its owner can write this file (mode 0666)", "chmod go-w")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := warningsOf(t, path); got != "" {
		t.Errorf("without a secret everybody may read: %s", got)
	}
}

func TestPassword_FromTheEnvironment(t *testing.T) {
	text := "[[smarthost]]\nhosts = ['a']\nusername = 'me'\npassword_env = 'RELAYD_TEST_PASSWORD'\n"
	t.Setenv("RELAYD_TEST_PASSWORD", "hunter2")
	if got := good(t, text).Smarthosts[0].Password.Reveal(); got != "hunter2" {
		t.Errorf("%q", got)
	}
	t.Setenv("RELAYD_TEST_PASSWORD", "")
	wantAll(t, faultsOf(t, text), ":4: smarthost.password_env: the environment variable RELAYD_TEST_PASSWORD is empty")
	t.Setenv("RELAYD_TEST_PASSWORD", "two\nlines")
	wantAll(t, faultsOf(t, text), "RELAYD_TEST_PASSWORD holds more than one line")
	if err := os.Unsetenv("RELAYD_TEST_PASSWORD"); err != nil {
		t.Fatal(err)
	}
	wantAll(t, faultsOf(t, text), ":4: smarthost.password_env: the environment variable RELAYD_TEST_PASSWORD is not set; set it where relayd")
}

func TestLogin_UsernameAndPasswordGoTogetherAndAfterTLS(t *testing.T) {
	for text, want := range map[string]string{
		"username = 'me'":                                           `:3: smarthost.username: there is no password for it; add password_file`,
		"password = 'hunter2'":                                      `:3: smarthost.password: there is no username for it; add username`,
		"password_file = 'isp.password'":                            `:3: smarthost.password_file: there is no username for it`,
		"auth = 'plain'":                                            `:3: smarthost.auth: "plain" needs a username and a password`,
		"auth = 'login'":                                            `:3: smarthost.auth: "login" needs a username and a password`,
		"auth = 'cram-md5'":                                         `:3: smarthost.auth: "cram-md5" needs a username and a password`,
		"auth = 'scram-sha-256'":                                    `:3: smarthost.auth: "scram-sha-256" needs a username and a password`,
		"auth = 'ntlm'":                                             `:3: smarthost.auth: "ntlm" is not known; write one of "auto", "scram-sha-256", "plain", "login", "cram-md5", "xoauth2", "oauthbearer", "off"`,
		"auth = 'off'\nusername = 'me'":                             `:4: smarthost.username: has no effect with auth = "off"`,
		"auth = 'off'\npassword = 'hunter2'":                        `:4: smarthost.password: has no effect with auth = "off"`,
		"username = 'me'\npassword = ''":                            `:4: smarthost.password: it is empty; put the password there`,
		"username = 'me'\npassword = 5":                             `:4: smarthost.password: is a bare number, but must be a string in quotes; write password = 'the password'`,
		"username = \"m\\u0000e\"\npassword='x'":                    `:3: smarthost.username: holds a control character`,
		"tls = 'off'\nca_file = 'x'":                                `:4: smarthost.ca_file: has no effect with tls = "off"`,
		"tls = 'off'\nmin_tls = '1.2'":                              `:4: smarthost.min_tls: has no effect with tls = "off"`,
		"tls = 'off'\nusername = 'me'\npassword = 'hunter2'":        `:3: smarthost.tls: "off" would send the password in the clear, which relayd never does; set tls = "starttls"`,
		"username='me'\npassword='x'\npassword_file='isp.password'": `:5: smarthost.password_file: the password is given more than once, by password and password_file; keep one of them`,
	} {
		got := faultsOf(t, "[[smarthost]]\nhosts = ['127.0.0.1']\n"+text+"\n")
		wantAll(t, got, want)
		if strings.Contains(got, "\n") {
			t.Errorf("%q: more than one fault:\n%s", text, got)
		}
	}
	if got := good(t, anySmarthost).Smarthosts[0].Auth; got != "off" {
		t.Errorf("without a username auth is %q", got)
	}
}

func TestCertificate_MustBeThereAndFitItsKey(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	certFile, keyFile := certificateFiles(t, dir, time.Now().Add(90*24*time.Hour))
	_, otherKey := certificateFiles(t, other, time.Now().Add(90*24*time.Hour))
	junk := writeFile(t, filepath.Join(dir, "junk.pem"), "junk", 0o600)
	const off = `set tls = "off"`
	for text, want := range map[string]string{
		"":                               ":1: listener.cert_file: is missing, and tls is not \"off\"; name the certificate chain and its key, both PEM, as cert_file and key_file, or " + off,
		"cert_file = '" + certFile + "'": ":1: listener.key_file: is missing",
		"key_file = '" + keyFile + "'":   ":1: listener.cert_file: is missing",
		"cert_file = '/none/c'\nkey_file = '" + keyFile + "'":           ":3: listener.cert_file: /none/c: there is no such file",
		"cert_file = '" + certFile + "'\nkey_file = '/none/k'":          ":4: listener.key_file: /none/k: there is no such file",
		"cert_file = '" + certFile + "'\nkey_file = '" + dir + "'":      ":4: listener.key_file: " + dir + " is not a regular file",
		"cert_file = '" + certFile + "'\nkey_file = '" + otherKey + "'": ":3: listener.cert_file: " + certFile + " and " + otherKey + " do not make a certificate: private key does not match public key",
		"cert_file = '" + junk + "'\nkey_file = '" + keyFile + "'":      ":3: listener.cert_file: " + junk + " and",
	} {
		got := faultsOf(t, "[[listener]]\ntls = 'starttls'\n"+text+anySmarthost)
		wantAll(t, got, want)
		if strings.Contains(got, "\n") {
			t.Errorf("more than one fault:\n%s", got)
		}
	}
	text := "[[listener]]\ntls = 'implicit'\ncert_file = '" + certFile + "'\nkey_file = '" + keyFile + "'\n" + anySmarthost
	if got := warningsOf(t, write(t, text)); got != "" {
		t.Errorf("warnings: %s", got)
	}
	for mode, want := range map[os.FileMode]string{0o640: "", 0o644: "can read it (mode 0644)"} {
		if err := os.Chmod(keyFile, mode); err != nil {
			t.Fatal(err)
		}
		got := warningsOf(t, write(t, text))
		wantAll(t, got, want)
		if want == "" && got != "" {
			t.Errorf("a key that its group reads: %s", got)
		}
	}
	if err := os.Chmod(keyFile, 0o660); err != nil {
		t.Fatal(err)
	}
	wantAll(t, faultsOf(t, text), ":4: listener.key_file: "+keyFile+" holds a secret, and others than its owner can write it")
}

func TestCertificate_ItsEndIsWarnedOf(t *testing.T) {
	for left, want := range map[time.Duration]string{
		-time.Hour: "expired on ", 24 * time.Hour: "expires on ", 400 * 24 * time.Hour: "is not valid before ", 30 * 24 * time.Hour: "",
	} {
		dir := t.TempDir()
		certFile, keyFile := certificateFiles(t, dir, time.Now().Add(left))
		got := warningsOf(t, write(t, "[[listener]]\ntls = 'starttls'\ncert_file = '"+certFile+"'\nkey_file = '"+keyFile+"'\n"+anySmarthost))
		if want == "" {
			if got != "" {
				t.Errorf("%v: %s", left, got)
			}
			continue
		}
		wantAll(t, got, "relayd.toml:3: listener.cert_file: the certificate in "+certFile+" "+want)
	}
}

func TestAuthorities_MustBeCertificates(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := certificateFiles(t, dir, time.Now().Add(time.Hour))
	bad := writeFile(t, filepath.Join(dir, "bad.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644)
	for path, want := range map[string]string{
		keyFile: keyFile + " holds no certificate; name a PEM file", bad: "certificate 1 of " + bad + " cannot be read",
		"/none/ca": "/none/ca: there is no such file",
	} {
		wantAll(t, faultsOf(t, "[[smarthost]]\nhosts = ['a']\nca_file = '"+path+"'\n"), ":3: smarthost.ca_file: "+want)
	}
	cfg := good(t, "[[smarthost]]\nhosts = ['a']\nca_file = '"+certFile+"'\n")
	if s := cfg.Smarthosts[0]; s.RootCAs == nil || s.CAFile != certFile {
		t.Errorf("%+v", s)
	}
}
