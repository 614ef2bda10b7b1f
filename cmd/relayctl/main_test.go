package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"

	"relayd/internal/control"
	"relayd/internal/dnstest"
)

// dnsServer is the address of the DNS server that relayctl asks in place of the system's.
const dnsServer = "RELAYCTL_TEST_DNS_SERVER"

func TestMain(m *testing.M) {
	usualUmask()
	testscript.Main(m, map[string]func(){"relayctl": func() {
		if dns := os.Getenv(dnsServer); dns != "" {
			net.DefaultResolver = dnstest.Resolver(dns)
		}
		main()
	}})
}

// TestScripts runs what a person types in testdata and compares what that person sees.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "ctl") // a short path: sockets allow about 100 characters
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			env.Setenv("SOCKET", filepath.Join(dir, "control.sock"))
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a race detector in each relayctl would wait a second at its end
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon":     cmdDaemon,
			"store":      cmdStore,
			"relay":      cmdRelay,
			"configure":  cmdConfigure,
			"deadsocket": cmdDeadSocket,
			"golden":     cmdGolden,
			"lacks":      cmdLacks,
			"exits":      cmdExits,
			"submit":     cmdSubmit,
			"issuer":     cmdIssuer,
			"person":     cmdPerson,
			"smarthost":  cmdSmarthost,
			"dns":        cmdDNS,
		},
		RequireUniqueNames: true,
		UpdateScripts:      os.Getenv("UPDATE_SCRIPTS") != "", // rewrites what cmp compares with
	})
}

// cmdDaemon serves one of the fixtures on $SOCKET: "daemon empty".
func cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || fixtures[args[0]] == nil {
		ts.Fatalf("usage: daemon FIXTURE")
	}
	f := fixtures[args[0]](time.Now())
	s := control.NewServer(control.Options{
		OAuth: func() []control.OAuthStatus { return tokenFixture(args[0], time.Now()) },
		Queue: f.queue, Smarthost: f.routes, Version: "v1.2.3", Started: time.Now().Add(-50*time.Hour - time.Minute),
		Hostname: func() string { return "relay.example.lan" }, Log: slog.New(slog.DiscardHandler),
	})
	ts.Check(s.Start(ts.Getenv("SOCKET")))
	ts.Defer(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.Close(ctx)
	})
}

// cmdDeadSocket leaves a socket behind on which nobody listens.
func cmdDeadSocket(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("unix", ts.Getenv("SOCKET"))
	ts.Check(err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

// cmdExits runs a command that must end with the given exit code: "exits 2 relayctl quue".
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](ts.Exec(args[1], args[2:]...)); ok {
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("%s ended with %d", strings.Join(args[1:], " "), code)
	}
}

var moment = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)

// cmdGolden compares the output of the last command with a file, after points in time have been replaced by "(moment)"
// and the folders of the test by their variables: "golden stdout want".
func cmdGolden(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: golden stdout|stderr FILE")
	}
	got := moment.ReplaceAllString(ts.ReadFile(args[0]), "(moment)")
	got = strings.ReplaceAll(got, ts.Getenv("SOCKET"), "$SOCKET")
	got = strings.ReplaceAll(got, ts.Getenv("WORK"), "$WORK")
	want := ts.ReadFile(args[1])
	if got != want {
		ts.Fatalf("%s is:\n%s\nwant:\n%s\nquoted: %q", args[0], got, want, got)
	}
}

// cmdLacks fails when a character given in hex is in the output, or something that is not UTF-8: "lacks stdout 1b 9b".
// Negated it fails unless all of them are.
func cmdLacks(ts *testscript.TestScript, neg bool, args []string) {
	text := ts.ReadFile(args[0])
	for _, hex := range args[1:] {
		n, err := strconv.ParseUint(hex, 16, 32)
		ts.Check(err)
		if strings.ContainsRune(text, rune(n)) != neg {
			ts.Fatalf("%s: about %s: %q", args[0], hex, text)
		}
	}
	if !neg && !utf8.ValidString(text) {
		ts.Fatalf("%s is not UTF-8: %q", args[0], text)
	}
}

// cmdSubmit waits until the sandbox that writes to FILE listens, and hands it a message as a client would that was set
// up with what the sandbox prints: "submit FILE".
func cmdSubmit(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	var text string
	for deadline := time.Now().Add(time.Minute); !strings.Contains(text, "Ctrl-C"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("the sandbox does not begin: %q", text)
		}
		b, _ := os.ReadFile(path)
		text = string(b)
	}
	value := func(key string) string {
		m := regexp.MustCompile(key + ` *= \[?"([^"]*)"`).FindStringSubmatch(text)
		if m == nil {
			ts.Fatalf("no %s in %q", key, text)
		}
		return m[1]
	}
	ca, err := os.ReadFile(value("ca_file"))
	ts.Check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	ts.Check(submit(value("hosts"), value("username"), value("password"), pool))
}

func submit(address, user, password string, pool *x509.CertPool) error {
	c, err := smtp.Dial(address)
	if err != nil {
		return err
	}
	defer c.Close()
	host, _, _ := net.SplitHostPort(address)
	if err := c.StartTLS(&tls.Config{RootCAs: pool, ServerName: host}); err != nil {
		return err
	}
	if err := c.Auth(smtp.PlainAuth("", user, password, host)); err != nil {
		return err
	}
	if err := errors.Join(c.Mail("alice@example.com"), c.Rcpt("bob@example.net")); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, "Subject: \x1b[2Jcleared\r\n\r\nhello\r\n"); err != nil {
		return err
	}
	return errors.Join(w.Close(), c.Quit())
}

// cmdDNS runs a DNS server for relayctl, with an MX record for each domain that is given: "dns example.com".
func cmdDNS(ts *testscript.TestScript, _ bool, args []string) {
	dns, err := dnstest.Start()
	ts.Check(err)
	ts.Defer(func() { dns.Close() })
	for _, domain := range args {
		dns.Set(domain, dnstest.Answer{MX: []string{"mx." + domain}})
	}
	ts.Setenv(dnsServer, dns.Addr())
}
