package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

const examplePath = "../../config.example.toml"

func readExample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var tableLine = regexp.MustCompile(`^#?\[+([a-z0-9.]+)\]+$`)

// commented is a key or table that somebody could uncomment: # and no space.
var commented = regexp.MustCompile(`(?m)^#(\[|[a-z0-9_]+ = )`)

func TestExample_LoadsAsTheFourLinesDo(t *testing.T) {
	example, four := good(t, readExample(t)), good(t, fourLines)
	sameButPaths(t, example, four)
}

func TestExample_ShowsTheRealDefaults(t *testing.T) {
	var text strings.Builder
	table, uncommented := "", 0
	for line := range strings.Lines(readExample(t)) {
		bare := strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "#")
		if m := tableLine.FindStringSubmatch(bare); m != nil {
			table = m[1]
			if table == "client" { // from here on there are only tables that have no default to show
				break
			}
			if table != "smarthost.oauth2" { // nor has this; and the four lines have a password
				line = bare + "\n"
			}
		}
		for _, s := range schema[table] {
			// min_tls of a listener is refused while its tls is off, which is the default.
			if bare == s.form() && s.fallback != nil && table+"."+s.name != "listener.min_tls" {
				line = bare + "\n"
				uncommented++
			}
		}
		text.WriteString(line)
	}
	if uncommented < 15 {
		t.Errorf("only %d defaults were found", uncommented)
	}
	sameButPaths(t, good(t, text.String()), good(t, fourLines))
}

func TestExample_ShowsEveryKeyWithItsDefault(t *testing.T) {
	table, shown := "", map[string]string{}
	keyLine := regexp.MustCompile(`^#?([a-z0-9_]+) = (.*)$`)
	for line := range strings.SplitSeq(readExample(t), "\n") {
		if m := tableLine.FindStringSubmatch(line); m != nil {
			table = m[1]
			if strings.Contains(table, ".") {
				shown[table] = line
			} else {
				shown["."+table] = line
			}
		} else if m := keyLine.FindStringSubmatch(line); m != nil {
			if _, twice := shown[table+"."+m[1]]; twice {
				t.Errorf("%s.%s stands twice", table, m[1])
			}
			shown[table+"."+m[1]] = m[2]
			if _, known := lookup(table, m[1]); !known {
				t.Errorf("%s.%s is not a key", table, m[1])
			}
		}
	}
	for _, table := range tableOrder {
		for _, s := range schema[table] {
			value, ok := shown[table+"."+s.name]
			if !ok {
				t.Errorf("%s.%s is not in the example", table, s.name)
			}
			if s.fallback != nil && value != literal(s.fallback) {
				t.Errorf("%s.%s is shown as %s, its default is %s", table, s.name, value, literal(s.fallback))
			}
		}
	}
}

func TestExample_UncommentedAsAWholeHasOnlyKnownKeys(t *testing.T) {
	text := commented.ReplaceAllString(readExample(t), "$1")
	if text == readExample(t) {
		t.Fatal("nothing was uncommented")
	}
	faults := faultsOf(t, text)
	for line := range strings.Lines(faults) {
		// What is left are keys that exclude each other, and files that are not there.
		if !regexp.MustCompile(`given more than once|no such file|no effect with (tls|\[smarthost.oauth2\]|flow)|a secret is given, too`).MatchString(line) {
			t.Errorf("unexpected: %s", line)
		}
	}
	wantAll(t, faults, "smarthost.password_file: the password is given more than once", "listener.cert_file: has no effect")
}

// sameButPaths compares two configurations that were read from different folders.
func sameButPaths(t *testing.T, a, b *Config) {
	t.Helper()
	for _, c := range []*Config{a, b} {
		c.File = filepath.Base(c.File)
		for i := range c.Smarthosts {
			c.Smarthosts[i].PasswordSource = filepath.Base(c.Smarthosts[i].PasswordSource)
		}
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("differ:\n%+v\n%+v", a, b)
	}
}
