package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"relayd/internal/config"
	"relayd/internal/oauth"
	"relayd/internal/provider"
)

// clientSetup is what init has learnt of the application that asks for tokens.
type clientSetup struct {
	of         oauth.Provider
	personal   bool // accounts are people's own, in no tenant
	id, tenant string
	secret     string // to be written to a file of its own; "": secretFile, or none
	secretFile string // a file that has it already
	by         loginBy
	// certFile and keyFile are those of byCertificate, serviceFile that of byServiceAccount.
	certFile, keyFile, serviceFile string
}

// hasSecret reports whether the application shows a secret.
func (c *clientSetup) hasSecret() bool { return c.secret != "" || c.secretFile != "" }

// tokensOf returns how accounts of p log in with OAuth2; nil where the configuration does not know without being told.
func tokensOf(p provider.Provider) *clientSetup {
	of, personal := config.KnownTokens(p.Hosts)
	if of == "" || !p.OAuth2 {
		return nil
	}
	return &clientSetup{of: oauth.Provider(of), personal: personal}
}

// tokensWanted reports whether a flag has decided for OAuth2.
func (f *initFlags) tokensWanted() bool {
	return f.clientID != "" || f.secretFile != "" || f.tenant != "" || f.certFile != "" || f.keyFile != "" || f.serviceFile != ""
}

// missingSecret names the flags of the login that are missing, as far as nobody can be asked.
func (i *initRun) missingSecret() string {
	f, s := &i.flags, &i.setup
	known := tokensOf(s.provider)
	switch {
	case f.passwordFile != "", f.serviceFile != "":
		return ""
	case f.clientID == "" && (f.tokensWanted() || s.provider.Password == provider.PasswordNone):
		return "--client-id"
	case f.clientID != "" && f.secretFile == "" && known != nil && known.of == oauth.ProviderGoogle:
		return "--client-secret-file"
	case f.clientID != "":
		return ""
	case known != nil && known.of == oauth.ProviderMicrosoft:
		return "--client-id or --password-file"
	case known != nil:
		return "--password-file or --client-id"
	case s.provider.Name != "" || s.username != "":
		return "--password-file"
	}
	return ""
}

// kind learns whether the account logs in with OAuth2 or with a password.
func (i *initRun) kind(ctx context.Context) error {
	s, f := &i.setup, &i.flags
	known := tokensOf(s.provider)
	switch {
	case f.tokensWanted() && known == nil:
		return misuse(i.cmd, "--client-id goes with microsoft365, outlook, gmail and google-workspace; for others add [smarthost.oauth2] by hand")
	case s.provider.Password == provider.PasswordNone && f.passwordFile != "":
		return misuse(i.cmd, "%s takes no password, only OAuth2: say --client-id in place of --password-file", s.provider.Name)
	case f.tokensWanted() && f.passwordFile != "":
		return misuse(i.cmd, "--password-file does not go with --client-id, --client-secret-file and --tenant")
	case f.tokensWanted() || s.provider.Password == provider.PasswordNone:
		s.oauth2 = known
	case known != nil && f.passwordFile == "" && i.asks:
		if wanted, err := i.wantsTokens(ctx, known); err != nil {
			return err
		} else if wanted {
			s.oauth2 = known
		}
	}
	return i.contradiction()
}

// contradiction refuses flags that do not go with the provider, or with each other.
func (i *initRun) contradiction() error {
	s, f := &i.setup, &i.flags
	switch c := s.oauth2; {
	case c == nil:
	case (f.certFile != "" || f.keyFile != "") && (c.of != oauth.ProviderMicrosoft || c.personal):
		return misuse(i.cmd, "--cert-file goes with microsoft365")
	case f.keyFile != "" && f.certFile == "":
		return misuse(i.cmd, "--key-file goes with --cert-file")
	case f.certFile != "" && f.secretFile != "":
		return misuse(i.cmd, "say --client-secret-file or --cert-file, not both")
	case f.serviceFile != "" && c.of != oauth.ProviderGoogle:
		return misuse(i.cmd, "--service-account-file goes with gmail and google-workspace")
	case f.serviceFile != "" && (f.clientID != "" || f.secretFile != ""):
		return misuse(i.cmd, "--service-account-file does not go with --client-id and --client-secret-file")
	case f.tenant != "" && (c.of != oauth.ProviderMicrosoft || c.personal):
		return misuse(i.cmd, "--tenant goes with microsoft365")
	case f.secretFile != "" && c.personal:
		return misuse(i.cmd, "--client-secret-file does not go with %s, whose accounts a person logs in to", s.provider.Name)
	}
	return nil
}

// wantsTokens asks for the kind of login. Microsoft 365 has OAuth2 first, since its passwords end.
func (i *initRun) wantsTokens(ctx context.Context, known *clientSetup) (bool, error) {
	other, first := "app password", "app password"
	if known.of == oauth.ProviderMicrosoft {
		other, first = "password", "oauth2"
		fmt.Fprintf(i.out, "%s\n", wrapped("Microsoft switches password logins off at the end of December 2026; OAuth2 stays.", 0))
	} else {
		fmt.Fprintf(i.out, "%s\n", wrapped("An app password is the quick way. OAuth2 wants a project of your own at Google.", 0))
	}
	for {
		answer, err := i.askFor(ctx, "Log in with oauth2 or with "+article(other), first)
		if err != nil {
			return false, err
		}
		switch strings.ToLower(answer) {
		case "oauth2", "oauth", "o":
			return true, nil
		case other, "password", "app", "p", "a":
			return false, nil
		}
		fmt.Fprintf(i.out, "Say oauth2, or %s.\n", other)
	}
}

