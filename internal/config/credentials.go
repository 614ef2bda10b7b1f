package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

const (
	writableByOthers fs.FileMode = 0o022
	// readableByAll leaves out the group: root:relayd and mode 0640 is how Debian lets a service read a secret that it
	// cannot change.
	readableByAll fs.FileMode = 0o004
	// maxSecretFile bounds what is read of a certificate or password file.
	maxSecretFile = 1 << 20
	// soon is how long before its end a certificate of the relay's own is warned of.
	soon = 14 * 24 * time.Hour
)

// readFile returns what is in the file that a key names. A pipe or device is refused: it may never end, and could not
// be read again when the configuration is reloaded.
func (t *table) readFile(key, path string) ([]byte, fs.FileMode, bool) {
	remedy := "check the path; a relative one starts at " + t.dir
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		t.bad(key, path+" is not a regular file", remedy)
		return nil, 0, false
	}
	var data []byte
	if err == nil {
		data, err = readUpTo(path, maxSecretFile)
	}
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			remedy = "let the user that relayd runs as read it, with chown or chgrp"
		}
		t.bad(key, path+": "+whyUnreadable(err), remedy)
		return nil, 0, false
	}
	if len(data) > maxSecretFile {
		t.bad(key, path+" is larger than 1 MiB", remedy)
		return nil, 0, false
	}
	return data, info.Mode(), true
}

// readUpTo returns the first limit+1 bytes of a file at most.
func readUpTo(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// checkMode refuses a file with a secret that others can write, and warns, once a file, of one that everybody can read:
// that cannot be refused, since the secrets of containers are often mode 0444.
func (t *table) checkMode(key, path string, mode fs.FileMode) {
	switch {
	case mode&writableByOthers != 0:
		t.warned[path] = true
		t.bad(key, fmt.Sprintf("%s holds a secret, and others than its owner can write it (mode %04o)", path, mode.Perm()),
			"chmod go-w "+path)
	case mode&readableByAll != 0 && !t.warned[path]:
		t.warned[path] = true
		t.caution(key, fmt.Sprintf("%s holds a secret, and everybody on this machine can read it (mode %04o)", path,
			mode.Perm()), "unless it is a container's secret, give it to the user that relayd runs as, and chmod 600 "+path)
	}
}

// warnWritable warns of a configuration that others can change, even when there is no secret in it: who changes the
// hosts gets the mail and the login.
func (r *reader) warnWritable() {
	if r.doc.mode&writableByOthers != 0 && !r.warned[r.file] {
		r.warn(0, "", fmt.Sprintf("others than its owner can write this file (mode %04o), and so send your mail and "+
			"password elsewhere", r.doc.mode.Perm()), "chmod go-w "+r.file)
	}
}

// secret returns the secret that is given by key, key_file or key_env, and where it is from; word is what people call it.
// "" is no secret, or none to be used; the faults say which.
func (t *table) secret(key, word string) (Secret, string) {
	var given []string
	for _, key := range []string{key, key + "_file", key + "_env"} {
		if t.has(key) {
			given = append(given, key)
		}
	}
	if len(given) > 1 {
		t.bad(given[1], "the "+word+" is given more than once, by "+strings.Join(given, " and "), "keep one of them")
		return "", ""
	}
	switch {
	case t.has(key):
		return t.inlineSecret(key, word)
	case t.has(key + "_file"):
		return t.secretFile(key+"_file", word)
	case t.has(key + "_env"):
		return t.secretEnv(key+"_env", word)
	}
	return "", ""
}

func (t *table) inlineSecret(key, word string) (Secret, string) {
	t.checkMode(key, t.file, t.doc.mode)
	v, ok := t.value(key)
	if !ok {
		return "", ""
	}
	s, ok := v.(string)
	if !ok {
		t.wrongType(key, v)
		return "", ""
	}
	return t.usable(key, word, "it", s), key + " in " + t.file
}

func (t *table) secretFile(key, word string) (Secret, string) {
	path := t.path(key)
	if path == "" {
		return "", ""
	}
	data, mode, ok := t.readFile(key, path)
	if !ok {
		return "", ""
	}
	t.checkMode(key, path, mode)
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // Notepad's mark, which no provider takes for part of a password
	return t.usable(key, word, path, strings.TrimRight(string(data), "\r\n")), key + " " + path
}

func (t *table) secretEnv(key, word string) (Secret, string) {
	name, ok := t.text(key)
	if !ok {
		return "", ""
	}
	if strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		// Whoever writes the password itself here would find it in the log.
		t.bad(key, "is not the name of an environment variable", t.exampleOf(key))
		return "", ""
	}
	s, set := os.LookupEnv(name)
	if !set {
		t.bad(key, "the environment variable "+name+" is not set",
			"set it where relayd is started, or use "+strings.TrimSuffix(key, "_env")+"_file")
		return "", ""
	}
	return t.usable(key, word, "the environment variable "+name, s), "environment variable " + name
}

