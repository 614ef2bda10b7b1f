package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"relayd/smarthost"
)

// paceLines tell what limits a route, how much of that is used, and when what waits will be gone.
func paceLines(p *smarthost.PaceStatus, now time.Time) string {
	if p == nil {
		return ""
	}
	lines := ""
	if words := paceLimits(p); words != "" {
		lines = "  pace: " + words + "\n"
	}
	if p.Slowed {
		lines += "      slowed, since the provider asked for less: " + perMinute(p.PerMinute) + " now, and slowly more again\n"
	}
	if p.Messages > 0 && !p.EmptiesAt.IsZero() {
		lines += fmt.Sprintf("      waiting: %s to %s; the next may go %s, and all are gone in %s (%s) if no more come\n",
			messages(p.Messages), count(p.Recipients, "recipient", "recipients"), slot(p.NextSlot, now), span(p.EmptiesAt.Sub(now)),
			stamp(p.EmptiesAt))
	}
	return lines
}

func slot(t, now time.Time) string {
	if !t.After(now) {
		return "now"
	}
	return "in " + span(t.Sub(now))
}

func paceLimits(p *smarthost.PaceStatus) string {
	var words []string
	if p.Rate > 0 {
		words = append(words, fmt.Sprintf("%s a %s", messages(p.Rate), unitOf(time.Duration(p.RateSeconds)*time.Second)))
	}
	if p.DailyRecipients > 0 {
		words = append(words, fmt.Sprintf("%d of %s in 24 hours", p.UsedToday, count(p.DailyRecipients, "recipient", "recipients")))
	}
	if p.MaxRecipients > 0 {
		words = append(words, count(p.MaxRecipients, "recipient", "recipients")+" at a time")
	}
	if p.MaxSize > 0 {
		words = append(words, "up to "+size(p.MaxSize)+" a message")
	}
	return strings.Join(words, ", ")
}

func unitOf(d time.Duration) string {
	switch d {
	case time.Second:
		return "second"
	case time.Minute:
		return "minute"
	case time.Hour:
		return "hour"
	case 24 * time.Hour:
		return "day"
	}
	return d.String()
}

func perMinute(n float64) string {
	if n < 1 {
		return strconv.FormatFloat(n*60, 'f', 1, 64) + " messages an hour"
	}
	return strconv.FormatFloat(n, 'f', 1, 64) + " messages a minute"
}
