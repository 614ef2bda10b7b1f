// Package wiring maps the configuration onto values of rooms that do not know it, where relayd and relayctl both need them.
package wiring

import (
	"relayd/internal/config"
	"relayd/internal/envelope"
	"relayd/internal/oauth"
	"relayd/internal/pace"
	"relayd/internal/rewrite"
	"relayd/smarthost"
)

// Route returns the route that a [[smarthost]] describes. tokens is asked for the source of its tokens when it has a table
// [smarthost.oauth2], and must not return nil then: such a route has no password.
func Route(s config.Smarthost, tokens func(config.Smarthost) smarthost.TokenSource) smarthost.Route {
	r := smarthost.Route{
		Name: s.Name, Hosts: s.Hosts, TLS: smarthost.Mode(s.TLS), MinTLS: s.MinTLS, RootCAs: s.RootCAs,
		TLSName: s.TLSName, Certificates: s.ClientCertificates,
		Auth: s.Auth, Username: s.Username, Password: s.Password.Reveal(), MaxConnections: s.MaxConnections,
		Rate: pace.Rate(s.Rate), DailyRecipients: s.DailyRecipients, MaxRecipients: s.MaxRecipients, MaxSize: s.MaxSize,
		Senders: s.Senders, Recipients: s.Recipients, Clients: s.Clients, Rewrite: Rules(s.Rewrite),
	}
	for _, p := range s.Pins {
		r.Pins = append(r.Pins, p)
	}
	if s.OAuth2 != nil {
		r.Tokens = tokens(s)
	}
	return r
}

// Rules returns rules without a name, which tells the log where they come from.
func Rules(r config.Rewrite) rewrite.Rules {
	return rewrite.Rules{EnvelopeFrom: envelope.Path(r.EnvelopeFrom), HeaderFrom: envelope.Path(r.HeaderFrom), Map: r.Map}
}

// Clients returns the rules of the [[client]] tables.
func Clients(c *config.Config) []smarthost.ClientRules {
	var out []smarthost.ClientRules
	for _, client := range c.Clients {
		rules := Rules(client.Rewrite)
		rules.Name = "client " + client.Name()
		out = append(out, smarthost.ClientRules{Networks: client.Networks, Rewrite: rules})
	}
	return out
}

// Account returns the account of a [[smarthost]] that has a table [smarthost.oauth2].
func Account(s config.Smarthost) oauth.Account {
	o := s.OAuth2
	a := oauth.Account{Name: s.Name, Username: s.Username, Provider: oauth.Provider(o.Provider), Flow: oauth.Flow(o.Flow),
		TokenURL: o.TokenURL, DeviceURL: o.DeviceURL, AuthURL: o.AuthURL, Scopes: o.Scopes,
		ClientID: o.ClientID, ClientSecret: o.ClientSecret.Reveal(), SecretExpires: o.SecretExpires}
	if o.Key != nil {
		a.Certificate = &oauth.Certificate{Leaf: o.Certificate, Key: o.Key}
	}
	if o.ServiceKey != "" {
		a.ServiceAccount = &oauth.ServiceAccount{Email: o.ServiceEmail, KeyID: o.ServiceKeyID, Key: []byte(o.ServiceKey.Reveal())}
	}
	return a
}
