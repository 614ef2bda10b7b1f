package provider

import (
	"cmp"
	_ "embed"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"
)

// The values of Provider.Username.
const (
	UsernameAddress = "address"    // the full address
	UsernameLocal   = "local part" // what stands before the @
	UsernameFixed   = "fixed"      // UsernameIs, the same for everybody
	UsernameGiven   = "given"      // a name that the provider hands out
)

// The values of Provider.Password.
const (
	PasswordOwn  = "password"     // the account's own
	PasswordApp  = "app password" // one made for programs; the account's own may be refused
	PasswordKey  = "api key"
	PasswordNone = "none" // none is taken: OAuth2 alone
)

// Provider is one row of providers.toml, or one variant of a row. Its limits are those of one account; a zero value is
// one that is not known. Strings are in the form that the configuration takes: "30/min", "25MB".
type Provider struct {
	Name    string   `toml:"name" json:"name"`
	Title   string   `toml:"title" json:"title"` // for people
	Aliases []string `toml:"aliases" json:"aliases,omitempty"`
	// Domains are those of addresses that are usually the provider's: names, "NAME.*" for the names of countries, and
	// "*.NAME" for all below.
	Domains []string `toml:"domains" json:"domains,omitempty"`
	// Hosts are in the order in which they are tried, "host" or, where the port is not the usual one, "host:port". Empty in
	// a row that has only variants.
	Hosts []string `toml:"hosts" json:"hosts,omitempty"`
	// Variants are hosts in other regions, by the word that follows Name and a hyphen.
	Variants map[string][]string `toml:"variants" json:"variants,omitempty"`
	TLS      string              `toml:"tls" json:"tls"`   // "starttls" or "implicit"
	Auth     string              `toml:"auth" json:"auth"` // as in the configuration

	Username     string `toml:"username" json:"username"`
	UsernameIs   string `toml:"username_is" json:"username_is,omitempty"`
	UsernameHint string `toml:"username_hint" json:"username_hint,omitempty"`
	Password     string `toml:"password" json:"password"`
	PasswordHint string `toml:"password_hint" json:"password_hint,omitempty"`
	OAuth2       bool   `toml:"oauth2" json:"oauth2"` // it takes OAuth2, too

	Rate            string `toml:"rate" json:"rate,omitempty"`
	DailyRecipients int    `toml:"daily_recipients" json:"daily_recipients,omitempty"`
	MaxRecipients   int    `toml:"max_recipients" json:"max_recipients,omitempty"`
	MaxSize         string `toml:"max_size" json:"max_size,omitempty"`
	MaxConnections  int    `toml:"max_connections" json:"max_connections,omitempty"`

	// Basis says what hosts, TLS and username rest on: "provider", "client database" or "third party".
	Basis    string   `toml:"basis" json:"basis"`
	Sources  []string `toml:"sources" json:"sources"`
	LookedUp string   `toml:"looked_up" json:"looked_up"` // a day, "2026-11-22"
	Notes    string   `toml:"notes" json:"notes,omitempty"`
}

//go:embed providers.toml
var file string

// rows is the file, read once and never changed; a test sees to it that it can be read.
var rows = sync.OnceValue(func() []Provider {
	var doc struct {
		Provider []Provider `toml:"provider"`
	}
	if _, err := toml.Decode(file, &doc); err != nil {
		panic("providers.toml: " + err.Error())
	}
	return doc.Provider
})

// All returns the rows, sorted by name. They are for reading only.
func All() []Provider { return slices.Clone(rows()) }

// Names returns every name that Lookup finds hosts for, sorted: of rows and of variants, without aliases.
func Names() []string {
	var names []string
	for _, p := range rows() {
		if len(p.Hosts) > 0 {
			names = append(names, p.Name)
		}
		names = append(names, p.VariantNames()...)
	}
	slices.Sort(names)
	return names
}

// Lookup returns the provider of a name or an alias, in any case of letters. "NAME-VARIANT" is the row with the hosts of
// that variant, and no further variants. What it returns may have no hosts, but variants to choose from.
func Lookup(name string) (Provider, bool) {
	name = strings.ToLower(name)
	for _, p := range rows() {
		if p.Name == name || slices.Contains(p.Aliases, name) {
			return p, true
		}
	}
	for _, p := range rows() {
		for _, own := range append([]string{p.Name}, p.Aliases...) {
			variant, ok := strings.CutPrefix(name, own+"-")
			if hosts, known := p.Variants[variant]; ok && known {
				p.Name, p.Hosts, p.Variants = p.Name+"-"+variant, hosts, nil
				return p, true
			}
		}
	}
	return Provider{}, false
}

// ForAddress returns the provider whose addresses usually look like address.
func ForAddress(address string) (Provider, bool) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return Provider{}, false
	}
	domain := strings.ToLower(address[at+1:])
	// A name that a row has itself goes before a pattern that it fits: Yahoo in Japan is not Yahoo.
	for _, fits := range []func(pattern, domain string) bool{func(p, d string) bool { return p == d }, fits} {
		for _, p := range rows() {
			if len(p.Hosts) > 0 && slices.ContainsFunc(p.Domains, func(pattern string) bool { return fits(pattern, domain) }) {
				return p, true
			}
		}
	}
	return Provider{}, false
}

// fits reports whether domain is one of those that a pattern stands for.
func fits(pattern, domain string) bool {
	if below, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(domain, below)
	}
	name, ok := strings.CutSuffix(pattern, "*")
	country, under := strings.CutPrefix(domain, name)
	if !ok || !under {
		return false
	}
	for _, second := range []string{"co.", "com."} {
		if rest, ok := strings.CutPrefix(country, second); ok {
			country = rest
		}
	}
	return len(country) == 2 && strings.Trim(country, "abcdefghijklmnopqrstuvwxyz") == ""
}

// VariantNames returns the full names of the variants, sorted.
func (p Provider) VariantNames() []string {
	names := slices.Sorted(maps.Keys(p.Variants))
	for i := range names {
		names[i] = p.Name + "-" + names[i]
	}
	return names
}

// Nearest returns up to three names that are most like s, the best first.
func Nearest(s string) []string {
	s = strings.ToLower(s)
	type candidate struct {
		name string
		far  int
	}
	best := map[string]int{}
	consider := func(word, name string) {
		far, ok := like(s, word)
		if old, seen := best[name]; ok && (!seen || far < old) {
			best[name] = far
		}
	}
	for _, p := range rows() {
		consider(p.Name, p.Name)
		for _, word := range slices.Concat(p.Aliases, p.Domains) {
			consider(word, p.Name)
		}
		for _, variant := range p.VariantNames() {
			consider(variant, variant)
		}
	}
	var found []candidate
	for name, far := range best {
		found = append(found, candidate{name, far})
	}
	slices.SortFunc(found, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.far, b.far), cmp.Compare(a.name, b.name)) })
	var names []string
	for _, c := range found[:min(len(found), 3)] {
		names = append(names, c.name)
	}
	return names
}

// like returns how far s is from word, and whether it may be meant by it: a few letters apart, or one within the other.
func like(s, word string) (far int, ok bool) {
	if len(s) > 64 {
		return 0, false
	}
	most := 1
	if len(word) > 3 {
		most = max(2, len(word)/3)
	}
	if d := distance(s, word); d <= most && 2*d < len(s) {
		return d, true
	}
	if len(s) >= 3 && strings.Contains(word, s) || len(word) >= 4 && strings.Contains(s, word) {
		return 10 + max(len(s), len(word)) - min(len(s), len(word)), true
	}
	return 0, false
}

// distance counts the letters to insert, delete or replace to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
