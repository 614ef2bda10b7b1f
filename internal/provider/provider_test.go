package provider

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

func TestFile_IsSortedAndNamesAreUnique(t *testing.T) {
	names := map[string]string{}
	last := ""
	for _, p := range All() {
		if p.Name <= last {
			t.Errorf("%s stands after %s", p.Name, last)
		}
		last = p.Name
		for _, name := range slices.Concat([]string{p.Name}, p.Aliases, p.VariantNames()) {
			if other, taken := names[name]; taken {
				t.Errorf("%s is a name of %s and of %s", name, other, p.Name)
			}
			names[name] = p.Name
		}
	}
	if len(names) < 100 {
		t.Errorf("only %d names", len(names))
	}
}

func TestFile_HasNoKeyThatNothingReads(t *testing.T) {
	var doc struct {
		Provider []Provider `toml:"provider"`
	}
	meta, err := toml.Decode(file, &doc)
	if err != nil {
		t.Fatal(err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		t.Errorf("unknown keys: %v", unknown)
	}
}

var (
	nameForm   = regexp.MustCompile(`^[a-z0-9]+([.-][a-z0-9]+)*$`)
	rateForm   = regexp.MustCompile(`^[1-9][0-9]*/(s|min|h|d)$`)
	sizeForm   = regexp.MustCompile(`^[1-9][0-9]*(KB|KiB|MB|MiB)$`)
	domainForm = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+$`)
)

// problems returns what is wrong with the form of a row.
func problems(p Provider, today time.Time) []string {
	var wrong []string
	want := func(ok bool, what string) {
		if !ok {
			wrong = append(wrong, what)
		}
	}
	for _, name := range slices.Concat([]string{p.Name}, p.Aliases) {
		want(nameForm.MatchString(name), "name "+name)
	}
	want(p.Title != "" && !strings.HasSuffix(p.Title, "."), "title")
	for _, domain := range p.Domains {
		name := strings.TrimPrefix(strings.TrimSuffix(domain, ".*")+".de", "*.")
		if !strings.HasSuffix(domain, ".*") {
			name = strings.TrimPrefix(domain, "*.")
		}
		want(domainForm.MatchString(name), "domain "+domain)
	}
	want(len(p.Hosts) > 0 || len(p.Variants) > 0, "neither hosts nor variants")
	want(slices.Contains([]string{"starttls", "implicit"}, p.TLS), "tls "+p.TLS)
	want(slices.Contains([]string{"auto", "plain", "login"}, p.Auth), "auth "+p.Auth)
	hosts := slices.Clone(p.Hosts)
	for variant, more := range p.Variants {
		want(nameForm.MatchString(variant) && len(more) > 0, "variant "+variant)
		hosts = append(hosts, more...)
	}
	for _, h := range hosts {
		want(goodHost(h, p.TLS), "host "+h)
	}
	wrong = append(wrong, loginProblems(p)...)
	want(p.Rate == "" || rateForm.MatchString(p.Rate), "rate "+p.Rate)
	want(p.MaxSize == "" || sizeForm.MatchString(p.MaxSize), "max_size "+p.MaxSize)
	want(p.DailyRecipients >= 0 && p.MaxRecipients >= 0 && p.MaxConnections >= 0, "a limit below 0")
	want(slices.Contains([]string{"provider", "client database", "third party"}, p.Basis), "basis "+p.Basis)
	want(len(p.Sources) > 0, "sources")
	for _, s := range p.Sources {
		u, err := url.Parse(s)
		want(err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "", "source "+s)
	}
	day, err := time.Parse(time.DateOnly, p.LookedUp)
	want(err == nil && !day.After(today), "looked_up "+p.LookedUp)
	for _, text := range []string{p.Title, p.Notes, p.UsernameHint, p.PasswordHint} {
		want(text == strings.TrimSpace(text) && !strings.ContainsAny(text, "\n\t"), "text "+text)
	}
	return wrong
}

func loginProblems(p Provider) []string {
	var wrong []string
	want := func(ok bool, what string) {
		if !ok {
			wrong = append(wrong, what)
		}
	}
	want(slices.Contains([]string{UsernameAddress, UsernameLocal, UsernameFixed, UsernameGiven}, p.Username), "username "+p.Username)
	want((p.Username == UsernameFixed) == (p.UsernameIs != ""), "username_is")
	want(p.Username == UsernameAddress || p.UsernameHint != "", "no username_hint")
	want(slices.Contains([]string{PasswordOwn, PasswordApp, PasswordKey, PasswordNone}, p.Password), "password "+p.Password)
	want(p.Password != PasswordNone || p.OAuth2, "no way to log in")
	want(p.PasswordHint != "", "no password_hint")
	return wrong
}

// goodHost reports whether h is a name, with a port only where tls does not imply it.
func goodHost(h, tls string) bool {
	name, port, err := net.SplitHostPort(h)
	if err != nil {
		name, port = h, ""
	}
	usual := map[string]string{"starttls": "587", "implicit": "465"}[tls]
	_, isAddress := netip.ParseAddr(name)
	return domainForm.MatchString(name) && isAddress != nil && port != usual
}

func TestFile_EveryRowHasItsForm(t *testing.T) {
	for _, p := range All() {
		for _, what := range problems(p, time.Now().Add(24*time.Hour)) {
			t.Errorf("%s: %s", p.Name, what)
		}
	}
}

func TestProblems_SeesEach(t *testing.T) {
	today := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	gmail, _ := Lookup("gmail")
	if wrong := problems(gmail, today); len(wrong) > 0 {
		t.Fatalf("gmail: %q", wrong)
	}
	for what, spoil := range map[string]func(*Provider){
		"name Gmail":                 func(p *Provider) { p.Name = "Gmail" },
		"title":                      func(p *Provider) { p.Title = "" },
		"neither hosts nor variants": func(p *Provider) { p.Hosts = nil },
		"host smtp.gmail.com:465":    func(p *Provider) { p.Hosts = []string{"smtp.gmail.com:465"} },
		"host 192.0.2.1":             func(p *Provider) { p.Hosts = []string{"192.0.2.1"} },
		"tls off":                    func(p *Provider) { p.TLS = "off" },
		"auth any":                   func(p *Provider) { p.Auth = "any" },
		"username_is":                func(p *Provider) { p.UsernameIs = "apikey" },
		"no username_hint":           func(p *Provider) { p.Username = UsernameLocal },
		"no way to log in":           func(p *Provider) { p.Password, p.OAuth2 = PasswordNone, false },
		"rate 30 a minute":           func(p *Provider) { p.Rate = "30 a minute" },
		"max_size 25":                func(p *Provider) { p.MaxSize = "25" },
		"a limit below 0":            func(p *Provider) { p.MaxRecipients = -1 },
		"basis hearsay":              func(p *Provider) { p.Basis = "hearsay" },
		"sources":                    func(p *Provider) { p.Sources = nil },
		"source gmail":               func(p *Provider) { p.Sources = []string{"gmail"} },
		"looked_up 2026-11-23":       func(p *Provider) { p.LookedUp = "2026-11-23" },
	} {
		p := gmail
		spoil(&p)
		if wrong := problems(p, today); !slices.Contains(wrong, what) {
			t.Errorf("%s is not seen: %q", what, wrong)
		}
	}
}

func TestLookup_NamesAliasesAndVariants(t *testing.T) {
	for _, tc := range []struct{ ask, name, host string }{
		{"gmail", "gmail", "smtp.gmail.com"},
		{"Gmail", "gmail", "smtp.gmail.com"},
		{"office365", "microsoft365", "smtp.office365.com"},
		{"mailgun", "mailgun", "smtp.mailgun.org"},
		{"mailgun-eu", "mailgun-eu", "smtp.eu.mailgun.org"},
		{"ses-eu-west-1", "ses-eu-west-1", "email-smtp.eu-west-1.amazonaws.com"},
		{"aws-eu-west-1", "ses-eu-west-1", "email-smtp.eu-west-1.amazonaws.com"},
		{"zoho-pro-eu", "zoho-pro-eu", "smtppro.zoho.eu"},
		{"ses", "ses", ""},
	} {
		p, ok := Lookup(tc.ask)
		if !ok || p.Name != tc.name || tc.host != "" && !slices.Equal(p.Hosts, []string{tc.host}) || tc.host == "" && len(p.Hosts) > 0 {
			t.Errorf("%s: %v %s %v", tc.ask, ok, p.Name, p.Hosts)
		}
	}
	for _, unknown := range []string{"", "gmal", "ses-moon", "mailgun-", "-eu"} {
		if p, ok := Lookup(unknown); ok {
			t.Errorf("%q is %s", unknown, p.Name)
		}
	}
	if p, _ := Lookup("ses-us-east-1"); len(p.Variants) > 0 {
		t.Errorf("a variant has variants: %v", p.Variants)
	}
}

func TestNames_AreThoseWithHosts(t *testing.T) {
	names := Names()
	for _, name := range names {
		if p, ok := Lookup(name); !ok || len(p.Hosts) == 0 || p.Name != name {
			t.Errorf("%s: %v %+v", name, ok, p)
		}
	}
	if slices.Contains(names, "ses") || !slices.Contains(names, "ses-us-east-1") || !slices.IsSorted(names) {
		t.Errorf("names: %q", names)
	}
}

func TestForAddress_ByTheDomain(t *testing.T) {
	for address, want := range map[string]string{
		"me@gmail.com": "gmail", "me@GoogleMail.com": "gmail", "a@b@web.de": "web.de", "me@sbcglobal.net": "att",
		"me@example.com": "", "gmail.com": "", "me@": "", "": "",
		// Names under those of countries, and all below one.
		"me@hotmail.de": "outlook", "me@hotmail.co.uk": "outlook", "me@live.com.au": "outlook", "me@OUTLOOK.fr": "outlook",
		"me@yahoo.com.br": "yahoo", "me@yahoo.es": "yahoo", "me@yahoo.co.jp": "yahoo-japan", "me@nc.rr.com": "roadrunner",
		"me@rr.com": "roadrunner", "me@cox.net": "cox", "me@aol.de": "aol",
		"me@yahoo.example": "", "me@yahoo.de.example": "", "me@myyahoo.de": "", "me@yahoo.co": "yahoo", "me@xrr.com": "", "me@yahoo.": "",
		// Free addresses that cannot use SMTP are not offered it.
		"me@proton.me": "", "me@protonmail.com": "", "me@pm.me": "",
	} {
		if p, ok := ForAddress(address); p.Name != want || ok != (want != "") {
			t.Errorf("%s: %q", address, p.Name)
		}
	}
}

func TestForAddress_NoDomainIsOfTwo(t *testing.T) {
	whose := map[string]string{}
	for _, p := range All() {
		for _, domain := range p.Domains {
			if other, taken := whose[domain]; taken {
				t.Errorf("%s is of %s and of %s", domain, other, p.Name)
			}
			whose[domain] = p.Name
		}
	}
}

func TestNearest_BestFirst(t *testing.T) {
	for ask, want := range map[string]string{
		"gmial": "gmail", "gmale": "gmail", "Gmail.com": "gmail", "microsoft": "microsoft365", "mailgun-us": "mailgun-eu",
		"office-365": "microsoft365", "tonline": "t-online", "ses-eu-west1": "ses-eu-west-1", "postmak": "postmark",
	} {
		if got := Nearest(ask); len(got) == 0 || got[0] != want || len(got) > 3 {
			t.Errorf("%s: %q, want %s first", ask, got, want)
		}
	}
	for _, ask := range []string{"", "q", "qqqqqqqq", strings.Repeat("gmail", 50)} {
		if got := Nearest(ask); len(got) > 0 {
			t.Errorf("%q: %q", ask, got)
		}
	}
}
