package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"relayd/internal/control"
	"relayd/queue"
	"relayd/smarthost"
)

// fakeQueue holds its messages in memory, in order of ids.
type fakeQueue struct {
	mu          sync.Mutex
	entries     []queue.Entry
	bodies      map[string]func() io.ReadCloser
	err         error // what every method answers, when set
	panics      bool
	quarantined int
	busy        string   // the message that is being delivered
	applied     []string // "hold a b"
}

func (q *fakeQueue) List(after string, limit int) (out []queue.Entry, next string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.panics {
		panic("a fault in the queue")
	}
	if q.err != nil {
		return nil, "", q.err
	}
	for _, e := range q.entries {
		switch {
		case e.ID <= after:
		case limit > 0 && len(out) == limit:
			return out, out[limit-1].ID, nil
		default:
			out = append(out, e)
		}
	}
	return out, "", nil
}

func (q *fakeQueue) Quarantined(after string, limit int) (out []queue.Entry, next string, err error) {
	for i := range q.quarantined {
		e := messages(queue.ID(i + 1).String())[0]
		e.State = queue.StateQuarantined
		if e.ID > after && len(out) == limit {
			return out, out[limit-1].ID, nil
		}
		if e.ID > after {
			out = append(out, e)
		}
	}
	return out, "", nil
}

func (q *fakeQueue) find(id string) int {
	return slices.IndexFunc(q.entries, func(e queue.Entry) bool { return e.ID == id })
}

func (q *fakeQueue) Show(id string) (queue.Detail, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := q.find(id)
	if i < 0 {
		return queue.Detail{}, queue.ErrNotFound
	}
	return queue.Detail{Entry: q.entries[i], Events: []queue.Event{{At: q.entries[i].ReceivedAt, What: "received"}}}, nil
}

func (q *fakeQueue) Body(id string) (io.ReadCloser, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	open := q.bodies[id]
	if open == nil {
		return nil, queue.ErrNotFound
	}
	return open(), nil
}

func (q *fakeQueue) Export(id string) (io.ReadCloser, error) { return q.Body(id) }

func (q *fakeQueue) Apply(action queue.Action, ids []string) (queue.Applied, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return queue.Applied{}, q.err
	}
	var missing []string
	for _, id := range ids {
		if q.find(id) < 0 {
			missing = append(missing, id)
		}
	}
	if missing != nil {
		return queue.Applied{}, &queue.NotFoundError{IDs: missing}
	}
	q.applied = append(q.applied, string(action)+" "+strings.Join(ids, " "))
	return q.inFlight(ids), nil
}

// inFlight tells the messages that are being delivered from the others.
func (q *fakeQueue) inFlight(ids []string) (a queue.Applied) {
	for _, id := range ids {
		if id == q.busy {
			a.Asked = append(a.Asked, id)
		} else {
			a.Done = append(a.Done, id)
		}
	}
	return a
}

func (q *fakeQueue) ApplyAll(action queue.Action) (queue.Applied, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.applied = append(q.applied, string(action)+" all")
	var ids []string
	for _, e := range q.entries {
		ids = append(ids, e.ID)
	}
	return q.inFlight(ids), q.err
}

func (q *fakeQueue) Counts() queue.Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := queue.Counts{Deferred: len(q.entries), Quarantined: q.quarantined}
	if len(q.entries) > 0 {
		c.Oldest = q.entries[0].ReceivedAt
	}
	return c
}

func (q *fakeQueue) done() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.applied)
}

func messages(ids ...string) []queue.Entry {
	var out []queue.Entry
	for _, id := range ids {
		out = append(out, queue.Entry{
			ID: id, State: queue.StateDeferred, ReversePath: "a@example.com", Size: 1000,
			ReceivedAt: time.Now().Add(-time.Hour).Truncate(time.Second),
			Recipients: []queue.EntryRecipient{{Address: "b@example.net", Status: queue.StatusWaiting}},
		})
	}
	return out
}

func text(s string) func() io.ReadCloser {
	return func() io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }
}

// socketPath returns a path short enough for a socket whatever TMPDIR and the test's name are.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "c.sock")
}

// start serves opt on a socket of its own; Queue and Log are filled in when they are missing.
func start(t *testing.T, opt control.Options) (*control.Client, string) {
	t.Helper()
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Queue == nil {
		opt.Queue = &fakeQueue{}
	}
	path := socketPath(t)
	s := control.NewServer(opt)
	if err := s.Start(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.Close(ctx)
	})
	c, err := control.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, path
}

