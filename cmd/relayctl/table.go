package main

import (
	"io"
	"slices"
	"strings"
)

// column is one column of a table. Its cells are cut at most columns; 0 is no limit.
type column struct {
	head  string
	right bool // aligned to the right, as figures are
	most  int
	tail  bool // when a cell is cut, the word after its last space stays
}

func (c column) cut(cell string) string {
	if c.most <= 0 || width(cell) <= c.most {
		return cell
	}
	tail := ""
	if i := strings.LastIndexByte(cell, ' '); c.tail && i >= 0 {
		cell, tail = cell[:i], cell[i:]
	}
	return abbreviate(cell, max(1, c.most-width(tail))) + tail
}

// table writes rows in aligned columns with two spaces between them; a column in which nothing stands is left out. Its
// widths only grow, so that a long list can be written page by page.
type table struct {
	w       io.Writer
	columns []column
	widths  []int
	begun   bool
}

func newTable(w io.Writer, columns ...column) *table {
	return &table{w: w, columns: columns, widths: make([]int, len(columns))}
}

// write adds rows, and before the first ones the heads. Cells must be clean.
func (t *table) write(rows [][]string) error {
	if !t.begun && slices.ContainsFunc(t.columns, func(c column) bool { return c.head != "" }) {
		heads := make([]string, len(t.columns))
		for i, c := range t.columns {
			heads[i] = c.head
		}
		rows = append([][]string{heads}, rows...)
	}
	t.begun = true
	for _, row := range rows {
		for i, c := range t.columns {
			row[i] = c.cut(row[i])
			t.widths[i] = max(t.widths[i], width(row[i]))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		b.WriteString(t.line(row))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(t.w, b.String())
	return err
}

func (t *table) line(row []string) string {
	var b strings.Builder
	for i, c := range t.columns {
		if t.widths[i] == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("  ")
		}
		pad := strings.Repeat(" ", t.widths[i]-width(row[i]))
		if c.right {
			b.WriteString(pad + row[i])
		} else {
			b.WriteString(row[i] + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}
