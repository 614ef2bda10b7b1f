package config

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestSecret_MasksItselfEverywhere(t *testing.T) {
	const s = Secret("hunter2")
	host := Smarthost{Name: "isp", Password: s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10s", "%.2s"} {
		for _, value := range []any{s, host, &host, []Secret{s}, map[string]Secret{"k": s}, &Config{Smarthosts: []Smarthost{host}}} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
	}
	fmt.Fprintln(&out, s, host, s.String(), s.GoString())
	for _, log := range []*slog.Logger{
		slog.New(slog.NewTextHandler(&out, nil)), slog.New(slog.NewJSONHandler(&out, nil)),
	} {
		log.Info("x", "password", s, "host", host, "all", []Secret{s}, slog.Any("any", &host))
	}
	type login struct {
		Password Secret
		More     []Secret
	}
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, xml.Marshal, toml.Marshal} {
		text, err := marshal(login{s, []Secret{s}})
		if err != nil {
			t.Error(err)
		}
		out.Write(text)
	}
	text := out.String()
	if strings.Contains(text, "hunter2") || strings.Contains(text, fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("the secret is in:\n%s", text)
	}
	if n := strings.Count(text, masked); n < 70 {
		t.Errorf("masked %d times only:\n%s", n, text)
	}
	if s.Reveal() != "hunter2" {
		t.Error("Reveal does not")
	}
}

// Whatever is wrong around a password, it is not repeated: not by the TOML library, not by a fault of type or mode,
// not under a misspelt key.
func TestSecret_IsInNoFaultAndNoWarning(t *testing.T) {
	const secret = "hunter2"
	for _, line := range []string{
		"password = hunter2", "password = hunter2'", `password = "hunter2`, "password = 'hunter2", `password = "\hunter2"`,
		`password = "\uhunter2"`, "password = 0xhunter2", "password = \"\"\"hunter2", "password = ['hunter2']",
		"password = {x = 'hunter2'}", "password: hunter2", "pasword = hunter2", "pasword = 'hunter2'", "password = 'hunter2' 'hunter2'",
		"password = truehunter2", "password = +hunter2", "password = 1hunter2", "password = 1979-05-27hunter2", "password hunter2",
		"password = \"hunter2\\u0000\"", "password = \"hunter2\\nhunter2\"", "password = \"hunter2\\r\"", "password = \"\"\"\nhunter2\n\"\"\"",
		"password = 'hunter2'\npassword = 'hunter2'", "password = 'hunter2'\npassword_file = 'isp.password'", "password_env = 'hunter2!'",
		"password = 'hunter2'\nusername = ''", "username = 'u'\ntls = 'off'\npassword = 'hunter2'", "auth = 'off'\npassword = 'hunter2'",
		"password = 'hunter2'\nauth='plain'", "password_file = 'bad.password'", "password = \"hunter2\x01\"", "password = \"hunter2\xff\"",
		"password = 'hunter2", "hunter2", "= hunter2", "password.x = 'hunter2'", "[smarthost.password]\nx = 'hunter2'",
	} {
		path := write(t, "[[smarthost]]\nhosts = ['a']\n"+line+"\n")
		writeFile(t, strings.Replace(path, "relayd.toml", "bad.password", 1), "hunter2\nhunter2\n", 0o666)
		_, warnings, err := Load(path)
		if err == nil {
			t.Errorf("%q was taken", line)
			continue
		}
		if text := err.Error() + fmt.Sprint(warnings); strings.Contains(text, secret) {
			t.Errorf("%q: the secret is in %s", line, text)
		}
	}
}
