//go:build unix

package main

import (
	"math"
	"runtime/debug"
	"testing"
)

func TestMemoryLimit_GrowsWithTheQueue(t *testing.T) {
	for messages, want := range map[int]int64{0: math.MaxInt64, 1_000_000: 96<<20 + 160_000_000, 10_000_000: 96<<20 + 1_600_000_000} {
		if got := memoryLimit(messages); got != want {
			t.Errorf("memoryLimit(%d) = %d, want %d", messages, got, want)
		}
	}
}

func TestLimitMemory_LeavesTheWordOfTheEnvironment(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "1GiB")
	if limitMemory(1); debug.SetMemoryLimit(-1) != before {
		t.Error("the limit was set although GOMEMLIMIT is")
	}
	t.Setenv("GOMEMLIMIT", "")
	if limitMemory(1); debug.SetMemoryLimit(-1) != memoryLimit(1) {
		t.Error("the limit was not set")
	}
}
