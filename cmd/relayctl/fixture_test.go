package main

import (
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/pace"
	"relayd/queue"
	"relayd/smarthost"
)

// fixture is a daemon's inside that a script looks at.
type fixture struct {
	queue  *memoryQueue
	routes func() []smarthost.RouteStatus
}

var fixtures = map[string]func(now time.Time) fixture{
	"empty": func(time.Time) fixture {
		return fixture{&memoryQueue{}, func() []smarthost.RouteStatus { return nil }}
	},
	"mixed": func(now time.Time) fixture {
		return fixture{&memoryQueue{details: mixed(now)}, func() []smarthost.RouteStatus { return healthy(now) }}
	},
	"hostile": func(now time.Time) fixture {
		return fixture{&memoryQueue{details: hostile(now)}, func() []smarthost.RouteStatus { return hostileRoutes(now) }}
	},
	"troubled": func(now time.Time) fixture {
		return fixture{&memoryQueue{details: mixed(now), damaged: 2}, func() []smarthost.RouteStatus { return troubled(now) }}
	},
	"tokens": func(now time.Time) fixture {
		return fixture{&memoryQueue{}, func() []smarthost.RouteStatus {
			return []smarthost.RouteStatus{{Name: "app", TLS: "starttls", Username: "me@contoso.example", Hosts: []smarthost.HostStatus{
				{Address: "smtp.office365.com:587", State: smarthost.StateUp}}}}
		}}
	},
	"paced": func(now time.Time) fixture {
		return fixture{&memoryQueue{details: paced(now)}, func() []smarthost.RouteStatus { return pacedRoutes(now) }}
	},
	"large": func(now time.Time) fixture {
		return fixture{&memoryQueue{details: large(now, 2345)}, func() []smarthost.RouteStatus { return nil }}
	},
}

// mixed has a message of each state. Times are half a unit off, so that what is printed does not change while a script
// runs.
func mixed(now time.Time) []queue.Detail {
	deferred := queue.Detail{
		Entry: queue.Entry{
			ID: "1M8063JNNNMR7", State: queue.StateDeferred, ReversePath: "alice@example.com", Size: 24_123,
			ReceivedAt: now.Add(-3*time.Hour - 12*time.Minute - 30*time.Second), NextAttempt: now.Add(12*time.Minute + 30*time.Second),
			Attempts: 3, LastError: "450 4.2.1 mailbox is busy", Smarthost: "smtp.isp.example:587",
			Recipients: []queue.EntryRecipient{
				{Address: "carol@example.org", Status: queue.StatusDelivered, Attempts: 1, LastReply: "250 2.0.0 Ok: queued as 4F1"},
				{Address: "bob@example.net", Status: queue.StatusWaiting, Attempts: 3, LastReply: "450 4.2.1 mailbox is busy"},
				{Address: "dave@example.net", Status: queue.StatusFailed, Attempts: 1, LastReply: "550 5.1.1 no such user"},
			},
		},
		Origin: envelope.Origin{Addr: netip.MustParseAddr("192.168.1.10"), Helo: "exchange.example.lan", Protocol: "ESMTP"},
	}
	deferred.Envelope = envelope.Envelope{
		ReversePath: deferred.ReversePath, Body: "8BITMIME", Ret: "HDRS", EnvID: "QQ314159",
		Recipients: []envelope.Recipient{
			{Path: "carol@example.org", Notify: envelope.NotifyNever}, {Path: "bob@example.net"},
			{Path: "dave@example.net", ORcpt: "rfc822;dave@example.net"},
		},
	}
	at := deferred.ReceivedAt
	deferred.Events = []queue.Event{
		{At: at, What: "received", Words: "from 192.168.1.10"},
		{At: at.Add(time.Second), What: "delivered", Host: "smtp.isp.example:587", Recipients: []string{"carol@example.org"}, Words: "250 2.0.0 Ok: queued as 4F1"},
		{At: at.Add(time.Second), What: "deferred", Host: "smtp.isp.example:587", Recipients: []string{"bob@example.net"}, Words: "450 4.2.1 mailbox is busy"},
		{At: at.Add(time.Second), What: "failed", Host: "smtp.isp.example:587", Recipients: []string{"dave@example.net"}, Words: "550 5.1.1 no such user"},
	}
	held := queue.Detail{Entry: queue.Entry{
		ID: "1M8063JQ2V0A3", State: queue.StateHeld, Size: 812, ReceivedAt: now.Add(-2*24*time.Hour - 4*time.Hour - 30*time.Minute),
		Recipients: []queue.EntryRecipient{{Address: "alice@example.com", Status: queue.StatusWaiting}}, Smarthost: "isp",
	}}
	active := queue.Detail{
		Entry: queue.Entry{
			ID: "1M80641ZC9T5K", State: queue.StateActive, ReversePath: "日本語@例え.example", Size: 1_300_000,
			ReceivedAt: now.Add(-2*time.Minute - 30*time.Second),
			Recipients: []queue.EntryRecipient{{Address: "zoë@example.net", Status: queue.StatusWaiting}}, Smarthost: "isp",
		},
		Origin: envelope.Origin{Addr: netip.MustParseAddr("192.168.1.77"), Protocol: "UTF8SMTP"},
	}
	active.Envelope = envelope.Envelope{ReversePath: active.ReversePath, UTF8: true,
		Recipients: []envelope.Recipient{{Path: "zoë@example.net"}}}
	return []queue.Detail{deferred, held, active}
}

