package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	aPin    = "0XJ1nHX4lTmYgVvk8KOVpK6tBrCCjWXPFCZJg8IfSuI="
	aPinHex = "d172759c75f8953998815be4f0a395a4aead06b0828d65cf14264983c21f4ae2"
)

func colons(hex string) string {
	var parts []string
	for ; hex != ""; hex = hex[2:] {
		parts = append(parts, strings.ToUpper(hex[:2]))
	}
	return strings.Join(parts, ":")
}

func TestPins_InEveryFormThatToolsPrint(t *testing.T) {
	want := good(t, "[[smarthost]]\nhosts = ['h.example']\npin_sha256 = ['"+aPin+"']\n").Smarthosts[0].Pins
	if len(want) != 1 || want[0][0] != 0xd1 || want[0][31] != 0xe2 {
		t.Fatalf("%x", want)
	}
	for _, text := range []string{
		aPinHex, strings.ToUpper(aPinHex), colons(aPinHex), strings.TrimRight(aPin, "="), "sha256//" + aPin, "SHA256:" + aPin,
		"sha256/" + aPin, "sha256 Fingerprint=" + colons(aPinHex), "SHA256 Fingerprint=" + colons(aPinHex), " " + aPin + " ",
	} {
		for _, form := range []string{"'" + text + "'", "['" + text + "']"} {
			got := good(t, "[[smarthost]]\nhosts = ['h.example']\npin_sha256 = "+form+"\n").Smarthosts[0].Pins
			if len(got) != 1 || got[0] != want[0] {
				t.Errorf("%s: %x", form, got)
			}
		}
	}
	two := good(t, "[[smarthost]]\nhosts = ['h.example']\npin_sha256 = ['"+aPin+"', '"+strings.Repeat("00", 32)+"']\n")
	if n := len(two.Smarthosts[0].Pins); n != 2 {
		t.Errorf("%d pins", n)
	}
}

func TestPins_WhatIsNoneIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"['" + aPin + "',\n'nonsense!']":        `:4: smarthost.pin_sha256: "nonsense!" is neither hex nor base64; write the SHA-256 of the host's key or certificate`,
		"'" + colons(aPinHex[:40]) + "'":        `:3: smarthost.pin_sha256: "D1:72`,
		"'" + aPinHex[:40] + "'":                `is a SHA-1 fingerprint; write the SHA-256`,
		"'" + aPinHex[:62] + "'":                `has 31 bytes, and a SHA-256 has 32`,
		"''":                                    `:3: smarthost.pin_sha256: is empty`,
		"[]":                                    `:3: smarthost.pin_sha256: is an empty list`,
		"5":                                     `:3: smarthost.pin_sha256: is a bare number, but must be a list of strings`,
		"'" + aPin + "'\ntls = 'off'":           `:3: smarthost.pin_sha256: has no effect with tls = "off"`,
		"'" + aPin + "'\ntls_name = 'host'":     `:4: smarthost.tls_name: "host" is not the full name of a host or domain`,
		"'" + aPin + "'\ntls_name = '10.0.0.1'": `:4: smarthost.tls_name: "10.0.0.1" is not the full name`,
	} {
		got := faultsOf(t, "[[smarthost]]\nhosts = ['h.example']\npin_sha256 = "+text+"\n")
		wantAll(t, got, want)
		if strings.Contains(got, "\n") {
			t.Errorf("%s: more than one fault:\n%s", text, got)
		}
	}
}

func TestClientCertificate_IsReadWithItsKey(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificateFiles(t, dir, time.Now().Add(90*24*time.Hour))
	table := "[[smarthost]]\nhosts = ['h.example']\n"
	s := good(t, table+"client_cert_file = '"+cert+"'\nclient_key_file = '"+key+"'\ntls_name = 'mx.h.example.'\n").Smarthosts[0]
	if len(s.ClientCertificates) != 1 || s.ClientCertFile != cert || s.TLSName != "mx.h.example" {
		t.Errorf("%+v", s)
	}
	for text, want := range map[string]string{
		"client_cert_file = '" + cert + "'":                                               `:3: smarthost.client_cert_file: there is no key for it; add client_key_file`,
		"client_key_file = '" + key + "'":                                                 `:3: smarthost.client_key_file: there is no certificate for it; add client_cert_file`,
		"client_cert_file = '" + key + "'\nclient_key_file = '" + key + "'":               `:3: smarthost.client_cert_file: `,
		"client_cert_file = '" + cert + "'\nclient_key_file = '" + key + "'\ntls = 'off'": `smarthost.client_key_file: has no effect with tls = "off"`,
	} {
		wantAll(t, faultsOf(t, table+text+"\n"), want)
	}
	writeFile(t, key, "", 0o622)
	wantAll(t, faultsOf(t, table+"client_cert_file = '"+cert+"'\nclient_key_file = '"+key+"'\n"), "others than its owner can write it", "chmod go-w")

	cert, key = certificateFiles(t, dir, time.Now().Add(-time.Hour))
	got := warningsOf(t, write(t, table+"client_cert_file = '"+cert+"'\nclient_key_file = '"+key+"'\n"))
	wantAll(t, got, ":3: smarthost.client_cert_file: the certificate in "+filepath.Join(dir, "cert.pem")+" expired on", "hosts refuse it")
}

