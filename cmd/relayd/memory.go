package main

import (
	"math"
	"os"
	"runtime/debug"
)

// The collector lets the heap grow to twice what is in use before it looks. What the daemon knows of a long queue is in
// use for long, so that would be hundreds of MiB for nothing: near this limit it looks more often instead. The limit is
// well above what a full queue needs, because a collector that cannot keep to its limit does nothing else.
const (
	memoryBase       = 96 << 20
	memoryPerMessage = 160 // octets; the scheduler's item, its place in the map and what the collector needs
)

// memoryLimit returns the soft limit for a queue of at most so many messages, 0 for any number.
func memoryLimit(maxMessages int) int64 {
	if maxMessages <= 0 {
		return math.MaxInt64
	}
	return memoryBase + memoryPerMessage*int64(maxMessages)
}

// limitMemory sets the limit, unless the one who started the daemon did.
func limitMemory(maxMessages int) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(maxMessages))
	}
}