func TestClient_PagesThroughALargeQueueInOrder(t *testing.T) {
	q := &fakeQueue{}
	for i := range 2*control.MaxPage + 1 {
		q.entries = append(q.entries, messages(queue.ID(i).String())...)
	}
	c, _ := start(t, control.Options{Queue: q})
	var got []queue.Entry
	for e, err := range c.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	same := slices.EqualFunc(got, q.entries, func(a, b queue.Entry) bool {
		return a.ID == b.ID && a.ReceivedAt.Equal(b.ReceivedAt) && a.Recipients[0] == b.Recipients[0]
	})
	if !same {
		t.Errorf("got %d entries, the queue has %d, or they differ", len(got), len(q.entries))
	}
	page, err := c.List(t.Context(), queue.ID(0).String(), 2)
	if err != nil || len(page.Entries) != 2 || page.Entries[0].ID != queue.ID(1).String() || page.Next != queue.ID(2).String() {
		t.Errorf("List(0, 2) = %+v, %v; want 1, 2 and next 2", page, err)
	}
}

func TestClient_PagesThroughTheQuarantine(t *testing.T) {
	q := &fakeQueue{entries: messages("a"), quarantined: control.MaxPage + 1}
	c, path := start(t, control.Options{Queue: q})
	n := 0
	for e, err := range c.AllQuarantined(t.Context()) {
		if err != nil || e.State != queue.StateQuarantined {
			t.Fatal(e, err)
		}
		n++
	}
	if n != control.MaxPage+1 {
		t.Errorf("got %d entries", n)
	}
	if status, body := raw(t, path, "GET", "/v1/queue?state=lost", ""); status != 400 || !strings.Contains(body, "lost") {
		t.Errorf("answered %d %s", status, body)
	}
}

// What cannot be done to a message in quarantine is the message's fault, and not the daemon's.
func TestServer_QuarantinedMessageIsAConflict(t *testing.T) {
	c, _ := start(t, control.Options{Queue: &fakeQueue{entries: messages("a"), err: fmt.Errorf("a: %w", queue.ErrQuarantined)}})
	_, err := c.Apply(t.Context(), queue.ActionRelease, []string{"a"})
	if ce, ok := errors.AsType[*control.Error](err); !ok || ce.Status != 409 || !strings.Contains(ce.Words, "in quarantine") {
		t.Errorf("error = %v", err)
	}
}

// firstPageOnly is a queue whose store fails behind the first page of its list.
type firstPageOnly struct{ *fakeQueue }

func (q firstPageOnly) List(after string, limit int) ([]queue.Entry, string, error) {
	if after == "" {
		return messages("3F8K2M0Q7XA1B"), "3F8K2M0Q7XA1B", nil
	}
	return nil, "", errors.New("the store has failed: input/output error")
}

func TestClient_AnErrorInTheMiddleEndsTheWalk(t *testing.T) {
	c, _ := start(t, control.Options{Queue: firstPageOnly{&fakeQueue{}}})
	var got []string
	for e, err := range c.All(t.Context()) {
		switch {
		case err == nil:
			got = append(got, e.ID)
		case strings.Contains(err.Error(), "input/output error"):
			got = append(got, "failed")
		default:
			t.Errorf("error = %v; want the store's words", err)
		}
	}
	if want := []string{"3F8K2M0Q7XA1B", "failed"}; !slices.Equal(got, want) {
		t.Errorf("the walk had %q, want %q", got, want)
	}
}

func TestServer_EmptyQueueIsAnEmptyArray(t *testing.T) {
	_, path := start(t, control.Options{})
	status, body := raw(t, path, "GET", "/v1/queue", "")
	if status != 200 || strings.TrimSpace(body) != `{"entries":[]}` {
		t.Errorf("answered %d %s", status, body)
	}
}

