package queue

import (
	"testing"
	"time"
)

// inDoubt returns a lane that failed at two of the items of bad, and has all of them and the good one waiting.
func inDoubt(bad []*item, good *item, front bool) *lane {
	l := &lane{}
	l.close(time.Minute, nil)
	for i, it := range bad {
		it.slot.ID = ID(i)
		l.push(it, 0)
		if i < 2 {
			l.doubt(it, time.Duration(i))
		}
	}
	good.slot.ID = 1000
	if front {
		l.pushFirst(good)
	} else {
		l.push(good, 0)
	}
	return l
}

// After two failures the next to go is of another client, also one that an attempt has given back.
func TestLane_AnotherClientProbesAfterTwoFailures(t *testing.T) {
	for _, front := range []bool{false, true} {
		for range 50 {
			var bad []*item
			for i := range 50 {
				bad = append(bad, &item{slot: slot{Source: source{1, uint16(i)}}})
			}
			good := &item{slot: slot{Source: source{2, 1}}}
			if it := inDoubt(bad, good, front).pop(); it != good {
				t.Fatalf("given back %v: item %d of client %d probes", front, it.slot.ID, it.slot.Source.client)
			}
		}
	}
}

// Where there is but one client, another of its senders probes.
func TestLane_AnotherSenderOfTheSameClientProbesAfterTwoFailures(t *testing.T) {
	for _, front := range []bool{false, true} {
		for range 50 {
			var bad []*item
			for range 50 {
				bad = append(bad, &item{slot: slot{Source: source{1, 1}}})
			}
			good := &item{slot: slot{Source: source{1, 2}}}
			if it := inDoubt(bad, good, front).pop(); it != good {
				t.Fatalf("given back %v: item %d of sender %d probes", front, it.slot.ID, it.slot.Source.sender)
			}
		}
	}
}

// A message that the route has failed at does not probe while there is another, whoever sent it.
func TestLane_WhatFailedDoesNotProbeAgain(t *testing.T) {
	for range 50 {
		var bad []*item
		for range 3 {
			it := &item{slot: slot{Source: source{1, 1}}}
			it.withRare().suspect = true
			bad = append(bad, it)
		}
		good := &item{slot: slot{Source: source{1, 1}}}
		if it := inDoubt(bad, good, false).pop(); it != good {
			t.Fatalf("item %d probes again", it.slot.ID)
		}
	}
}

// A success that began before the failure does not end the doubts, and one that began after it does.
func TestLane_SuccessFromBeforeAFailureEndsNoDoubt(t *testing.T) {
	var l lane
	before, after := &item{begun: 1}, &item{begun: 3}
	l.doubt(&item{slot: slot{Source: source{1, 1}}}, 2)
	if l.trust(before); len(l.doubts) != 1 {
		t.Error("a success from before the failure ends the doubts")
	}
	if l.trust(after); len(l.doubts) != 0 {
		t.Error("a success does not end the doubts")
	}
}
