//go:build unix

package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"relayd/internal/config"
	"relayd/internal/sandbox"
	"relayd/smarthost"
)

// reread has the daemon read its configuration again, and waits until it has.
func reread(p *process) {
	p.t.Helper()
	const done = "the configuration was reloaded"
	before := strings.Count(p.log.String(), done)
	p.signal(syscall.SIGHUP)
	until(p.t, "the configuration is reloaded", func() bool { return strings.Count(p.log.String(), done) > before })
}

// The way that a person goes with a self-signed host: the status names the pin, the configuration gets it, mail flows.
func TestDaemon_SelfSignedHostIsPinnedByWhatTheStatusSays(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{Certificate: sandbox.CertificateSelfSigned, MaxPerConnection: 1,
		Mechanisms: []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}})
	table := fmt.Sprintf("[[smarthost]]\nhosts = [%q]\nusername = \"me@isp.example\"\npassword_file = \"isp.password\"\n", sb.Addr())
	s.configure(table)
	p := s.start()
	p.mustSubmit("b@example.net")
	line := ""
	until(t, "the status names the pin", func() bool {
		problem := s.status().Routes[0].Hosts[0].Problem
		line = regexp.MustCompile(`pin_sha256 = "[^"]+"`).FindString(problem)
		return line != ""
	})
	if st := sb.Stats(); st.AuthOK+st.AuthFailed > 0 {
		t.Errorf("there was a login before the certificate was accepted: %+v", st)
	}
	s.configure(table + line + "\n")
	reread(p)
	arrive(t, sb, 1)
	p.mustSubmit("b@example.net")
	arrive(t, sb, 2)
	if st := sb.Stats(); st.Resumed == 0 || st.AuthFailed > 0 {
		t.Errorf("%+v", st)
	}
	p.waitFor(`auth=SCRAM-SHA-256-PLUS`)

	// The form that openssl prints, of another certificate, and then of this one.
	leaf, err := sb.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(leaf.Raw)
	fingerprint := strings.ToUpper(hex.EncodeToString(sum[:]))
	s.configure(table + fmt.Sprintf("pin_sha256 = [%q]\n", strings.Repeat("0", 64)))
	reread(p)
	p.mustSubmit("b@example.net")
	until(t, "the pin is not met", func() bool {
		return strings.Contains(s.status().Routes[0].Hosts[0].Problem, "has another key than those of pin_sha256")
	})
	s.configure(table + fmt.Sprintf("pin_sha256 = [\"sha256 Fingerprint=%s\"]\n",
		strings.TrimRight(regexp.MustCompile("..").ReplaceAllString(fingerprint, "$0:"), ":")))
	reread(p)
	arrive(t, sb, 3)
	if v := sb.Violations(); len(v) > 0 {
		t.Error(v)
	}
	if strings.Contains(p.log.String(), testPassword) {
		t.Error("the log has the password")
	}
}

func TestDaemon_HostThatWantsAClientCertificate(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{DemandClient: true, ImplicitAddress: "127.0.0.1:0"})
	own, err := sb.ClientCertificate("relay.example")
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	s.write("client.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]})), 0o644)
	s.write("client-key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})), 0o600)
	table := route(sb.CAFile(), sb.ImplicitAddr()) + "tls = \"implicit\"\n"
	s.configure(table)
	p := s.start()
	p.mustSubmit("b@example.net")
	until(t, "the status says what the host wants", func() bool {
		return strings.Contains(s.status().Routes[0].Hosts[0].Problem, "set client_cert_file and client_key_file")
	})
	s.configure(table + "client_cert_file = \"client.pem\"\nclient_key_file = \"client-key.pem\"\ntls_name = \"mx.isp.example\"\n")
	reread(p)
	until(t, "tls_name is what the certificate must have", func() bool {
		return strings.Contains(s.status().Routes[0].Hosts[0].Problem, `not for "mx.isp.example"`)
	})
	s.configure(table + fmt.Sprintf("client_cert_file = %q\nclient_key_file = \"client-key.pem\"\n", filepath.Join(s.dir, "client.pem")))
	reread(p)
	if m := arrive(t, sb, 1)[0]; m.Client != "relay.example" {
		t.Errorf("the relay showed a certificate of %q", m.Client)
	}
}

// What the configuration makes of an entry of hosts is what the smarthost's room takes. Nothing is looked up here.
func TestRouterOptions_HostsOfDNS(t *testing.T) {
	s := newSite(t)
	s.configure("[[smarthost]]\nhosts = [\"_submission._tcp.isp.example\", \"mx:isp.example\", \"mx:25\", \"h.example\"]\n")
	cfg, _, err := config.Load(s.config)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{log: slog.New(slog.DiscardHandler)}
	if d.facts, err = openFacts(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	r, err := smarthost.New(d.routerOptions(cfg))
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, h := range r.Status()[0].Hosts {
		hosts = append(hosts, h.Address)
	}
	if got := strings.Join(hosts, " "); got != "_submission._tcp.isp.example mx:isp.example:25 mx:25 h.example:587" {
		t.Error(got)
	}
}
