package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"relayd/queue"
	"relayd/smarthost"
)

// MaxPage is the most entries that one page of the queue holds, and the size of a page when none is asked for. A page of
// messages to many recipients holds fewer.
const MaxPage = 1000

// Page is a part of the queue, in order of ids.
type Page struct {
	Entries []queue.Entry `json:"entries"`
	// Next is what to ask for with after to get the following page; empty on the last one.
	Next string `json:"next,omitempty"`
}

// Request asks for an action on the messages named, or on all of the queue.
type Request struct {
	Action queue.Action `json:"action"`
	IDs    []string     `json:"ids,omitempty"`
	All    bool         `json:"all,omitempty"`
}

// Result is what an action came to. Done says to how many messages it was done, and IDs to which; IDs are left out for an
// action on all. Asked are those that are being delivered: it is done when that attempt has ended, unless the message has
// left the queue by then.
type Result struct {
	Action queue.Action `json:"action"`
	Done   int          `json:"done"`
	IDs    []string     `json:"ids,omitempty"`
	Asked  []string     `json:"asked,omitempty"`
}

// Status is the daemon's state as an operator sees it.
type Status struct {
	// Running is false when no daemon answered and the rest was read from its store.
	Running  bool         `json:"running"`
	Version  string       `json:"version,omitempty"`
	Hostname string       `json:"hostname,omitempty"`
	Started  time.Time    `json:"started,omitzero"`
	Queue    queue.Counts `json:"queue"`
	// Undeliverable are the ids of the reports that Queue.Unreported counts, oldest first.
	Undeliverable []string `json:"undeliverable,omitempty"`
	// OldestAge is the age of the oldest message in seconds; 0 when the queue is empty.
	OldestAge int64 `json:"oldest_age_seconds"`
	// Traffic is what has gone through since the start; nil when no daemon answered.
	Traffic *queue.Traffic          `json:"traffic,omitempty"`
	Routes  []smarthost.RouteStatus `json:"routes"`
	// Paused says why the relay as a whole takes no mail or hands none on; empty while it does.
	Paused []string `json:"paused"`
	// Late says which parts of this status could not be had in time and are older, such as while the disk hangs.
	Late []string `json:"late,omitempty"`
	// OAuth are the accounts that log in with OAuth2 tokens.
	OAuth []OAuthStatus `json:"oauth,omitempty"`
	// Problems are what needs somebody's attention, in words: Paused, what is wrong with the routes, damaged messages, and
	// that no daemon is running.
	Problems []string `json:"problems"`
}

// OAuthStatus is how an account that logs in with OAuth2 tokens is doing. It holds no token and no secret.
type OAuthStatus struct {
	Route    string `json:"route"`
	Username string `json:"username"`
	Flow     string `json:"flow"`
	// TokenExpires is when the present access token ends, which is renewed before; zero without one.
	TokenExpires time.Time `json:"token_expires,omitzero"`
	// SecretExpires is when the client's secret or certificate ends; zero when that is not known.
	SecretExpires time.Time `json:"secret_expires,omitzero"`
	// Problem says what is wrong and what to do, and Since when it began; empty while all is well. Refused tells that a
	// person must act; otherwise the token endpoint is away and is asked again.
	Problem string    `json:"problem,omitempty"`
	Refused bool      `json:"refused,omitempty"`
	Since   time.Time `json:"since,omitzero"`
}

// SecretEndsSoon is how long before its end a client's secret is a problem.
const SecretEndsSoon = 30 * 24 * time.Hour

// SecretProblem says that the client's secret has ended or does so soon, or "".
func (o OAuthStatus) SecretProblem(now time.Time) string {
	const do = "; make a new one at the provider, put it into its file, and reload relayd"
	day := o.SecretExpires.UTC().Format(time.DateOnly)
	switch {
	case o.SecretExpires.IsZero() || o.SecretExpires.Sub(now) > SecretEndsSoon:
		return ""
	case o.SecretExpires.After(now):
		return "the client's secret or certificate ends on " + day + do
	}
	return "the client's secret or certificate has ended on " + day + do
}

