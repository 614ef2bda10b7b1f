package relay

import "time"

// lag is how long a client has kept the relay waiting, less what it did meanwhile. It never falls below zero: what a client
// does at once buys it no time to do nothing afterwards.
type lag time.Duration

// add counts a wait, and what was done at its end, as the time that it is worth.
func (l *lag) add(waited, worth time.Duration) {
	*l = max(0, *l+lag(waited)-lag(worth))
}

// octetsWorth returns the time that n octets are worth where rate octets a second are enough.
func octetsWorth(n int, rate int64) time.Duration {
	return time.Duration(n) * time.Second / time.Duration(rate)
}
