package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// paths calls visit with the path of every key, table and list item of a decoded document.
func paths(at string, v any, visit func(path string)) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			visit(sub(at, key))
			paths(sub(at, key), value, visit)
		}
	case []map[string]any:
		for i, value := range v {
			visit(item(at, i))
			paths(item(at, i), value, visit)
		}
	case []any:
		for i, value := range v {
			visit(item(at, i))
			paths(item(at, i), value, visit)
		}
	}
}

// samePaths holds the scanner to the library: both find the same keys and list items, no more and no fewer.
func samePaths(t *testing.T, text string) positions {
	t.Helper()
	values := map[string]any{}
	if _, err := toml.Decode(text, &values); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	at := scan(text)
	n := 0
	paths("", values, func(path string) {
		n++
		if line, ok := at[path]; !ok || line < 1 || line > 1+strings.Count(text, "\n") {
			t.Errorf("%q: line %d, %v, in:\n%s", path, line, ok, text)
		}
	})
	if n != len(at) {
		t.Errorf("%d positions for %d paths, in:\n%s\n%v", len(at), n, text, at)
	}
	return at
}

func TestScan_FindsTheLineOfEverything(t *testing.T) {
	at := samePaths(t, `a = 1
b.c = """
[not.a.table]
x = 1 # not a comment
\""" still in it """""
"q u" . "\u0065" = '''
y = 2'''
list = [ # comment, with ] and "
  "one", # two = 2
  '#three',

  ["four", {five = "}", six = ["]"]}],
]
[t . u]  # header
k = 1979-05-27 07:32:00
[[h]]
hosts = "a\"b"
[h.sub]
k = 1
[[h]]
	hosts = ''
[[h.deep]]
k = 2
[[h.deep]]
`)
	for path, line := range map[string]int{
		sub("", "a"):                                           1,
		sub(sub("", "b"), "c"):                                 2,
		sub(sub("", "q u"), "e"):                               6,
		sub("", "list"):                                        8,
		item(sub("", "list"), 0):                               9,
		item(sub("", "list"), 1):                               10,
		item(sub("", "list"), 2):                               12,
		sub("", "t"):                                           14,
		sub(sub(sub("", "t"), "u"), "k"):                       15,
		item(sub("", "h"), 0):                                  16,
		sub(item(sub("", "h"), 0), "hosts"):                    17,
		sub(sub(item(sub("", "h"), 0), "sub"), "k"):            19,
		item(sub("", "h"), 1):                                  20,
		sub(item(sub("", "h"), 1), "hosts"):                    21,
		sub(item(sub(item(sub("", "h"), 1), "deep"), 0), "k"):  23,
		item(sub(item(sub("", "h"), 1), "deep"), 1):            24,
		sub(item(item(sub("", "list"), 2), 1), "five"):         12,
		item(sub(item(item(sub("", "list"), 2), 1), "six"), 0): 12,
	} {
		if at[path] != line {
			t.Errorf("%q is in line %d, want %d", path, at[path], line)
		}
	}
}

func TestScan_LineEndsAndMarks(t *testing.T) {
	at := samePaths(t, "\ufeffa = 1\r\nb = [\r\n1,\r\n2]\r\n\r\n[c]\r\nd=\"\"\"\\\r\n  x\"\"\"\r\ne={f=1}")
	for path, line := range map[string]int{
		sub("", "a"): 1, item(sub("", "b"), 1): 4, sub("", "c"): 6, sub(sub("", "c"), "d"): 7, sub(sub("", "c"), "e"): 9,
	} {
		if at[path] != line {
			t.Errorf("%q is in line %d, want %d", path, at[path], line)
		}
	}
}

func FuzzScan_AgreesWithTheLibrary(f *testing.F) {
	for _, text := range []string{
		fourLines, "a.b.c = [1, [2, {d = 3}],]\n", "[[a]]\n[[a.b]]\n[a.b.c]\nd = 1\n[[a]]\n", "a = '''''''\n", `"" = ''`,
		"a = \"\"\"\\\"\"\"\"\n", "'a.b'.c = 1e9 # x\n", "a = {b = {c = 'd'}, e = []}", "[a]\n[a.b]\n[c]\n", "d = 07:32:00\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at := scan(text) // of any text, without a panic
		values := map[string]any{}
		if _, err := toml.Decode(text, &values); err != nil || strings.ContainsAny(text, "\x00\x01") {
			return
		}
		if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
			return
		}
		paths("", values, func(path string) {
			if at[path] < 1 {
				t.Errorf("%q has no line", path)
			}
		})
	})
}

func FuzzParse_EndsWithFaultsOrValues(f *testing.F) {
	for _, text := range []string{fourLines, "a: 1\nb = \n[c\n", "password = hunter2\n", "a = 1\na = 2\n", "x = \"\"\"\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := &reader{file: "f", dir: "/", warned: map[string]bool{}, doc: &document{broken: map[int]bool{}}}
		if !r.parse(text) {
			if len(r.faults) == 0 {
				t.Error("neither values nor faults")
			}
			return
		}
		root := &table{reader: r, values: r.doc.values}
		r.build(&Config{}, root)
		for _, fault := range r.faults {
			if fault.Line < 0 || fault.Line > 1+strings.Count(text, "\n") {
				t.Errorf("no such line: %v", fault)
			}
		}
		_ = fmt.Sprint(r.result())
	})
}
