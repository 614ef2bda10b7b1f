package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"relayd/internal/config"
	"relayd/internal/provider"
	"relayd/smarthost"
)

// initFlags are the flags of "relayctl init"; each answers a question.
type initFlags struct {
	provider     string
	servers      []string
	tls, caFile  string
	pins         []string
	username     string
	passwordFile string
	clientID     string
	secretFile   string
	certFile     string
	keyFile      string
	serviceFile  string
	tenant       string
	networks     []string
	postmaster   string
	yes, noProbe bool
}

func (a *app) initCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:        "init",
		SuggestFor: []string{"setup", "configure", "install", "wizard", "new"},
		Short:      "Write a first configuration, after a few questions and a look at the smarthost",
		Long: `Asks for the provider, the account and its password, and for the networks whose machines
may relay; looks whether the smarthost can be reached, secures the connection and takes the
login, which is shown to it once; and writes a configuration with a comment on each line.
What it finds it tells in plain words. It sends no mail.

The configuration goes where --config says, the password into a file of its own beside it.
Both are readable by their owner alone or, when root runs this and there is a group relayd,
by that group, too. A file that exists is never overwritten.

Every question has a flag. With all that is needed given by flags nothing is asked, and
--yes takes the defaults for the rest: networks that this machine's interfaces are in, as
far as they are private, and nobody for reports that cannot be delivered.

--provider takes a name that "relayctl providers" lists; any other smarthost is given with
--server. --password-file names a file that has the password already, or "-" for standard
input; the password itself cannot be an argument, which everybody on this machine could read.
Microsoft 365, Outlook.com and Gmail are logged in to with OAuth2 when --client-id says so: the
ID of an application that you have registered there, for which README.md has the steps.
"relayctl oauth login" comes after, once. At Microsoft 365 an application logs in by itself,
and no person has to, with --client-secret-file, or with --cert-file and --key-file; at Gmail the
client's secret goes into --client-secret-file, and a service account of a Workspace needs nothing but
--service-account-file. The tenant is the domain of the account unless --tenant says another.`,
		Example: `  relayctl init
  relayctl init --provider gmail --username me@gmail.com
  relayctl init --provider microsoft365 --username printer@contoso.com --client-id 11111111-2222-...
  relayctl init --server smtp.isp.example --username me@isp.example \
      --password-file /run/secrets/isp --network 192.168.1.0/24 --yes`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i := &initRun{app: a, cmd: cmd, flags: f, asks: !f.yes && isTerminal(a.in)}
			return i.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.provider, "provider", "", "the `name` of a provider")
	flags.StringArrayVar(&f.servers, "server", nil, "in place of a provider, a `host` or host:port; may be repeated, in the order of use")
	flags.StringVar(&f.tls, "tls", "", "for --server, `how` TLS begins: starttls, implicit or off")
	flags.StringVar(&f.caFile, "ca-file", "", "PEM `file` of the authority of the server's certificate, if it is not one of the system's")
	flags.StringArrayVar(&f.pins, "pin", nil, "the SHA-256 of the server's key or certificate, which takes the place of an authority; a `digest` in hex or base64")
	flags.StringVar(&f.username, "username", "", "the account's `name` at the provider")
	flags.StringVar(&f.passwordFile, "password-file", "", "a `file` with the password in it; - reads it from standard input")
	flags.StringVar(&f.clientID, "client-id", "", "in place of a password, the `ID` of your application at a provider with OAuth2")
	flags.StringVar(&f.secretFile, "client-secret-file", "", "with --client-id, a `file` with the application's secret; - reads it from standard input")
	flags.StringVar(&f.certFile, "cert-file", "", "with --client-id at Microsoft 365, in place of a secret, the PEM `file` of the application's certificate")
	flags.StringVar(&f.keyFile, "key-file", "", "the PEM `file` of the certificate's key, unless that is in --cert-file")
	flags.StringVar(&f.serviceFile, "service-account-file", "", "in place of a password and --client-id, the JSON `file` of a Google service account's key")
	flags.StringVar(&f.tenant, "tenant", "", "with --client-id at Microsoft 365, the `ID` or a domain of the tenant")
	flags.StringArrayVar(&f.networks, "network", nil, "a `network` whose machines may relay, or none; may be repeated")
	flags.StringVar(&f.postmaster, "postmaster", "", "the `address` that gets reports which cannot be delivered, or none")
	flags.BoolVar(&f.yes, "yes", false, "ask nothing; take the defaults")
	flags.BoolVar(&f.noProbe, "no-probe", false, "do not look at the smarthost")
	return cmd
}

