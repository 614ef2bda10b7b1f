package sandbox_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"relayd/internal/sandbox"
)

func tlsFor(s *sandbox.Server) *tls.Config {
	return &tls.Config{RootCAs: s.CertPool(), ServerName: "localhost"}
}

func TestTLS_CertificateIsGoodForEachNameOfTheServer(t *testing.T) {
	s := start(t, sandbox.Options{Hostname: "smtp.isp.example", ImplicitAddress: "127.0.0.1:0"})
	pem, err := os.ReadFile(s.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	fromFile := x509.NewCertPool()
	if !fromFile.AppendCertsFromPEM(pem) {
		t.Fatal("ca.pem holds no certificate")
	}
	for _, roots := range []*x509.CertPool{fromFile, s.CertPool()} {
		for _, name := range []string{"smtp.isp.example", "localhost", "127.0.0.1", "::1"} {
			conn, err := tls.Dial("tcp", s.ImplicitAddr(), &tls.Config{RootCAs: roots, ServerName: name})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			conn.Close()
		}
	}
}

func TestTLS_FaultyCertificatesFailForTheirReason(t *testing.T) {
	s := start(t, sandbox.Options{})
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	for _, kind := range sandbox.CertificateKinds() {
		if err := s.SetCertificate(kind); err != nil {
			t.Fatal(err)
		}
		_, err := secure(s, tlsFor(s))
		var right bool
		switch kind {
		case sandbox.CertificateGood:
			right = err == nil
		case sandbox.CertificateExpired:
			right = errors.As(err, &invalid) && invalid.Reason == x509.Expired
		case sandbox.CertificateOtherCA, sandbox.CertificateSelfSigned:
			right = errors.As(err, &unknown)
		case sandbox.CertificateWrongName:
			right = errors.As(err, &name)
		}
		if !right {
			t.Errorf("a certificate of kind %q gives %v", kind, err)
		}
	}
	failed := len(sandbox.CertificateKinds()) - 1
	if err := s.WaitFor(patient(t), func(st sandbox.Stats) bool { return st.HandshakesFailed == failed }); err != nil {
		t.Error(err)
	}
	if err := s.SetCertificate("odd"); err == nil {
		t.Error("a kind that does not exist was taken")
	}
}

func TestTLS_VersionsAreBounded(t *testing.T) {
	for _, c := range []struct {
		name                         string
		serverMin, serverMax, client uint16
		want                         string
	}{
		{"1.3 by default", 0, 0, 0, "TLS 1.3"},
		{"1.2 for who has no better", 0, 0, tls.VersionTLS12, "TLS 1.2"},
		{"1.1 not by default", 0, 0, tls.VersionTLS11, ""},
		{"1.2 at most", 0, tls.VersionTLS12, 0, "TLS 1.2"},
		{"1.3 at least", tls.VersionTLS13, 0, tls.VersionTLS12, ""},
		{"a server of old", 0, tls.VersionTLS11, 0, ""},
		{"a server and a client of old", 0, tls.VersionTLS11, tls.VersionTLS11, "TLS 1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, sandbox.Options{ImplicitAddress: "127.0.0.1:0", MinTLS: c.serverMin, MaxTLS: c.serverMax})
			config := tlsFor(s)
			if config.MaxVersion = c.client; c.client == tls.VersionTLS11 {
				config.MinVersion = c.client
			}
			got := ""
			if conn, err := tls.Dial("tcp", s.ImplicitAddr(), config); err == nil {
				got = tls.VersionName(conn.ConnectionState().Version)
				conn.Close()
			}
			if got != c.want {
				t.Errorf("they speak %q", got)
			}
		})
	}
}

func TestTLS_SessionsResumeUntilTheCertificateChanges(t *testing.T) {
	s := start(t, sandbox.Options{ImplicitAddress: "127.0.0.1:0"})
	config := tlsFor(s)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	resumed := func(dial func() (*smtp.Client, error)) bool {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Noop(); err != nil {
			t.Fatal(err)
		}
		state, _ := c.TLSConnectionState()
		return state.DidResume
	}
	starttls := func() (*smtp.Client, error) { return secure(s, config) }
	implicit := func() (*smtp.Client, error) { return smtp.DialTLS(s.ImplicitAddr(), config) }
	if resumed(starttls) {
		t.Error("the first session is resumed")
	}
	if err := errors.Join(s.Stop(), s.Resume()); err != nil {
		t.Fatal(err)
	}
	if !resumed(starttls) || !resumed(implicit) {
		t.Error("a second session is not resumed")
	}
	if st := s.Stats(); st.Handshakes != 3 || st.Resumed != 2 {
		t.Errorf("the server counted %d handshakes, %d resumed", st.Handshakes, st.Resumed)
	}
	if err := s.SetCertificate(sandbox.CertificateGood); err != nil {
		t.Fatal(err)
	}
	if resumed(starttls) {
		t.Error("a session is resumed after the certificate changed")
	}
}

func TestTLS_ServersAndRunsShareTheCAOfAFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first := start(t, sandbox.Options{CADir: dir})
	second := start(t, sandbox.Options{CADir: dir})
	if first.CAFile() != filepath.Join(dir, "ca.pem") || second.CAFile() != first.CAFile() {
		t.Fatalf("the CA files are %s and %s", first.CAFile(), second.CAFile())
	}
	if c, err := secure(second, tlsFor(first)); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the mode of the CA key is %s", info.Mode())
	}
}

func TestTLS_AFolderWithSomethingElseInItIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	other, err := os.ReadFile(start(t, sandbox.Options{}).CAFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"garbage", string(other)} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := sandbox.Start(sandbox.Options{CADir: dir})
		if err == nil || !strings.Contains(err.Error(), "choose another folder") {
			t.Errorf("it gives %v", err)
		}
		if now, _ := os.ReadFile(file); string(now) != content {
			t.Errorf("the file has %q now", now)
		}
	}
}

func TestTLS_WhatWasSaidBeforeIsForgotten(t *testing.T) {
	s := start(t, sandbox.Options{AuthInClear: true, OptionalTLS: true})
	p := greet(t, s)
	p.send("AUTH PLAIN AG1lAHB3\r\n")
	p.expect("235*")
	p.send("MAIL FROM:<a@example.com>\r\n")
	p.expect("250*")
	p.send("STARTTLS\r\n")
	p.expect("220*")
	p.play("handshake")
	p.send("MAIL FROM:<a@example.com>\r\n")
	p.expect("503 5.5.1 EHLO first")
	p.send("EHLO relay.example\r\n")
	p.readReply()
	p.send("MAIL FROM:<a@example.com>\r\n")
	p.expect("530 5.7.0 Authentication required")
}
