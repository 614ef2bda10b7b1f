// Package house holds the repository to the plan of its house: which room may import which.
package house

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed lists, for each package, the packages of this module that it may import. Imports point one way: cmd joins
// the rooms, the rooms know only the values that they exchange. Tests may import what they like.
func allowed() map[string][]string {
	return map[string][]string{
		"internal/envelope":  {},
		"internal/config":    {"internal/provider"},
		"internal/provider":  {},
		"internal/sandbox":   {},
		"internal/header":    {},
		"internal/sevenbit":  {"internal/header"},
		"internal/oauth":     {},
		"internal/issuer":    {},
		"internal/dsn":       {"internal/envelope"},
		"internal/dnstest":   {},
		"internal/sendermx":  {"internal/envelope"},
		"internal/rewrite":   {"internal/envelope", "internal/header"},
		"internal/pace":      {},
		"internal/owner":     {},
		"internal/smuggling": {},
		"relay":              {"internal/envelope", "internal/smuggling"},
		"smarthost":          {"internal/envelope", "internal/pace", "internal/rewrite", "internal/sevenbit", "internal/smuggling"},
		"queue":              {"internal/envelope", "internal/dsn"},
		"internal/control":   {"queue", "smarthost", "internal/envelope"},
		"internal/metrics":   {"internal/control"},
		"internal/wiring":    {"internal/config", "internal/envelope", "internal/oauth", "internal/pace", "internal/rewrite", "smarthost"},
		"cmd/relayd": {"internal/config", "internal/control", "internal/envelope", "internal/metrics", "internal/oauth", "internal/sendermx",
			"internal/wiring", "queue", "relay", "smarthost"},
		"cmd/relayctl": {"internal/config", "internal/control", "internal/envelope", "internal/oauth", "internal/owner", "internal/provider", "internal/sandbox",
			"internal/sendermx", "internal/wiring", "queue", "smarthost"},
		"test/bench": {"internal/envelope", "queue"},
		"test/demo":  {"internal/sandbox"},
		"test/house": {},
		"test/tap":   {},
	}
}

func TestImportsPointOneWay(t *testing.T) {
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "relayd/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		room := strings.TrimPrefix(words[0], "relayd/")
		may, known := allowed()[room]
		if !known {
			t.Errorf("%s has no line in the plan of the house: add it to allowed, and to docs/design.md", room)
			continue
		}
		seen++
		for _, imported := range words[1:] {
			if ours, ok := strings.CutPrefix(imported, "relayd/"); ok && !slices.Contains(may, ours) {
				t.Errorf("%s may not import %s", room, ours)
			}
		}
	}
	if seen == 0 {
		t.Fatal("no package was looked at")
	}
}

// Libraries stay behind one seam each, so that they can be exchanged.
func TestLibrariesStayBehindTheirSeam(t *testing.T) {
	seams := map[string][]string{
		"go.etcd.io/bbolt":            {"queue"},
		"github.com/emersion/go-smtp": {"relay", "smarthost"},
		"github.com/emersion/go-sasl": {"relay", "smarthost"},
		"github.com/BurntSushi/toml":  {"internal/config", "internal/provider"},
		"github.com/xdg-go/scram":     {"smarthost"},
		"github.com/spf13/cobra":      {"cmd/relayctl"},
		"golang.org/x/oauth2":         {"internal/oauth"},
		"golang.org/x/term":           {"cmd/relayctl"},

		"golang.org/x/net/dns/dnsmessage": {"internal/dnstest"},

		"github.com/prometheus/client_golang/prometheus": {"internal/metrics"},
		"github.com/prometheus/common/expfmt":            {"internal/metrics"},
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "relayd/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		for _, imported := range words[1:] {
			rooms, known := seams[imported]
			seen[imported] = true
			if known && !slices.Contains(rooms, strings.TrimPrefix(words[0], "relayd/")) {
				t.Errorf("%s imports %s, which only %s may", words[0], imported, strings.Join(rooms, " and "))
			}
		}
	}
	for library := range seams {
		if !seen[library] {
			t.Errorf("nothing imports %s: mend its name here, or remove it", library)
		}
	}
}
