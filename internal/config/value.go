package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// unit is a name and what it stands for: bytes of a size, nanoseconds of a duration.
type unit struct {
	name string
	n    int64
}

// durationUnits are in the order in which they may follow each other, "1d12h".
var durationUnits = []unit{
	{"w", int64(7 * 24 * time.Hour)},
	{"d", int64(24 * time.Hour)},
	{"h", int64(time.Hour)},
	{"m", int64(time.Minute)},
	{"s", int64(time.Second)},
	{"ms", int64(time.Millisecond)},
}

// parseDuration reads a duration such as "90s", "1h30m" or "5d": whole numbers, each with its unit, the larger first.
// It is stricter than time.ParseDuration, which knows no days and takes a sign, fractions and units in any order.
func parseDuration(s string) (time.Duration, error) {
	rest, next := s, 0
	var total int64
	for rest != "" || s == "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		letters := len(rest[digits:]) - len(strings.TrimLeft(rest[digits:], "abcdefghijklmnopqrstuvwxyz"))
		number, name := rest[:digits], rest[digits:digits+letters]
		rest = rest[digits+letters:]
		if number == "" {
			return 0, errors.New("it must be whole numbers with units, without a sign, a point or spaces")
		}
		if name == "" {
			return 0, fmt.Errorf("the unit after %s is missing, ms, s, m, h, d or w", number)
		}
		i := indexUnit(durationUnits, name)
		if i < 0 {
			return 0, fmt.Errorf("there is no unit %q, only ms, s, m, h, d and w", name)
		}
		if i < next {
			return 0, errors.New("the larger unit comes first, and each one once")
		}
		next = i + 1
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n > (math.MaxInt64-total)/durationUnits[i].n {
			return 0, errors.New("it is too long")
		}
		total += n * durationUnits[i].n
	}
	return time.Duration(total), nil
}

func indexUnit(units []unit, name string) int {
	for i, u := range units {
		if strings.EqualFold(u.name, name) {
			return i
		}
	}
	return -1
}

// shortDuration writes d as parseDuration reads it.
func shortDuration(d time.Duration) string {
	if d <= 0 {
		return "0s"
	}
	var b strings.Builder
	rest := int64(d)
	for _, u := range durationUnits[1:] { // weeks read worse than days
		if n := rest / u.n; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			rest %= u.n
		}
	}
	return b.String()
}

// sizeUnits: the SI prefixes are powers of 1000, those with an i powers of 1024.
var sizeUnits = []unit{
	{"B", 1},
	{"KB", 1e3}, {"KiB", 1 << 10},
	{"MB", 1e6}, {"MiB", 1 << 20},
	{"GB", 1e9}, {"GiB", 1 << 30},
	{"TB", 1e12}, {"TiB", 1 << 40},
}

// parseSize reads a size such as "25MB", "64KiB" or "1048576", and returns bytes. Upper and lower case are the same.
func parseSize(s string) (int64, error) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	if digits == 0 {
		return 0, errors.New("it must be a whole number and a unit, without a sign")
	}
	factor := int64(1)
	if name := s[digits:]; name != "" {
		i := indexUnit(sizeUnits, name)
		if i < 0 {
			return 0, fmt.Errorf("there is no unit %q, only B, KB, KiB, MB, MiB, GB, GiB, TB and TiB", name)
		}
		factor = sizeUnits[i].n
	}
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if err != nil || n > math.MaxInt64/factor {
		return 0, errors.New("it is too large")
	}
	return n * factor, nil
}

// shortSize writes n as parseSize reads it, in the unit that needs the fewest digits.
func shortSize(n int64) string {
	best := strconv.FormatInt(n, 10)
	digits := len(best)
	for _, u := range sizeUnits[1:] {
		if n != 0 && n%u.n == 0 {
			if q := strconv.FormatInt(n/u.n, 10); len(q) < digits {
				best, digits = q+u.name, len(q)
			}
		}
	}
	return best
}
