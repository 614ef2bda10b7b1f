package queue

import (
	"relayd/internal/dsn"
	"relayd/internal/envelope"
)

// reportContent is the most of a failed message that its report carries, in octets; of a larger one it carries the
// header.
const reportContent = 50_000

// report composes the report that a verdict calls for; nil when it calls for none. The reported event is noted in the
// verdict's record.
func (q *Queue) report(v verdict, r *record, a envelope.Attempt, from *content) (*record, []byte) {
	tell := reportable(r, v.failed)
	if len(tell) == 0 {
		return nil, nil
	}
	now := q.now()
	original, err := from.start(max(reportContent+1, inlineLimit))
	if err != nil {
		q.log.Warn("a report goes out without the message that it is about", "queue_id", r.ID.String(), "error", err)
	}
	env := envelope.Envelope{
		ReversePath: envelope.Null,
		Recipients:  []envelope.Recipient{{Path: r.Envelope.ReversePath, Notify: envelope.NotifyNever}},
		UTF8:        r.Envelope.ReversePath.NeedsUTF8(),
		Body:        "8BITMIME",
	}
	rep := newRecord(q.ids.next(now), env, envelope.Origin{}, now)
	rep.Report = true
	body := dsn.Compose(dsn.Report{
		ID: rep.ID.String(), Reporter: q.hostname(), To: r.Envelope.ReversePath, Now: now, Action: dsn.Failed,
		Arrival: r.ReceivedAt, MessageID: r.ID.String(), EnvID: r.Envelope.EnvID,
		Recipients: reportRecipients(v, tell, a),
		Original:   original,
		HeaderOnly: r.Envelope.Ret == "HDRS" || r.Size > reportContent || err != nil,
	})
	rep.Size, rep.Sum = int64(len(body)), checksum(body)
	rep.Events = []Event{{At: now, What: "received", Words: "a report about " + r.ID.String()}}
	v.record.note(Event{At: now, What: "reported", Recipients: []string{string(r.Envelope.ReversePath)}, Words: "in message " + rep.ID.String()})
	return rep, body
}

func reportRecipients(v verdict, tell []int, a envelope.Attempt) []dsn.Recipient {
	out := make([]dsn.Recipient, 0, len(tell))
	for _, n := range tell {
		rc := dsn.Recipient{Recipient: v.record.Envelope.Recipients[n], Reply: v.replies[n], Words: v.record.Recipients[n].LastReply}
		if !rc.Reply.IsZero() {
			rc.Host = a.Host
		}
		out = append(out, rc)
	}
	return out
}
