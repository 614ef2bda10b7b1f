package config

import (
	"cmp"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// OAuth2 is the [smarthost.oauth2] table: how tokens for the smarthost's account are had.
type OAuth2 struct {
	Provider     string // "microsoft", "google" or "", for the endpoints and for advice
	Flow         string // "client_credentials", "device", "refresh_token" or "service_account"
	ClientID     string
	ClientSecret Secret
	// SecretSource is where secret, certificate or key come from, in words for people; empty when there is none.
	SecretSource string
	// Certificate (DER) and Key sign in place of a secret.
	Certificate []byte
	Key         *rsa.PrivateKey `json:"-"`
	// ServiceEmail, ServiceKeyID and ServiceKey (PEM) are those of a service account.
	ServiceEmail, ServiceKeyID   string
	ServiceKey                   Secret
	TokenURL, DeviceURL, AuthURL string // the last two may be empty where the flow has no use for them
	Scopes                       []string
	SecretExpires                time.Time // of the secret or the certificate; zero when that is not known
}

const (
	microsoft = "microsoft"
	google    = "google"
	// expiresSoon is how long before its end a secret is warned of.
	expiresSoon = 30 * 24 * time.Hour
)

var flows = []string{"client_credentials", "device", "refresh_token", "service_account"}

// readOAuth2 returns the table with what its hosts' provider lets go without saying.
func readOAuth2(t *table, hosts []string) *OAuth2 {
	o := &OAuth2{TokenURL: t.endpoint("token_url"), DeviceURL: t.endpoint("device_url"), AuthURL: t.endpoint("auth_url")}
	o.ClientID, _ = t.text("client_id")
	tenant := t.tenant()
	if t.has("flow") {
		o.Flow = t.choice("flow", flows...)
	}
	o.ClientSecret, o.SecretSource = t.secret("client_secret", "secret")
	o.SecretExpires = t.day("secret_expires")
	t.signingCertificate(o)
	t.serviceAccount(o)
	for _, e := range t.list("scopes", false) {
		o.Scopes = append(o.Scopes, e.text)
	}
	personal := false
	o.Provider, personal = providerOf(hosts, tenant)
	t.impliedFlow(o)
	o.imply(tenant, personal, cloudOf(hosts))
	t.checkFlow(o, tenant)
	t.warnOfExpiry(o)
	return o
}

// KnownTokens returns whose tokens hosts take, "microsoft" or "google", of which endpoints and scopes need not be
// configured, and whether the accounts are people's own; "" for all others. A port may be missing.
func KnownTokens(hosts []string) (provider string, personal bool) {
	full := make([]string, len(hosts))
	for i, h := range hosts {
		full[i] = h
		if _, _, err := net.SplitHostPort(h); err != nil {
			full[i] = net.JoinHostPort(h, "0")
		}
	}
	return providerOf(full, "")
}

// providerOf returns whose hosts these are, and whether they are for people's own accounts rather than an organisation's.
func providerOf(hosts []string, tenant string) (provider string, personal bool) {
	if tenant != "" {
		return microsoft, false
	}
	for _, h := range hosts {
		name, _, _ := net.SplitHostPort(h)
		name = "." + strings.ToLower(strings.TrimSuffix(name, "."))
		under := func(domains ...string) bool {
			return slices.ContainsFunc(domains, func(d string) bool { return strings.HasSuffix(name, "."+d) })
		}
		switch {
		case under("office365.com", "smtp.outlook.com"), cloudOf([]string{h}) != worldwide:
			return microsoft, false
		case under("smtp-mail.outlook.com", "hotmail.com", "live.com"):
			return microsoft, true
		case under("gmail.com", "googlemail.com", "google.com"):
			return google, false
		}
	}
	return "", false
}

// cloud is one of Microsoft's clouds: where it gives out tokens, and the names of its mail service in the scopes of an
// application and of a person.
type cloud struct{ login, application, person string }

var (
	worldwide = cloud{"login.microsoftonline.com", "outlook.office365.com", "outlook.office.com"}
	clouds    = []struct {
		domain string
		cloud
	}{
		{"outlook-dod.office365.us", cloud{"login.microsoftonline.us", "outlook-dod.office365.us", "outlook-dod.office365.us"}},
		{"office365.us", cloud{"login.microsoftonline.us", "outlook.office365.us", "outlook.office365.us"}},
		{"partner.outlook.cn", cloud{"login.partner.microsoftonline.cn", "partner.outlook.cn", "partner.outlook.cn"}},
	}
)

// cloudOf returns the cloud of hosts, each "host:port". Hosts of no other cloud are taken for the worldwide one's.
func cloudOf(hosts []string) cloud {
	for _, h := range hosts {
		name, _, _ := net.SplitHostPort(h)
		name = "." + strings.ToLower(strings.TrimSuffix(name, "."))
		for _, c := range clouds {
			if strings.HasSuffix(name, "."+c.domain) {
				return c.cloud
			}
		}
	}
	return worldwide
}

// impliedFlow fills in the flow where what is given leaves one sensible choice.
func (t *table) impliedFlow(o *OAuth2) {
	if t.has("flow") {
		return
	}
	secret := o.ClientSecret != "" || o.Certificate != nil
	switch {
	case t.has("service_account_file"):
		o.Flow = "service_account"
	case o.Provider == google:
		o.Flow = "refresh_token"
	case o.Provider == microsoft && secret:
		o.Flow = "client_credentials"
	case o.Provider == microsoft:
		o.Flow = "device"
	default:
		t.bad("flow", "is missing", `write flow = "client_credentials" for an application's own login, or "device" or `+
			`"refresh_token" for a person's, which relayctl oauth login asks for`)
	}
}

// imply fills in the endpoints and scopes of the known providers.
func (o *OAuth2) imply(tenant string, personal bool, c cloud) {
	switch o.Provider {
	case microsoft:
		if tenant == "" {
			tenant = "organizations"
			if personal {
				tenant = "consumers"
			}
		}
		at := "https://" + c.login + "/" + tenant + "/oauth2/v2.0/"
		o.TokenURL, o.DeviceURL = cmp.Or(o.TokenURL, at+"token"), cmp.Or(o.DeviceURL, at+"devicecode")
		o.AuthURL = cmp.Or(o.AuthURL, at+"authorize")
		if o.Scopes == nil && o.Flow == "client_credentials" {
			o.Scopes = []string{"https://" + c.application + "/.default"}
		} else if o.Scopes == nil {
			o.Scopes = []string{"https://" + c.person + "/SMTP.Send", "offline_access"}
		}
	case google:
		o.TokenURL = cmp.Or(o.TokenURL, "https://oauth2.googleapis.com/token")
		o.AuthURL = cmp.Or(o.AuthURL, "https://accounts.google.com/o/oauth2/v2/auth")
		if o.Scopes == nil {
			o.Scopes = []string{"https://mail.google.com/"}
		}
	}
}

// checkFlow reports what the flow lacks, and what it has no use for.
func (t *table) checkFlow(o *OAuth2, tenant string) {
	if o.Flow == "" {
		return
	}
	secret := slices.ContainsFunc([]string{"client_secret", "client_secret_file", "client_secret_env"}, t.has)
	certificate := t.has("cert_file") || t.has("key_file")
	flow := `flow = "` + o.Flow + `"`
	need := func(key string, missing bool) {
		if missing && !t.has(key) {
			t.bad(key, "is missing, and "+flow+" needs it", t.exampleOf(key))
		}
	}
	useless := func(keys ...string) {
		for _, key := range keys {
			if t.has(key) {
				t.bad(key, "has no effect with "+flow, "delete this line, or choose another flow")
			}
		}
	}
	need("token_url", o.TokenURL == "")
	if o.Flow == "service_account" {
		need("service_account_file", true)
		useless("client_secret", "client_secret_file", "client_secret_env", "cert_file", "key_file")
		return
	}
	need("client_id", true)
	useless("service_account_file")
	switch o.Flow {
	case "client_credentials":
		if !secret && !certificate {
			t.bad("client_secret_file", "is missing, and "+flow+" needs a secret or a certificate",
				"write "+t.form("client_secret_file")+", or cert_file and key_file")
		}
		if secret && certificate {
			t.bad("cert_file", "a secret is given, too", "keep one of them")
		}
		if o.Provider == microsoft && tenant == "" && !t.has("token_url") {
			t.bad("tenant_id", "is missing: an application logs in to one tenant", t.exampleOf("tenant_id"))
		}
		return
	case "device":
		need("device_url", o.DeviceURL == "" && o.Provider != google)
	case "refresh_token":
		need("auth_url", o.AuthURL == "")
	}
	useless("cert_file", "key_file")
}

// tenant returns tenant_id, which becomes a part of URLs.
func (t *table) tenant() string {
	const key = "tenant_id"
	s, _ := t.text(key)
	if strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
		t.bad(key, "is neither a tenant's ID nor one of its domains", t.exampleOf(key))
		return ""
	}
	return s
}

