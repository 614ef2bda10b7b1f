//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// report is the Markdown that a run comes to.
type report struct{ strings.Builder }

func (r *report) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

// table begins a table; its cells follow by row.
func (r *report) table(headings ...string) {
	r.line("")
	r.row(headings...)
	r.row(slices.Repeat([]string{"---"}, len(headings))...)
}

func (r *report) row(cells ...string) { r.line("| %s |", strings.Join(cells, " | ")) }

// all runs the cases that were asked for. What fails is said and left out, and the rest is done all the same.
func (l *lab) all(ctx context.Context) (*report, error) {
	r := &report{}
	var failed []error
	note := func(err error) {
		if err != nil {
			l.say("%v", err)
			failed = append(failed, err)
		}
	}
	text, err := l.describe()
	note(err)
	r.line("%s", text)
	if l.wants("ceiling") {
		rows, err := l.measureCeiling(ctx)
		note(err)
		r.ceiling(rows)
	}
	note(l.sideBySide(ctx, r))
	if l.wants("flushes") && ctx.Err() == nil {
		rows, err := l.measureFlushes(ctx)
		note(err)
		r.flushes(rows)
	}
	if l.wants("line") && ctx.Err() == nil {
		rows, err := l.measureLines(ctx)
		note(err)
		r.lines(rows)
	}
	if l.wants("large") && ctx.Err() == nil {
		res, err := l.measureLarge(ctx)
		note(err)
		r.large(res)
	}
	if l.wants("backlog") && ctx.Err() == nil {
		rows, err := l.measureBacklogs(ctx)
		note(err)
		r.backlogs(rows)
	}
	return r, errors.Join(append(failed, ctx.Err())...)
}

// sideBySide runs the workloads and the idle case, in rounds in which the contenders take turns.
func (l *lab) sideBySide(ctx context.Context, r *report) error {
	got := make(map[string]runs) // by case
	var failed []error
	once := func(name string, measure func(contender) (figures, error)) {
		if !l.wants(name) {
			return
		}
		if got[name] == nil {
			got[name] = make(runs)
		}
		for _, c := range contenders() {
			if ctx.Err() != nil {
				return
			}
			f, err := measure(c)
			if err != nil {
				l.say("%v", err)
				failed = append(failed, err)
				continue
			}
			l.say("%s: %s: %s", name, c.name, f)
			got[name][c.name] = append(got[name][c.name], f)
		}
	}
	for round := range l.repeat {
		if slices.ContainsFunc(workloads(), func(w workload) bool { return l.wants(w.name) }) || l.wants("idle") {
			l.say("round %d of %d", round+1, l.repeat)
		}
		for _, w := range workloads() {
			once(w.name, func(c contender) (figures, error) { return l.measure(ctx, c, w) })
		}
		once("idle", func(c contender) (figures, error) {
			values, err := l.measureIdle(ctx, c)
			return figures{values: values}, err
		})
	}
	r.sideBySide(got)
	return errors.Join(failed...)
}

// runs are the figures of one case, by contender.
type runs map[string][]figures

func (f figures) String() string {
	var words []string
	for _, m := range slices.Sorted(maps.Keys(f.values)) {
		words = append(words, m.title()+" "+m.show(f.values[m]))
	}
	if f.sessions > 0 {
		words = append(words, fmt.Sprintf("%d TLS sessions, %d resumed", f.sessions, f.resumed))
	}
	return strings.Join(words, ", ")
}

// of returns the median of a metric for a contender, and whether there is one.
func (r runs) of(contender string, m metric) (float64, bool) {
	var values []float64
	for _, f := range r[contender] {
		if v, ok := f.values[m]; ok {
			values = append(values, v)
		}
	}
	return median(values), len(values) > 0
}

// best returns the better of Postfix's two.
func (r runs) best(m metric) (best float64, known bool) {
	for _, c := range contenders()[1:] {
		v, ok := r.of(c.name, m)
		if ok && (!known || m.better(v, best)) {
			best, known = v, true
		}
	}
	return best, known
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// The markers in the file that keeps the tables.
const (
	beginMarker = "<!-- begin: written by make bench-peers -->"
	endMarker   = "<!-- end: written by make bench-peers -->"
)

func checkMarkers(path string) error {
	_, err := replaceBetweenMarkers(path, "")
	return err
}

func writeBetweenMarkers(path, text string) error {
	whole, err := replaceBetweenMarkers(path, text)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(whole), 0o644)
}

func replaceBetweenMarkers(path, text string) (string, error) {
	old, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	before, rest, begins := strings.Cut(string(old), beginMarker)
	_, after, ends := strings.Cut(rest, endMarker)
	if !begins || !ends {
		return "", fmt.Errorf("%s lacks a line %q or, after it, %q", path, beginMarker, endMarker)
	}
	return before + beginMarker + "\n" + strings.TrimRight(text, "\n") + "\n" + endMarker + after, nil
}