// Words of people who want to do something to a terminal: clear it, set its title, turn the reading direction, and
// the same with an eight-bit control and in text that is not UTF-8.
const (
	evilReply  = "554 5.7.1 \x1b[2J\x1b]0;owned\x07 refused\r\nsecond line \u009b31m \u202egnp.exe \xff\x9b1m"
	evilPath   = "\x1b[31mred@example.com"
	evilBody   = "Subject: \x1b[2Jcleared\r\n\r\n\u009b2J caf\u00e9 \xff\r\n"
	evilIDWord = "1M8063JNNNMR7"
)

func hostile(now time.Time) []queue.Detail {
	d := queue.Detail{
		Entry: queue.Entry{
			ID: evilIDWord, State: queue.StateDeferred, ReversePath: evilPath, Size: 2048, ReceivedAt: now.Add(-90 * time.Second),
			NextAttempt: now.Add(5*time.Minute + 30*time.Second), Attempts: 1, LastError: evilReply, Smarthost: "evil\x1b[0m:587",
			Recipients: []queue.EntryRecipient{{Address: evilPath, Status: queue.StatusWaiting, Attempts: 1, LastReply: evilReply}},
		},
		Origin: envelope.Origin{Addr: netip.MustParseAddr("192.168.1.10"), Helo: "\x1b[5mhelo", Protocol: "SMTP"},
	}
	d.Envelope = envelope.Envelope{ReversePath: evilPath, EnvID: "\x1b[7m", Recipients: []envelope.Recipient{{Path: evilPath, ORcpt: "\x1bc"}}}
	d.Events = []queue.Event{{At: d.ReceivedAt, What: "deferred", Host: "evil\x1b[0m:587", Recipients: []string{evilPath}, Words: evilReply}}
	return []queue.Detail{d}
}

func hostileRoutes(now time.Time) []smarthost.RouteStatus {
	return []smarthost.RouteStatus{{Name: "isp\x1b[1m", Username: "me\x1b[1m", Hosts: []smarthost.HostStatus{{
		Address: "evil\x1b[0m:587", State: smarthost.StateDown, Since: now.Add(-time.Minute), LastReply: evilReply, Problem: "it said " + evilReply,
	}}}}
}

