package oauth

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/oauth2"
)

// GrantError is the provider's refusal to give a token, or that there is nothing to ask for one with. Asking again does
// not help; Advice says what does.
type GrantError struct {
	// Code is the error of RFC 6749 section 5.2, such as "invalid_grant", and Detail the provider's own, "AADSTS7000222".
	// Both are empty when no provider was asked.
	Code, Detail string
	// Words are the provider's, on one line and without secrets.
	Words string
	// Advice says what to do.
	Advice string
}

func (e *GrantError) Error() string {
	var parts []string
	if name := strings.TrimSpace(e.Code + " " + e.Detail); name != "" {
		parts = append(parts, name)
	}
	if e.Words != "" {
		parts = append(parts, e.Words)
	}
	said := strings.Join(parts, ": ")
	if said == "" {
		return e.Advice
	}
	return e.Advice + " (the provider said " + said + ")"
}

// EndpointError is that the provider could not be asked, or gave an answer that is none. Asking again later helps, as a
// rule.
type EndpointError struct {
	// Host is the endpoint's, without the path, and Words what is wrong with it.
	Host, Words string
	err         error
}

func (e *EndpointError) Error() string {
	return "the token endpoint at " + e.Host + " cannot be used now: " + e.Words
}

// Unwrap returns what the request came to, if it had no answer.
func (e *EndpointError) Unwrap() error { return e.err }

// Unavailable tells this error from a refusal, for those who do not know this package.
func (e *EndpointError) Unavailable() bool { return true }

// answer is an error response (RFC 6749 section 5.2).
type answer struct {
	status            int
	Code, Description string
}

// translate makes an error of x/oauth2's one of this package's.
func (a *Account) translate(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	endpoint := hostOf(a.TokenURL)
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		words := err.Error()
		if u, ok := errors.AsType[*url.Error](err); ok {
			words = u.Err.Error()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			words = "it did not answer in time"
		}
		return &EndpointError{Host: endpoint, Words: a.tidy(words, secrets), err: err}
	}
	got := readAnswer(refused)
	if words := got.unavailable(); words != "" {
		return &EndpointError{Host: endpoint, Words: a.tidy(words, secrets)}
	}
	words := a.tidy(got.Description, secrets)
	e := &GrantError{Code: a.tidy(got.Code, secrets), Words: words}
	if m := aadsts.FindString(got.Description); m != "" {
		e.Detail, e.Words = m, strings.TrimSpace(strings.TrimPrefix(words, m+":"))
	}
	e.Advice = a.advice(got.Code, e.Detail, got.Description)
	return e
}

func readAnswer(e *oauth2.RetrieveError) answer {
	got := answer{Code: e.ErrorCode, Description: e.ErrorDescription}
	if e.Response != nil {
		got.status = e.Response.StatusCode
	}
	if got.Code == "" {
		var body struct {
			Error       any    `json:"error"` // Google's APIs have an object here
			Description string `json:"error_description"`
		}
		if json.Unmarshal(e.Body, &body) == nil {
			got.Code, _ = body.Error.(string)
			got.Description = body.Description
		}
	}
	return got
}

// aadsts is the form of Entra's own error codes.
var aadsts = regexp.MustCompile(`AADSTS\d+`)

// passing are Entra's codes that it says to try again after.
var passing = []string{"AADSTS50196", "AADSTS90006", "AADSTS90033", "AADSTS90055", "AADSTS900023"}

// unavailable returns in words why the answer is none, or "" when it is a refusal.
func (r answer) unavailable() string {
	switch {
	case r.Code == "temporarily_unavailable", r.Code == "server_error", r.Code == "slow_down",
		slices.Contains(passing, aadsts.FindString(r.Description)):
		return "it says " + r.Code + ", " + cmp.Or(r.Description, "without a reason")
	case r.status >= 500, r.status == http.StatusTooManyRequests, r.status == http.StatusRequestTimeout:
		return "it answers " + http.StatusText(r.status) + " (HTTP " + strconv.Itoa(r.status) + ")"
	case r.Code == "":
		return "it answers HTTP " + strconv.Itoa(r.status) + " without saying why; check token_url, and whether a proxy is in the way"
	}
	return ""
}

// tidy makes a provider's words fit to be shown: one line, bounded, without what would only help the provider, and
// without any secret that they repeat.
func (a *Account) tidy(s string, secrets []string) string {
	for _, secret := range append(secrets, a.ClientSecret) {
		for _, form := range forms(secret) {
			s = strings.ReplaceAll(s, form, "[secret]")
		}
	}
	s = signed.ReplaceAllString(s, "[secret]")
	s, _, _ = strings.Cut(s, " Trace ID:")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > 400 {
		s = string(runes[:400]) + "…"
	}
	return s
}

// signed are JWTs, as assertions and many access tokens are, and their base64.
var signed = regexp.MustCompile(`(eyJ|ZXlK)[A-Za-z0-9_+/=.-]{20,}`)

// forms are the ways in which a provider could repeat a secret: as it is, as URLs have it, and in base64, wherever it
// stands in what was encoded. One of a few letters may be part of any word.
func forms(secret string) []string {
	if len(secret) <= 3 {
		return nil
	}
	all := []string{secret, url.QueryEscape(secret), url.PathEscape(secret)}
	for _, behind := range []int{1, 2, 0} { // octets before it, in a group of three
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, behind), secret...))
		text = text[[]int{0, 2, 3}[behind] : len(text)-1] // but for the digits in which others have a part
		all = append(all, text, strings.NewReplacer("+", "-", "/", "_").Replace(text))
	}
	return all
}

func hostOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" {
		return "(unknown)"
	}
	return u.Host
}
