package oauth

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"golang.org/x/oauth2"
)

const (
	// requestTimeout bounds one request to a provider, its answer included.
	requestTimeout = 30 * time.Second
	// maxAnswer bounds an answer, in octets. Tokens have a few thousand.
	maxAnswer = 256 << 10
)

var errAnswerTooLarge = errors.New("its answer is larger than 256 KiB")

// withClient returns a context by which x/oauth2 sends its requests over rt, each bounded in time and size and ended by
// ctx.
func withClient(ctx context.Context, rt http.RoundTripper) context.Context {
	client := &http.Client{
		Transport: &bounded{ctx: ctx, next: rt},
		// A redirect would carry a secret to where nobody has said that it may go.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return context.WithValue(ctx, oauth2.HTTPClient, client)
}

// bounded reads each answer as a whole before it is passed on: not all callers bound or close what they get, and not all
// give their requests a context.
type bounded struct {
	ctx  context.Context
	next http.RoundTripper
}

func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(b.ctx, requestTimeout)
	defer cancel()
	resp, err := b.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errAnswerTooLarge
	}
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}
