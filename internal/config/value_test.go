package config

import (
	"strings"
	"testing"
	"time"
)

func TestDuration_UnitsFromTheLargerToTheSmaller(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "4h": 4 * time.Hour, "5d": 5 * day, "1h30m": 90 * time.Minute, "2w": 14 * day,
		"1w2d3h4m5s": 9*day + 3*time.Hour + 4*time.Minute + 5*time.Second, "0s": 0, "15250w": 15250 * 7 * day,
	} {
		got, err := parseDuration(text)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
		if back, err := parseDuration(shortDuration(want)); err != nil || back != want {
			t.Errorf("%q is written as %q", text, shortDuration(want))
		}
	}
}

func TestDuration_AnythingElseIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"": "whole numbers", "60": "the unit after 60 is missing", "-5m": "without a sign", "+5m": "without a sign",
		"1.5h": `the unit after 1 is missing`, "5 m": "the unit after 5 is missing", "5min": `no unit "min"`,
		"30m1h": "larger unit comes first", "1h1h": "each one once", "h": "whole numbers", "100us": `no unit "us"`,
		"99999999999999999999s": "too long", "15251w": "too long", "15250w99999d": "too long", "5µs": "unit after 5", "１h": "whole",
	} {
		if got, err := parseDuration(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestSize_UnitsOf1000AndOf1024(t *testing.T) {
	for text, want := range map[string]int64{
		"25MB": 25e6, "64KiB": 65536, "1GB": 1e9, "1048576": 1 << 20, "0": 0, "10b": 10, "50mb": 50e6, "2TiB": 2 << 40, "3KB": 3000,
		"9223372036854775807": 1<<63 - 1,
	} {
		got, err := parseSize(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
		if back, err := parseSize(shortSize(want)); err != nil || back != want {
			t.Errorf("%q is written as %q", text, shortSize(want))
		}
	}
	for text, want := range map[string]string{
		"": "whole number", "-1": "without a sign", "1.5GB": `no unit ".5GB"`, "50M": `no unit "M"`, "25 MB": `no unit " MB"`,
		"9223372036854775808": "too large", "10000000000GB": "too large",
	} {
		if got, err := parseSize(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestQueue_TimesAndLimitsAgree(t *testing.T) {
	for text, want := range map[string]string{
		`retry_min = "2h"`:                   `:2: queue.retry_min: 2h is more than retry_max, which is 1h, by default; lower it, or raise retry_max`,
		`retry_max = "30s"`:                  `:2: queue.retry_max: 30s is less than retry_min, which is 1m, by default; raise it, or lower retry_min`,
		"retry_min=\"3h\"\nretry_max=\"2h\"": `:2: queue.retry_min: 3h is more than retry_max, which is 2h; lower`,
		`retry_max = "6d"`:                   `:2: queue.retry_max: 6d is more than max_age, which is 5d, by default`,
		`max_age = "10m"`:                    `:2: queue.max_age: 10m is less than retry_max, which is 1h, by default`,
		`retry_min = "0s"`:                   `:2: queue.retry_min: "0s" is out of range; write a duration from "100ms" to "3650d"`,
		`retry_max = "11000d"`:               `out of range`,
		`history = "10s"`:                    `:2: queue.history: "10s" is out of range; write a duration from "1h"`,
		`max_bytes = "49MB"`:                 `:2: queue.max_bytes: 49MB is less than one message may have, max_message_size is 50MB`,
		`max_bytes = -1`:                     `:2: queue.max_bytes: -1 bytes is too little`,
		`max_messages = 0`:                   `:2: queue.max_messages: 0 is out of range; write a number from 1 to`,
		`max_messages = "5"`:                 `:2: queue.max_messages: is a string, but must be a whole number; write max_messages = 1000000, without quotes`,
		`max_messages = 1.0`:                 `:2: queue.max_messages: is a number with a fraction, but must be a whole number`,
		`min_free = "3MB"`:                   `:2: queue.min_free: 3MB is less than relayd keeps for itself in any case; write at least "4MB", or "0"`,
		`min_free = 1979-05-27`:              `:2: queue.min_free: is a date or time, but must be a size in quotes`,
		`max_age = ""`:                       `:2: queue.max_age: "" is not a duration`,
	} {
		got := faultsOf(t, "[queue]\n"+text+anySmarthost)
		wantAll(t, got, want)
		if strings.Contains(got, "\n") {
			t.Errorf("%s: more than one fault:\n%s", text, got)
		}
	}
	cfg := good(t, "[queue]\nmax_bytes = \"50MB\"\nretry_min = \"1h\"\nmax_age=\"1h\"\n"+anySmarthost)
	if cfg.Queue.MaxBytes != 50e6 || cfg.Queue.RetryMin != cfg.Queue.MaxAge {
		t.Errorf("%+v", cfg.Queue)
	}
}

func TestNearest_HelpsWithTyposOnly(t *testing.T) {
	known := []string{"hosts", "username", "password", "password_file", "max_connections", "tls"}
	for word, want := range map[string]string{
		"host": "hosts", "Hosts": "hosts", "pasword": "password", "user_name": "username", "password-file": "password_file",
		"max_conn": "max_connections", "tsl": "tls", "rate": "", "x": "", "": "", strings.Repeat("p", 10_000): "",
	} {
		if got := nearest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestUnknownKey_SaysWhereItBelongs(t *testing.T) {
	for text, want := range map[string]string{
		"hosts = ['a']\n":               `:1: hosts: unknown key; it belongs to [[smarthost]]: move the line there`,
		"retry_mn = '5m'\n":             `:1: retry_mn: unknown key; did you mean retry_min? It belongs to [queue]`,
		"[queue]\nusername = 'x'\n":     `:2: queue.username: unknown key in [queue]; it belongs to [[smarthost]]`,
		"[web]\naddress = ':80'\n":      `:1: web: unknown key; delete it; known here are hostname, `,
		"[[smarthosts]]\nhosts=['a']\n": `:1: smarthosts: unknown key; did you mean smarthost?`,
		"\"log.level\" = 'x'\n":         `:1: log.level: unknown key; `,
		"log.levl = 'info'\n":           `:1: log.levl: unknown key in [log]; did you mean level?`,
		"smarthost = [{hots = ['a']}]":  `:1: smarthost.hots: unknown key in [[smarthost]]; did you mean hosts?`,
	} {
		wantAll(t, faultsOf(t, text), want)
	}
}

func TestTables_BracketsMatter(t *testing.T) {
	for text, want := range map[string]string{
		"[smarthost]\nhosts = ['a']\n":       `:1: smarthost: is written as [smarthost]; there can be several: write [[smarthost]]`,
		"[[queue]]\n" + anySmarthost:         `:1: queue: is written as a list; there is one of it: write [queue], once`,
		"log = 'info'\n" + anySmarthost:      `:1: log: is a string, but must be a table; write [log]`,
		"smarthost = ['smtp.isp.example']":   `:1: smarthost: is a string, but must be a table; write [[smarthost]]`,
		"listener = []\n" + anySmarthost:     `:1: listener: is an empty list; delete the line`,
		"[log]\nlevel='loud'" + anySmarthost: `:2: log.level: "loud" is not known; write one of "debug", "info", "warn", "error"`,
		"[log]\nlevel='Warn'" + anySmarthost: `did you mean "warn"?`,
	} {
		got := faultsOf(t, text)
		wantAll(t, got, want)
		if strings.Contains(got, "\n") {
			t.Errorf("more than one fault:\n%s", got)
		}
	}
}
