package config

import (
	"regexp"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"
)

// explainSyntax puts a syntax error of the TOML library into words that say what to do. The library quotes what it
// found, which may be a password that somebody wrote without quotes: nothing of a value is repeated.
func explainSyntax(err toml.ParseError, line string) (key, problem, remedy string) {
	key = whereItBroke(err, line)
	for _, e := range syntaxErrors {
		for _, part := range e.parts {
			if strings.Contains(err.Message, part) {
				return key, e.problem, e.advice(lastPart(key))
			}
		}
	}
	return key, "is not TOML: " + quotedText.ReplaceAllString(err.Message, "..."), ""
}

// definedTwice matches what the library says of a key or table that stands twice, and takes its name out.
var definedTwice = regexp.MustCompile(`^Key '(.*)' (?:has already been defined|was already created)`)

// whereItBroke returns the key that a syntax error belongs to. The library names the key whose value it is reading,
// else the table that it is in; the line names its own key, but may be in the middle of a list that began above it.
func whereItBroke(err toml.ParseError, line string) string {
	m := entryLine.FindStringSubmatch(line)
	if twice := definedTwice.FindStringSubmatch(err.Message); twice != nil {
		return twice[1]
	}
	unended := strings.Contains(err.Message, "array terminator") || strings.Contains(err.Message, "unexpected EOF")
	switch {
	case m == nil || unended || lastPart(err.LastKey) == m[1]:
		return err.LastKey
	case err.LastKey == "":
		return m[1]
	}
	return err.LastKey + "." + m[1]
}

func lastPart(key string) string { return key[strings.LastIndex(key, ".")+1:] }

// quotedText is what the library quotes in its words.
var quotedText = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'[^']*'`)

// advice fills the name of the key, and the form of its value where it is known, into the remedy.
func (e syntaxError) advice(name string) string {
	if e.shape {
		for _, t := range tableOrder {
			if s, ok := lookup(t, name); ok {
				return e.remedy + ", as in " + s.form()
			}
		}
		if name != "" && !strings.ContainsFunc(name, unicode.IsControl) {
			return e.remedy + ", as in " + name + ` = "..."`
		}
	}
	return e.remedy
}

// syntaxError is one class of the library's messages, recognised by parts of them.
type syntaxError struct {
	parts           []string
	problem, remedy string
	shape           bool // the remedy ends with the form of the key
}

var syntaxErrors = []syntaxError{
	{
		parts:   []string{"has already been defined", "was already created"},
		problem: "stands twice",
		remedy:  "keep one of the two; each further smarthost or listener begins with its own [[smarthost]] or [[listener]]",
	},
	{
		parts:   []string{"invalid escape", "hexadecimal digits after", "Escaped character"},
		problem: `a \ has a special meaning between "double quotes"`,
		remedy:  `write the value between 'single quotes', or each \ as \\`,
	},
	{
		parts:   []string{"array terminator", "unexpected comma"},
		problem: "the list is not well formed",
		remedy:  "look for a missing comma, quote or closing ] on this line and the one before",
		shape:   true,
	},
	{
		parts:   []string{"strings cannot contain newlines", `EOF; expected '"'`, `EOF; expected "'"`},
		problem: "the closing quote is missing",
		remedy:  "end the value with the quote that it begins with",
		shape:   true,
	},
	{
		parts: []string{
			"expected value", "expected a top-level item to end", "invalid float", "Invalid float", "Invalid integer",
			"expected a digit", "cannot use sign", "not a binary", "not an octal", "not a hexadecimal", "invalid datetime",
			"floats must start", "out of range",
		},
		problem: "the value is not TOML",
		remedy:  "write text, durations and sizes in quotes",
		shape:   true,
	},
	{
		parts:   []string{"expected '.' or '='", "unexpected '='", "unexpected '.'", "expected key separator"},
		problem: "this is neither a key nor a table",
		remedy:  "write KEY = VALUE, or [table], or begin a comment with #",
		shape:   true,
	},
	{
		parts:   []string{"table name", "table array name"},
		problem: "the name of the table is not well formed",
		remedy:  "write [log] or [queue], [[listener]] or [[smarthost]]",
	},
	{
		parts:   []string{"invalid UTF-8", "NULL bytes"},
		problem: "the file is not UTF-8 text",
		remedy:  "save it as UTF-8",
	},
	{
		parts:   []string{"control characters"},
		problem: "the line holds a control character",
		remedy:  "delete it and type the line again",
	},
	{
		parts:   []string{`EOF; expected`},
		problem: "the value has no end",
		remedy:  `look for a missing closing quote, """ or ] after this key`,
	},
}
