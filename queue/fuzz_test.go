package queue

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"relayd/internal/envelope"
)

func seedRecord() *record {
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	return &record{ReceivedAt: at, Size: 5, Envelope: envelope.Envelope{ReversePath: "a@b.test",
		Recipients: []envelope.Recipient{{Path: "c@d.test", ORcpt: "rfc822;c@d.test"}}},
		Recipients: []recipientState{{Status: StatusWaiting, Next: at, LastReply: "451 4.3.0 later"}}}
}

// FuzzDecodeRecord reads records that a disk, or somebody with the file, has had its way with: payloads under a checksum
// that matches, and values without. Each is a record that the queue can work with, or damaged, and nothing panics.
func FuzzDecodeRecord(f *testing.F) {
	whole, err := encodeRecord(seedRecord())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, false)
	f.Add(whole[valueHeader:], true)
	f.Add([]byte(`{"envelope":{"recipients":[{}]},"states":[{"status":"?","next":"9999-12-31T23:59:59Z","waited":-1}],"recipients":[1,0,1]}`), true)
	f.Add([]byte(`{"envelope":{"recipients":[{},{}]},"words":["w"],"states":[{}],"recipients":[2,0,1],"events":[{"to":[1],"words":-1}]}`), true)
	f.Add([]byte(`{"recipients":null,"events":[{}],"size":-1}`), true)
	f.Fuzz(func(t *testing.T, value []byte, seal bool) {
		if seal {
			value = sealValue(value)
		}
		kept := bytes.Clone(value)
		r, err := decodeRecord(7, value)
		if !bytes.Equal(kept, value) {
			t.Fatal("reading a value changed it")
		}
		if err != nil {
			if !errors.Is(err, errDamaged) || r != nil {
				t.Fatalf("%v %v", r, err)
			}
			return
		}
		use(t, r)
		again, err := encodeRecord(r)
		if err != nil {
			return // a time that JSON cannot carry
		}
		if back, err := decodeRecord(7, again); err != nil || len(back.Recipients) != len(r.Recipients) {
			t.Fatalf("%q does not survive being written: %v", kept, err)
		}
	})
}

// use does with r what the queue does with a record that it has just read.
func use(t *testing.T, r *record) {
	t.Helper()
	now := time.Now()
	at, ok := r.next()
	due := r.waiting(now)
	if r.ID != 7 || len(due) > 0 && (!ok || at.After(now)) || len(due) > len(r.unsettled()) {
		t.Fatalf("next %v %v, due %v of %v", at, ok, due, r.unsettled())
	}
	_ = r.later(now)
	if env := r.pick(due); len(env.Recipients) != len(due) {
		t.Fatalf("%d recipients picked of %d", len(env.Recipients), len(due))
	}
	c := r.clone()
	most := queuedLimits().events
	for range most + 1 {
		c.note(Event{})
	}
	if len(c.Events) > most {
		t.Fatalf("%d events", len(c.Events))
	}
}

// FuzzParseExported reads the files that an import is given. What it takes is a record that the queue can work with, and
// stores as it is, and whose words stay where they belong on the wire.
func FuzzParseExported(f *testing.F) {
	r := seedRecord()
	r.ID = 7
	whole, err := encodeExported(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(bytes.Replace(whole, []byte("c@d.test"), []byte(`c@d.test> NOTIFY=NEVER`), 1))
	f.Add(bytes.Replace(whole, []byte(`"waiting"`), []byte(`"delivered"`), 1))
	f.Add([]byte(`{"format":1,"id":"1M8063JNNNMR7","message":{"envelope":{"recipients":[{}]},"recipients":[{"status":"waiting"}]}}`))
	f.Add([]byte(`{"format":1,"id":"1M8063JNNNMR7","message":null}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseExported(text)
		if err != nil {
			return
		}
		stored, err := encodeRecord(r)
		if err != nil {
			return // a time that JSON cannot carry
		}
		back, err := decodeRecord(7, stored)
		if err != nil {
			t.Fatalf("what was taken cannot be read back: %v", err)
		}
		use(t, back)
		if sl := r.slot(""); sl.ID != r.ID || sl.ID == 0 || sl.Size < 0 {
			t.Fatalf("slot %+v", sl)
		}
		for _, rcpt := range append(r.Envelope.Recipients, envelope.Recipient{Path: r.Envelope.ReversePath, ORcpt: r.Envelope.EnvID}) {
			again, params, err := envelope.ParseReverse(rcpt.Path.String())
			if err != nil || again != rcpt.Path || len(params) != 0 || strings.ContainsAny(rcpt.ORcpt, " \r\n\x00") {
				t.Fatalf("%+v would be read as %q with %v, %v", rcpt, again, params, err)
			}
		}
		again, err := encodeExported(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseExported(again); err != nil {
			t.Fatalf("%s was taken, and is not when it is exported again: %v", text, err)
		}
	})
}

// FuzzDecodeSlot reads lines of the due index: a slot that writes itself as it was, or damaged.
func FuzzDecodeSlot(f *testing.F) {
	s := slot{ID: 7, Due: 1, Size: 2, Routes: "a" + routeSeparator + "b"}
	f.Add(s.key(), s.value(), false)
	s.Source, s.Recipients = source{0xab, 0xcd}, 300
	f.Add(s.key(), s.value(), false)
	s.Record = 700
	f.Add(s.key(), s.value(), false)
	f.Add(make([]byte, slotKey), []byte("12345678abcdef0123isp"), true)
	f.Add([]byte("short"), []byte(""), true)
	f.Add(make([]byte, slotKey), []byte("1234567abcdef0123"), true)
	f.Fuzz(func(t *testing.T, key, value []byte, seal bool) {
		if seal {
			value = sealValue(value)
		}
		s, err := decodeSlot(key, value)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Fatal(err)
			}
			return
		}
		if len(s.routes()) == 0 || s.several() != (len(s.routes()) > 1) {
			t.Fatalf("routes %q", s.routes())
		}
		if !bytes.Equal(s.key(), key) || !bytes.Equal(s.value(), value) {
			t.Fatalf("%x %x came back as %x %x", key, value, s.key(), s.value())
		}
	})
}
