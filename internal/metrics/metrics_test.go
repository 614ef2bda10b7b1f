package metrics

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"relayd/internal/control"
	"relayd/internal/pace"
	"relayd/queue"
	"relayd/smarthost"
)

// somebody is in every word of fullStatus, and is not to be shown.
const somebody = "j.doe@isp.example"

// fullStatus has a value in each field.
func fullStatus() control.Status {
	words := "550 5.7.1 not " + somebody
	st := control.Status{
		Running: true, Version: "v1.2.3", Hostname: "relay." + somebody, Started: time.Unix(1_790_000_000, 0),
		Queue: queue.Counts{Active: 1, Deferred: 2, Held: 3, Quarantined: 4, Bytes: 5_000_000_000, Unreported: 6, Oldest: time.Unix(1_800_000_000, 0)},
		Traffic: &queue.Traffic{Received: 70, Routes: []queue.RouteTraffic{
			{Route: "gone", Delivered: 7}, {Route: "isp", Delivered: 60, Deferred: 9, Failed: 1}}},
		Routes: []smarthost.RouteStatus{
			{Name: "isp", Username: somebody, Pace: &smarthost.PaceStatus{Messages: 30, Paced: 20,
				Status: pace.Status{Account: somebody, DailyRecipients: 500, UsedToday: 480, Slowed: true}}, Hosts: []smarthost.HostStatus{
				{Address: "west.isp.example:587", State: smarthost.StateUp, LastReply: words, TLS: "TLS 1.3"},
				{Address: "east.isp.example:587", State: smarthost.StateLoginRefused, LastReply: words, Problem: words, Failures: 3}}},
			{Name: "büro\"\\", Hosts: []smarthost.HostStatus{{Address: "_submission._tcp.office.example", State: smarthost.StateUnknown}}},
		},
		Paused: []string{"3 waiting: mail from " + somebody},
		OAuth: []control.OAuthStatus{
			{Route: "isp", Username: somebody, Flow: "device", TokenExpires: time.Unix(1_800_000_600, 0), SecretExpires: time.Unix(1_830_297_600, 0)},
			{Route: "office", Username: somebody, Refused: true, Problem: words}},
	}
	st.Judge(time.Unix(1_800_000_042, 0))
	return st
}

// parse reads text as Prometheus does.
func parse(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return families
}

