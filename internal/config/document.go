package config

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

const (
	// maxFile bounds what is read of a configuration: 256 KiB is ten thousand networks, and --config /dev/zero ends.
	maxFile = 256 << 10
	// maxSyntaxFaults bounds how often a broken file is parsed again to find its next syntax error.
	maxSyntaxFaults = 50
)

// document is a file that was parsed: its values, and where they stand.
type document struct {
	values map[string]any
	at     positions
	broken map[int]bool // lines with a syntax error; their value was replaced, and is not to be judged
	mode   fs.FileMode  // of the file; 0 when it is not a regular file
}

// open reads and parses the file. It returns its top table, or nil when there is nothing to check; the faults say why.
func (r *reader) open() *table {
	text, mode, err := readConfig(r.file)
	if err != nil {
		remedy := `give the right path with --config, or have "relayctl init" write the file`
		if errors.Is(err, fs.ErrPermission) {
			remedy = "use sudo, or the user that relayd runs as"
		}
		r.fault(0, "", whyUnreadable(err), remedy)
		return nil
	}
	if len(text) > maxFile {
		r.fault(0, "", "is larger than 256 KiB", "check that this is the configuration of relayd")
		return nil
	}
	r.doc = &document{broken: map[int]bool{}, mode: mode}
	if !r.parse(string(text)) {
		return nil
	}
	return &table{reader: r, values: r.doc.values}
}

func readConfig(path string) ([]byte, fs.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = f.Close() }()
	var mode fs.FileMode
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		mode = info.Mode()
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	return text, mode, err
}

// whyUnreadable says what the system made of an attempt to read a file.
func whyUnreadable(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file"
	case errors.Is(err, fs.ErrPermission):
		return "this user may not read it"
	}
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	return "cannot be read: " + err.Error()
}

// parse fills r.doc from text. The library stops at the first syntax error, but a person wants to see all that is
// wrong: where the error is within one KEY = VALUE line, the line is taken out and the rest is read. It returns false
// when the rest cannot be made sense of, so that no other fault would be true.
func (r *reader) parse(text string) bool {
	lines := strings.Split(text, "\n")
	for range maxSyntaxFaults {
		values := map[string]any{}
		_, err := toml.Decode(strings.Join(lines, "\n"), &values)
		if err == nil {
			r.doc.values, r.doc.at = values, scan(strings.Join(lines, "\n"))
			return true
		}
		parseErr, ok := errors.AsType[toml.ParseError](err)
		if !ok {
			r.fault(0, "", "is not TOML: "+err.Error(), "")
			return false
		}
		n := lineOf(parseErr, len(lines))
		key, problem, remedy := explainSyntax(parseErr, lines[n-1])
		r.fault(n, key, problem, remedy)
		if r.doc.broken[n] || !mend(lines, n-1, parseErr) {
			return false
		}
		r.doc.broken[n] = true
	}
	r.fault(0, "", "has more syntax errors", "mend these first, then check again")
	return false
}

var entryLine = regexp.MustCompile(`^\s*([A-Za-z0-9_-]+)\s*([=:])`)

// mend takes the syntax error out of a line, and keeps its key, which is then neither missing nor judged. It returns
// false when the error is not one of this line alone: then the lines after it may mean anything.
func mend(lines []string, i int, parseErr toml.ParseError) bool {
	m := entryLine.FindStringSubmatch(lines[i])
	if m == nil {
		return false
	}
	if definedTwice.MatchString(parseErr.Message) {
		lines[i] = ""
		return true
	}
	var alone map[string]any
	if _, err := toml.Decode(lines[i], &alone); err == nil {
		return false
	}
	lines[i] = m[1] + " = 0"
	return true
}

// lineOf returns the line of a syntax error, from 1 to n. Where a table's header is not closed, the library has gone
// past the end of the line when it notices.
func lineOf(err toml.ParseError, n int) int {
	line := err.Position.Line
	if strings.Contains(err.Message, "table") && strings.HasSuffix(err.Message, `got '\n' instead`) {
		line--
	}
	return min(max(line, 1), n)
}
