package config

import (
	"path/filepath"
	"testing"
)

func TestPlaces_NeedsNothingElseToBeRight(t *testing.T) {
	for name, c := range map[string]struct{ text, dataDir, socket string }{
		"defaults":             {"", "/var/lib/relayd", "/var/lib/relayd/control.sock"},
		"a password not there": {"data_dir = '/q'\n[[smarthost]]\nhosts = ['h']\nusername = 'u'\npassword_env = 'RELAYD_NOT_SET_ANYWHERE'\n", "/q", "/q/control.sock"},
		"misspelt keys":        {"data_dir = '/q'\ncontrol_socket = '/s'\ncolour = 1\n[queue]\nretry_min = 7\n", "/q", "/s"},
	} {
		t.Run(name, func(t *testing.T) {
			dataDir, socket, err := Places(write(t, c.text))
			if err != nil || dataDir != c.dataDir || socket != c.socket {
				t.Errorf("%q %q %v", dataDir, socket, err)
			}
		})
	}
	path := write(t, "data_dir = 'queue'\n")
	if dataDir, _, err := Places(path); err != nil || dataDir != filepath.Join(filepath.Dir(path), "queue") {
		t.Errorf("relative: %q %v", dataDir, err)
	}
	for name, text := range map[string]string{"wrong type": "data_dir = 7\n", "not TOML": "data_dir = [[[\n\"\"\""} {
		if d, s, err := Places(write(t, text)); err == nil {
			t.Errorf("%s: %q %q", name, d, s)
		}
	}
	if _, _, err := Places("/nonexistent/relayd.toml"); err == nil {
		t.Error("no file, no error")
	}
}