// endpoint returns a URL to which secrets may be sent; "" when there is none.
func (t *table) endpoint(key string) string {
	s, ok := t.text(key)
	if !ok {
		return ""
	}
	if problem := badEndpoint(s); problem != "" {
		t.bad(key, problem, t.exampleOf(key))
		return ""
	}
	return s
}

func badEndpoint(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return "is not a URL"
	case u.User != nil || u.Fragment != "":
		return "holds a user or a fragment" // maybe a password
	case u.Scheme == "http" && isLoopbackName(u.Hostname()), u.Scheme == "https":
		return ""
	}
	return "must begin with https://, since secrets go there (http:// is for this machine's own loopback address)"
}

func isLoopbackName(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback() || host == "localhost"
}

// day returns a date as its beginning in UTC; the zero time when there is none.
func (t *table) day(key string) time.Time {
	s, ok := t.text(key)
	if !ok {
		return time.Time{}
	}
	day, err := time.Parse(time.DateOnly, s)
	if err != nil {
		t.bad(key, fmt.Sprintf("%q is not a date", s), t.exampleOf(key)+", year, month, day")
	}
	return day
}

// signingCertificate reads the certificate that the application signs with, and its key.
func (t *table) signingCertificate(o *OAuth2) {
	certFile, keyFile := "", ""
	if t.has("cert_file") {
		certFile = t.path("cert_file")
	}
	if t.has("key_file") {
		keyFile = t.path("key_file")
	}
	switch {
	case t.has("cert_file") != t.has("key_file"):
		alone := "cert_file"
		if t.has("key_file") {
			alone = "key_file"
		}
		t.bad(alone, "stands alone", "name the certificate and its key, both PEM, as cert_file and key_file")
		return
	case certFile == "" || keyFile == "":
		return
	}
	chain, _, okChain := t.readFile("cert_file", certFile)
	key, mode, okKey := t.readFile("key_file", keyFile)
	if okKey {
		t.checkMode("key_file", keyFile, mode)
	}
	if !okChain || !okKey {
		return
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.bad("cert_file", fmt.Sprintf("%s and %s do not make a certificate: %s", certFile, keyFile, strings.TrimPrefix(err.Error(), "tls: ")),
			"name the PEM files of one certificate and its key")
		return
	}
	private, ok := pair.PrivateKey.(*rsa.PrivateKey)
	if !ok {
		t.bad("key_file", keyFile+" is not an RSA key, which providers want here", "make a certificate with an RSA key of 2048 bits or more")
		return
	}
	o.Certificate, o.Key, o.SecretSource = pair.Certificate[0], private, "cert_file "+certFile
	if o.SecretExpires.IsZero() || pair.Leaf.NotAfter.Before(o.SecretExpires) {
		o.SecretExpires = pair.Leaf.NotAfter
	}
}

