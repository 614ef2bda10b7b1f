package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"relayd/internal/config"
	"relayd/internal/control"
	"relayd/queue"
)

// source is where the reading commands get their answers: the daemon, or its store when it is down.
type source interface {
	All(ctx context.Context) iter.Seq2[queue.Entry, error]
	AllQuarantined(ctx context.Context) iter.Seq2[queue.Entry, error]
	Show(ctx context.Context, id string) (queue.Detail, error)
	Body(ctx context.Context, id string) (io.ReadCloser, error)
	Status(ctx context.Context) (control.Status, error)
	// Export writes the messages with these ids, or all for none, to files, and returns how many it wrote.
	Export(ctx context.Context, to *exportFolder, ids []string) (int, error)
	Close()
}

// running is a daemon that answers.
type running struct{ *control.Client }

func (r running) Export(ctx context.Context, to *exportFolder, ids []string) (int, error) {
	return exportOnline(ctx, r.Client, to, ids)
}

// places is where to find a daemon.
type places struct {
	socket  string
	dataDir string // "" when it is not known whether the configuration is that of the daemon at socket
}

// places reads the configuration as far as it is needed. With --socket it need not be readable at all.
func (a *app) places() (places, error) {
	dataDir, socket, err := config.Places(a.config)
	switch {
	case a.socket == "" && err != nil:
		return places{}, whereIsIt(err)
	case a.socket == "":
		return places{socket: socket, dataDir: dataDir}, nil
	case err == nil && (a.configGiven || socket == a.socket):
		return places{socket: a.socket, dataDir: dataDir}, nil
	}
	return places{socket: a.socket}, nil
}

// whereIsIt says that the control socket is not known because the configuration has faults.
func whereIsIt(err error) error {
	const so = "the path of the control socket cannot be learnt from the configuration; mend it, or say --socket PATH"
	if faults, ok := errors.AsType[config.Faults](err); ok && len(faults) > 1 {
		return fmt.Errorf("%s:\n%w", so, err)
	}
	return fmt.Errorf("%s: %w", so, err)
}

// daemon connects to the daemon; without one it is an error.
func (a *app) daemon(ctx context.Context) (*control.Client, error) {
	at, err := a.places()
	if err != nil {
		return nil, err
	}
	if err := a.enter(at, false); err != nil {
		return nil, err
	}
	c, err := control.Dial(ctx, at.socket)
	return c, a.explain(err)
}

// open connects to the daemon or, when it is down, opens its store and says so. back is that of enter.
func (a *app) open(ctx context.Context, back bool) (source, error) {
	at, err := a.places()
	if err != nil {
		return nil, err
	}
	if err := a.enter(at, back); err != nil {
		return nil, err
	}
	c, err := control.Dial(ctx, at.socket)
	if err == nil {
		return running{c}, nil
	}
	if !errors.Is(err, control.ErrNotRunning) || at.dataDir == "" {
		return nil, a.explain(err)
	}
	r, storeErr := queue.OpenReadOnly(at.dataDir)
	if storeErr != nil {
		return nil, a.explain(fmt.Errorf("%w, nor read its store in %s (%w)", err, at.dataDir, storeErr))
	}
	fmt.Fprintf(a.err, "relayctl: %v; this is what its store in %s holds\n", err, at.dataDir)
	return &store{r}, nil
}

// explain adds to an error of the control socket what to do about it.
func (a *app) explain(err error) error {
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return fmt.Errorf(`%w; start it with "systemctl start relayd" or "relayd --config %s"`, err, a.config)
	case errors.Is(err, control.ErrDenied) && a.owner != nil:
		return fmt.Errorf("%w: relayctl asked as %s, the owner of the queue's folder, and relayd runs as another user; "+
			"give the folder to that one, with chown -R", err, a.owner.Name())
	case errors.Is(err, control.ErrDenied):
		return fmt.Errorf("%w: the control socket is for root and the user that relayd runs as; "+
			"use sudo, or run relayctl as that user", err)
	}
	return err
}

// store answers from the files of a daemon that is down.
type store struct{ r *queue.Reader }

func (s *store) All(context.Context) iter.Seq2[queue.Entry, error] { return pages(s.r.List) }

func (s *store) AllQuarantined(context.Context) iter.Seq2[queue.Entry, error] {
	return pages(s.r.Quarantined)
}

// pages returns the entries of all pages of a list.
func pages(list func(after string, limit int) ([]queue.Entry, string, error)) iter.Seq2[queue.Entry, error] {
	return func(yield func(queue.Entry, error) bool) {
		for after := ""; ; {
			entries, next, err := list(after, control.MaxPage)
			if err != nil {
				yield(queue.Entry{}, err)
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			after = next
		}
	}
}

func (s *store) Show(_ context.Context, id string) (queue.Detail, error) { return s.r.Show(id) }

func (s *store) Body(_ context.Context, id string) (io.ReadCloser, error) { return s.r.Body(id) }

func (s *store) Status(context.Context) (control.Status, error) {
	counts, err := s.r.Counts()
	undeliverable, listErr := s.r.Undeliverable()
	st := control.Status{Queue: counts, Undeliverable: undeliverable}
	st.Judge(time.Now())
	return st, errors.Join(err, listErr)
}

func (s *store) Export(_ context.Context, to *exportFolder, ids []string) (int, error) {
	return s.r.Export(to.save, ids)
}

func (s *store) Close() { s.r.Close() }
