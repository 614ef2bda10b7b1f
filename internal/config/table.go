package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// table is one table of the file. Its methods return the value of a key, or the default, and report what is wrong.
type table struct {
	*reader
	name   string // in schema
	at     string // in positions
	line   int    // of its header; 0 for the top of the file and for a table that is not there
	values map[string]any
	preset map[string]any // of keys that are not in values: what a provider's row says
}

// has reports whether the key is given, by the file, be its value good or bad, or by the preset of a provider.
func (t *table) has(key string) bool {
	_, given := t.values[key]
	return given || t.isPreset(key)
}

// isPreset reports whether the value of the key is that of a provider's row.
func (t *table) isPreset(key string) bool {
	_, given := t.values[key]
	_, preset := t.preset[key]
	return preset && !given
}

// lineOf returns the line of a key, or that of the table's header when the key is absent; that of provider when the key is
// a preset.
func (t *table) lineOf(key string) int {
	if line, ok := t.doc.at[sub(t.at, key)]; ok {
		return line
	}
	if t.isPreset(key) {
		return t.lineOf("provider")
	}
	return t.line
}

func (t *table) full(key string) string {
	if t.name == "" {
		return key
	}
	return t.name + "." + key
}

func (t *table) bad(key, problem, remedy string) {
	t.fault(t.lineOf(key), t.full(key), problem, remedy)
}

func (t *table) caution(key, problem, remedy string) {
	t.warn(t.lineOf(key), t.full(key), problem, remedy)
}

// value returns what the file says of a key, or the preset, or its default; false when there is neither, or nothing to be used.
func (t *table) value(key string) (any, bool) {
	v, given := t.values[key]
	if t.isPreset(key) {
		return t.preset[key], true
	}
	if !given {
		s, _ := lookup(t.name, key)
		return s.fallback, s.fallback != nil
	}
	return v, !t.doc.broken[t.lineOf(key)]
}

// refuseUnknown reports every key that is not in schema.
func (t *table) refuseUnknown() {
	for key := range t.values {
		if _, known := lookup(t.name, key); !known {
			problem, remedy := unknownKey(t.name, key)
			t.bad(key, problem, remedy)
		}
	}
}

// table returns the [name] table; without one in the file, an empty one.
func (t *table) table(name string) *table {
	sub := &table{reader: t.reader, name: t.full(name), at: sub(t.at, name), line: t.doc.at[sub(t.at, name)]}
	v, ok := t.value(name)
	if !ok {
		return sub
	}
	switch v := v.(type) {
	case map[string]any:
		sub.values = v
		sub.refuseUnknown()
	case []map[string]any:
		t.bad(name, "is written as a list", "there is one of it: write "+header(sub.name)+", once")
	default:
		t.wrongType(name, v)
	}
	return sub
}

// tables returns the [[name]] tables in the order of the file.
func (t *table) tables(name string) []*table {
	v, ok := t.value(name)
	if !ok {
		return nil
	}
	at := sub(t.at, name)
	var out []*table
	add := func(at string, values map[string]any) {
		out = append(out, &table{reader: t.reader, name: name, at: at, line: t.doc.at[at], values: values})
		out[len(out)-1].refuseUnknown()
	}
	switch v := v.(type) {
	case []map[string]any:
		for i, values := range v {
			add(item(at, i), values)
		}
	case []any: // name = [{...}, {...}]
		for i, e := range v {
			values, ok := e.(map[string]any)
			if !ok {
				t.fault(t.doc.at[item(at, i)], name, "is "+typeName(e)+", but must be a table", "write "+header(name))
				continue
			}
			add(item(at, i), values)
		}
	case map[string]any:
		t.bad(name, "is written as ["+name+"]", "there can be several: write "+header(name))
		add(at, v)
	default:
		t.wrongType(name, v)
	}
	return out
}

// isEmptyList reports whether the file gives a key as [].
func (t *table) isEmptyList(key string) bool {
	list, ok := t.values[key].([]any)
	return ok && len(list) == 0
}

// text returns a string; "" and false when there is none to be used.
func (t *table) text(key string) (string, bool) {
	v, ok := t.value(key)
	if !ok {
		return "", false
	}
	s, ok := v.(string)
	if !ok {
		t.wrongType(key, v)
		return "", false
	}
	if s == "" {
		t.bad(key, "is empty", t.dropOr(key))
		return "", false
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		t.bad(key, "holds a control character", "delete it")
		return "", false
	}
	return s, true
}

// dropOr says how to get rid of a key without a value.
func (t *table) dropOr(key string) string {
	s, _ := lookup(t.name, key)
	if s.fallback != nil {
		return "delete the line for the default, " + s.form()
	}
	return "delete the line, or write " + s.form()
}

// choice returns a string that is one of a few; "" when it is not.
func (t *table) choice(key string, choices ...string) string {
	s, ok := t.text(key)
	if !ok || slices.Contains(choices, s) {
		return s
	}
	quoted := make([]string, len(choices))
	for i, c := range choices {
		quoted[i] = strconv.Quote(c)
	}
	remedy := "write one of " + strings.Join(quoted, ", ")
	if near := nearest(s, choices); near != "" {
		remedy = fmt.Sprintf("did you mean %q? It is one of %s", near, strings.Join(quoted, ", "))
	}
	t.bad(key, fmt.Sprintf("%q is not known", s), remedy)
	return ""
}

