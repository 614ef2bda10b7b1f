//go:build !race

package queue_test

// underRace is set in tests with the race detector, which takes much memory and time.
const underRace = false