// Judge fills in what follows from the rest of s: OldestAge, Problems, and empty lists in place of none.
func (s *Status) Judge(now time.Time) {
	s.OldestAge, s.Problems = 0, []string{}
	if !s.Queue.Oldest.IsZero() {
		s.OldestAge = max(0, int64(now.Sub(s.Queue.Oldest).Seconds()))
	}
	if s.Routes == nil {
		s.Routes = []smarthost.RouteStatus{}
	}
	if s.Paused == nil {
		s.Paused = []string{}
	}
	if !s.Running {
		s.Problems = append(s.Problems, "relayd is not running: no mail is taken or handed on")
	}
	s.Problems = append(append(append(s.Problems, s.Paused...), s.Late...), routeProblems(s.Routes)...)
	s.Problems = append(s.Problems, oauthProblems(s.OAuth, s.Problems, now)...)
	if n := s.Queue.Quarantined; n > 0 {
		s.Problems = append(s.Problems, fmt.Sprintf(`messages in quarantine: %d. They are damaged and not delivered. See "relayctl queue list `+
			`--state quarantined", then "relayctl queue delete ID", or "release ID" once the content is back`, n))
	}
	if n := s.Queue.Unreported; n > 0 {
		s.Problems = append(s.Problems, fmt.Sprintf("undeliverable reports: %d. Nobody was told that mail has failed. Read them with "+
			"relayctl queue show, then release or delete them: %s. Set postmaster to get such reports", n, firstIDs(s.Undeliverable)))
	}
}

// firstIDs joins the first of ids.
func firstIDs(ids []string) string {
	const most = 10
	if len(ids) <= most {
		return strings.Join(ids, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(ids[:most], " "), len(ids)-most)
}

// oauthProblems says which accounts have no token to log in with, and which secrets end. What a host's trouble has told
// already, as a refused login, is not told again; an endpoint that is away while a token lives concerns nobody.
func oauthProblems(accounts []OAuthStatus, told []string, now time.Time) []string {
	var problems []string
	for _, a := range accounts {
		known := slices.ContainsFunc(told, func(p string) bool { return strings.Contains(p, a.Problem) })
		if a.Problem != "" && !known && (a.Refused || a.TokenExpires.IsZero()) {
			problems = append(problems, fmt.Sprintf("route %q: %s", a.Route, a.Problem))
		}
		if words := a.SecretProblem(now); words != "" {
			problems = append(problems, fmt.Sprintf("route %q: %s", a.Route, words))
		}
	}
	return problems
}

// routeProblems says what an operator has to look at: each host whose login is refused or whose TLS fails, since
// neither heals by itself, and each route none of whose hosts can be used, with the reason for each. A host that is down
// while another of its route works is what the list of hosts is for.
func routeProblems(routes []smarthost.RouteStatus) []string {
	var problems []string
	for _, r := range routes {
		usable := slices.ContainsFunc(r.Hosts, Usable)
		if !usable && len(r.Hosts) > 1 {
			problems = append(problems, fmt.Sprintf("route %q: none of its hosts can be used, its mail waits", r.Name))
		}
		for _, h := range r.Hosts {
			if trouble := hostTrouble(h.State); trouble != "" && (!usable || !passing(h.State)) {
				problems = append(problems, fmt.Sprintf("route %q: %s %s: %s", r.Name, h.Address, trouble, Why(h)))
			}
		}
	}
	return problems
}

// hostTrouble says in words what state a host is in, or "" when it can be used as far as is known.
func hostTrouble(state smarthost.State) string {
	switch state {
	case smarthost.StateLoginRefused:
		return "refuses the login"
	case smarthost.StateTLSFailed:
		return "fails at TLS"
	case smarthost.StateDown:
		return "is down"
	case smarthost.StateThrottled:
		return "takes no more for now"
	case smarthost.StateRefused:
		return "wants no mail from this account or line"
	case smarthost.StateLooping:
		return "is this relay itself"
	}
	return ""
}

// Usable reports whether a host can be used as far as is known.
func Usable(h smarthost.HostStatus) bool { return hostTrouble(h.State) == "" }

// HostStates returns every state that a host may be in.
func HostStates() []smarthost.State { return smarthost.States() }

// passing reports whether a host's trouble may end by itself, so that it concerns nobody while another host works.
func passing(state smarthost.State) bool {
	return state == smarthost.StateDown || state == smarthost.StateThrottled
}

// Why returns the host's trouble in words that follow its address, or failing these the peer's words.
func Why(h smarthost.HostStatus) string {
	switch {
	case h.Problem != "":
		return strings.TrimPrefix(h.Problem, h.Address+" ")
	case h.LastReply != "":
		return h.LastReply
	}
	return "no reason is known"
}

// errorBody is what travels with every status code but 200.
type errorBody struct {
	Error string   `json:"error"`
	IDs   []string `json:"ids,omitempty"`
}
