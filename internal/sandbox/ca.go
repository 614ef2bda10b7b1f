package sandbox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// CertificateKind is the kind of certificate that a server shows.
type CertificateKind string

const (
	// CertificateGood is signed by the CA for Hostname, localhost, 127.0.0.1 and ::1.
	CertificateGood CertificateKind = ""
	// CertificateExpired is as good, but ended yesterday.
	CertificateExpired CertificateKind = "expired"
	// CertificateOtherCA is signed by a CA that nobody was told of.
	CertificateOtherCA CertificateKind = "other-ca"
	// CertificateSelfSigned is signed by its own key.
	CertificateSelfSigned CertificateKind = "self-signed"
	// CertificateWrongName is signed by the CA, for another name.
	CertificateWrongName CertificateKind = "wrong-name"
)

// CertificateKinds returns all kinds.
func CertificateKinds() []CertificateKind {
	return []CertificateKind{CertificateGood, CertificateExpired, CertificateOtherCA, CertificateSelfSigned,
		CertificateWrongName}
}

// authority is the CA and the server certificate that is in use.
type authority struct {
	dir, file string
	private   bool // the folder is the server's own
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
	serving   atomic.Pointer[tls.Certificate]
}

const (
	caFile    = "ca.pem"
	caKeyFile = "ca-key.pem"
)

// openAuthority returns the CA that dir holds, or makes one there. dir "" is a new temporary folder.
func openAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir}
	if dir == "" {
		tmp, err := os.MkdirTemp("", "relayd-sandbox-ca-")
		if err != nil {
			return nil, fmt.Errorf("sandbox: no temporary folder for the CA (name one with CADir): %w", err)
		}
		a.dir, a.private = tmp, true
	}
	a.file = filepath.Join(a.dir, caFile)
	err := a.load()
	if errors.Is(err, fs.ErrNotExist) {
		err = a.create()
	}
	if err != nil {
		if a.private {
			os.RemoveAll(a.dir)
		}
		return nil, err
	}
	return a, nil
}

func (a *authority) load() error {
	keyFile := filepath.Join(a.dir, caKeyFile)
	if _, err := os.Stat(a.file); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(a.file, keyFile)
	if err != nil {
		// %v: that its key is missing does not mean that a CA may be written over it
		return fmt.Errorf("sandbox: the CA in %s and %s cannot be used (choose another folder, or remove both to get a new "+
			"one): %v", a.file, keyFile, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	switch {
	case !ok || !pair.Leaf.IsCA:
		return fmt.Errorf("sandbox: %s is not a CA that the sandbox made; choose another folder", a.file)
	case time.Now().After(pair.Leaf.NotAfter):
		return fmt.Errorf("sandbox: the CA in %s has expired; remove it and %s to get a new one", a.file, keyFile)
	}
	a.cert, a.key = pair.Leaf, key
	return nil
}

func (a *authority) create() error {
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return fmt.Errorf("sandbox: no folder for the CA: %w", err)
	}
	cert, key, err := newCA("relayd sandbox CA")
	if err != nil {
		return err
	}
	a.cert, a.key = cert, key
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("sandbox: CA key: %w", err)
	}
	// The certificate comes second: once it is there, the pair is whole.
	if err := writePEM(filepath.Join(a.dir, caKeyFile), "PRIVATE KEY", der, 0o600); err != nil {
		return err
	}
	return writePEM(a.file, "CERTIFICATE", cert.Raw, 0o644)
}

func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	if err := writeAtomic(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return fmt.Errorf("sandbox: CA: %w", err)
	}
	return nil
}

// current is tls.Config.GetCertificate.
func (a *authority) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return a.serving.Load(), nil
}

// issue makes a server certificate of that kind and puts it in use.
func (a *authority) issue(kind CertificateKind, hostname string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("sandbox: server key: %w", err)
	}
	leaf := template(hostname)
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaf.DNSNames = []string{hostname, "localhost"}
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	parent, signer := a.cert, a.key
	switch kind {
	case CertificateGood:
	case CertificateExpired:
		leaf.NotBefore, leaf.NotAfter = leaf.NotBefore.AddDate(-1, 0, 0), time.Now().AddDate(0, 0, -1)
	case CertificateOtherCA:
		if parent, signer, err = newCA("some other CA"); err != nil {
			return err
		}
	case CertificateSelfSigned:
		parent, signer = leaf, key
	case CertificateWrongName:
		leaf.Subject.CommonName = "wrong-name.example"
		leaf.DNSNames, leaf.IPAddresses = []string{"wrong-name.example"}, nil
	default:
		return fmt.Errorf("sandbox: no kind of certificate is called %q; the kinds are %q", kind, CertificateKinds())
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, &key.PublicKey, signer)
	if err != nil {
		return fmt.Errorf("sandbox: server certificate: %w", err)
	}
	a.serving.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	return nil
}

func (a *authority) issueClient(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sandbox: client key: %w", err)
	}
	leaf := template(name)
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sandbox: client certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func newCA(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("sandbox: CA key: %w", err)
	}
	t := template(name)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("sandbox: CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// template is a certificate that is good from an hour ago for a year.
func template(name string) *x509.Certificate {
	var serial [16]byte
	rand.Read(serial[:])
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"relayd sandbox"}},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func randomKey() (key [32]byte) {
	rand.Read(key[:])
	return key
}
