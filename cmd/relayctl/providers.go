package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"relayd/internal/oauth"
	"relayd/internal/provider"
)

func (a *app) providersCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "providers [NAME]",
		SuggestFor: []string{"presets", "isps", "smarthosts"},
		Short:      "List the providers that a configuration may name",
		Long: `Lists the providers that provider = "NAME" in [[smarthost]] may name: their hosts, how
these are reached, and what they let an account send in a minute or hour, in a day, and
in one message, as far as that is known. With a NAME, all that is known of that one: what
kind of username and password it wants and where to get it, what the knowledge rests on
and when it was looked up.

What the configuration says itself goes before what stands here. Nothing is connected to.`,
		Example: `  relayctl providers
  relayctl providers gmail
  relayctl providers ses --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return misuse(cmd, "name one provider, or none for all")
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return provider.Names(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.listProviders(asJSON)
			}
			return a.showProvider(args[0], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: an array, or with a NAME an object")
	return cmd
}

func (a *app) listProviders(asJSON bool) error {
	all := provider.All()
	if asJSON {
		out := &jsonArray{w: a.out}
		for _, p := range all {
			if err := out.add(p); err != nil {
				return err
			}
		}
		return out.end()
	}
	t := newTable(a.out, column{head: "NAME"}, column{head: "HOST", most: 34}, column{head: "PORT", right: true},
		column{head: "TLS"}, column{head: "LOGIN"}, column{head: "RATE", right: true}, column{head: "A DAY", right: true},
		column{head: "A MESSAGE", right: true}, column{head: "SIZE", right: true})
	var rows [][]string
	for _, p := range all {
		rows = append(rows, providerRow(p))
	}
	if err := t.write(rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, "\n%d providers; A DAY and A MESSAGE are recipients. \"relayctl providers NAME\" says more of one.\n", len(all))
	return err
}

// providerRow is a line of the list. Variants are told of in the place of the host, or behind it.
func providerRow(p provider.Provider) []string {
	host, port := "", usualPort(p.TLS)
	if len(p.Hosts) > 0 {
		host = p.Hosts[0]
		if h, own, err := net.SplitHostPort(host); err == nil {
			host, port = h, own
		}
	}
	more := len(p.Hosts) - 1 + len(p.Variants)
	switch {
	case host == "":
		host = "in " + count(len(p.Variants), "region", "regions")
	case more > 0:
		host += fmt.Sprintf(" +%d", more)
	}
	return []string{p.Name, host, port, p.TLS, loginKind(p), p.Rate, figure(p.DailyRecipients), figure(p.MaxRecipients), p.MaxSize}
}

func usualPort(tls string) string {
	if tls == "implicit" {
		return "465"
	}
	return "587"
}

func loginKind(p provider.Provider) string {
	switch {
	case p.Password == provider.PasswordNone:
		return "OAuth2"
	case p.OAuth2:
		return p.Password + ", OAuth2"
	}
	return p.Password
}

// figure is a number, or nothing where it is not known.
func figure(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func (a *app) showProvider(name string, asJSON bool) error {
	p, ok := provider.Lookup(name)
	if !ok {
		return unknownProvider(name)
	}
	if asJSON {
		return writeJSON(a.out, p)
	}
	_, err := io.WriteString(a.out, describeProvider(p))
	return err
}

// unknownProvider is the error about a name that no provider has.
func unknownProvider(name string) error {
	message := fmt.Sprintf("no provider is called %q", name)
	if near := provider.Nearest(name); len(near) > 0 {
		message += "; did you mean " + strings.Join(near, " or ") + "?"
	} else {
		message += `; "relayctl providers" lists them. For any other, write its hosts into the configuration`
	}
	return errors.New(message)
}

// describeProvider says all that is known of a provider, for people.
func describeProvider(p provider.Provider) string {
	var b strings.Builder
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-12s%s\n", label, wrapped(text, 12))
		}
	}
	fmt.Fprintf(&b, "%s: %s\n\n", p.Name, p.Title)
	line("Hosts", strings.Join(p.Hosts, ", "))
	for n, name := range p.VariantNames() {
		v, _ := provider.Lookup(name)
		label := "Variants"
		if n > 0 {
			label = ""
		}
		fmt.Fprintf(&b, "%-12s%s  %s\n", label, name, strings.Join(v.Hosts, ", "))
	}
	line("TLS", map[string]string{"starttls": "by STARTTLS, port 587 where none is named",
		"implicit": "from the first byte, port 465 where none is named"}[p.TLS])
	line("AUTH", authText(p.Auth))
	line("Username", usernameText(p))
	line("Password", p.PasswordHint)
	if p.OAuth2 {
		line("OAuth2", "taken")
	}
	line("Limits", limitsText(p))
	line("Known as", strings.Join(p.Aliases, ", "))
	line("Addresses", strings.Join(p.Domains, ", "))
	line("Notes", p.Notes)
	line("Rests on", map[string]string{"provider": "the provider's own words", "client database": "what mail programs are shipped with",
		"third party": "what somebody who uses it wrote"}[p.Basis]+"; looked up "+p.LookedUp)
	for _, source := range p.Sources {
		fmt.Fprintf(&b, "%12s%s\n", "", source)
	}
	b.WriteString("\nIn the configuration:\n\n    [[smarthost]]\n")
	fmt.Fprintf(&b, "    provider      = %q\n", exampleName(p))
	if p.Username != provider.UsernameFixed {
		fmt.Fprintf(&b, "    username      = %q\n", exampleUsername(p))
	}
	switch tokens := tokensOf(p); {
	case tokens != nil && tokens.of == oauth.ProviderMicrosoft && !tokens.personal: // whose passwords end
		b.WriteString("    [smarthost.oauth2]\n    tenant_id     = \"example.com\"\n    client_id     = \"...\"\n")
	case p.Password == provider.PasswordNone:
		b.WriteString("    [smarthost.oauth2]\n    client_id     = \"...\"\n")
	default:
		fmt.Fprintf(&b, "    password_file = %q\n", fileName(p.Name)+".password")
	}
	return b.String()
}

func authText(auth string) string {
	if auth == "auto" {
		return "what the host offers"
	}
	return strings.ToUpper(auth)
}

func usernameText(p provider.Provider) string {
	switch p.Username {
	case provider.UsernameAddress:
		return "the full address"
	case provider.UsernameFixed:
		return p.UsernameIs + ", for everybody; it need not be written"
	}
	return p.UsernameHint
}

// limitsText lists the limits of one account that are known.
func limitsText(p provider.Provider) string {
	var parts []string
	add := func(ok bool, format string, args ...any) {
		if ok {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(p.Rate != "", "%s messages", p.Rate)
	add(p.DailyRecipients > 0, "%d recipients a day", p.DailyRecipients)
	add(p.MaxRecipients > 0, "%d recipients a message", p.MaxRecipients)
	add(p.MaxSize != "", "%s a message", p.MaxSize)
	add(p.MaxConnections > 0, "%s at a time", count(p.MaxConnections, "connection", "connections"))
	if parts == nil {
		return "none that are known"
	}
	return strings.Join(parts, ", ")
}

func exampleName(p provider.Provider) string {
	if len(p.Hosts) == 0 {
		return p.VariantNames()[0]
	}
	return p.Name
}

func exampleUsername(p provider.Provider) string {
	switch {
	case p.Username == provider.UsernameLocal:
		return "me"
	case p.Username == provider.UsernameGiven:
		return "..."
	case len(p.Domains) > 0:
		return "me@" + p.Domains[0]
	}
	return "me@example.com"
}

// wrapped breaks text into lines of at most 88 columns, of which the first indent are taken; those after the first
// begin with as many spaces.
func wrapped(text string, indent int) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && width(line)+1+width(word) > 88-indent {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return strings.Join(slices.Concat(lines, []string{line}), "\n"+strings.Repeat(" ", indent))
}
