package config

import (
	"strings"
	"testing"
	"time"
)

func TestRate_Forms(t *testing.T) {
	for text, want := range map[string]Rate{
		"30/min": {30, time.Minute}, "100/h": {100, time.Hour}, "2/s": {2, time.Second}, "500/d": {500, 24 * time.Hour},
		"1 / Hour": {1, time.Hour}, "7/minute": {7, time.Minute}, "off": {}, "OFF": {},
	} {
		got, err := parseRate(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v %v", text, got, err)
		}
		if again, err := parseRate(got.String()); err != nil || again != got {
			t.Errorf("%q comes back as %q", text, got)
		}
	}
	for _, text := range []string{"", "30", "/min", "0/h", "-1/h", "+1/h", "1.5/h", "30/week", "30/", "1000001/s", "30/min/h", "ten/h"} {
		if r, err := parseRate(text); err == nil {
			t.Errorf("%q is taken as %+v", text, r)
		}
	}
}

func TestPace_KeysAndTheirDefaults(t *testing.T) {
	s := good(t, fourLines).Smarthosts[0]
	if s.Rate != (Rate{}) || s.DailyRecipients != 0 || s.MaxRecipients != 0 || s.MaxSize != 0 {
		t.Errorf("limits that nobody set: %+v", s)
	}
	cfg := good(t, fourLines+"rate = '30/min'\ndaily_recipients = 500\nmax_recipients = 100\nmax_size = '25MB'\n")
	s = cfg.Smarthosts[0]
	if s.Rate != (Rate{30, time.Minute}) || s.DailyRecipients != 500 || s.MaxRecipients != 100 || s.MaxSize != 25e6 {
		t.Errorf("%+v", s)
	}
	wantAll(t, cfg.Describe(), "     pace    at most 30 messages a minute, 500 recipients in 24 hours, 100 recipients at a time, messages of 25 MB\n")
	if text := good(t, fourLines).Describe(); strings.Contains(text, "pace") {
		t.Errorf("a pace where there is none:\n%s", text)
	}
}

func TestPace_FaultsNameLineAndRemedy(t *testing.T) {
	for line, want := range map[string]string{
		"rate = '30'":             `smarthost.rate: "30" is not a rate: the unit of time is missing; write messages in a unit of time: "30/min", "100/h" or "2/s"; or "off"`,
		"rate = '30/fortnight'":   `smarthost.rate: "30/fortnight" is not a rate: there is no unit "fortnight"`,
		"rate = 30":               `smarthost.rate: is a bare number, but must be a string`,
		"daily_recipients = -1":   `smarthost.daily_recipients: -1 is out of range; write a number from 0 to`,
		"daily_recipients = '5'":  `smarthost.daily_recipients: is a string, but must be a whole number`,
		"max_recipients = 1.5":    `smarthost.max_recipients: is a number with a fraction`,
		"max_size = 25":           `smarthost.max_size: 25 bytes is too little; write at least "64KB", or "0" for no limit`,
		"max_size = '25 MB more'": `smarthost.max_size: "25 MB more" is not a size`,
	} {
		faults := faultsOf(t, fourLines+line+"\n")
		wantAll(t, faults, "relayd.toml:", want)
		if n := strings.Count(strings.TrimSpace(faults), "\n"); n != 0 {
			t.Errorf("%s: more than one fault:\n%s", line, faults)
		}
	}
}

// What a provider's row says fills what the file does not, and can be switched off.
func TestPace_APresetFillsTheLimits(t *testing.T) {
	s := good(t, gmailLines).Smarthosts[0]
	if s.DailyRecipients != 500 || s.MaxRecipients != 100 {
		t.Errorf("%+v", s)
	}
	s = good(t, gmailLines+"daily_recipients = 0\nmax_recipients = 7\n").Smarthosts[0]
	if s.DailyRecipients != 0 || s.MaxRecipients != 7 {
		t.Errorf("%+v", s)
	}
	if s = good(t, strings.Replace(gmailLines, "gmail\"", "microsoft365\"", 1)).Smarthosts[0]; s.Rate != (Rate{30, time.Minute}) {
		t.Errorf("the rate of Microsoft 365 is %v", s.Rate)
	}
}
