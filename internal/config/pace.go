package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rate is a number of messages in a unit of time; the zero Rate is no limit.
type Rate struct {
	Messages int
	Per      time.Duration
}

// String returns the rate as a file has it.
func (r Rate) String() string {
	for _, u := range rateUnits() {
		if r.Per == u.per && r.Messages > 0 {
			return strconv.Itoa(r.Messages) + "/" + u.names[0]
		}
	}
	return rateOff
}

const rateOff = "off"

// mostRate bounds the messages of a rate, whatever its unit.
const mostRate = 1_000_000

type rateUnit struct {
	names []string
	word  string
	per   time.Duration
}

func rateUnits() []rateUnit {
	return []rateUnit{
		{[]string{"s", "sec", "second"}, "second", time.Second},
		{[]string{"min", "m", "minute"}, "minute", time.Minute},
		{[]string{"h", "hour"}, "hour", time.Hour},
		{[]string{"d", "day"}, "day", 24 * time.Hour},
	}
}

// parseRate reads "30/min", "100/h", "2/s" or "off".
func parseRate(s string) (Rate, error) {
	if strings.EqualFold(s, rateOff) {
		return Rate{}, nil
	}
	number, unit, ok := strings.Cut(s, "/")
	if !ok {
		return Rate{}, errors.New("the unit of time is missing")
	}
	n, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil || n < 1 || n > mostRate || strings.HasPrefix(number, "+") {
		return Rate{}, fmt.Errorf("before the / stands a whole number from 1 to %d", mostRate)
	}
	unit = strings.ToLower(strings.TrimSpace(unit))
	for _, u := range rateUnits() {
		if slices.Contains(u.names, unit) {
			return Rate{n, u.per}, nil
		}
	}
	return Rate{}, fmt.Errorf("there is no unit %q, only s, min, h and d", unit)
}

// rate returns the rate of a key.
func (t *table) rate(key string) Rate {
	s, ok := t.text(key)
	if !ok {
		return Rate{}
	}
	r, err := parseRate(s)
	if err != nil {
		t.bad(key, fmt.Sprintf("%q is not a rate: %v", s, err), `write messages in a unit of time: "30/min", "100/h" or "2/s"; or "off"`)
	}
	return r
}

// leastMaxSize is below what any host takes; a smaller limit is a slip of units.
const leastMaxSize = 64_000

// readPace fills in what the account and a transaction may have.
func readPace(t *table, s *Smarthost) {
	s.Rate = t.rate("rate")
	s.DailyRecipients = t.number("daily_recipients", 0, maxCount)
	s.MaxRecipients = t.number("max_recipients", 0, maxCount)
	var ok bool
	if s.MaxSize, ok = t.size("max_size", 0); ok && s.MaxSize > 0 && s.MaxSize < leastMaxSize {
		t.bad("max_size", fmt.Sprintf("%d bytes is too little", s.MaxSize),
			`write at least "64KB", or "0" for no limit; sizes without a unit are bytes`)
	}
}

// paceWords says what limits a smarthost; "" when nothing does.
func paceWords(s Smarthost) string {
	var words []string
	for _, u := range rateUnits() {
		if s.Rate.Messages > 0 && s.Rate.Per == u.per {
			words = append(words, count(s.Rate.Messages, "message")+" a "+u.word)
		}
	}
	if s.DailyRecipients > 0 {
		words = append(words, count(s.DailyRecipients, "recipient")+" in 24 hours")
	}
	if s.MaxRecipients > 0 {
		words = append(words, count(s.MaxRecipients, "recipient")+" at a time")
	}
	if s.MaxSize > 0 {
		words = append(words, "messages of "+wordSize(s.MaxSize))
	}
	if len(words) == 0 {
		return ""
	}
	return "at most " + strings.Join(words, ", ")
}
