package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relayd/internal/sandbox"
)

const rightPassword, wrongPassword = "correct horse", "battery staple"

func startSmarthost(t *testing.T) *sandbox.Server {
	t.Helper()
	s, err := sandbox.Start(sandbox.Options{Username: "me@isp.example", Password: rightPassword})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// filesIn returns the names of what is in a folder.
func filesIn(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantLines checks that each line is in text.
func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("%q is missing in:\n%s", line, text)
		}
	}
}

// A person who mistypes the provider, a network and the password comes to a configuration that works.
func TestInit_ADialogueWithMistakes(t *testing.T) {
	s, dir := startSmarthost(t), t.TempDir()
	config := filepath.Join(dir, "relayd.toml")
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--ca-file", s.CAFile())
	for _, step := range []struct{ question, answer string }{
		{"Provider, your address there, or the name of its server", "?"},
		{"providers; A DAY", ""},
		{"Provider, your address there", "gmial"},
		{`no provider is called "gmial"; did you mean gmail`, ""},
		{"Provider, your address there", "me@isp.example"},
		{"whose address that is is not known", ""},
		{"Provider, your address there", s.Addr()},
		{"Account name there", "me@isp.example"},
	} {
		c.expect(step.question)
		if step.answer != "" {
			c.enter(step.answer)
		}
	}
	c.expect("Password (not shown): ")
	c.hidden(true)
	c.enter(wrongPassword)
	c.expect("Networks whose machines may relay without a login [")
	c.hidden(false)
	c.enter("printer")
	c.expect("printer is no network")
	c.expect("]: ")
	c.enter("192.168.1.0/24, 10.1.2.3")
	c.expect("Who gets reports that cannot be delivered to a sender [me@isp.example]: ")
	c.enter("")
	c.expect("FAILED")
	c.expect("Try another password? [y/N] ")
	if _, err := os.Lstat(config); err == nil {
		t.Error("in place before the end")
	}
	c.enter("y")
	c.expect("Password (not shown): ")
	c.hidden(true)
	c.enter(rightPassword)
	c.expect("Wrote " + config)
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	for _, secret := range []string{rightPassword, wrongPassword} {
		if strings.Contains(c.all(), secret) {
			t.Errorf("the password is shown:\n%s", c.all())
		}
	}
	wantLines(t, readText(t, config), `trusted_networks = ["192.168.1.0/24", "10.1.2.3"]`, `postmaster = "me@isp.example"`,
		`username = "me@isp.example"`, `password_file = "127.0.0.1.password"`)
	if got := readText(t, filepath.Join(dir, "127.0.0.1.password")); got != rightPassword+"\n" {
		t.Errorf("password file: %q", got)
	}
	if names := filesIn(t, dir); names != "127.0.0.1.password relayd.toml" {
		t.Errorf("files: %s", names)
	}
}

// An address says which provider it is, and is the account that is offered; networks are those of this machine.
func TestInit_AnAddressIsEnough(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "relayd.toml")
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe")
	c.expect("Provider, your address there")
	c.enter("me@web.de")
	c.expect("That is web.de")
	c.expect("Account name: what stands before the @ [me]: ")
	c.enter("")
	c.expect("The password is ")
	c.expect("Password (not shown): ")
	c.hidden(true)
	c.enter(rightPassword)
	c.expect("Networks whose machines may relay without a login [")
	c.enter("none")
	c.expect("Who gets reports that cannot be delivered to a sender [none]: ")
	c.enter("")
	c.expect("Wrote " + config)
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	text := readText(t, config)
	wantLines(t, text, `provider = "web.de"`, `username = "me"`, `password_file = "web.de.password"`, `trusted_networks = []`)
	if strings.Contains(text, "postmaster") || strings.Contains(text, "hosts =") {
		t.Errorf("more than was said:\n%s", text)
	}
}

// Where no password is taken none is asked for, but the ID under which to ask for tokens.
func TestInit_AProviderWithoutPasswords(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "relayd.toml")
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe", "--network", "none", "--postmaster", "none")
	c.expect("Provider, your address there")
	c.enter("me@hotmail.com")
	c.expect("That is outlook")
	c.expect("[me@hotmail.com]: ")
	c.enter("")
	c.expect("outlook takes no password, only OAuth2. Register an application")
	c.expect("Client ID of that application: ")
	c.enter("1111-2222")
	c.expect(" oauth login outlook")
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	wantLines(t, readText(t, config), `provider = "outlook"`, `username = "me@hotmail.com"`, `[smarthost.oauth2]`, `client_id = "1111-2222"`)
	if names := filesIn(t, dir); names != "relayd.toml" {
		t.Errorf("files: %s", names)
	}
}

func TestInit_ADomainNamesItsProvider(t *testing.T) {
	config := filepath.Join(t.TempDir(), "relayd.toml")
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe", "--username", "me@sbcglobal.net", "--network", "none", "--postmaster", "none")
	c.expect("Provider, your address there")
	c.enter("sbcglobal.net")
	c.expect("That is att")
	c.expect("Password (not shown): ")
	c.hidden(true)
	c.enter(rightPassword)
	c.expect("Wrote " + config)
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	wantLines(t, readText(t, config), `provider = "att"`)
}

