package control

import (
	"strings"
	"testing"
	"time"

	"relayd/smarthost"
)

func TestJudge_OAuth(t *testing.T) {
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	lives := now.Add(time.Hour)
	refusing := []smarthost.RouteStatus{{Name: "isp", Hosts: []smarthost.HostStatus{{Address: "h:587", State: smarthost.StateLoginRefused,
		Problem: "no OAuth2 token can be had for the login of me at h:587: the grant has ended. Mail waits"}}}}
	for name, c := range map[string]struct {
		account OAuthStatus
		routes  []smarthost.RouteStatus
		want    []string // a problem each
	}{
		"well":                  {OAuthStatus{TokenExpires: lives, SecretExpires: now.AddDate(0, 0, 31)}, nil, nil},
		"not asked yet":         {OAuthStatus{}, nil, nil},
		"a grant has ended":     {OAuthStatus{Problem: "the grant has ended", Refused: true}, nil, []string{`route "isp": the grant has ended`}},
		"before it shows":       {OAuthStatus{Problem: "the grant has ended", Refused: true, TokenExpires: lives}, nil, []string{"the grant has ended"}},
		"told by the host":      {OAuthStatus{Problem: "the grant has ended", Refused: true}, refusing, []string{"h:587 refuses the login"}},
		"away, a token lives":   {OAuthStatus{Problem: "no answer", TokenExpires: lives}, nil, nil},
		"away, none left":       {OAuthStatus{Problem: "no answer"}, nil, []string{"no answer"}},
		"a secret ends soon":    {OAuthStatus{TokenExpires: lives, SecretExpires: now.AddDate(0, 0, 30)}, nil, []string{"ends on 2026-12-31; make a new one"}},
		"a secret has ended":    {OAuthStatus{TokenExpires: lives, SecretExpires: now}, nil, []string{"has ended on 2026-12-01"}},
		"told by the host, and": {OAuthStatus{Problem: "the grant has ended", Refused: true, SecretExpires: now}, refusing, []string{"h:587", "has ended on"}},
	} {
		c.account.Route = "isp"
		s := Status{Running: true, OAuth: []OAuthStatus{c.account}, Routes: c.routes}
		s.Judge(now)
		if len(s.Problems) != len(c.want) {
			t.Errorf("%s: %q", name, s.Problems)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(s.Problems[i], want) {
				t.Errorf("%s: %q, want %q", name, s.Problems, want)
			}
		}
	}
}
