package config

import (
	"fmt"
	"strings"
)

// unknownKey says what is wrong with a key that its table does not have, and which one was probably meant.
func unknownKey(table, key string) (problem, remedy string) {
	known := make([]string, 0, len(schema[table]))
	for _, s := range schema[table] {
		known = append(known, s.name)
	}
	problem = "unknown key"
	if table != "" {
		problem = "unknown key in " + header(table)
	}
	// A key below the wrong header is the commonest mistake: in TOML all lines below a header belong to it.
	for _, other := range tableOrder {
		if _, ok := lookup(other, key); ok && other != table {
			return problem, fmt.Sprintf("it belongs to %s: move the line there", header(other))
		}
	}
	if near := nearest(key, known); near != "" {
		return problem, fmt.Sprintf("did you mean %s?", near)
	}
	for _, other := range tableOrder {
		var names []string
		for _, s := range schema[other] {
			names = append(names, s.name)
		}
		if near := nearest(key, names); near != "" && other != table {
			return problem, fmt.Sprintf("did you mean %s? It belongs to %s", near, header(other))
		}
	}
	return problem, "delete it; known here are " + strings.Join(known, ", ")
}

// nearest returns the word of known, all in lower case, that is most like s, or "" when none is like it.
func nearest(s string, known []string) string {
	s = strings.NewReplacer("-", "_", " ", "_").Replace(strings.ToLower(s))
	if len(s) > 64 {
		return ""
	}
	best, least := "", max(1, len(s)/3)+1
	for _, k := range known {
		if d := distance(s, k); d < least {
			best, least = k, d
		}
	}
	if best != "" {
		return best
	}
	for _, k := range known { // "host" for hosts is near; "max_conn" for max_connections is a beginning
		if len(s) >= 4 && (strings.HasPrefix(k, s) || strings.HasPrefix(s, k)) {
			return k
		}
	}
	return ""
}

// distance counts the letters to insert, delete, replace or swap with their neighbour to get from a to b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