// values returns what st is shown as: values by their names, with labels in order.
func values(t *testing.T, st control.Status) map[string]float64 {
	t.Helper()
	text, err := render(st)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for name, f := range parse(t, text) {
		for _, m := range f.GetMetric() {
			key := name
			for _, l := range m.GetLabel() {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			out[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func TestRender_ShowsTheStatus(t *testing.T) {
	got := values(t, fullStatus())
	want := map[string]float64{
		"relayd_problems":                    float64(len(fullStatus().Problems)),
		"relayd_queue_messages state=active": 1, "relayd_queue_messages state=deferred": 2, "relayd_queue_messages state=held": 3,
		"relayd_queue_bytes": 5e9, "relayd_queue_oldest_seconds": 42, "relayd_quarantined_messages": 4,
		"relayd_undeliverable_reports": 6, "relayd_received_total": 70,
		"relayd_delivered_total route=isp": 60, "relayd_deferred_total route=isp": 9, "relayd_failed_total route=isp": 1,
		"relayd_delivered_total route=gone": 7, "relayd_deferred_total route=gone": 0, "relayd_failed_total route=gone": 0,
		`relayd_delivered_total route=büro"\`: 0, `relayd_deferred_total route=büro"\`: 0, `relayd_failed_total route=büro"\`: 0,
		"relayd_host_up host=west.isp.example:587 route=isp": 1, "relayd_host_up host=east.isp.example:587 route=isp": 0,
		`relayd_host_up host=_submission._tcp.office.example route=büro"\`: 1,
		"relayd_pace_used_recipients route=isp":                            480, "relayd_pace_limit_recipients route=isp": 500,
		"relayd_pace_slowed route=isp": 1, "relayd_pace_waiting_messages route=isp": 20,
		`relayd_pace_slowed route=büro"\`: 0, `relayd_pace_waiting_messages route=büro"\`: 0,

		"relayd_oauth_secret_expires_timestamp_seconds smarthost=isp": 1_830_297_600,
		"relayd_oauth_token_expires_timestamp_seconds smarthost=isp":  1_800_000_600,
		"relayd_oauth_refused smarthost=isp":                          0, "relayd_oauth_refused smarthost=office": 1,
	}
	for key, v := range want {
		if g, ok := got[key]; !ok || g != v {
			t.Errorf("%s is %v (there: %v), want %v", key, g, ok, v)
		}
		delete(got, key)
	}
	states := map[string]int{}
	for key, v := range got {
		switch {
		case strings.HasPrefix(key, "relayd_host_state "):
			host := key[:strings.Index(key, " state=")]
			states[host] += int(v)
			if v == 1 {
				states[key]++
			}
		case !strings.HasPrefix(key, "relayd_build_info goversion=go") || !strings.HasSuffix(key, " version=v1.2.3") || v != 1:
			t.Errorf("not expected: %s %v", key, v)
		}
	}
	for _, key := range []string{"relayd_host_state host=west.isp.example:587 route=isp state=up", `relayd_host_state host=_submission._tcp.office.example route=büro"\ state=unknown`,
		"relayd_host_state host=east.isp.example:587 route=isp state=login_refused"} {
		if host := key[:strings.Index(key, " state=")]; states[key] != 1 || states[host] != 1 {
			t.Errorf("%s: %v", key, states)
		}
	}
}

// A daemon that was just started, and has no smarthost that needs tokens, shows zeros and nothing made up.
func TestRender_OfAFreshDaemon(t *testing.T) {
	st := control.Status{Running: true, Traffic: &queue.Traffic{},
		Routes: []smarthost.RouteStatus{{Name: "isp", Hosts: []smarthost.HostStatus{{Address: "a:587", State: smarthost.StateUnknown}}}}}
	st.Judge(time.Now())
	got := values(t, st)
	for _, key := range []string{"relayd_received_total", "relayd_failed_total route=isp", "relayd_queue_oldest_seconds", "relayd_problems"} {
		if v, ok := got[key]; !ok || v != 0 {
			t.Errorf("%s: %v, %v", key, v, ok)
		}
	}
	for key := range got {
		if strings.HasPrefix(key, "relayd_oauth") {
			t.Errorf("%s, without an account", key)
		}
	}
}

func TestRender_HoldsNoWordsAndNobodysAddress(t *testing.T) {
	text, err := render(fullStatus())
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"@", "doe", "5.7.1", "waiting:"} {
		if bytes.Contains(text, []byte(word)) {
			t.Errorf("%q is shown in\n%s", word, text)
		}
	}
}

// Two values with the same labels would make Prometheus drop all of them without a word here.
func TestRender_WhatCannotBeShownIsAnError(t *testing.T) {
	st := fullStatus()
	st.Routes = append(st.Routes, st.Routes[0])
	if text, err := render(st); err == nil || !strings.Contains(err.Error(), "relayd_host_up") {
		t.Errorf("%v\n%s", err, text)
	}
	st = fullStatus()
	st.Routes[0].Name = "\xff"
	if text, err := render(st); err == nil {
		t.Errorf("not UTF-8, and shown as\n%s", text)
	}
}

func TestFamilies_AreNamedAsPrometheusWantsAndDescribed(t *testing.T) {
	text, err := render(fullStatus())
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := parse(t, text)
	for _, f := range families() {
		words := f.name
		if len(f.labels) > 0 {
			words += "{" + strings.Join(f.labels, ",") + "}"
		}
		if !bytes.Contains(doc, []byte("| `"+words+"` |")) {
			t.Errorf("docs/metrics.md has no line for %s", words)
		}
		if shown[f.name] == nil {
			t.Errorf("%s is not shown", f.name)
		}
	}
	if n := bytes.Count(doc, []byte("\n| `relayd_")); n != len(families()) {
		t.Errorf("docs/metrics.md has lines for %d, there are %d", n, len(families()))
	}
}
