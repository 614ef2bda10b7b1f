//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"relayd/internal/control"
	"relayd/internal/sandbox"
)

// secretForms are the shapes in which a secret can leak: itself, as JSON, URLs and dumps write it, and the base64 that it
// has wherever it stands in what was encoded, as in the blobs of PLAIN, LOGIN and XOAUTH2.
func secretForms(secret string) []string {
	quoted, _ := json.Marshal(secret)
	forms := []string{secret, strings.Trim(string(quoted), `"`), url.QueryEscape(secret), url.PathEscape(secret),
		hex.EncodeToString([]byte(secret))}
	for before := range 3 { // octets that stand before it in a group of three
		text := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", before) + secret))
		text = text[[]int{0, 2, 3}[before]:]
		text = text[:len(text)-1] // which depends on what follows
		forms = append(forms, text, strings.NewReplacer("+", "-", "/", "_").Replace(text))
	}
	return forms
}

func TestSecretForms_AreFoundWhereverTheSecretWasEncoded(t *testing.T) {
	for _, blob := range []string{"%s", "\x00me@isp.example\x00%s", "\x00a\x00%s", "\x00ab\x00%sx", "user=me\x01auth=Bearer %s\x01\x01"} {
		text := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, blob, testPassword))
		found := false
		for _, f := range secretForms(testPassword) {
			found = found || strings.Contains(text, f)
		}
		if !found {
			t.Errorf("%q is not found in %s", blob, text)
		}
	}
}

// leaks collects what a run wrote and said.
type leaks map[string][]byte

// search fails the test for each place that holds a secret in any form.
func (l leaks) search(t *testing.T, secrets ...string) {
	t.Helper()
	for where, text := range l {
		for _, secret := range secrets {
			for _, form := range secretForms(secret) {
				if bytes.Contains(text, []byte(form)) {
					t.Errorf("%s holds a secret, as %q", where, form)
				}
			}
		}
	}
}

