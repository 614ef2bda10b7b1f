package config

import (
	"fmt"
	"strings"

	"relayd/internal/provider"
)

// presets returns what a provider's row says of a [[smarthost]], by key and in the types of the TOML library. What the row
// does not say is absent. Only keys that schema has are used: a limit that gets its key there is filled from then on.
func presets(p provider.Provider) map[string]any {
	all := map[string]any{
		"name":             p.Name,
		"tls":              p.TLS,
		"auth":             p.Auth,
		"username":         p.UsernameIs,
		"rate":             p.Rate,
		"daily_recipients": int64(p.DailyRecipients),
		"max_recipients":   int64(p.MaxRecipients),
		"max_size":         p.MaxSize,
		"max_connections":  int64(p.MaxConnections),
	}
	for key, v := range all {
		if v == "" || v == int64(0) {
			delete(all, key)
		}
	}
	hosts := make([]any, len(p.Hosts))
	for i, h := range p.Hosts {
		hosts[i] = h
	}
	all["hosts"] = hosts
	return all
}

// usePreset lets the row of the provider that the table names stand in for the keys that the file does not give, and
// returns the provider's name; "" when there is none.
func (t *table) usePreset() string {
	const key = "provider"
	if !t.has(key) {
		return ""
	}
	name, ok := t.text(key)
	if !ok {
		return ""
	}
	p, known := provider.Lookup(name)
	switch {
	case !known:
		remedy := `"relayctl providers" lists those that are; for any other write hosts in its place`
		if near := provider.Nearest(name); len(near) > 0 {
			remedy = "did you mean " + either(quoted(near)) + "? " + remedy
		}
		t.bad(key, fmt.Sprintf("%q is not known", name), remedy)
		return ""
	case len(p.Hosts) == 0:
		t.bad(key, fmt.Sprintf("%q has hosts in several regions", name),
			fmt.Sprintf(`write one of them, such as %q; "relayctl providers %s" lists them`, p.VariantNames()[0], p.Name))
		return ""
	}
	t.preset = presets(p)
	for k := range t.preset {
		if _, known := lookup(t.name, k); !known {
			delete(t.preset, k)
		}
	}
	if t.values["auth"] == "off" {
		delete(t.preset, "username")
	}
	if _, tokens := t.values["oauth2"]; tokens {
		delete(t.preset, "auth") // which is about passwords
	}
	t.warnOfLogin(p)
	return p.Name
}

// warnOfLogin warns of a login that the provider refuses by its form alone: its answer does not say why.
func (t *table) warnOfLogin(p provider.Provider) {
	for _, key := range []string{"password", "password_file", "password_env"} {
		if t.has(key) && p.Password == provider.PasswordNone {
			t.caution(key, p.Name+" takes no password: "+p.PasswordHint, `see "relayctl providers `+p.Name+`"`)
		}
	}
	username, given := t.values["username"].(string)
	if !given {
		return
	}
	isAddress := strings.Contains(username, "@")
	switch {
	case p.Username == provider.UsernameAddress && !isAddress:
		t.caution("username", fmt.Sprintf("%q is not an address, and %s wants the full one", username, p.Name),
			`write "`+username+`@" and the domain`)
	case p.Username == provider.UsernameLocal && isAddress:
		t.caution("username", fmt.Sprintf("%q is an address, and %s wants only what stands before the @", username, p.Name),
			fmt.Sprintf("write %q", username[:strings.LastIndexByte(username, '@')]))
	case p.Username == provider.UsernameFixed && username != p.UsernameIs:
		t.caution("username", fmt.Sprintf("%s wants %q from everybody, not %q", p.Name, p.UsernameIs, username), "delete the line")
	}
}

// takesNoPassword reports whether a provider's accounts log in with OAuth2 alone; false for "".
func takesNoPassword(name string) bool {
	p, known := provider.Lookup(name)
	return known && p.Password == provider.PasswordNone
}

func quoted(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = fmt.Sprintf("%q", w)
	}
	return out
}
