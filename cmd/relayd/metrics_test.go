//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"relayd/internal/issuer"
	"relayd/internal/sandbox"
)

// metricsAt returns where the daemon shows its metrics, the nth time that it says so.
func (p *process) metricsAt(n int) string {
	p.t.Helper()
	p.waitFor(strings.Repeat(`(?s)msg="metrics are shown" url=\S+.*`, n-1) + `msg="metrics are shown" url=\S+`)
	all := strings.Split(p.log.String(), `msg="metrics are shown" url=`)
	return strings.Fields(all[n])[0]
}

// scrape reads the metrics at url as Prometheus does: values by name, with labels in order. It returns the text, too.
func scrape(t *testing.T, url string) (map[string]float64, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", resp.Status, err, text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	values := map[string]float64{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			key := name
			for _, l := range m.GetLabel() {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			values[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values, string(text)
}

// mustShow waits until the metrics at url have all of want, and returns their text.
func mustShow(t *testing.T, url string, want map[string]float64) string {
	t.Helper()
	var got map[string]float64
	var text string
	wrong := func() (keys []string) {
		for key, v := range want {
			if g, ok := got[key]; !ok || g != v {
				keys = append(keys, fmt.Sprintf("%s is %v, want %v", key, g, v))
			}
		}
		slices.Sort(keys)
		return keys
	}
	for deadline := time.Now().Add(patience); ; {
		if got, text = scrape(t, url); len(wrong()) == 0 {
			return text
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s\nin\n%s", strings.Join(wrong(), "\n"), text)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Messages flow and the counters move, the login's grant is revoked, its secret ends: all of it shows, and no secret, no
// token and no address of a person does.
func TestRelayd_MetricsFollowTheMailAndNameNobody(t *testing.T) {
	expires := time.Now().AddDate(0, 0, 10).UTC().Truncate(24 * time.Hour)
	s := newTokenSite(t, issuer.Options{ClientSecret: clientSecret}, "flow = \"device\"\nclient_secret_file = \"app.secret\"\nsecret_expires = \""+
		expires.Format(time.DateOnly)+"\"\n[metrics]\naddress = \"127.0.0.1:0\"\n")
	secrets := []string{clientSecret, s.login()}
	p := s.start()
	url := p.metricsAt(1)
	host := s.sb.Addr()
	mustShow(t, url, map[string]float64{"relayd_received_total": 0, "relayd_delivered_total route=office": 0, "relayd_oauth_refused smarthost=office": 0,
		"relayd_host_up host=" + host + " route=office": 1, "relayd_host_state host=" + host + " route=office state=unknown": 1})

	err := s.sb.Inject(sandbox.Fault{Stage: sandbox.StageRcpt, Match: "never@", Reply: "550 5.1.1 never@example.com is unknown"},
		sandbox.Fault{Stage: sandbox.StageRcpt, Match: "later@", Reply: "451 4.2.0 later@example.com is greylisted", Times: 1})
	if err != nil {
		t.Fatal(err)
	}
	p.mustSubmit("a@example.com", "b@example.com", "never@example.com")
	p.mustSubmit("later@example.com")
	p.mustSubmit("c@example.com")
	text := mustShow(t, url, map[string]float64{"relayd_received_total": 3, // the report to the sender is the fifth that is delivered
		"relayd_delivered_total route=office": 5, "relayd_deferred_total route=office": 1, "relayd_failed_total route=office": 1,
		"relayd_queue_messages state=deferred": 0, "relayd_queue_messages state=active": 0, "relayd_queue_bytes": 0,
		"relayd_host_state host=" + host + " route=office state=up":      1,
		"relayd_oauth_secret_expires_timestamp_seconds smarthost=office": float64(expires.Unix())})
	if !strings.Contains(text, "relayd_oauth_token_expires_timestamp_seconds{") {
		t.Errorf("no token in\n%s", text)
	}
	secrets = append(secrets, s.issuer.RefreshTokens()...)

	s.issuer.RevokeAll()
	p.mustSubmit("d@example.com")
	text += mustShow(t, url, map[string]float64{"relayd_oauth_refused smarthost=office": 1,
		"relayd_host_up host=" + host + " route=office": 0, "relayd_host_state host=" + host + " route=office state=login_refused": 1,
		"relayd_host_state host=" + host + " route=office state=up": 0, "relayd_queue_messages state=deferred": 1, "relayd_problems": 2,
		"relayd_received_total": 4, "relayd_delivered_total route=office": 5, "relayd_failed_total route=office": 1,
		"relayd_oauth_secret_expires_timestamp_seconds smarthost=office": float64(expires.Unix())})
	if strings.Count(text, "\nrelayd_oauth_token_expires_timestamp_seconds{") != 1 {
		t.Errorf("a token without a grant in\n%s", text)
	}
	for _, word := range append(secrets, "@", "example.com", "lan.example", "access-", "grant of", "greylisted") {
		if strings.Contains(text, word) {
			t.Errorf("the metrics show %q", word)
		}
	}
	s.mustHoldNoSecret(p, secrets...)
}

// The address follows the configuration; one that cannot be had changes nothing.
func TestRelayd_MetricsFollowAReload(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	configure := func(metrics string) { s.configure(route(sb.CAFile(), sb.Addr()) + metrics) }
	configure("")
	p := s.start()
	reload := func(n int, words string) {
		t.Helper()
		p.signal(syscall.SIGHUP)
		until(t, words, func() bool { return strings.Count(p.log.String(), words) == n })
	}
	if strings.Contains(p.log.String(), "metrics are shown") {
		t.Error("metrics are shown that nobody asked for")
	}
	configure("[metrics]\naddress = \"127.0.0.1:0\"\n")
	reload(1, "the configuration was reloaded")
	first := p.metricsAt(1)
	mustShow(t, first, map[string]float64{"relayd_received_total": 0})

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	configure("[metrics]\naddress = \"" + taken.Addr().String() + "\"\n")
	reload(1, "the configuration was not reloaded")
	p.waitFor(`cannot show metrics on 127\.0\.0\.1:\d+: .*set another address in \[metrics\]`)
	p.mustSubmit("a@example.com")
	mustShow(t, first, map[string]float64{"relayd_received_total": 1, "relayd_delivered_total route=127.0.0.1": 1})

	configure("[metrics]\naddress = \"localhost:0\"\n")
	reload(2, "the configuration was reloaded")
	second := p.metricsAt(2)
	mustShow(t, second, map[string]float64{"relayd_received_total": 1, "relayd_delivered_total route=127.0.0.1": 1})
	mustNotShow(t, first)
	configure("")
	reload(3, "the configuration was reloaded")
	mustNotShow(t, second)
	configure("[metrics]\naddress = \"127.0.0.1:0\"\n")
	reload(4, "the configuration was reloaded")
	third := p.metricsAt(3)
	mustShow(t, third, map[string]float64{"relayd_received_total": 1})
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Error(err)
	}
	mustNotShow(t, third)
}

// mustNotShow fails the test if somebody answers at url.
func mustNotShow(t *testing.T, url string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	if resp, err := client.Get(url); err == nil {
		resp.Body.Close()
		t.Errorf("%s answers: %s", url, resp.Status)
	}
}

// A port that another program has is told at the start, and nothing is left behind.
func TestRelayd_MetricsThatCannotBeShownAreToldAtTheStart(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.configure(route(sb.CAFile(), sb.Addr()) + "[metrics]\naddress = \"" + taken.Addr().String() + "\"\n")
	p := s.launch()
	if err := p.wait(); err == nil || !strings.Contains(p.log.String(), "another program has it: stop that one, or set another address in [metrics]") {
		t.Errorf("%v, %s", err, p.log)
	}
	if _, err := os.Lstat(s.dir + "/data/control.sock"); err == nil {
		t.Error("the control socket was left behind")
	}
}
