package config

import (
	"cmp"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// A Fault is one thing that is wrong with a file. Each names the place and says what to write instead; none holds a
// secret.
type Fault struct {
	File    string // as it was given to Load
	Line    int    // counted from 1; 0 when the fault is not at one line, or the file could not be read
	Key     string // with its table, "smarthost.hosts"; empty when the fault is not about one key
	Problem string
	Remedy  string
}

// A Warning is something that is allowed, and that somebody should look at.
type Warning = Fault

// String returns "FILE:LINE: key: problem; remedy", without the parts that the fault does not have.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		b.WriteString(":" + strconv.Itoa(f.Line))
	}
	b.WriteString(": ")
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Problem)
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	return b.String()
}

// Faults is everything that is wrong with a file, in the order of its lines. It is the error of Load.
type Faults []Fault

// Error returns one fault a line.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

// sortByLine puts faults in the order in which a person mends them: from the top of the file down, then those that
// belong to no line.
func sortByLine(faults []Fault) {
	slices.SortStableFunc(faults, func(a, b Fault) int {
		if (a.Line == 0) != (b.Line == 0) {
			return cmp.Compare(b.Line, a.Line)
		}
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
}

// reader is one reading of one file: where it is, what it holds, and what was found wrong.
type reader struct {
	file     string // as given, for faults
	dir      string // absolute folder of file, for relative paths
	doc      *document
	faults   Faults
	warnings []Warning
	warned   map[string]bool // files of whose mode was told, so that two smarthosts with one password_file warn once
}

func (r *reader) fault(line int, key, problem, remedy string) {
	if strings.ContainsFunc(key, unicode.IsControl) { // a key in quotes can hold an end of line
		key = strconv.Quote(key)
	}
	r.faults = append(r.faults, Fault{File: r.file, Line: line, Key: key, Problem: problem, Remedy: remedy})
}

func (r *reader) warn(line int, key, problem, remedy string) {
	r.warnings = append(r.warnings, Warning{File: r.file, Line: line, Key: key, Problem: problem, Remedy: remedy})
}

// result returns the faults as an error, or nil when there are none.
func (r *reader) result() error {
	if len(r.faults) == 0 {
		return nil
	}
	sortByLine(r.faults)
	return r.faults
}

// resolve makes a path of the file absolute.
func (r *reader) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(r.dir, path)
}
