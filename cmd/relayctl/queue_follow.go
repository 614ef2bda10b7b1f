package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"relayd/internal/control"
	"relayd/queue"
)

const (
	// askedPatience is how long a command waits for messages that are being delivered, askedPause how often it looks.
	askedPatience = 15 * time.Second
	askedPause    = 100 * time.Millisecond
)

// outcome is what became of an action. Left are the messages that were being delivered when it was asked for, and have left
// the queue by that.
type outcome struct {
	control.Result
	Left []left `json:"left,omitempty"`
}

type left struct {
	ID   string `json:"id"`
	Fate string `json:"fate"` // delivered, failed or unknown
}

// follow waits until what was only asked for is done or too late, but no longer than patience.
func follow(ctx context.Context, c *control.Client, res control.Result, patience time.Duration) outcome {
	out := outcome{Result: res}
	deadline := time.Now().Add(patience)
	for len(out.Asked) > 0 {
		out.Asked = slices.DeleteFunc(out.Asked, func(id string) bool { return out.settled(ctx, c, id) })
		if len(out.Asked) == 0 || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return out
		case <-time.After(askedPause):
		}
	}
	return out
}

// settled reports whether the action was done to a message, or is too late, and notes which.
func (o *outcome) settled(ctx context.Context, c *control.Client, id string) bool {
	d, err := c.Show(ctx, id)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		o.Left = append(o.Left, left{id, "unknown"}) // no history is kept
		return true
	case err != nil, !d.Gone && slices.Contains(d.Asked, o.Action):
		return false
	case d.Gone && !wasDeleted(d):
		o.Left = append(o.Left, left{id, fate(d)})
		return true
	}
	o.Done++
	if o.IDs != nil {
		o.IDs = append(o.IDs, id)
	}
	return true
}

func wasDeleted(d queue.Detail) bool {
	return slices.ContainsFunc(d.Events, func(e queue.Event) bool { return e.What == "deleted" })
}

func fate(d queue.Detail) string {
	for _, r := range d.Recipients {
		if r.Status == queue.StatusFailed {
			return "failed"
		}
	}
	return "delivered"
}

// words tells of the messages that the action was not done to.
func (o outcome) words() string {
	var b strings.Builder
	for _, l := range o.Left {
		switch l.Fate {
		case "unknown":
			fmt.Fprintf(&b, "%s has left the queue before. What became of it is in the log of relayd.\n", clean(l.ID))
		case "failed":
			fmt.Fprintf(&b, "%s has left the queue before: it has failed.\n", clean(l.ID))
		default:
			fmt.Fprintf(&b, "%s has left the queue before: it was delivered.\n", clean(l.ID))
		}
	}
	for _, id := range o.Asked {
		fmt.Fprintf(&b, "%s is still being delivered. The %s is asked for: see \"relayctl queue show %s\".\n", clean(id), o.Action, clean(id))
	}
	return b.String()
}

// failure returns an error if a hold or a deletion was not done. A message that has gone or is on its way needs no retry.
func (o outcome) failure() error {
	if o.Action != queue.ActionDelete && o.Action != queue.ActionHold {
		return nil
	}
	if n := len(o.Left) + len(o.Asked); n > 0 {
		return fmt.Errorf("not done to %s", messages(n))
	}
	return nil
}
