//go:build linux

package main

import (
	"fmt"
	"time"
)

func (m metric) title() string {
	return [...]string{"intake/s", "drain/s", "CPU ms/message", "peak memory MiB", "idle memory MiB", "250 to smarthost ms"}[m]
}

// better reports whether a is a better figure than b.
func (m metric) better(a, b float64) bool {
	if m == intake || m == drain {
		return a > b
	}
	return a < b
}

func (m metric) show(v float64) string {
	switch m {
	case intake, drain:
		return fmt.Sprintf("%.0f", v)
	case peak, idle:
		return fmt.Sprintf("%.0f", v/(1<<20))
	}
	return fmt.Sprintf("%.2f", v)
}

// target returns what is to be reached by a metric of a workload, and whether ours does, beside Postfix's.
func (m metric) target(targets map[metric]float64, ours, theirs float64, known bool) (words, reached string) {
	yes := map[bool]string{true: "yes", false: "no"}
	switch m {
	case peak:
		return "80 MiB", yes[ours <= peakTarget]
	case idle:
		return "20 MiB", yes[ours <= idleTarget]
	case latency:
		return "under 2 ms", yes[ours < lateTarget]
	}
	ratio, ok := targets[m]
	if !ok {
		return "", ""
	}
	words = fmt.Sprintf("%gx", ratio)
	switch {
	case !known:
		return words, ""
	case m == cpuCost:
		return words, yes[ours <= ratio*theirs]
	}
	return words, yes[ours >= ratio*theirs]
}

func (r *report) sideBySide(got map[string]runs) {
	if len(got) == 0 {
		return
	}
	r.table("case", "figure", "relayd", "Postfix, default", "Postfix, tuned", "ratio to the better", "to reach", "reached")
	for _, w := range workloads() {
		r.compare(w.title, got[w.name], w.targets, intake, drain, cpuCost, peak)
	}
	r.compare("idle, one message now and then", got["idle"], nil, latency, idle)
	r.line("")
	for _, w := range workloads() {
		for _, c := range contenders() {
			if all := got[w.name][c.name]; w.login && len(all) > 0 {
				last := all[len(all)-1]
				r.line("With STARTTLS %s made %d TLS sessions, %d of them resumed (last round).", c.name, last.sessions, last.resumed)
			}
		}
	}
}

// compare writes a row for each metric of a case.
func (r *report) compare(title string, got runs, targets map[metric]float64, metrics ...metric) {
	for _, m := range metrics {
		ours, ok := got.of("relayd", m)
		if !ok {
			continue
		}
		theirs, known := got.best(m)
		ratio := ""
		if known && theirs > 0 {
			ratio = fmt.Sprintf("%.2f", ours/theirs)
		}
		cells := []string{title, m.title(), m.show(ours)}
		for _, c := range contenders()[1:] {
			v, ok := got.of(c.name, m)
			cell := ""
			if ok {
				cell = m.show(v)
			}
			cells = append(cells, cell)
		}
		words, reached := m.target(targets, ours, theirs, known)
		r.row(append(cells, ratio, words, reached)...)
		title = ""
	}
}

func (r *report) ceiling(rows []ceiling) {
	if len(rows) == 0 {
		return
	}
	r.table("smtp-source straight into smtp-sink: what the generator can do", "messages/s")
	for _, c := range rows {
		r.row(c.title, fmt.Sprintf("%.0f", c.rate))
	}
}

func (r *report) flushes(rows []flushes) {
	if len(rows) == 0 {
		return
	}
	r.table("per message of 2 KiB, taken and handed on, under strace", "sessions kept open", "flushes", "system calls")
	for _, f := range rows {
		r.row(f.name, fmt.Sprint(f.sessions), fmt.Sprintf("%.2f", f.flushes), fmt.Sprintf("%.0f", f.calls))
	}
}

func (r *report) lines(rows []lineResult) {
	if len(rows) == 0 {
		return
	}
	r.table("line with 40 ms round trip, one connection", "messages waiting", "round trips a message", "turns a message", "whole, s")
	for _, l := range rows {
		r.row(l.name, fmt.Sprint(l.messages), fmt.Sprintf("%.2f", l.trips()), fmt.Sprintf("%.2f", l.turns), show(l.whole))
	}
	r.line("\nTo reach: one round trip a message.")
}

func (r *report) large(l large) {
	if l.peak == 0 {
		return
	}
	r.table("25 MB messages at once, in and out", "in, MB/s", "in and out, MB/s", "peak resident MiB", "to reach")
	r.row(fmt.Sprint(l.messages), fmt.Sprintf("%.0f", l.in/1e6), fmt.Sprintf("%.0f", l.out/1e6), peak.show(float64(l.peak)), "120 MiB")
}

func (r *report) backlogs(rows []backlog) {
	if len(rows) == 0 {
		return
	}
	r.table("messages of 2 KiB waiting", "filled/s", "folder MiB", "start to first delivery, s", "the same after a kill, s",
		"first page of queue list, s", "peak resident MiB", "of it not file MiB", "delivered/s", "CPU ms/message", "intake/s meanwhile", "stop, s")
	for _, b := range rows {
		r.row(fmt.Sprint(b.waiting), fmt.Sprintf("%.0f", b.filled), peak.show(float64(b.size)), show(b.first), show(b.afterCrash), show(b.page),
			peak.show(float64(b.peak)), peak.show(float64(b.anonymous)), fmt.Sprintf("%.0f", b.delivered), fmt.Sprintf("%.2f", b.cost),
			fmt.Sprintf("%.0f", b.intake), show(b.cleanStop))
	}
	r.line("\nTo reach with 1,000,000: 5 s, 1 s and 300 MiB.")
}

func show(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }
