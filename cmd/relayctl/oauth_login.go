package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"relayd/internal/oauth"
)

func (a *app) oauthLoginCommand() *cobra.Command {
	var port int
	cmd := &cobra.Command{
		Use:   "login NAME",
		Short: "Log in to the smarthost NAME as a person, once",
		Long: `Walks a person through the login to the account of the smarthost NAME, and keeps the
refresh token in data_dir, readable by the user of relayd alone. relayd takes it up by
itself within seconds; mail that waited for it goes out then.

With flow = "device" a code is shown, to be typed in at the provider's page in a browser
on any machine. With flow = "refresh_token" a page is to be opened in a browser, which
comes back to this machine on its loopback address. When the browser is elsewhere, either
forward the port to it (ssh -L) or paste the address at which it ended here.

Run it as root or as the user of relayd.`,
		Example: `  relayctl oauth login office
  relayctl oauth login gmail --port 8976`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return misuse(cmd, "say for which smarthost: %s NAME", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.oauthLogin(cmd.Context(), args[0], port) },
	}
	cmd.Flags().IntVar(&port, "port", 0, "the loopback `port` that the browser comes back to; any free one when it is 0")
	return cmd
}

func (a *app) oauthLogin(ctx context.Context, name string, port int) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	account, err := personalAccount(cfg, name)
	if err != nil {
		return err
	}
	if err := a.enter(places{dataDir: cfg.DataDir}, false); err != nil {
		return err
	}
	store := oauth.NewStore(cfg.DataDir)
	if err := store.Ready(); err != nil {
		return fmt.Errorf("the login could not be kept: %w", err)
	}
	var grant oauth.Grant
	// Google's device flow does not give the scope for mail.
	if account.Flow == oauth.FlowDevice && account.Provider != oauth.ProviderGoogle {
		grant, err = a.loginByDevice(ctx, account)
	} else {
		grant, err = a.loginByRedirect(ctx, account, port)
	}
	if err != nil {
		return err
	}
	if err := store.Save(account.Name, grant); err != nil {
		return fmt.Errorf("the login succeeded, but it cannot be kept: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "\nDone: the login of %s is kept in %s.\nrelayd takes it up by itself; see \"relayctl oauth status\".\n",
		clean(account.Username), clean(store.Path(account.Name)))
	return err
}

func (a *app) loginByDevice(ctx context.Context, account oauth.Account) (oauth.Grant, error) {
	return oauth.LoginByDevice(ctx, account, nil, func(p oauth.Prompt) {
		fmt.Fprintf(a.out, `Log in to smarthost %s as %s:

  1. Open %s in a browser, on any machine.
  2. Type in the code %s
  3. Log in as %s and accept.
%s
Waiting for you; the code is good until %s. Ctrl-C gives up.
`, clean(account.Name), clean(account.Username), clean(p.URL), clean(p.Code), clean(account.Username), consentWords(account),
			p.Expires.Local().Format("15:04:05"))
	})
}

func (a *app) loginByRedirect(ctx context.Context, account oauth.Account, port int) (oauth.Grant, error) {
	r, err := oauth.StartRedirect(account, nil, port)
	if err != nil {
		return oauth.Grant{}, fmt.Errorf("the browser has nowhere to come back to: %w; try another --port", err)
	}
	defer r.Close()
	why := ""
	if account.Flow == oauth.FlowDevice {
		why = "Google's device flow does not give access to mail, so that a browser is needed.\n\n"
	}
	fmt.Fprintf(a.out, `%sLog in to smarthost %s as %s:

  1. Open this address in a browser on this machine:

%s

     Is the browser elsewhere? Run "ssh -L %d:127.0.0.1:%d THIS-MACHINE" there first; or, when it
     ends at a page that cannot be reached, paste that page's address here and press Enter.
  2. Log in as %s and accept.
%s
Waiting for you. Ctrl-C gives up.
`, why, clean(account.Name), clean(account.Username), clean(r.URL), r.Port, r.Port, clean(account.Username), consentWords(account))
	go a.readPasted(r)
	return r.Wait(ctx)
}

// readPasted takes addresses that are pasted until one is the answer, or the input ends.
func (a *app) readPasted(r *oauth.Redirect) {
	for {
		line, err := readLine(a.in)
		if done, _ := r.Returned(line); done {
			return
		}
		if err != nil {
			return
		}
		if line != "" {
			io.WriteString(a.out, "That is not the address that the browser was sent to; it begins with http:// and holds code= and state=.\n")
		}
	}
}

// consentWords say what a person is asked to accept, and who else may have to.
func consentWords(a oauth.Account) string {
	switch a.Provider {
	case oauth.ProviderMicrosoft:
		return `     It asks to send mail from this mailbox by SMTP AUTH (SMTP.Send) and to keep that access
     (offline_access). When it wants an administrator's approval, that is given in the Entra admin
     center: App registrations, the application, API permissions, Grant admin consent. The mailbox
     must have Authenticated SMTP allowed (Microsoft 365 admin center, Users, Mail, Manage email apps).
`
	case oauth.ProviderGoogle:
		return `     It asks for all of the mailbox (https://mail.google.com/), since Google has no smaller right for
     SMTP. "Google hasn't verified this app" is about your own project: Advanced, Go to it. Publish
     the project (Google Auth Platform, Audience), or the login ends after seven days.
`
	}
	return ""
}
