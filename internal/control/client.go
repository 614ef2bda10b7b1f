package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"relayd/queue"
)

var (
	// ErrNotRunning: nobody answers on the socket, or there is none. Start relayd, or read its store.
	ErrNotRunning = errors.New("relayd is not running")
	// ErrDenied: relayd runs, but not for this user. Ask as root or as the user that relayd runs as.
	ErrDenied = errors.New("permission denied")
)

// Error is what the server answers when it does not do what it was asked. It is queue.ErrNotFound to errors.Is when
// ids were not known, and ErrDenied when the user may not ask.
type Error struct {
	Status int // the HTTP status code
	Words  string
	IDs    []string // the ids that are not known
}

func (e *Error) Error() string { return e.Words }

// Is makes the server's refusals comparable with the errors of the packages behind it.
func (e *Error) Is(target error) bool {
	switch target {
	case queue.ErrNotFound:
		return e.Status == http.StatusNotFound && len(e.IDs) > 0
	case queue.ErrClosed:
		return e.Status == http.StatusServiceUnavailable
	case ErrDenied:
		return e.Status == http.StatusForbidden
	}
	return false
}

// Client asks a daemon over its control socket. It may be used by several goroutines at once.
type Client struct {
	socket string
	http   *http.Client
}

const (
	dialTimeout = 5 * time.Second
	// answerTimeout is for questions; an action on a whole queue of a million messages takes as long as it takes, and
	// the caller's context ends it.
	answerTimeout = time.Minute
	maxAnswer     = 32 << 20 // octets; a page has some 2 MiB, or one message
)

// Dial connects to the daemon at socket. The error is ErrNotRunning when there is no socket or nobody behind it, and
// ErrDenied when this user may not connect; it names the socket.
func Dial(ctx context.Context, socket string) (*Client, error) {
	first, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	ready := make(chan net.Conn, 1)
	ready <- first
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case c := <-ready:
				return c, nil
			default:
				return dial(ctx, socket)
			}
		},
		DisableCompression: true,
		MaxIdleConns:       2,
		IdleConnTimeout:    time.Minute,
	}
	return &Client{socket: socket, http: &http.Client{Transport: tr}}, nil
}

func dial(ctx context.Context, socket string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, "unix", socket)
	// A daemon that has many connections to take answers so.
	for begin := time.Now(); errors.Is(err, syscall.EAGAIN) && ctx.Err() == nil && time.Since(begin) < dialTimeout; {
		time.Sleep(10 * time.Millisecond)
		c, err = d.DialContext(ctx, "unix", socket)
	}
	if err == nil {
		return c, nil
	}
	reason := err
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		reason = errno
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: cannot reach %s (%w)", ErrNotRunning, socket, reason)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w at %s", ErrDenied, socket)
	}
	return nil, fmt.Errorf("cannot reach %s: %w", socket, reason)
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns the daemon's state.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var st Status
	err := c.get(ctx, "/v1/status", &st)
	return st, err
}

// List returns a page of the queue: up to limit entries with ids greater than after, in order. Page.Next tells whether
// there are more.
func (c *Client) List(ctx context.Context, after string, limit int) (Page, error) {
	q := url.Values{"after": {after}, "limit": {strconv.Itoa(limit)}}
	var p Page
	err := c.get(ctx, "/v1/queue?"+q.Encode(), &p)
	return p, err
}

// Quarantined is List for the messages in quarantine.
func (c *Client) Quarantined(ctx context.Context, after string, limit int) (Page, error) {
	q := url.Values{"state": {queue.StateQuarantined}, "after": {after}, "limit": {strconv.Itoa(limit)}}
	var p Page
	err := c.get(ctx, "/v1/queue?"+q.Encode(), &p)
	return p, err
}

// All walks through the whole queue page by page, so that neither side holds more than a page. A message that comes or
// goes meanwhile may be seen or not. An error ends the walk.
func (c *Client) All(ctx context.Context) iter.Seq2[queue.Entry, error] { return walk(ctx, c.List) }

// AllQuarantined is All for the messages in quarantine.
func (c *Client) AllQuarantined(ctx context.Context) iter.Seq2[queue.Entry, error] {
	return walk(ctx, c.Quarantined)
}

func walk(ctx context.Context, list func(context.Context, string, int) (Page, error)) iter.Seq2[queue.Entry, error] {
	return func(yield func(queue.Entry, error) bool) {
		for after := ""; ; {
			page, err := list(ctx, after, MaxPage)
			if err != nil {
				yield(queue.Entry{}, err)
				return
			}
			for _, e := range page.Entries {
				if !yield(e, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			after = page.Next
		}
	}
}

// Show returns everything known of one message but its content; queue.ErrNotFound when there is none of this id.
func (c *Client) Show(ctx context.Context, id string) (queue.Detail, error) {
	var d queue.Detail
	err := c.get(ctx, "/v1/queue/"+url.PathEscape(id), &d)
	return d, err
}

// Body returns the content of one message. A reader that ends with anything but io.EOF has not given all of it.
func (c *Client) Body(ctx context.Context, id string) (io.ReadCloser, error) {
	return c.open(ctx, "/v1/queue/"+url.PathEscape(id)+"/body")
}

// Export returns one message as queue.SaveExported takes it. A reader that ends with anything but io.EOF has not given all
// of it.
func (c *Client) Export(ctx context.Context, id string) (io.ReadCloser, error) {
	return c.open(ctx, "/v1/queue/"+url.PathEscape(id)+"/export")
}

func (c *Client) open(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Apply does action to the messages named, all of them or, when one is not known (queue.ErrNotFound), none.
func (c *Client) Apply(ctx context.Context, action queue.Action, ids []string) (Result, error) {
	return c.post(ctx, Request{Action: action, IDs: ids})
}

// ApplyAll does action to the whole queue.
func (c *Client) ApplyAll(ctx context.Context, action queue.Action) (Result, error) {
	return c.post(ctx, Request{Action: action, All: true})
}

func (c *Client) post(ctx context.Context, r Request) (Result, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return Result{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/queue/actions", bytes.NewReader(b))
	if err != nil {
		return Result{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	var res Result
	err = c.decode(req, &res)
	return res, err
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return err
	}
	return c.decode(req, v)
}

// base stands for the socket in requests; HTTP wants a host where none is.
const base = "http://relayd"

func (c *Client) decode(req *http.Request, v any) error {
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(v); err != nil {
		return fmt.Errorf("the answer of relayd at %s cannot be read; is it of another version? %w", c.socket, err)
	}
	return nil
}

// do returns the response when its status is 200, and otherwise closes it and returns what it says as an error.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // without the made-up URL
		}
		if errors.Is(err, ErrNotRunning) || errors.Is(err, ErrDenied) {
			return nil, err
		}
		return nil, fmt.Errorf("relayd at %s: %w", c.socket, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var eb errorBody
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(b, &eb) != nil || eb.Error == "" {
		eb.Error = fmt.Sprintf("relayd at %s answered %s; is it of another version?", c.socket, strings.TrimSpace(resp.Status))
	}
	return nil, &Error{Status: resp.StatusCode, Words: eb.Error, IDs: eb.IDs}
}