func TestClient_ShowAndBody(t *testing.T) {
	content := "Subject: x\r\n\r\n" + strings.Repeat("0123456789abcdef\r\n", 50_000)
	q := &fakeQueue{entries: messages("m1"), bodies: map[string]func() io.ReadCloser{"m1": text(content)}}
	c, path := start(t, control.Options{Queue: q})
	d, err := c.Show(t.Context(), "m1")
	if err != nil || d.ID != "m1" || d.ReversePath != "a@example.com" || len(d.Events) != 1 {
		t.Errorf("Show = %+v, %v", d, err)
	}
	r, err := c.Body(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != content {
		t.Errorf("Body gave %d octets, %v; want %d", len(got), err, len(content))
	}
	for _, path := range []string{"nope", "../x", "a b", ""} {
		if _, err := c.Body(t.Context(), path); err == nil {
			t.Errorf("Body(%q) gave no error", path)
		}
	}
	whole, err := c.Export(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	if got, err := io.ReadAll(whole); err != nil || string(got) != content {
		t.Errorf("Export gave %d octets, %v; want %d", len(got), err, len(content))
	}
	if _, err := c.Export(t.Context(), "nope"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("Export of a message that is not there: %v", err)
	}
	if _, body := raw(t, path, "GET", "/v1/queue/m1/body", ""); body != content {
		t.Error("the raw body differs")
	}
}

// breaking fails after its first part.
type breaking struct{ io.Reader }

func (breaking) Close() error { return nil }

func TestClient_ABodyThatBreaksOffIsAnError(t *testing.T) {
	broken := func() io.ReadCloser {
		return breaking{io.MultiReader(strings.NewReader(strings.Repeat("x", 200_000)), errReader{})}
	}
	q := &fakeQueue{bodies: map[string]func() io.ReadCloser{"m1": broken}}
	c, _ := start(t, control.Options{Queue: q})
	r, err := c.Body(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); err == nil {
		t.Errorf("half a body (%d octets) was taken for a whole one", n)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("spool file: input/output error") }

func TestClient_Actions(t *testing.T) {
	q := &fakeQueue{entries: messages("a", "b", "c")}
	probes := 0
	c, _ := start(t, control.Options{Queue: q, Probe: func() { probes++ }})
	res, err := c.Apply(t.Context(), queue.ActionHold, []string{"a", "c"})
	if err != nil || res.Done != 2 || !slices.Equal(res.IDs, []string{"a", "c"}) {
		t.Errorf("Apply = %+v, %v", res, err)
	}
	if probes != 0 {
		t.Error("a hold made the daemon try its hosts")
	}
	res, err = c.ApplyAll(t.Context(), queue.ActionRetry)
	if err != nil || res.Done != 3 || probes != 1 {
		t.Errorf("ApplyAll = %+v, %v, %d probes", res, err, probes)
	}
	q.busy = "b"
	res, err = c.Apply(t.Context(), queue.ActionDelete, []string{"a", "b"})
	if err != nil || res.Done != 1 || !slices.Equal(res.IDs, []string{"a"}) || !slices.Equal(res.Asked, []string{"b"}) {
		t.Errorf("Apply with one that is being delivered = %+v, %v", res, err)
	}
	res, err = c.ApplyAll(t.Context(), queue.ActionDelete)
	if err != nil || res.Done != 2 || res.IDs != nil || !slices.Equal(res.Asked, []string{"b"}) {
		t.Errorf("ApplyAll with one that is being delivered = %+v, %v", res, err)
	}
	if got := q.done(); !slices.Equal(got, []string{"hold a c", "retry all", "delete a b", "delete all"}) {
		t.Errorf("the queue was asked for %q", got)
	}
}

func TestClient_UnknownIDsAreNamedAndNothingIsDone(t *testing.T) {
	q := &fakeQueue{entries: messages("a")}
	c, _ := start(t, control.Options{Queue: q})
	_, err := c.Apply(t.Context(), queue.ActionDelete, []string{"a", "x", "y"})
	ce, ok := errors.AsType[*control.Error](err)
	if !ok || ce.Status != 404 || !slices.Equal(ce.IDs, []string{"x", "y"}) || !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("error = %#v; want 404 for x and y", err)
	}
	if got := q.done(); got != nil {
		t.Errorf("done all the same: %q", got)
	}
	_, err = c.Show(t.Context(), "x/../y")
	if ce, ok := errors.AsType[*control.Error](err); !ok || !slices.Equal(ce.IDs, []string{"x/../y"}) {
		t.Errorf("Show: %v", err)
	}
}

func TestServer_RefusesRequestsThatMakeNoSense(t *testing.T) {
	q := &fakeQueue{entries: messages("a")}
	_, path := start(t, control.Options{Queue: q})
	for _, tt := range []struct {
		name, method, url, body string
		status                  int
		words                   string
	}{
		{"unknown action", "POST", "/v1/queue/actions", `{"action":"burn","all":true}`, 400, "burn"},
		{"neither ids nor all", "POST", "/v1/queue/actions", `{"action":"hold"}`, 400, "one of the two"},
		{"ids and all", "POST", "/v1/queue/actions", `{"action":"hold","ids":["a"],"all":true}`, 400, "one of the two"},
		{"unknown field", "POST", "/v1/queue/actions", `{"action":"hold","id":"a"}`, 400, "id"},
		{"not JSON", "POST", "/v1/queue/actions", `hold a`, 400, "not what this endpoint takes"},
		{"too long", "POST", "/v1/queue/actions", `{"action":"` + strings.Repeat("x", 5<<20) + `"}`, 413, "fewer"},
		{"limit not a number", "GET", "/v1/queue?limit=many", "", 400, "many"},
		{"limit of nothing", "GET", "/v1/queue?limit=0", "", 400, "from 1 to 1000"},
		{"after not an id", "GET", "/v1/queue?after=yesterday", "", 400, "13 letters"},
		{"unknown endpoint", "GET", "/v2/queue", "", 404, "no such endpoint"},
		{"wrong method", "DELETE", "/v1/queue", "", 405, "DELETE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := raw(t, path, tt.method, tt.url, tt.body)
			if status != tt.status || !strings.HasPrefix(body, `{"error":"`) || !strings.Contains(body, tt.words) {
				t.Errorf("answered %d %s; want %d and %q", status, body, tt.status, tt.words)
			}
		})
	}
	if got := q.done(); got != nil {
		t.Errorf("the queue was asked for %q", got)
	}
}

func TestServer_PanicStopsNobodyElse(t *testing.T) {
	var log bytes.Buffer
	q := &fakeQueue{entries: messages("a"), panics: true}
	c, _ := start(t, control.Options{Queue: q, Log: slog.New(slog.NewTextHandler(&log, nil))})
	_, err := c.List(t.Context(), "", 1)
	if ce, ok := errors.AsType[*control.Error](err); !ok || ce.Status != 500 || strings.Contains(ce.Words, "goroutine") {
		t.Errorf("error = %v; want a 500 without a stack", err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if !strings.Contains(log.String(), "a fault in the queue") {
		t.Errorf("the log does not tell of the panic: %s", log.String())
	}
}

func TestServer_ClosedQueueIsUnavailable(t *testing.T) {
	c, _ := start(t, control.Options{Queue: &fakeQueue{err: queue.ErrClosed}})
	if _, err := c.List(t.Context(), "", 1); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("error = %v; want queue.ErrClosed", err)
	}
}

func TestServer_StatusTellsTroubleInWords(t *testing.T) {
	host := func(address string, state smarthost.State, problem string) smarthost.HostStatus {
		return smarthost.HostStatus{Address: address, State: state, Problem: problem}
	}
	routes := []smarthost.RouteStatus{
		{Name: "healthy", Hosts: []smarthost.HostStatus{host("a:587", smarthost.StateDown, "refused"), host("b:587", smarthost.StateUp, "")}},
		{Name: "fresh", Hosts: []smarthost.HostStatus{host("c:587", smarthost.StateUnknown, "")}},
		{Name: "dead", Hosts: []smarthost.HostStatus{host("d:587", smarthost.StateDown, "d:587 does not answer"), host("e:587", smarthost.StateTLSFailed, "expired")}},
		{Name: "login", Hosts: []smarthost.HostStatus{host("f:587", smarthost.StateLoginRefused, ""), host("g:587", smarthost.StateUp, "")}},
		{Name: "single", Hosts: []smarthost.HostStatus{{Address: "h:587", State: smarthost.StateDown, LastReply: "421 4.3.2 closing"}}},
	}
	q := &fakeQueue{entries: messages("a"), quarantined: 2}
	started := time.Now().Add(-time.Hour).Truncate(time.Second)
	c, _ := start(t, control.Options{
		Queue: q, Version: "v1", Started: started, Hostname: func() string { return "relay.lan" },
		Smarthost: func() []smarthost.RouteStatus { return routes },
		Paused:    func() []string { return []string{"the disk is full"} },
	})
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"the disk is full",
		`route "dead": none of its hosts can be used, its mail waits`,
		`route "dead": d:587 is down: does not answer`,
		`route "dead": e:587 fails at TLS: expired`,
		`route "login": f:587 refuses the login: no reason is known`,
		`route "single": h:587 is down: 421 4.3.2 closing`,
		`messages in quarantine: 2. They are damaged and not delivered. See "relayctl queue list --state quarantined", then "relayctl queue delete ID", or "release ID" once the content is back`,
	}
	if !slices.Equal(st.Problems, want) {
		t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(st.Problems, "\n"), strings.Join(want, "\n"))
	}
	if !st.Running || st.Version != "v1" || st.Hostname != "relay.lan" || !st.Started.Equal(started) || len(st.Routes) != 5 ||
		st.Queue.Deferred != 1 || st.OldestAge < 3600 || st.OldestAge > 3700 {
		t.Errorf("status = %+v", st)
	}
}

func TestServer_QuietStatusHasArraysNotNulls(t *testing.T) {
	_, path := start(t, control.Options{})
	_, body := raw(t, path, "GET", "/v1/status", "")
	for _, want := range []string{`"routes":[]`, `"problems":[]`, `"paused":[]`, `"running":true`, `"oldest_age_seconds":0`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// raw makes one request without the client.
func raw(t *testing.T, socket, method, url, body string) (int, string) {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://relayd"+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
