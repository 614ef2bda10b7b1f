package metrics

import (
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"relayd/internal/control"
)

// put adds a value to a family, with values for its labels.
type put func(value float64, labels ...string)

// family is what has one name: its help, its labels, and how its values are read from a status.
type family struct {
	kind   prometheus.ValueType
	name   string
	help   string
	labels []string
	read   func(control.Status, put)
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// families returns all that is shown. docs/metrics.md has a line for each.
func families() []family {
	return slices.Concat(queueFamilies(), trafficFamilies(), hostFamilies(), paceFamilies(), oauthFamilies())
}

func queueFamilies() []family {
	return []family{
		{gauge, "relayd_build_info", "1; the version of relayd, and of the Go that built it.", []string{"version", "goversion"},
			func(st control.Status, p put) { p(1, st.Version, runtime.Version()) }},
		{gauge, "relayd_problems", "What needs somebody's attention, as \"relayctl status\" lists it.", nil,
			func(st control.Status, p put) { p(float64(len(st.Problems))) }},
		{gauge, "relayd_queue_messages", "Messages in the queue: under way or next in line, waiting, or held by an operator.", []string{"state"},
			func(st control.Status, p put) {
				p(float64(st.Queue.Active), "active")
				p(float64(st.Queue.Deferred), "deferred")
				p(float64(st.Queue.Held), "held")
			}},
		{gauge, "relayd_queue_bytes", "Content of the messages in the queue.", nil,
			func(st control.Status, p put) { p(float64(st.Queue.Bytes)) }},
		{gauge, "relayd_queue_oldest_seconds", "Age of the oldest message in the queue, held ones too; 0 when it is empty.", nil,
			func(st control.Status, p put) { p(float64(st.OldestAge)) }},
		{gauge, "relayd_quarantined_messages", "Damaged messages that were set aside and are not delivered.", nil,
			func(st control.Status, p put) { p(float64(st.Queue.Quarantined)) }},
		{gauge, "relayd_undeliverable_reports", "Reports of failure that nobody got, and that wait for an operator.", nil,
			func(st control.Status, p put) { p(float64(st.Queue.Unreported)) }},
	}
}

func trafficFamilies() []family {
	return []family{
		{counter, "relayd_received_total", "Messages of clients that got their 250.", nil,
			func(st control.Status, p put) {
				if st.Traffic != nil {
					p(float64(st.Traffic.Received))
				}
			}},
		{counter, "relayd_delivered_total", "Recipients that a smarthost took; those of the relay's own reports count, too.", []string{"route"},
			perRoute(func(o outcomes) int64 { return o.delivered })},
		{counter, "relayd_deferred_total", "Attempts for a recipient that a smarthost refused for the time being.", []string{"route"},
			perRoute(func(o outcomes) int64 { return o.deferred })},
		{counter, "relayd_failed_total", "Recipients that a smarthost refused for good, or that were given up.", []string{"route"},
			perRoute(func(o outcomes) int64 { return o.failed })},
	}
}

// outcomes are the recipients of one route, by what became of them.
type outcomes struct{ delivered, deferred, failed int64 }

// perRoute puts what of says for each route, 0 for one that has settled nothing yet, so that its first failure is an
// increase that a rule can see.
func perRoute(of func(outcomes) int64) func(control.Status, put) {
	return func(st control.Status, p put) {
		if st.Traffic == nil {
			return
		}
		routes := make(map[string]outcomes)
		for _, r := range st.Routes {
			routes[r.Name] = outcomes{}
		}
		for _, r := range st.Traffic.Routes {
			routes[r.Route] = outcomes{r.Delivered, r.Deferred, r.Failed}
		}
		for _, name := range slices.Sorted(maps.Keys(routes)) {
			p(float64(of(routes[name])), name)
		}
	}
}

func hostFamilies() []family {
	return []family{
		{gauge, "relayd_host_up", "0 while a host of a route is left alone because it failed, else 1, also before it was tried.", []string{"route", "host"},
			func(st control.Status, p put) {
				for _, r := range st.Routes {
					for _, h := range r.Hosts {
						p(number(control.Usable(h)), r.Name, h.Address)
					}
				}
			}},
		{gauge, "relayd_host_state", "1 for the state that a host of a route is in, 0 for the others.", []string{"route", "host", "state"},
			func(st control.Status, p put) {
				for _, r := range st.Routes {
					for _, h := range r.Hosts {
						for _, state := range control.HostStates() {
							p(number(h.State == state), r.Name, h.Address, string(state))
						}
					}
				}
			}},
	}
}

func paceFamilies() []family {
	return []family{
		{gauge, "relayd_pace_used_recipients", "Recipients of the last 24 hours, of the account that the route uses; only where daily_recipients is set.", []string{"route"},
			perPace(func(r routePace, p put) {
				if r.limit > 0 {
					p(float64(r.used), r.route)
				}
			})},
		{gauge, "relayd_pace_limit_recipients", "How many the account may have in 24 hours; only where daily_recipients is set.", []string{"route"},
			perPace(func(r routePace, p put) {
				if r.limit > 0 {
					p(float64(r.limit), r.route)
				}
			})},
		{gauge, "relayd_pace_slowed", "1 while mail goes more slowly because the provider asked for less.", []string{"route"},
			perPace(func(r routePace, p put) { p(number(r.slowed), r.route) })},
		{gauge, "relayd_pace_waiting_messages", "Messages before the route that wait for nothing but its pace; they count as deferred, too.", []string{"route"},
			perPace(func(r routePace, p put) { p(float64(r.waiting), r.route) })},
	}
}

// routePace is the pace of one route.
type routePace struct {
	route       string
	used, limit int // recipients of the day
	slowed      bool
	waiting     int // messages
}

// perPace reads the pace of each route. One that the status has none of is neither limited nor slowed.
func perPace(read func(routePace, put)) func(control.Status, put) {
	return func(st control.Status, p put) {
		for _, r := range st.Routes {
			at := routePace{route: r.Name}
			if s := r.Pace; s != nil {
				at.used, at.limit, at.slowed, at.waiting = s.UsedToday, s.DailyRecipients, s.Slowed, s.Paced
			}
			read(at, p)
		}
	}
}

func oauthFamilies() []family {
	return []family{
		{gauge, "relayd_oauth_secret_expires_timestamp_seconds", "When the client's secret or certificate ends, where that is known.", []string{"smarthost"},
			perAccount(func(o control.OAuthStatus, p put) { p.at(o.SecretExpires, o.Route) })},
		{gauge, "relayd_oauth_token_expires_timestamp_seconds", "When the access token ends, which is renewed before; nothing without one.", []string{"smarthost"},
			perAccount(func(o control.OAuthStatus, p put) { p.at(o.TokenExpires, o.Route) })},
		{gauge, "relayd_oauth_refused", "1 while no token is given because a grant, client or secret is refused: a person must act.", []string{"smarthost"},
			perAccount(func(o control.OAuthStatus, p put) { p(number(o.Refused), o.Route) })},
	}
}

func perAccount(read func(control.OAuthStatus, put)) func(control.Status, put) {
	return func(st control.Status, p put) {
		for _, o := range st.OAuth {
			read(o, p)
		}
	}
}

// at puts a time in seconds since 1970, and nothing for the zero time.
func (p put) at(t time.Time, labels ...string) {
	if !t.IsZero() {
		p(float64(t.Unix()), labels...)
	}
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
