package queue

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"relayd/internal/envelope"
)

// testRecord is a new record with n recipients.
func testRecord(n int) *record {
	env := testEnvelope()
	for i := range n {
		env.Recipients = append(env.Recipients, envelope.Recipient{Path: envelope.Path(fmt.Sprintf("user%04d@example.com", i))})
	}
	r := newRecord(7, env, envelope.Origin{Helo: "lan.example"}, time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC))
	r.note(Event{At: r.ReceivedAt, What: "received", Host: "10.1.2.3"})
	return r
}

func encoded(t rapid.TB, r *record) []byte {
	t.Helper()
	v, err := encodeRecord(r)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func decoded(t rapid.TB, v []byte) *record {
	t.Helper()
	r, err := decodeRecord(7, v)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whatever hosts answer, and however often, a record stays below the bound that its line in the due index tells.
func TestRecord_StaysBelowItsBound(t *testing.T) {
	words := rapid.StringOfN(rapid.SampledFrom([]rune("a b<\"\\\x01\x7f\n\u2028é\U0001F4E7")), -1, 2000, -1)
	rapid.Check(t, func(rt *rapid.T) {
		r := decoded(t, encoded(t, testRecord(rapid.SampledFrom([]int{1, 2, 30, 1000}).Draw(rt, "recipients"))))
		bound := r.slot("main").bound()
		long := strings.Repeat(words.Draw(rt, "words"), 4)
		for attempt := range rapid.IntRange(1, 30).Draw(rt, "attempts") {
			a := envelope.Attempt{Host: rapid.SampledFrom([]string{"h", strings.Repeat("host", 100)}).Draw(rt, "host"),
				PossibleDuplicate: attempt == 3}
			now := time.Date(2026, 11, 21, 10, attempt, 0, 123456789, time.FixedZone("", 3600))
			waiting := r.unsettled()
			for i := range waiting {
				reply := envelope.Reply{Code: 451, Text: fmt.Sprint(i*rapid.IntRange(0, 1).Draw(rt, "distinct"), attempt, long)}
				a.Results = append(a.Results, envelope.Result{Failure: &envelope.Failure{Reply: reply, Permanent: (i+1)%100 == 0}})
			}
			r = settle(r, waiting, a, testPolicy, now).record
			for i := range r.Recipients {
				r.Recipients[i].Route = fmt.Sprint("route ", i%7)
				r.Recipients[i].Next = r.Recipients[i].Next.Add(time.Duration(i)) // no two were tried together
			}
			v := encoded(t, r)
			if int64(len(v)) > bound {
				rt.Fatalf("%d octets after %d attempts, and the bound was %d", len(v), attempt+1, bound)
			}
			if r = decoded(t, v); r.slot("main").Record != blocksOf(len(v)) {
				rt.Fatalf("%d blocks are noted of %d octets", r.slot("main").Record, len(v))
			}
		}
	})
}

// A record comes back as it was stored, when it is within the limits.
func TestRecord_ComesBackAsItWas(t *testing.T) {
	r := testRecord(5)
	later := r.ReceivedAt.Add(time.Hour)
	for i := range r.Recipients {
		s := &r.Recipients[i]
		s.Attempts, s.LastReply, s.Next, s.Route, s.Waited = 3, "451 4.3.0 later", later, "main", time.Minute
	}
	r.Recipients[1].LastReply, r.Recipients[2].Status, r.Recipients[2].Next = `550 5.1.1 "no" <such> user`, StatusFailed, time.Time{}
	r.Recipients[4].Route, r.Recipients[4].Doubts, r.Recipients[4].Warned = "other", 2, true
	r.Smarthost, r.LastError, r.Attempts, r.Held, r.Spooled, r.From = "smtp.example:587", "451 4.3.0 later", 3, true, true, 9
	r.note(Event{At: later, What: "deferred", Host: "smtp.example:587", Recipients: []string{"user0000@example.com"}, More: 3, Words: "451 4.3.0 later"})
	v := encoded(t, r)
	back := decoded(t, v)
	back.blocks, back.words = 0, 0
	if want, got := fmt.Sprintf("%+v", r), fmt.Sprintf("%+v", back); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if n := strings.Count(string(v), "451 4.3.0 later"); n != 1 {
		t.Errorf("the same reply is stored %d times", n)
	}
}

// A reply is cut where it is stored, between characters, and keeps its code and first words.
func TestRecord_RepliesAreCut(t *testing.T) {
	for name, words := range map[string]string{
		"plain":    strings.Repeat("word ", 2000),
		"wide":     strings.Repeat("\U0001F4E7", 2000),
		"controls": strings.Repeat("\x01", 2000),
		"invalid":  strings.Repeat("\xff", 2000),
	} {
		r := testRecord(1)
		reply := envelope.Reply{Code: 451, Enhanced: envelope.EnhancedCode{4, 3, 0}, Text: "come back later " + words}
		v := settle(r, []int{0}, envelope.Attempt{Results: []envelope.Result{{Failure: &envelope.Failure{Reply: reply}}}}, testPolicy, time.Now())
		if v.words[0] != reply.String() {
			t.Errorf("%s: a report would not have the whole reply", name)
		}
		back := decoded(t, encoded(t, v.record)).Recipients[0].LastReply
		if len(back) > 503 || !strings.HasPrefix(back, "451 4.3.0 come back later ") || !strings.HasSuffix(back, "...") || !utf8.ValidString(back) {
			t.Errorf("%s: %q", name, back)
		}
	}
	if s := "451 4.3.0 " + strings.Repeat("é", 200); clip(s, 500) != s {
		t.Errorf("%q was cut", s)
	}
}

// The first event and the latest ones stay.
func TestRecord_EventsAreBounded(t *testing.T) {
	r := &record{}
	most := queuedLimits().events
	for i := range 10 * most {
		r.note(Event{What: fmt.Sprint(i)})
	}
	if len(r.Events) != most || r.Events[0].What != "0" || r.Events[most-1].What != fmt.Sprint(10*most-1) {
		t.Errorf("%d events, first %s, last %s", len(r.Events), r.Events[0].What, r.Events[len(r.Events)-1].What)
	}
	names := slices.Repeat([]string{"user@example.com"}, 1000)
	r.note(Event{What: "deferred", Recipients: names, Words: strings.Repeat("long ", 1000)})
	e := r.Events[len(r.Events)-1]
	if len(e.Recipients)+e.More != 1000 || len(e.Recipients) > eventNames || len(e.Words) > queuedLimits().said {
		t.Errorf("%+v", e)
	}
}

// An attempt at which each recipient gets other words leaves the events before it in their place.
func TestRecord_OneAttemptLeavesFewEvents(t *testing.T) {
	r := testRecord(100)
	for attempt := range 3 {
		var a envelope.Attempt
		for i := range r.Recipients {
			a.Results = append(a.Results, envelope.Result{Failure: &envelope.Failure{Reason: fmt.Sprintf("%d for recipient %d", attempt, i)}})
		}
		r = settle(r, r.unsettled(), a, testPolicy, time.Now()).record
	}
	if len(r.Events) != 1+3*eventsPerStep {
		t.Fatalf("%d events", len(r.Events))
	}
	last := r.Events[len(r.Events)-1]
	if n := len(last.Recipients) + last.More; n != 100-eventsPerStep+1 || !strings.Contains(last.Words, "several answers") {
		t.Errorf("the last event is about %d recipients: %+v", n, last)
	}
}

// A line of the due index has room for any record that there can be.
func TestSlot_TellsTheSizeOfAnyRecord(t *testing.T) {
	if n := queuedLimits().growth(5000) + 5000*1000; n > math.MaxUint16*recordBlock {
		t.Errorf("%d octets do not fit", n)
	}
}