// serviceAccount reads the key of a Google service account, as its console hands it out.
func (t *table) serviceAccount(o *OAuth2) {
	const key = "service_account_file"
	path := t.path(key)
	if path == "" {
		return
	}
	data, mode, ok := t.readFile(key, path)
	if !ok {
		return
	}
	t.checkMode(key, path, mode)
	var account struct {
		Type         string `json:"type"`
		Email        string `json:"client_email"`
		KeyID        string `json:"private_key_id"`
		Key          string `json:"private_key"`
		TokenURI     string `json:"token_uri"`
		ClientNumber string `json:"client_id"`
	}
	remedy := "name the JSON file that the Google Cloud console gives for a new key of the service account"
	if json.Unmarshal(data, &account) != nil || account.Type != "service_account" || account.Email == "" || !isRSAKey(account.Key) {
		t.bad(key, path+" is not the key of a service account", remedy)
		return
	}
	if account.TokenURI != "" && badEndpoint(account.TokenURI) != "" {
		t.bad(key, "token_uri in "+path+" "+badEndpoint(account.TokenURI), remedy)
		return
	}
	o.ServiceEmail, o.ServiceKeyID, o.ServiceKey, o.SecretSource = account.Email, account.KeyID, Secret(account.Key), key+" "+path
	o.TokenURL = cmp.Or(o.TokenURL, account.TokenURI)
	if !t.has("client_id") {
		o.ClientID = account.ClientNumber
	}
}