// usable returns s as a secret if SASL could carry it (RFC 4616 section 2 has no NUL, and LOGIN no line ends).
func (t *table) usable(key, word, where, s string) Secret {
	switch {
	case s == "":
		t.bad(key, where+" is empty", "put the "+word+" there")
	case strings.ContainsRune(s, 0):
		t.bad(key, where+" holds a NUL", "save it as plain UTF-8 text, not UTF-16")
	case strings.ContainsAny(s, "\r\n"):
		t.bad(key, where+" holds more than one line", "put the "+word+" there and nothing else")
	default:
		return Secret(s)
	}
	return ""
}

// certificate returns the relay's own certificate, with its key and the path of its file.
func (t *table) certificate() (string, []tls.Certificate) {
	if !t.has("cert_file") || !t.has("key_file") {
		missing := "cert_file"
		if t.has("cert_file") {
			missing = "key_file"
		}
		t.bad(missing, `is missing, and tls is not "off"`,
			`name the certificate chain and its key, both PEM, as cert_file and key_file, or set tls = "off"`)
		return "", nil
	}
	return t.keyPair("cert_file", "key_file", "renew it, then reload relayd; clients that verify it refuse it otherwise")
}

// keyPair returns a certificate of the relay's own from the files that two keys name. renewal is what to do when it ends.
func (t *table) keyPair(certKey, keyKey, renewal string) (string, []tls.Certificate) {
	certFile, keyFile := t.path(certKey), t.path(keyKey)
	if certFile == "" || keyFile == "" {
		return "", nil
	}
	chain, _, okChain := t.readFile(certKey, certFile)
	key, mode, okKey := t.readFile(keyKey, keyFile)
	if okKey {
		t.checkMode(keyKey, keyFile, mode)
	}
	if !okChain || !okKey {
		return "", nil
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.bad(certKey, fmt.Sprintf("%s and %s do not make a certificate: %s", certFile, keyFile,
			strings.TrimPrefix(err.Error(), "tls: ")), "name the PEM files of one certificate chain and its key")
		return "", nil
	}
	t.checkValidity(certKey, certFile, renewal, pair.Leaf, time.Now())
	return certFile, []tls.Certificate{pair}
}

// checkValidity warns of a certificate that the other side will not take, or not for long.
func (t *table) checkValidity(certKey, path, remedy string, leaf *x509.Certificate, now time.Time) {
	day := func(at time.Time) string { return at.UTC().Format(time.DateOnly) }
	switch {
	case leaf == nil:
	case now.After(leaf.NotAfter):
		t.caution(certKey, fmt.Sprintf("the certificate in %s expired on %s", path, day(leaf.NotAfter)), remedy)
	case now.Before(leaf.NotBefore):
		t.caution(certKey, fmt.Sprintf("the certificate in %s is not valid before %s", path, day(leaf.NotBefore)),
			"check the clock of this machine, or use another certificate")
	case now.Add(soon).After(leaf.NotAfter):
		t.caution(certKey, fmt.Sprintf("the certificate in %s expires on %s", path, day(leaf.NotAfter)), remedy)
	}
}

// authorities returns the certificates that a smarthost's must lead to; nil when the key is not given.
func (t *table) authorities() (string, *x509.CertPool) {
	const key = "ca_file"
	path := t.path(key)
	if path == "" {
		return "", nil
	}
	data, _, ok := t.readFile(key, path)
	if !ok {
		return "", nil
	}
	const remedy = "name a PEM file with the certificate of each authority, as in -----BEGIN CERTIFICATE-----"
	pool, n := x509.NewCertPool(), 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.bad(key, fmt.Sprintf("certificate %d of %s cannot be read: %v", n, path, err), remedy)
			return "", nil
		}
		pool.AddCert(cert)
	}
	if n == 0 {
		t.bad(key, path+" holds no certificate", remedy)
		return "", nil
	}
	return path, pool
}
