package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const fourLines = `trusted_networks = ["192.168.1.0/24"]
[[smarthost]]
hosts         = ["smtp.isp.example"]
username      = "me@isp.example"
password_file = "isp.password"
`

// anySmarthost ends a file that is about something else.
const anySmarthost = `
[[smarthost]]
hosts = ["smtp.isp.example"]
`

// write puts a configuration and its password file into a folder of their own and returns the configuration's path.
func write(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "isp.password"), "hunter2\n", 0o600)
	return writeFile(t, filepath.Join(dir, "relayd.toml"), text, 0o600)
}

func writeFile(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

// good loads text, which has no fault.
func good(t *testing.T, text string) *Config {
	t.Helper()
	cfg, _, err := Load(write(t, text))
	if err != nil {
		t.Fatalf("faults in a good configuration:\n%v", err)
	}
	return cfg
}

// faultsOf loads text and returns its faults without the folder, a line each; "" when there are none.
func faultsOf(t *testing.T, text string) string {
	t.Helper()
	path := write(t, text)
	cfg, _, err := Load(path)
	if err == nil {
		return ""
	}
	if cfg != nil {
		t.Error("a file with faults gave a Config")
	}
	if faults, ok := errors.AsType[Faults](err); !ok || len(faults) == 0 {
		t.Fatalf("error is %T, want Faults", err)
	}
	return strings.ReplaceAll(err.Error(), filepath.Dir(path)+"/", "")
}

func warningsOf(t *testing.T, path string) string {
	t.Helper()
	_, warnings, err := Load(path)
	if err != nil {
		t.Fatalf("faults:\n%v", err)
	}
	var lines []string
	for _, w := range warnings {
		lines = append(lines, strings.ReplaceAll(w.String(), filepath.Dir(path)+"/", ""))
	}
	return strings.Join(lines, "\n")
}

// wantAll checks that each of parts is in text.
func wantAll(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// certificateFiles makes a certificate that ends at notAfter, and returns the paths of cert.pem and key.pem in dir.
func certificateFiles(t *testing.T, dir string, notAfter time.Time) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "relay.example.com"},
		DNSNames:     []string{"relay.example.com"},
		NotBefore:    notAfter.Add(-365 * 24 * time.Hour),
		NotAfter:     notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return writeFile(t, filepath.Join(dir, "cert.pem"), encode("CERTIFICATE", der), 0o644),
		writeFile(t, filepath.Join(dir, "key.pem"), encode("PRIVATE KEY", keyDER), 0o600)
}