// files adds all regular files below dir.
func (l leaks) files(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		l[path] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// api adds all that the control socket tells.
func (l leaks) api(t *testing.T, s *site) {
	t.Helper()
	ctx := context.Background()
	c, err := control.Dial(ctx, filepath.Join(s.dir, "data", "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	add := func(where string, v any, err error) {
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		l[where] = append(text, fmt.Sprintf("%+v", v)...)
	}
	st, err := c.Status(ctx)
	add("status", st, err)
	page, err := c.List(ctx, "", 100)
	add("list", page, err)
	for _, e := range page.Entries {
		d, err := c.Show(ctx, e.ID)
		add("show "+e.ID, d, err)
		body, err := c.Body(ctx, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		body.Close()
		add("body "+e.ID, string(text), err)
	}
}

// No secret is in anything that a run leaves behind or shows: two ways to log in, a smarthost that repeats the login in its
// refusals, reports that go to senders, configurations with mistakes in them, and the dump of a process that is killed.
func TestRelayd_SecretsStaySecret(t *testing.T) {
	const inline = "another/secret+of some length"
	s := newSite(t)
	var dialogue logFile
	plain := s.smarthost(sandbox.Options{Transcript: &dialogue, Mechanisms: []string{"PLAIN"}})
	login := s.smarthost(sandbox.Options{Transcript: &dialogue, Mechanisms: []string{"LOGIN"}})
	loginRoute := strings.Replace(route(login.CAFile(), login.Addr()), "ca_file", "name = \"login\"\nrecipients = [\"@login.example\"]\nca_file", 1)
	configuration := loginRoute + route(plain.CAFile(), plain.Addr())
	s.configure(configuration)
	p := s.start()
	p.mustSubmit("a@example.com", "a@login.example")
	arrive(t, plain, 1)
	arrive(t, login, 1)

	forms := secretForms(testPassword)
	parrot := fmt.Sprintf("%s and %s and %s", testPassword, base64.StdEncoding.EncodeToString([]byte(testPassword)),
		base64.StdEncoding.EncodeToString([]byte("\x00me@isp.example\x00"+testPassword)))
	for _, sb := range []*sandbox.Server{plain, login} {
		// The warm connection is gone, so that there is a new login, which is refused, once.
		if err := errors.Join(sb.Inject(
			sandbox.Fault{Stage: sandbox.StageAuth, Reply: "535 5.7.8 no: " + parrot, Times: 1},
			sandbox.Fault{Stage: sandbox.StageRcpt, Match: "bounce@", Reply: "550-5.1.1 nobody,\n550 5.1.1 says " + parrot},
			sandbox.Fault{Stage: sandbox.StageRcpt, Match: "wait@", Reply: "450 4.2.1 later, says " + parrot},
		), sb.Stop(), sb.Resume()); err != nil {
			t.Fatal(err)
		}
	}
	p.mustSubmit("bounce@example.com", "wait@example.com", "bounce@login.example", "wait@login.example")
	p.waitFor(`level=ERROR .*login`)
	report := arrive(t, plain, 2)[1]
	if !strings.Contains(string(report.Data), "says") {
		t.Errorf("the report does not hold the smarthost's words:\n%s", report.Data)
	}
	p.waitFor(`450 4.2.1 later`)

	for _, broken := range []string{
		"[[smarthost]]\nhosts = [\"x.example\"]\nusername = \"me\"\npassword = \"" + inline + "\n",
		"[[smarthost]]\nhosts = [\"x.example\"]\nusername = \"me\"\npassword = " + inline + "\n",
		"[[smarthost]]\nhosts = [\"x.example\"]\nusername = \"me\"\npassword = [\"" + inline + "\"]\n",
		"[[smarthost]]\nhosts = [\"x.example\"]\nusername = \"me\"\npasword = \"" + inline + "\"\n",
		"[[smarthost]]\nhosts = [\"x.example\"]\nusername = \"me\"\npassword_env = \"" + inline + "\"\n",
		"[[smarthost]]\nhosts = [\"x.example\"]\nusername = \"me\"\npassword = \"" + inline + "\"\ntls = \"off\"\n",
	} {
		before := strings.Count(p.log.String(), "the configuration was not reloaded")
		s.configure(broken)
		p.signal(syscall.SIGHUP)
		until(t, "the refusal of a configuration", func() bool {
			return strings.Count(p.log.String(), "the configuration was not reloaded") > before
		})
	}
	s.configure(configuration)

	seen := leaks{}
	for line := range strings.Lines(dialogue.String()) {
		if strings.Contains(line, "] C: ") { // in the others the test itself put the password
			seen["transcript"] = append(seen["transcript"], line...)
		}
	}
	for i, m := range append(arrive(t, plain, 2), arrive(t, login, 1)...) {
		seen[fmt.Sprintf("message %d", i)] = m.Data
	}
	if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid)); err == nil {
		seen["command line"] = cmdline
	}
	seen.api(t, s)
	p.signal(syscall.SIGQUIT) // the dump of a process that is killed
	_ = p.wait()
	if !strings.Contains(p.log.String(), "goroutine ") {
		t.Error("the process left no dump")
	}
	seen["log and dump"] = []byte(p.log.String())
	seen.files(t, filepath.Join(s.dir, "data"))
	if len(seen) < 10 {
		t.Errorf("only %d places were searched", len(seen))
	}
	seen.search(t, testPassword, inline)
	// The search finds what is there to be found.
	if !bytes.Contains([]byte(parrot), []byte(forms[0])) || !bytes.Contains(seen["log and dump"], []byte("[secret]")) {
		t.Error("the smarthost's words with the password did not reach the log")
	}
}

// What others can write is refused, what others can read is warned of, and what the daemon writes is its user's alone.
func TestRelayd_ModesOfFiles(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	password := filepath.Join(s.dir, "isp.password")
	if err := os.Chmod(password, 0o666); err != nil {
		t.Fatal(err)
	}
	p := s.launch()
	if p.wait() == nil || !strings.Contains(p.log.String(), "chmod go-w "+password) {
		t.Errorf("started with a password that others can write: %s", p.log)
	}
	if err := os.Chmod(password, 0o644); err != nil {
		t.Fatal(err)
	}
	p = s.start()
	p.waitFor(`level=WARN msg=configuration .*isp.password holds a secret, and everybody`)
	p.mustSubmit("a@example.com")
	arrive(t, sb, 1)
	p.waitFor("msg=delivered|level=INFO .*a@example.com")
	err := filepath.WalkDir(filepath.Join(s.dir, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