func healthy(now time.Time) []smarthost.RouteStatus {
	return []smarthost.RouteStatus{
		{Name: "isp", TLS: "starttls", Username: "me@isp.example", Hosts: []smarthost.HostStatus{
			{Address: "smtp.isp.example:587", State: smarthost.StateUp, Since: now.Add(-50*time.Hour - 30*time.Second), TLS: "TLS 1.3", Connections: 2,
				LastReply: "250 2.0.0 Ok: queued as 4F1"},
			{Address: "smtp2.isp.example:587", State: smarthost.StateDown, Since: now.Add(-12*time.Minute - 30*time.Second), Failures: 5,
				Problem: "connection refused; check that the host and port are right", NextProbe: now.Add(90*time.Second + 500*time.Millisecond)},
		}},
		{Name: "lan", TLS: "off", Hosts: []smarthost.HostStatus{{Address: "192.168.1.10:25", State: smarthost.StateUnknown}}},
	}
}

// paced is a message that waits for its turn, and pacedRoutes the route that makes it wait.
func paced(now time.Time) []queue.Detail {
	return []queue.Detail{{Entry: queue.Entry{
		ID: "1M8063JNNNMR7", State: queue.StateDeferred, WaitsFor: queue.WaitsForPace, ReversePath: "alice@example.com", Size: 812,
		ReceivedAt: now.Add(-time.Hour - 30*time.Second), NextAttempt: now.Add(2*time.Minute + 30*time.Second),
		Recipients: []queue.EntryRecipient{{Address: "bob@example.net", Status: queue.StatusWaiting}}, Smarthost: "isp",
	}}}
}

func pacedRoutes(now time.Time) []smarthost.RouteStatus {
	routes := healthy(now)[:1]
	routes[0].Hosts = routes[0].Hosts[:1]
	routes[0].Hosts[0].Connections, routes[0].Hosts[0].LastReply = 0, ""
	routes[0].Pace = &smarthost.PaceStatus{
		Status: pace.Status{Account: "me@isp.example at smtp.isp.example:587", Rate: 30, RateSeconds: 60, PerMinute: 14, Slowed: true,
			DailyRecipients: 500, UsedToday: 480, NextSlot: now.Add(2*time.Minute + 30*time.Second)},
		MaxRecipients: 100, MaxSize: 25e6, Messages: 1, Recipients: 3, EmptiesAt: now.Add(3*time.Hour + 30*time.Second),
	}
	return routes
}

func troubled(now time.Time) []smarthost.RouteStatus {
	return []smarthost.RouteStatus{
		{Name: "isp", TLS: "implicit", Username: "me@isp.example", Hosts: []smarthost.HostStatus{
			{Address: "smtp.isp.example:465", State: smarthost.StateLoginRefused, Since: now.Add(-3*time.Hour - 30*time.Second), TLS: "TLS 1.3", Failures: 4,
				LastReply: "535 5.7.8 Username and Password not accepted", Problem: "the login is refused; put the right password into the configuration",
				NextProbe: now.Add(40*time.Minute + 30*time.Second)},
		}},
		{Name: "office", TLS: "starttls", Username: "office", Hosts: []smarthost.HostStatus{
			{Address: "a.example:587", State: smarthost.StateDown, Since: now.Add(-time.Hour - 30*time.Second), Failures: 1, Problem: "no answer"},
			{Address: "b.example:587", State: smarthost.StateTLSFailed, Since: now.Add(-time.Hour - 30*time.Second), Failures: 2,
				Problem: "its certificate expired on 2026-01-01"},
		}},
	}
}

func large(now time.Time, n int) []queue.Detail {
	list := make([]queue.Detail, n)
	for i := range list {
		list[i] = queue.Detail{Entry: queue.Entry{
			ID: queue.ID(i + 1).String(), State: queue.StateDeferred, ReversePath: "a@example.com", Size: 1000, ReceivedAt: now.Add(-90 * time.Minute),
			Recipients: []queue.EntryRecipient{{Address: "b@example.net", Status: queue.StatusWaiting}},
		}}
	}
	return list
}