func TestInit_ARegionIsAskedFor(t *testing.T) {
	config := filepath.Join(t.TempDir(), "relayd.toml")
	c := newConsole(t)
	wait := c.start("--config", config, "init", "--no-probe", "--username", "AKIA", "--network", "none", "--postmaster", "none")
	c.expect("Provider, your address there")
	c.enter("ses")
	c.expect("ses-us-west-2")
	c.expect("Region: ")
	c.enter("moon")
	c.expect(`ses has no region "moon"`)
	c.enter("ses")
	c.expect("Region: ")
	c.enter("eu-west-1")
	c.expect("Password (not shown): ")
	c.hidden(true)
	c.enter(rightPassword)
	c.expect("Wrote " + config)
	if code := wait(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	wantLines(t, readText(t, config), `provider = "ses-eu-west-1"`, `password_file = "ses-eu-west-1.password"`)
}

// Who insists gets what he says, and who does not, nothing.
func TestInit_WhatFailedIsWrittenOnlyOnAYes(t *testing.T) {
	for answer, want := range map[string]int{"y": exitDone, "n": exitFailed} {
		t.Run(answer, func(t *testing.T) {
			s, dir := startSmarthost(t), t.TempDir()
			config := filepath.Join(dir, "relayd.toml")
			c := newConsole(t)
			wait := c.start("--config", config, "init", "--server", s.Addr(), "--ca-file", s.CAFile(), "--username", "me@isp.example",
				"--network", "none", "--postmaster", "none")
			c.expect("Password (not shown): ")
			c.hidden(true)
			c.enter(wrongPassword)
			c.expect("Try another password? [y/N] ")
			c.enter("n")
			c.expect("Write the configuration all the same? [y/N] ")
			c.enter(answer)
			if code := wait(); code != want {
				t.Errorf("exit code %d", code)
			}
			if names := filesIn(t, dir); (names == "127.0.0.1.password relayd.toml") != (want == exitDone) || want != exitDone && names != "" {
				t.Errorf("files: %q", names)
			}
		})
	}
}

// Ctrl-D in the middle ends it, and nothing stays.
func TestInit_TheInputEnds(t *testing.T) {
	dir := t.TempDir()
	c := newConsole(t)
	wait := c.start("--config", filepath.Join(dir, "relayd.toml"), "init", "--provider", "yahoo")
	c.expect("Account name")
	if _, err := c.keyboard.WriteString("\x04"); err != nil {
		t.Fatal(err)
	}
	if code := wait(); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	c.expect("the input ended before the answer")
	if names := filesIn(t, dir); names != "" {
		t.Errorf("files: %q", names)
	}
}

// Ctrl-C at the password leaves a terminal that shows what is typed.
func TestAskHidden_AnInterruptLightsTheTerminal(t *testing.T) {
	c := newConsole(t)
	ctx, interrupt := context.WithCancel(t.Context())
	a := &app{in: c.screen, out: c.screen}
	done := make(chan error, 1)
	go func() {
		_, err := a.askHidden(ctx, "Password: ")
		done <- err
	}()
	c.expect("Password: ")
	c.hidden(true)
	interrupt()
	if err := <-done; err == nil {
		t.Error("an answer came from nowhere")
	}
	c.hidden(false)
	c.enter("") // ends the read that is still under way
}

// The configuration that appears while the smarthost is looked at is not overwritten either.
func TestInitFiles_PlaceOverwritesNothing(t *testing.T) {
	dir := t.TempDir()
	s := setup{target: filepath.Join(dir, "relayd.toml"), servers: []string{"smtp.isp.example"}, username: "me", password: rightPassword}
	files, err := s.write()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.target, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := files.place(); err == nil || !strings.Contains(err.Error(), "never overwrites") {
		t.Errorf("error %v", err)
	}
	files.remove()
	if text, names := readText(t, s.target), filesIn(t, dir); text != "mine" || names != "relayd.toml" {
		t.Errorf("%q, files: %s", text, names)
	}
}

// Once it is in place nothing takes it away again, nor its password.
func TestInitFiles_RemoveLeavesWhatIsInPlace(t *testing.T) {
	dir := t.TempDir()
	s := setup{target: filepath.Join(dir, "relayd.toml"), servers: []string{"smtp.isp.example"}, username: "me", password: rightPassword}
	files, err := s.write()
	if err != nil {
		t.Fatal(err)
	}
	if err := files.place(); err != nil {
		t.Fatal(err)
	}
	files.remove()
	if names := filesIn(t, dir); names != "relayd.toml smtp.isp.example.password" {
		t.Errorf("files: %s", names)
	}
}

func TestInitFiles_OthersCannotReadThem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	s := setup{target: filepath.Join(dir, "relayd.toml"), servers: []string{"smtp.isp.example"}, username: "me", password: rightPassword}
	files, err := s.write()
	if err != nil {
		t.Fatal(err)
	}
	if err := files.place(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, s.target, files.secret} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&fs.FileMode(0o027) != 0 && !info.IsDir() || info.Mode()&0o007 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	w := filepath.Join(dir, "group")
	if err := writeNew(w, "x", access{mode: 0o640, gid: os.Getgid()}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(w); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