// initRun is one run of the command.
type initRun struct {
	*app
	cmd   *cobra.Command
	flags initFlags
	asks  bool // there is somebody to ask
	// suggested is an address that was given before an account name was asked for.
	suggested string
	newPin    bool // a key is trusted since the last look

	setup setup
}

func (i *initRun) run(ctx context.Context) error {
	target, err := filepath.Abs(i.config)
	if err != nil {
		return err
	}
	i.setup.target = target
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		return existsError(target, err)
	}
	if err := i.collect(ctx); err != nil {
		return err
	}
	return i.carryOut(ctx)
}

// existsError is why nothing is written at path, which os.Lstat found or could not look at.
func existsError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s cannot be looked at: this user may not; use sudo", path)
	case err != nil:
		return err
	}
	return fmt.Errorf("%s exists already, and init never overwrites it: change it by hand and look at it with "+
		"\"relayctl --config %s check\", or have another file written with --config FILE", path, path)
}

// carryOut writes the files, looks at the smarthost, and puts the configuration in place when all is well. When it is
// not, nothing that it wrote stays.
func (i *initRun) carryOut(ctx context.Context) error {
	for {
		files, err := i.setup.write()
		if err != nil {
			return err
		}
		again, err := i.judge(ctx, files)
		if err == nil && !again {
			err = files.place()
		}
		if err != nil || again {
			files.remove()
		}
		switch {
		case err != nil:
			return err
		case !again:
			return i.farewell(files)
		}
		if i.newPin {
			i.newPin = false
			continue
		}
		if i.setup.password, err = i.askHidden(ctx, "Password (not shown): "); err != nil {
			return err
		}
	}
}

// judge checks the configuration and looks at the smarthost. It returns nil when the configuration is to be put in place,
// and again when another password or a key is to be tried first.
func (i *initRun) judge(ctx context.Context, files *initFiles) (again bool, err error) {
	cfg, err := i.check(files)
	if err != nil || i.flags.noProbe {
		return false, err
	}
	found, err := smarthost.Probe(ctx, probeOptions(cfg))
	if err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	fmt.Fprint(i.out, probeText(found))
	bad, refused := 0, false
	for _, p := range found {
		refused = refused || p.Refused
		if p.Failure != nil {
			bad++
		}
	}
	switch {
	case bad == 0:
		return false, nil
	case bad < len(found) && !refused:
		fmt.Fprint(i.out, "Mail goes out by the host that is well; the relay tries the others again by itself.\n\n")
		return false, nil
	case i.pinned(ctx, found):
		return true, nil
	case i.asks && refused && i.setup.password != "" && i.agreed(ctx, "Try another password? [y/N] "):
		return true, nil
	case i.asks && ctx.Err() == nil && i.agreed(ctx, "Write the configuration all the same? [y/N] "):
		return false, nil
	}
	return false, errors.New("nothing was written; mend what is wrong, or say --no-probe to have the configuration written " +
		"without a look at the smarthost")
}

// check reads the configuration as relayd would, and tells its faults and warnings by the name that it will have.
func (i *initRun) check(files *initFiles) (*config.Config, error) {
	cfg, warnings, err := config.Load(files.temporary)
	for _, w := range warnings {
		w.File = i.setup.target
		fmt.Fprintf(i.err, "warning: %s\n", clean(w.String()))
	}
	if faults, ok := errors.AsType[config.Faults](err); ok {
		for _, f := range faults {
			f.File = i.setup.target
			fmt.Fprintln(i.err, clean(f.String()))
		}
		return nil, errors.New("nothing was written, since relayd would not take it")
	}
	return cfg, err
}

