package smarthost

import (
	"net/netip"
	"reflect"
	"testing"

	"relayd/internal/envelope"
)

func newTestRouter(t *testing.T, o Options) *Router {
	t.Helper()
	if o.Hostname == "" {
		o.Hostname = "relay.example.com"
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLegs_FirstRouteWhoseConditionsAreMetTakesEachRecipient(t *testing.T) {
	hosts := []string{"127.0.0.1:25"}
	r := newTestRouter(t, Options{Routes: []Route{
		{Name: "lan", Hosts: hosts, Recipients: []string{"@Home.example", "boss@example.org"}, TLS: ModeOff},
		{Name: "printer", Hosts: hosts, Clients: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/28")}},
		{Name: "boss", Hosts: hosts, Senders: []string{"Boss@example.com"}, Recipients: []string{"@example.net"}},
		{Name: "all senders", Hosts: hosts, Senders: []string{"*"}, Recipients: []string{"@everyone.example"}},
		{Name: "own", Hosts: hosts, Senders: []string{"@example.com"}},
	}})
	for _, c := range []struct {
		from, client string
		to           []string
		want         []envelope.Leg
	}{
		{"me@example.com", "10.0.0.1", []string{"a@example.net"}, []envelope.Leg{{Route: "own", Recipients: []int{0}}}},
		{"me@example.com", "10.0.0.1", []string{"A@HOME.example", "b@example.net", "BOSS@example.org"},
			[]envelope.Leg{{Route: "lan", Recipients: []int{0, 2}}, {Route: "own", Recipients: []int{1}}}},
		{"scan@other.example", "192.168.1.7", []string{"a@example.net"},
			[]envelope.Leg{{Route: "printer", Recipients: []int{0}}}},
		{"scan@other.example", "::ffff:192.168.1.7", []string{"a@example.net"},
			[]envelope.Leg{{Route: "printer", Recipients: []int{0}}}},
		{"scan@other.example", "192.168.1.16", []string{"a@example.net"},
			[]envelope.Leg{{Route: "", Recipients: []int{0}}}},
		{"boss@EXAMPLE.com", "10.0.0.1", []string{"a@example.net", "a@sub.example.net"},
			[]envelope.Leg{{Route: "boss", Recipients: []int{0}}, {Route: "own", Recipients: []int{1}}}},
		{"", "10.0.0.1", []string{"a@example.net", "a@everyone.example"},
			[]envelope.Leg{{Route: "", Recipients: []int{0}}, {Route: "all senders", Recipients: []int{1}}}},
		{"", "", []string{"a@home.example"}, []envelope.Leg{{Route: "lan", Recipients: []int{0}}}},
	} {
		env := envelope.Envelope{ReversePath: envelope.Path(c.from)}
		for _, to := range c.to {
			env.Recipients = append(env.Recipients, envelope.Recipient{Path: envelope.Path(to)})
		}
		var o envelope.Origin
		if c.client != "" {
			o.Addr = netip.MustParseAddr(c.client)
		}
		if got := r.Legs(o, env); !reflect.DeepEqual(got, c.want) {
			t.Errorf("from %s (%s) to %v: got %v, want %v", c.from, c.client, c.to, got, c.want)
		}
	}
}

func TestNew_NamesAllFaultsWithTheirRemedy(t *testing.T) {
	_, err := New(Options{Hostname: "two words", Routes: []Route{
		{Name: "a", Hosts: []string{"mail.example.com"}, TLS: "maybe", Auth: "digest", Senders: []string{"example.com"}},
		{Name: "a", Hosts: nil, TLS: ModeOff, Username: "me", Password: "geheim99"},
		{Name: "b", Hosts: []string{"x:1"}, Auth: AuthLogin},
		{Hosts: []string{"x:1"}},
	}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`hostname: "two words"`,
		`smarthost a: hosts: "mail.example.com" is not host:port; write for example smtp.example.com:587`,
		`smarthost a: tls: "maybe" is unknown; write starttls, implicit or off`,
		`smarthost a: auth: "digest" is unknown`,
		`"example.com" is not a pattern; write user@example.com, @example.com or *`,
		`there are two of this name`,
		`smarthost a: hosts: there is none`,
		`smarthost a: tls: "off" would send the password in the clear`,
		`smarthost b: auth: "login" needs a username`,
		`name: it is empty`,
	} {
		if !contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if contains(err.Error(), "geheim99") {
		t.Error("the error holds the password")
	}
}
