package oauth

import (
	"context"
	"sync"
)

// slot is what a process keeps of an account's grant beside its file.
type slot struct {
	exchanging chan struct{} // holds one token while the refresh token is being exchanged

	mu sync.Mutex
	// rotated is a grant that could not be written yet, in place of the one with the token from.
	rotated *Grant
	from    string
}

func (s *Store) slot(name string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[name] == nil {
		s.slots[name] = &slot{exchanging: make(chan struct{}, 1)}
	}
	return s.slots[name]
}

// exchange keeps others from exchanging the account's refresh token until done is called; it waits until nobody does. What
// Current returns from then on is the latest token.
func (s *Store) exchange(ctx context.Context, name string) (done func(), err error) {
	at := s.slot(name)
	select {
	case at.exchanging <- struct{}{}:
		return func() { <-at.exchanging }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Current returns an account's grant: the stored one, or the one that was had in exchange for it and cannot be written.
func (s *Store) Current(name string) (Grant, error) {
	at := s.slot(name)
	at.mu.Lock()
	defer at.mu.Unlock()
	g, err := s.Load(name)
	if at.rotated != nil && (err != nil || g.RefreshToken == at.from) {
		return *at.rotated, nil
	}
	return g, err
}

// Keep takes in the grant that was had in exchange for the one with the refresh token old. Flush writes it.
func (s *Store) Keep(name, old string, next Grant) {
	at := s.slot(name)
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.rotated == nil || at.rotated.RefreshToken != old {
		at.from = old // what the disk has
	}
	at.rotated = &next
}

// Flush writes the grant that waits for it, if there is one, and reports whether it did. After an error it waits on.
func (s *Store) Flush(name string) (wrote bool, err error) {
	at := s.slot(name)
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.rotated == nil {
		return false, nil
	}
	if wrote, err = s.Rotate(name, at.from, *at.rotated); err != nil {
		return false, err
	}
	at.rotated, at.from = nil, ""
	return wrote, nil
}