func isRSAKey(text string) bool {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return false
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		_, ok := key.(*rsa.PrivateKey)
		return ok
	}
	_, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	return err == nil
}

// warnOfExpiry warns of a secret that is about to end, after which no mail goes out.
func (t *table) warnOfExpiry(o *OAuth2) {
	key := "secret_expires"
	if !t.has(key) {
		key = "cert_file"
	}
	day := o.SecretExpires.UTC().Format(time.DateOnly)
	const remedy = "make a new one at the provider, put it into its file, and reload relayd; mail waits when the old one has ended"
	switch now := time.Now(); {
	case o.SecretExpires.IsZero():
	case now.After(o.SecretExpires):
		t.caution(key, "the client's secret or certificate has ended on "+day, remedy)
	case now.Add(expiresSoon).After(o.SecretExpires):
		t.caution(key, "the client's secret or certificate ends on "+day, remedy)
	}
}

// checkTokenLogin holds the smarthost's other keys against [smarthost.oauth2].
func (t *table) checkTokenLogin(s *Smarthost) {
	if !t.has("username") {
		t.bad("oauth2", "there is no username for it", `add username = "me@isp.example", the mailbox that mail is sent as`)
	}
	for _, key := range []string{"password", "password_file", "password_env"} {
		if t.has(key) {
			t.bad(key, "has no effect with [smarthost.oauth2], whose tokens take its place", "delete this line, or that table")
		}
	}
	switch s.Auth {
	case "scram-sha-256", "plain", "login", "cram-md5":
		t.bad("auth", fmt.Sprintf("%q is a login with a password, and [smarthost.oauth2] gives tokens", s.Auth),
			`delete the line, or write "xoauth2" or "oauthbearer"`)
	case "off":
		t.bad("oauth2", `has no effect with auth = "off"`, "delete this table, or the line with auth")
	}
	if s.TLS == "off" && s.Auth != "off" {
		t.bad("tls", `"off" would send the token in the clear, which relayd never does`, `set tls = "starttls" or "implicit"`)
	}
}

// describeOAuth2 is the login's line of Describe.
func describeOAuth2(p func(string, ...any), s Smarthost) {
	o := s.OAuth2
	how := "with XOAUTH2 or OAUTHBEARER"
	if s.Auth != "auto" {
		how = "with " + strings.ToUpper(s.Auth)
	}
	from := o.TokenURL
	if u, err := url.Parse(o.TokenURL); err == nil {
		from = u.Host
	}
	p("     login   as %s %s, after TLS; tokens from %s by %s", s.Username, how, from, strings.ReplaceAll(o.Flow, "_", " "))
	if o.SecretSource != "" {
		p("             %s", o.SecretSource)
	}
	if !o.SecretExpires.IsZero() {
		p("             which ends on %s", o.SecretExpires.UTC().Format(time.DateOnly))
	}
	if o.Flow == "device" || o.Flow == "refresh_token" {
		p("             a person logs in once: relayctl oauth login %s", s.Name)
	}
}
