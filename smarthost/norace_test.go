//go:build !race

package smarthost

// underRace is set in tests with the race detector, which makes them ten times slower.
const underRace = false
