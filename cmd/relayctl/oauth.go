package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relayd/internal/config"
	"relayd/internal/control"
	"relayd/internal/oauth"
	"relayd/internal/wiring"
)

func (a *app) oauthCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:        "oauth",
		SuggestFor: []string{"oauth2", "login", "token", "auth"},
		Short:      "Log in to a provider with OAuth2, and see how such logins are",
		Long: `A smarthost with a table [smarthost.oauth2] in the configuration is logged in to with
OAuth2 tokens, which relayd renews by itself. With flow "device" or "refresh_token" they
come from a person's consent, given once with "oauth login"; with "client_credentials"
and "service_account" from a secret, certificate or key of an application.`,
		Example: `  relayctl oauth status
  relayctl oauth login office`,
	}
	cmd.AddCommand(a.oauthLoginCommand(), a.oauthStatusCommand())
	group(cmd)
	return cmd
}

func (a *app) oauthStatusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the OAuth2 logins are; no tokens",
		Long: `Shows, for each smarthost with [smarthost.oauth2], its flow, until when the present
access token is good (relayd renews it before), when the client's secret or certificate
ends, and what is wrong. When relayd is not running, it shows what the configuration and
the stored logins tell. No token or secret is ever shown.`,
		Example: `  relayctl oauth status
  relayctl oauth status --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			accounts, err := a.oauthAccounts(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(a.out, append([]control.OAuthStatus{}, accounts...))
			}
			return a.showAccounts(accounts, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array, for programs")
	return cmd
}

// oauthAccounts asks the daemon or, when it is down, the configuration and the stored grants.
func (a *app) oauthAccounts(ctx context.Context) ([]control.OAuthStatus, error) {
	at, err := a.places()
	if err != nil {
		return nil, err
	}
	cfg, unread := a.load() // which root can, and who relayctl becomes perhaps not
	if err := a.enter(at, false); err != nil {
		return nil, err
	}
	c, err := control.Dial(ctx, at.socket)
	if err == nil {
		defer c.Close()
		st, err := c.Status(ctx)
		return st.OAuth, err
	}
	if !errors.Is(err, control.ErrNotRunning) {
		return nil, a.explain(err)
	}
	if unread != nil {
		return nil, unread
	}
	fmt.Fprintln(a.err, "relayctl: relayd is not running; this is what the configuration and the stored logins tell")
	var out []control.OAuthStatus
	store := oauth.NewStore(cfg.DataDir)
	for _, s := range cfg.Smarthosts {
		if s.OAuth2 == nil {
			continue
		}
		st := control.OAuthStatus{Route: s.Name, Username: s.Username, Flow: s.OAuth2.Flow, SecretExpires: s.OAuth2.SecretExpires}
		if oauth.Flow(s.OAuth2.Flow).Personal() {
			if _, err := store.Load(s.Name); errors.Is(err, oauth.ErrNoGrant) {
				st.Problem, st.Refused = fmt.Sprintf(`nobody has logged in as %s yet: run "relayctl oauth login %s"`, s.Username, s.Name), true
			} else if err != nil {
				st.Problem, st.Refused = err.Error(), true
			}
		}
		out = append(out, st)
	}
	return out, nil
}

// load reads the configuration as a whole.
func (a *app) load() (*config.Config, error) {
	cfg, _, err := config.Load(a.config)
	if err != nil {
		return nil, fmt.Errorf("the configuration is not usable:\n%w", err)
	}
	return cfg, nil
}

func (a *app) showAccounts(accounts []control.OAuthStatus, now time.Time) error {
	if len(accounts) == 0 {
		_, err := io.WriteString(a.out, "No smarthost of the configuration has [smarthost.oauth2].\n")
		return err
	}
	t := newTable(a.out, column{head: "NAME"}, column{head: "USERNAME"}, column{head: "FLOW"}, column{head: "TOKEN"},
		column{head: "SECRET ENDS"})
	var rows [][]string
	for _, s := range accounts {
		secret := "-"
		if !s.SecretExpires.IsZero() {
			secret = s.SecretExpires.UTC().Format(time.DateOnly)
		}
		rows = append(rows, []string{clean(s.Route), clean(s.Username), clean(s.Flow), tokenWords(s, now), secret})
	}
	if err := t.write(rows); err != nil {
		return err
	}
	var b strings.Builder
	for _, s := range accounts {
		if s.Problem != "" {
			since := ""
			if !s.Since.IsZero() {
				since = " for " + span(now.Sub(s.Since))
			}
			fmt.Fprintf(&b, "\n%s%s: %s\n", clean(s.Route), since, clean(s.Problem))
		}
		if words := s.SecretProblem(now); words != "" {
			fmt.Fprintf(&b, "\n%s: %s\n", clean(s.Route), words)
		}
	}
	_, err := io.WriteString(a.out, b.String())
	return err
}

func tokenWords(s control.OAuthStatus, now time.Time) string {
	switch {
	case s.TokenExpires.After(now):
		return "good for " + span(s.TokenExpires.Sub(now))
	case s.Refused:
		return "REFUSED"
	case s.Problem != "":
		return "NONE NOW"
	}
	return "none yet"
}

// tokenLine tells below a route how its account's tokens are.
func tokenLine(accounts []control.OAuthStatus, route string, now time.Time) string {
	for _, s := range accounts {
		if s.Route != route {
			continue
		}
		words := "  OAuth2 (" + s.Flow + ")  token " + tokenWords(s, now)
		if !s.SecretExpires.IsZero() {
			words += ", secret ends on " + s.SecretExpires.UTC().Format(time.DateOnly)
		}
		return clean(words) + "\n"
	}
	return ""
}

// personalAccount returns the account of the smarthost name, if a person can log in to it.
func personalAccount(cfg *config.Config, name string) (oauth.Account, error) {
	var names []string
	for _, s := range cfg.Smarthosts {
		if s.OAuth2 != nil {
			names = append(names, s.Name)
		}
		if !strings.EqualFold(s.Name, name) {
			continue
		}
		if s.OAuth2 == nil {
			return oauth.Account{}, fmt.Errorf("smarthost %s logs in with a password or not at all; add [smarthost.oauth2] to it", s.Name)
		}
		account := wiring.Account(s)
		if !account.Flow.Personal() {
			return oauth.Account{}, fmt.Errorf("smarthost %s has flow = %q, by which an application logs in by itself: there is nothing for a "+
				"person to do here.\n%s", s.Name, s.OAuth2.Flow, applicationWords(account))
		}
		return account, nil
	}
	return oauth.Account{}, fmt.Errorf("no smarthost is called %s; with [smarthost.oauth2] there is %s", name,
		cmp.Or(strings.Join(names, ", "), "none"))
}

// applicationWords say where consent is given to an application.
func applicationWords(a oauth.Account) string {
	if a.Flow == oauth.FlowServiceAccount {
		return "A Workspace administrator lets the service account act for the mailbox: Admin console, Security, API controls, " +
			"Domain-wide\ndelegation, with its client ID and the scope https://mail.google.com/."
	}
	if a.Provider == oauth.ProviderMicrosoft {
		return "The tenant's administrator consents to SMTP.SendAsApp (Entra admin center, App registrations, the application, API\n" +
			"permissions, Grant admin consent) and gives it the mailbox (New-ServicePrincipal, Add-MailboxPermission); see README.md."
	}
	return "The provider's administrator allows the application " + a.ClientID + " to send mail."
}