// path returns a path, made absolute; "" when there is none to be used.
func (t *table) path(key string) string {
	s, ok := t.text(key)
	if !ok {
		return ""
	}
	return t.resolve(s)
}

// number returns an integer within bounds; the default when it is not to be used.
func (t *table) number(key string, least, most int) int {
	s, _ := lookup(t.name, key)
	fallback, _ := s.fallback.(int)
	v, ok := t.value(key)
	if !ok || !t.has(key) {
		return fallback
	}
	n, ok := v.(int64)
	if !ok {
		t.wrongType(key, v)
		return fallback
	}
	if n < int64(least) || n > int64(most) {
		t.bad(key, fmt.Sprintf("%d is out of range", n), fmt.Sprintf("write a number from %d to %d", least, most))
		return fallback
	}
	return int(n)
}

// yes returns whether a key is true.
func (t *table) yes(key string) bool {
	s, _ := lookup(t.name, key)
	fallback, _ := s.fallback.(bool)
	v, ok := t.value(key)
	if !ok || !t.has(key) {
		return fallback
	}
	yes, ok := v.(bool)
	if !ok {
		t.wrongType(key, v)
		return fallback
	}
	return yes
}

// duration returns a duration within bounds, and whether it is to be used.
func (t *table) duration(key string, least, most time.Duration) (time.Duration, bool) {
	v, ok := t.value(key)
	if !ok {
		return 0, false
	}
	s, ok := v.(string)
	if !ok {
		t.wrongType(key, v)
		return 0, false
	}
	d, err := parseDuration(s)
	switch {
	case err != nil:
		t.bad(key, fmt.Sprintf("%q is not a duration: %v", s, err), "write "+kindDuration.must())
	case d < least || d > most:
		t.bad(key, fmt.Sprintf("%q is out of range", s),
			fmt.Sprintf("write a duration from %q to %q", shortDuration(least), shortDuration(most)))
	default:
		return d, true
	}
	return 0, false
}

// size returns a number of bytes that is at least least, and whether it is to be used.
func (t *table) size(key string, least int64) (int64, bool) {
	v, ok := t.value(key)
	if !ok {
		return 0, false
	}
	n, isNumber := v.(int64)
	if s, isText := v.(string); isText {
		var err error
		if n, err = parseSize(s); err != nil {
			t.bad(key, fmt.Sprintf("%q is not a size: %v", s, err), "write "+kindSize.must())
			return 0, false
		}
	} else if !isNumber {
		t.wrongType(key, v)
		return 0, false
	}
	if n < least {
		t.bad(key, fmt.Sprintf("%d bytes is too little", n),
			fmt.Sprintf("write at least %q; sizes without a unit are bytes", shortSize(least)))
		return 0, false
	}
	return n, true
}

// entry is one string of a list, and where it stands.
type entry struct {
	text string
	line int
}

// list returns the strings of a list, without those that were refused. An empty list is refused unless emptyOK.
func (t *table) list(key string, emptyOK bool) []entry {
	v, ok := t.value(key)
	if !ok {
		return nil
	}
	values, ok := v.([]any)
	if !ok {
		t.wrongType(key, v)
		return nil
	}
	if len(values) == 0 && !emptyOK {
		t.bad(key, "is an empty list", t.dropOr(key))
	}
	var out []entry
	for i, v := range values {
		line := t.lineOf(key)
		if at, ok := t.doc.at[item(sub(t.at, key), i)]; ok {
			line = at
		}
		s, ok := v.(string)
		switch {
		case !ok:
			t.fault(line, t.full(key), "holds "+typeName(v)+", but must be a list of strings", t.exampleOf(key))
		case strings.TrimSpace(s) == "" || strings.ContainsFunc(s, unicode.IsControl):
			t.fault(line, t.full(key), "holds an empty string or a control character", t.exampleOf(key))
		default:
			out = append(out, entry{text: s, line: line})
		}
	}
	return out
}

func (t *table) exampleOf(key string) string {
	s, _ := lookup(t.name, key)
	if s.kind == kindTable {
		return "write " + header(t.full(key))
	}
	return "write " + s.form()
}

// wrongType reports a value of a type that the key does not take. It repeats numbers and hosts, never a password.
func (t *table) wrongType(key string, v any) {
	s, _ := lookup(t.name, key)
	remedy := t.exampleOf(key)
	switch v := v.(type) {
	case int64:
		if s.kind == kindDuration {
			remedy = fmt.Sprintf(`write the unit, in quotes: %s = "%ds" for seconds; there are s, m, h, d and w`, key, v)
		}
	case string:
		if s.kind == kindNumber {
			remedy += ", without quotes"
		}
		if s.kind == kindList {
			remedy = fmt.Sprintf("write %s = [%q]", key, v)
		}
	}
	t.bad(key, "is "+typeName(v)+", but must be "+s.kind.must(), remedy)
}

// typeName says what a value of the TOML library is.
func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "a bare number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date or time"
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "something else"
}
