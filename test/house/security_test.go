package house

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

var (
	testFunc  = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(\w+ \*testing\.`)
	testNamed = regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
)

// tests returns the names of all tests and fuzz targets of the module.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// promises returns the rows of the tables of SECURITY.md whose last column says what shows them.
func promises(text string) (rows []string) {
	shown := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			shown = false
		case strings.HasSuffix(line, "| shown by |"):
			shown = true
		case shown && !strings.HasPrefix(line, "|-"):
			rows = append(rows, line)
		}
	}
	return rows
}

// Each promise of SECURITY.md names a test, and each test that it names is there.
func TestSecurityPromisesAreShownByTests(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := tests(t)
	rows := promises(string(text))
	if len(rows) < 20 || len(known) < 100 {
		t.Fatalf("%d promises and %d tests were found: this test looks at the wrong thing", len(rows), len(known))
	}
	for _, row := range rows {
		cells := strings.Split(strings.Trim(row, "|"), "|")
		named := testNamed.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(named) == 0 {
			t.Errorf("nothing shows: %s", cells[0])
		}
	}
	for _, m := range testNamed.FindAllStringSubmatch(string(text), -1) {
		if !known[m[1]] {
			t.Errorf("SECURITY.md names %s, which is not there: name the test that shows it now", m[1])
		}
	}
}

// Each fuzz target has a corpus, and stands in SECURITY.md.
func TestFuzzTargetsHaveACorpusAndAPlace(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	corpora, err := filepath.Glob(filepath.Join(root, "*/testdata/fuzz/Fuzz*"))
	if err != nil {
		t.Fatal(err)
	}
	deeper, err := filepath.Glob(filepath.Join(root, "*/*/testdata/fuzz/Fuzz*"))
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool)
	for _, c := range append(corpora, deeper...) {
		have[filepath.Base(c)] = true
	}
	for name := range tests(t) {
		if !strings.HasPrefix(name, "Fuzz") {
			continue
		}
		if !have[name] {
			t.Errorf("%s has no corpus in testdata/fuzz of its package: copy some of what a run found interesting", name)
		}
		if name != "FuzzParseFault" && !strings.Contains(string(text), "`"+name+"`") { // the sandbox's own words
			t.Errorf("%s has no place in SECURITY.md", name)
		}
	}
}