// memoryQueue is a queue without a disk that does what operators ask.
type memoryQueue struct {
	mu      sync.Mutex
	details []queue.Detail
	damaged int
}

func (q *memoryQueue) find(id string) int {
	return slices.IndexFunc(q.details, func(d queue.Detail) bool { return d.ID == strings.ToUpper(id) })
}

func (q *memoryQueue) List(after string, limit int) (out []queue.Entry, next string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, d := range q.details {
		switch {
		case d.ID <= after || d.Gone:
		case limit > 0 && len(out) == limit:
			return out, out[limit-1].ID, nil
		default:
			out = append(out, d.Entry)
		}
	}
	return out, "", nil
}

func (q *memoryQueue) Quarantined(string, int) (out []queue.Entry, next string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.damaged {
		out = append(out, queue.Entry{ID: queue.ID(i + 1).String(), State: queue.StateQuarantined, ReversePath: "alice@example.com",
			ReceivedAt: time.Now().Add(-90 * time.Second), LastError: "its content does not match its checksum",
			Recipients: []queue.EntryRecipient{{Address: "bob@example.net", Status: queue.StatusWaiting}}})
	}
	return out, "", nil
}

func (q *memoryQueue) Show(id string) (queue.Detail, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := q.find(id); i >= 0 {
		return q.details[i], nil
	}
	return queue.Detail{}, &queue.NotFoundError{IDs: []string{id}}
}

func (q *memoryQueue) Body(id string) (io.ReadCloser, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := q.find(id); i >= 0 && !q.details[i].Gone {
		return io.NopCloser(strings.NewReader(evilBody)), nil
	}
	return nil, &queue.NotFoundError{IDs: []string{id}}
}

func (q *memoryQueue) Export(id string) (io.ReadCloser, error) { return q.Body(id) }

func (q *memoryQueue) Apply(action queue.Action, ids []string) (queue.Applied, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	missing := &queue.NotFoundError{}
	for _, id := range ids {
		if i := q.find(id); i < 0 || q.details[i].Gone {
			missing.IDs = append(missing.IDs, id)
		}
	}
	if missing.IDs != nil {
		return queue.Applied{}, missing
	}
	var applied queue.Applied
	for _, id := range ids {
		q.apply(&applied, action, &q.details[q.find(id)])
	}
	return applied, nil
}

func (q *memoryQueue) ApplyAll(action queue.Action) (queue.Applied, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var applied queue.Applied
	for i := range q.details {
		if !q.details[i].Gone {
			q.apply(&applied, action, &q.details[i])
		}
	}
	return applied, nil
}

func (q *memoryQueue) apply(applied *queue.Applied, action queue.Action, d *queue.Detail) {
	if d.Asked != nil { // it stands for one that is being delivered
		applied.Asked = append(applied.Asked, d.ID)
		return
	}
	applied.Done = append(applied.Done, d.ID)
	q.change(action, d)
}

func (q *memoryQueue) change(action queue.Action, d *queue.Detail) {
	switch action {
	case queue.ActionHold:
		d.State = queue.StateHeld
	case queue.ActionRelease:
		d.State = queue.StateActive
	case queue.ActionRetry:
		if d.State != queue.StateHeld {
			d.State = queue.StateActive
		}
	case queue.ActionDelete:
		d.Gone = true
	}
}

func (q *memoryQueue) Counts() queue.Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := queue.Counts{Quarantined: q.damaged}
	for _, d := range q.details {
		switch {
		case d.Gone:
			continue
		case d.State == queue.StateHeld:
			c.Held++
		case d.State == queue.StateActive:
			c.Active++
		default:
			c.Deferred++
			if d.WaitsFor == queue.WaitsForPace {
				c.Paced++
			}
		}
		c.Bytes += d.Size
		if c.Oldest.IsZero() || d.ReceivedAt.Before(c.Oldest) {
			c.Oldest = d.ReceivedAt
		}
	}
	return c
}
