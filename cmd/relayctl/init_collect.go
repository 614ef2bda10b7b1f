package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"relayd/internal/provider"
)

// collect fills the setup from the flags and, where there is somebody to ask, from answers.
func (i *initRun) collect(ctx context.Context) error {
	if err := i.fromFlags(); err != nil {
		return err
	}
	if missing := i.missing(); len(missing) > 0 && !i.asks {
		why := "standard input is no terminal, so that nothing can be asked"
		if i.flags.yes {
			why = "with --yes nothing is asked"
		}
		return misuse(i.cmd, "%s: say %s", why, strings.Join(missing, ", "))
	}
	for _, step := range []func(context.Context) error{i.where, i.kind, i.account, i.secret, i.whom, i.reports} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fromFlags takes over what the flags say, and refuses what contradicts itself.
func (i *initRun) fromFlags() error {
	f, s := i.flags, &i.setup
	if f.provider != "" && len(f.servers) > 0 {
		return misuse(i.cmd, "say --provider or --server, not both")
	}
	if f.provider != "" {
		p, ok := provider.Lookup(f.provider)
		switch {
		case !ok:
			return unknownProvider(f.provider)
		case len(p.Hosts) == 0:
			return fmt.Errorf("%s has hosts in several regions: say one of %s", f.provider, strings.Join(p.VariantNames(), ", "))
		}
		s.provider = p
	}
	s.servers, s.tls, s.username = f.servers, f.tls, f.username
	if s.tls == "" && impliesTLS(f.servers) {
		s.tls = "implicit"
	}
	if f.caFile != "" {
		path, err := filepath.Abs(f.caFile)
		if err != nil {
			return err
		}
		s.caFile = path
	}
	s.pins = f.pins
	s.networks = withoutNone(f.networks)
	s.postmaster = strings.Join(withoutNone([]string{f.postmaster}), "")
	return nil
}

// missing names the flags without which there is no configuration and for which there is no default.
func (i *initRun) missing() []string {
	f, s := i.flags, &i.setup
	var out []string
	if s.provider.Name == "" && len(s.servers) == 0 {
		out = append(out, "--provider or --server")
	}
	if s.username == "" && s.provider.Name != "" && s.provider.UsernameIs == "" {
		out = append(out, "--username")
	}
	if secret := i.missingSecret(); secret != "" {
		out = append(out, secret)
	}
	if len(f.networks) == 0 && !f.yes {
		out = append(out, "--network")
	}
	return out
}

// where learns the provider or the server.
func (i *initRun) where(ctx context.Context) error {
	for i.setup.provider.Name == "" && len(i.setup.servers) == 0 {
		answer, err := i.ask(ctx, "Provider, your address there, or the name of its server (? lists providers): ")
		if err != nil {
			return err
		}
		if err := i.understand(ctx, answer); err != nil {
			fmt.Fprintf(i.out, "%s\n", cleanText(err.Error()))
		}
	}
	return nil
}

// understand takes an answer for the name of a provider, an address, or a server.
func (i *initRun) understand(ctx context.Context, answer string) error {
	p, known := provider.Lookup(answer)
	switch {
	case answer == "":
		return nil
	case answer == "?":
		return i.listProviders(false)
	case strings.Contains(answer, "@"):
		if p, known = provider.ForAddress(answer); !known {
			return errors.New("whose address that is is not known; give the name of the provider's server, such as smtp.isp.example")
		}
		i.suggested = answer
		fmt.Fprintf(i.out, "That is %s: %s.\n", p.Name, p.Title)
	case !known && isDomainOf(&p, answer):
		fmt.Fprintf(i.out, "That is %s: %s.\n", p.Name, p.Title)
	case !known && strings.ContainsAny(answer, ".:"):
		i.setup.servers = strings.FieldsFunc(answer, func(r rune) bool { return r == ',' || r == ' ' })
		if impliesTLS(i.setup.servers) {
			i.setup.tls = "implicit"
		}
		return nil
	case !known:
		return unknownProvider(answer)
	}
	if len(p.Hosts) == 0 {
		return i.region(ctx, p)
	}
	return i.choose(p)
}

// isDomainOf reports whether addresses in domain are a provider's, and which.
func isDomainOf(p *provider.Provider, domain string) bool {
	found, known := provider.ForAddress("@" + domain)
	if known {
		*p = found
	}
	return known
}

func (i *initRun) region(ctx context.Context, p provider.Provider) error {
	answer, err := i.ask(ctx, fmt.Sprintf("%s\nRegion: ", wrapped(strings.Join(p.VariantNames(), ", "), 0)))
	if err != nil {
		return err
	}
	v, ok := provider.Lookup(p.Name + "-" + strings.TrimPrefix(answer, p.Name+"-"))
	if !ok {
		return fmt.Errorf("%s has no region %q", p.Name, answer)
	}
	return i.choose(v)
}

func (i *initRun) choose(p provider.Provider) error {
	i.setup.provider = p
	if p.Notes != "" {
		fmt.Fprintf(i.out, "%s\n", wrapped(p.Notes, 0))
	}
	return nil
}

// account learns the username.
func (i *initRun) account(ctx context.Context) error {
	s := &i.setup
	if s.username != "" || !i.asks || s.provider.UsernameIs != "" {
		return nil
	}
	question, fallback := "Account name there (none if no login is wanted)", ""
	if s.provider.Name != "" {
		question = "Account name: " + usernameText(s.provider)
		if fallback = i.suggested; s.provider.Username == provider.UsernameLocal && fallback != "" {
			fallback = fallback[:strings.LastIndexByte(fallback, '@')]
		}
	}
	for s.username == "" {
		answer, err := i.askFor(ctx, question, fallback)
		if err != nil {
			return err
		}
		if s.provider.Name == "" && strings.EqualFold(answer, "none") {
			return nil
		}
		s.username = answer
	}
	return nil
}

// secret learns the password, or where it is, or what takes its place.
func (i *initRun) secret(ctx context.Context) error {
	s, f := &i.setup, i.flags
	switch {
	case s.oauth2 != nil:
		return i.application(ctx)
	case !s.needsLogin() && f.passwordFile != "":
		return misuse(i.cmd, "--password-file goes with --username")
	case !s.needsLogin():
		return nil
	}
	var err error
	if s.password, s.passFile, err = i.fromFile(f.passwordFile, "password"); err != nil || s.passFile != "" {
		return err
	}
	if err := freeFor(s.ownPasswordFile(), "--password-file"); err != nil || s.password != "" {
		return err
	}
	if hint := s.provider.PasswordHint; hint != "" {
		fmt.Fprintf(i.out, "%s\n", wrapped("The password is "+hint+".", 0))
	}
	for s.password == "" {
		password, err := i.askHidden(ctx, "Password (not shown): ")
		if err != nil {
			return err
		}
		s.password = password
	}
	return nil
}

// fromFile returns the secret that standard input has, for "-", or the whole path of the file that has it.
func (i *initRun) fromFile(file, what string) (secret, path string, err error) {
	switch file {
	case "":
		return "", "", nil
	case "-":
		const longest = 1000
		line, err := readLine(i.in)
		secret := strings.TrimSuffix(line, "\r")
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return "", "", err
		case secret == "":
			return "", "", fmt.Errorf("there is no %s on standard input", what)
		case len(line) > longest:
			return "", "", fmt.Errorf("what is on standard input is longer than a %s; write it to a file and name that", what)
		}
		return secret, "", nil
	}
	path, err = filepath.Abs(file)
	return "", path, err
}