func TestHosts_ByDNS(t *testing.T) {
	for text, want := range map[string][2]string{ // the entry and the name
		"_submission._tcp.isp.example":     {"_submission._tcp.isp.example", "isp.example"},
		"_submission._tcp.isp.example.":    {"_submission._tcp.isp.example", "isp.example"},
		"_relay._tcp.isp.example":          {"_relay._tcp.isp.example", "isp.example"},
		"mx:isp.example":                   {"mx:isp.example:25", "isp.example"},
		"mx:isp.example:587":               {"mx:isp.example:587", "isp.example"},
		"MX:isp.example":                   {"mx:isp.example:25", "isp.example"},
		"_odd-name.isp.example":            {"_odd-name.isp.example:587", "_odd-name.isp.example"},
		"mx:25":                            {"mx:25", "mx"},
		"srv:_submission._tcp.isp.example": {},
		"_submission._tcp.isp.example:587": {},
		"_submission._udp.isp.example":     {},
		"_a.b._tcp.isp.example":            {},
		"_submission._tcp.":                {},
		"_._tcp.isp.example":               {},
		"_submission._tcp.192.168.1.1":     {},
		"mx:":                              {},
		"mx:192.168.1.1":                   {},
		"mx:[fd00::5]":                     {},
		"mx:mx:isp.example":                {},
		"mx:_submission._tcp.isp.example":  {},
		"mx:isp.example:0":                 {},
		"_submissions._tcp.isp.example":    {}, // with STARTTLS
	} {
		file := "[[smarthost]]\nhosts = ['" + text + "']\n"
		if want[0] == "" {
			if got := faultsOf(t, file); !strings.Contains(got, ":2: smarthost.hosts: ") || strings.Contains(got, "\n") {
				t.Errorf("%s: faults %q", text, got)
			}
			continue
		}
		if s := good(t, file).Smarthosts[0]; s.Hosts[0] != want[0] || s.Name != want[1] {
			t.Errorf("%s: %q, called %q", text, s.Hosts, s.Name)
		}
	}
	implicit := "[[smarthost]]\ntls = 'implicit'\nhosts = ['%']\n"
	if s := good(t, strings.Replace(implicit, "%", "_submissions._tcp.isp.example", 1)).Smarthosts[0]; s.Name != "isp.example" {
		t.Errorf("%+v", s)
	}
	for text, want := range map[string]string{
		"_submission._tcp.isp.example":    `the hosts of _submission begin without TLS; set tls = "starttls"`,
		"srv:_submissions._tcp.x.example": `write "_submissions._tcp.x.example"`,
		"_submissions._tcp.x.example:465": "delete the colon and the port",
	} {
		wantAll(t, faultsOf(t, strings.Replace(implicit, "%", text, 1)), ":3: smarthost.hosts: ", want)
	}
	wantAll(t, faultsOf(t, "[[smarthost]]\nhosts = ['_submissions._tcp.isp.example']\n"), `speak TLS from the first byte; set tls = "implicit"`)
	wantAll(t, warningsOf(t, write(t, strings.Replace(implicit, "%", "mx:isp.example", 1))), "port 25 begins without TLS")
}

func TestDescribe_SaysWhatIsCheckedOfAHost(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificateFiles(t, dir, time.Now().Add(90*24*time.Hour))
	table := "[[smarthost]]\nhosts = ['h.example']\n"
	for text, want := range map[string]string{
		"":                              "certificates verified with the system's authorities\n",
		"pin_sha256 = '" + aPin + "'\n": "certificates verified with 1 pinned key and nothing else\n",
		"pin_sha256 = '" + aPin + "'\nca_file = '" + cert + "'\n":              "certificates verified with " + cert + ", and with 1 pinned key\n",
		"tls_name = 'mx.h.example'\n":                                          "the system's authorities and the name mx.h.example\n",
		"client_cert_file = '" + cert + "'\nclient_key_file = '" + key + "'\n": "the relay shows the certificate in " + cert,
	} {
		wantAll(t, good(t, table+text).Describe(), want)
	}
}