func article(word string) string {
	if strings.HasPrefix(word, "a") {
		return "an " + word
	}
	return "a " + word
}

// tenant learns the tenant, which is mostly known by the domain of its mailboxes.
func (i *initRun) tenant(ctx context.Context) error {
	c := i.setup.oauth2
	if c.of != oauth.ProviderMicrosoft || c.personal {
		return nil
	}
	_, domain, _ := strings.Cut(i.setup.username, "@")
	if c.tenant = i.flags.tenant; c.tenant == "" && !i.asks {
		c.tenant = domain
	}
	var err error
	for c.tenant == "" && err == nil {
		c.tenant, err = i.askFor(ctx, "Tenant (its ID, or one of its domains)", domain)
	}
	return err
}

// registration says how an application comes to its ID.
func (c *clientSetup) registration(provider string) string {
	switch {
	case c.by == byServiceAccount:
		return "Make a service account with a JSON key: console.cloud.google.com, enable the Gmail API; IAM, Service accounts, Keys. A super " +
			"administrator allows its client ID the scope https://mail.google.com/: admin.google.com, Security, API controls, " +
			"Domain-wide delegation. README.md has each step."
	case c.of == oauth.ProviderGoogle:
		return "Register an application, which has an ID and a secret: console.cloud.google.com, enable the Gmail API; Google Auth " +
			"Platform, Clients, Create client, Desktop app; Audience, Publish app. README.md has each step."
	case c.personal:
		return provider + " takes no password, only OAuth2. Register an application, which has an ID: entra.microsoft.com, App " +
			"registrations, New registration, for personal accounts; Authentication, Allow public client flows. README.md has each step."
	case c.by == bySecret:
		return "Register an application, which has an ID: entra.microsoft.com, App registrations, New registration; API permissions, " +
			"Office 365 Exchange Online, SMTP.SendAsApp; Certificates & secrets, New client secret. README.md has each step."
	case c.by == byCertificate:
		return "Register an application, which has an ID: entra.microsoft.com, App registrations, New registration; API permissions, " +
			"Office 365 Exchange Online, SMTP.SendAsApp; Certificates & secrets, Certificates, Upload. README.md has each step."
	}
	return "Register an application, which has an ID: entra.microsoft.com, App registrations, New registration; Authentication, Allow " +
		"public client flows; API permissions, Microsoft Graph, delegated, SMTP.Send and offline_access. README.md has each step."
}

// textOAuth2 is the account's part of the configuration.
func (s *setup) textOAuth2(p func(format string, args ...any)) {
	c := s.oauth2
	switch c.by {
	case bySecret:
		p("# The mailbox. The application logs in to it with OAuth2 tokens, by its secret, which is in a file of its own.")
	case byCertificate:
		p("# The mailbox. The application logs in to it with OAuth2 tokens, by its certificate, whose end status and log warn of.")
	case byServiceAccount:
		p("# The mailbox. The service account logs in to it with OAuth2 tokens, by the key that is in its file.")
	default:
		p("# The account. It logs in with OAuth2 tokens, which a person's login gives: \"relayctl oauth login %s\".", s.provider.Name)
	}
	p("username = %s", tomlString(s.username))
	p("[smarthost.oauth2]")
	if c.tenant != "" {
		p("tenant_id = %s", tomlString(c.tenant))
	}
	if c.id != "" {
		p("client_id = %s", tomlString(c.id))
	}
	if c.hasSecret() {
		file := c.secretFile
		if c.secret != "" {
			file = filepath.Base(s.ownSecretFile())
		}
		p("client_secret_file = %s", tomlString(file))
	}
	if c.certFile != "" {
		p("cert_file = %s", tomlString(c.certFile))
		p("key_file = %s", tomlString(c.keyFile))
	}
	if c.serviceFile != "" {
		p("service_account_file = %s", tomlString(c.serviceFile))
	}
	if c.by == bySecret {
		p("# secret_expires = \"2028-01-31\" # the day on which it ends: status and log warn 30 days before")
	}
}

// next says what to do once the configuration is in place; option is what names it.
func (s *setup) next(option string) string {
	var b strings.Builder
	c := s.oauth2
	fmt.Fprintf(&b, "\n\"relayctl%s check\" says what it amounts to; \"relayd%s\" runs the relay, and so does\n"+
		"\"systemctl enable --now relayd\" where the service is installed.\n", option, option)
	switch {
	case c == nil:
	case c.by == bySecret:
		fmt.Fprintf(&b, "\nWhen it runs, \"relayctl%s oauth status\" says whether the application gets its tokens. Write the day\n"+
			"on which its secret ends into the configuration (secret_expires).\n", option)
	case c.by != byPerson:
		fmt.Fprintf(&b, "\nWhen it runs, \"relayctl%s oauth status\" says whether the tokens are had.\n", option)
	default:
		fmt.Fprintf(&b, "\nMail waits until somebody has logged in as %s, once. When the relay runs, say:\n\n  relayctl%s oauth login %s\n",
			s.username, option, s.provider.Name)
	}
	return b.String()
}