func (i *initRun) farewell(files *initFiles) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Wrote %s", i.setup.target)
	if files.secret != "" {
		fmt.Fprintf(&b, " and %s", files.secret)
	}
	fmt.Fprintf(&b, " (%s).\n", files.modeText())
	option := ""
	if i.setup.target != defaultConfig {
		option = " --config " + i.setup.target
	}
	b.WriteString(i.setup.next(option))
	_, err := fmt.Fprint(i.out, cleanText(b.String()))
	return err
}

// setup is what has been learnt: what the configuration is going to say.
type setup struct {
	target string // absolute path of the configuration

	provider   provider.Provider // without a name when there are servers
	servers    []string
	tls        string // "": what provider or port imply
	caFile     string
	pins       []string // digests of the server's key or certificate
	username   string
	password   string       // to be written to a file of its own; "": passwordFile, or no login
	passFile   string       // a file that has the password already
	oauth2     *clientSetup // how the account logs in with OAuth2; nil with a password, or without a login
	networks   []string
	postmaster string
}

// name is what the smarthost is called in the names of files.
func (s *setup) name() string {
	if s.provider.Name != "" {
		return s.provider.Name
	}
	return serverHost(s.servers[0])
}

// own returns the path and the text of the file that a typed secret is written to; "" when none was typed.
func (s *setup) own() (path, text string) {
	switch {
	case s.password != "":
		return s.ownPasswordFile(), s.password
	case s.oauth2 != nil && s.oauth2.secret != "":
		return s.ownSecretFile(), s.oauth2.secret
	}
	return "", ""
}

// ownPasswordFile is the path that a typed password is written to.
func (s *setup) ownPasswordFile() string {
	return filepath.Join(filepath.Dir(s.target), fileName(s.name())+".password")
}

// ownSecretFile is the path that a typed secret of a client is written to.
func (s *setup) ownSecretFile() string {
	return filepath.Join(filepath.Dir(s.target), fileName(s.name())+".secret")
}

// fileName is the beginning of the name of the file with the secret of a provider or a server.
func fileName(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, name)
}

// needsLogin reports whether there is an account; a server may have none.
func (s *setup) needsLogin() bool { return s.username != "" || s.provider.UsernameIs != "" }

// text is the configuration.
func (s *setup) text() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# relayd's configuration, written by \"relayctl init\". It has only what differs from the defaults; all keys are in")
	p("# config.example.toml. After a change: \"relayctl check\", then \"systemctl reload relayd\".")
	p("")
	p("# The networks whose machines may relay without a login. This machine itself always may.")
	p("trusted_networks = %s", tomlList(s.networks))
	if s.postmaster != "" {
		p("")
		p("# Who gets reports that cannot be delivered to the sender they are for.")
		p("postmaster = %s", tomlString(s.postmaster))
	}
	p("")
	p("[[smarthost]]")
	if s.provider.Name != "" {
		p("# %s. Hosts, port and TLS follow from the name: \"relayctl providers %s\".", s.provider.Title, s.provider.Name)
		p("provider = %s", tomlString(s.provider.Name))
	} else {
		p("# The provider's servers, tried in this order.")
		p("hosts = %s", tomlList(s.servers))
	}
	if s.tls != "" {
		p("tls = %s", tomlString(s.tls))
	}
	if s.caFile != "" {
		p("# The authority that has signed the server's certificate.")
		p("ca_file = %s", tomlString(s.caFile))
	}
	if len(s.pins) > 0 {
		p("# The server's key, by which it is known whoever signed its certificate.")
		p("pin_sha256 = %s", tomlList(s.pins))
	}
	switch {
	case s.oauth2 != nil:
		s.textOAuth2(p)
	case s.needsLogin():
		p("# The account. The password is in a file of its own, which the relay must be able to read and others should not.")
		if s.username != "" {
			p("username = %s", tomlString(s.username))
		}
		p("password_file = %s", tomlString(s.passwordPath()))
	}
	return b.String()
}

// passwordPath is the password's file as the configuration names it: one beside it by its name alone.
func (s *setup) passwordPath() string {
	if s.password != "" {
		return filepath.Base(s.ownPasswordFile())
	}
	return s.passFile
}

func tomlList(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = tomlString(w)
	}
	return "[" + strings.Join(slices.Clip(out), ", ") + "]"
}