// freeFor refuses a path at which there is something; flag is the one that uses it.
func freeFor(path, flag string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists already, and init never overwrites it: remove it, or use what is in it with %s %s", path, flag, path)
	}
	return nil
}

// whom learns the networks that may relay.
func (i *initRun) whom(ctx context.Context) error {
	s := &i.setup
	if len(i.flags.networks) > 0 {
		return nil
	}
	found := lanNetworks(localInterfaces())
	if !i.asks {
		s.networks = found
		return nil
	}
	fallback := "none"
	if len(found) > 0 {
		fallback = strings.Join(found, ", ")
	}
	for {
		answer, err := i.askFor(ctx, "Networks whose machines may relay without a login", fallback)
		if err != nil {
			return err
		}
		given := withoutNone(strings.FieldsFunc(answer, func(r rune) bool { return r == ',' || r == ' ' }))
		wrong := ""
		for _, word := range given {
			_, err1 := netip.ParsePrefix(word)
			_, err2 := netip.ParseAddr(word)
			if err1 != nil && err2 != nil {
				wrong = word
			}
		}
		if wrong == "" {
			s.networks = given
			return nil
		}
		fmt.Fprintf(i.out, "%s is no network; write it like 192.168.1.0/24\n", clean(wrong))
	}
}

// reports learns who gets reports that cannot be delivered.
func (i *initRun) reports(ctx context.Context) error {
	s := &i.setup
	if i.flags.postmaster != "" || !i.asks {
		return nil
	}
	fallback := "none"
	if strings.Contains(s.username, "@") && s.provider.Username != provider.UsernameGiven {
		fallback = s.username
	}
	answer, err := i.askFor(ctx, "Who gets reports that cannot be delivered to a sender", fallback)
	s.postmaster = strings.Join(withoutNone([]string{answer}), "")
	return err
}

// askFor asks with a default, which an empty answer means.
func (i *initRun) askFor(ctx context.Context, question, fallback string) (string, error) {
	if fallback != "" {
		question += " [" + clean(fallback) + "]"
	}
	answer, err := i.ask(ctx, question+": ")
	if answer == "" {
		answer = fallback
	}
	return answer, err
}

// withoutNone leaves out empty words and "none".
func withoutNone(words []string) []string {
	var out []string
	for _, w := range words {
		if w = strings.TrimSpace(w); w != "" && !strings.EqualFold(w, "none") {
			out = append(out, w)
		}
	}
	return out
}

// impliesTLS reports whether the servers' port, or their service in DNS, is that of TLS from the first byte.
func impliesTLS(servers []string) bool {
	for _, s := range servers {
		if strings.HasPrefix(strings.ToLower(s), "_submissions.") {
			continue
		}
		if _, port, err := net.SplitHostPort(s); err != nil || port != "465" {
			return false
		}
	}
	return len(servers) > 0
}

// serverHost returns a server without its port.
func serverHost(server string) string {
	if host, _, err := net.SplitHostPort(server); err == nil {
		return host
	}
	return strings.Trim(server, "[]")
}
