package issuer

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"time"
)

// device is a device authorization under way (RFC 8628).
type device struct {
	client, userCode string
	grant            *grant
	denied           bool
	expires, polled  time.Time
	interval         time.Duration
}

const deviceLife = 15 * time.Minute

// device is the device authorization endpoint.
func (s *Server) device(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	client := r.PostForm.Get("client_id")
	if client == "" || s.opt.ClientID != "" && client != s.opt.ClientID {
		refuse(w, http.StatusUnauthorized, "invalid_client", "unknown client")
		return
	}
	name, user := "device-"+rand.Text(), rand.Text()[:8]
	s.devices[name] = &device{client: client, userCode: user, expires: time.Now().Add(deviceLife), polled: time.Now(),
		interval: s.opt.Interval, grant: &grant{scope: r.PostForm.Get("scope")}}
	s.notify()
	answer(w, map[string]any{"device_code": name, "user_code": user, "verification_uri": s.base + "/activate",
		"expires_in": int(deviceLife.Seconds()), "interval": max(1, int(s.opt.Interval.Seconds()))})
}

func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// UserCode waits until a device asks, and returns the code that it shows to the person.
func (s *Server) UserCode(ctx context.Context) (string, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		for _, d := range s.devices {
			if d.grant.user == "" && !d.denied {
				s.mu.Unlock()
				return d.userCode, nil
			}
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// Approve is the person who types in the code and consents as user; it reports whether the code is known.
func (s *Server) Approve(userCode, user string) bool {
	return s.decide(userCode, func(d *device) { d.grant.user = user })
}

// Deny is the person who types in the code and declines.
func (s *Server) Deny(userCode string) bool {
	return s.decide(userCode, func(d *device) { d.denied = true })
}

// Hurry makes the server want longer pauses between polls than it said.
func (s *Server) Hurry(userCode string) bool {
	return s.decide(userCode, func(d *device) { d.interval *= 2 })
}

// Lapse lets the time of a code run out.
func (s *Server) Lapse(userCode string) bool {
	return s.decide(userCode, func(d *device) { d.expires = time.Time{} })
}

func (s *Server) decide(userCode string, change func(*device)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.userCode == userCode {
			change(d)
			return true
		}
	}
	return false
}

// byDevice answers a poll.
func (s *Server) byDevice(w http.ResponseWriter, client string, form url.Values) {
	name := form.Get("device_code")
	d := s.devices[name]
	now := time.Now()
	switch {
	case d == nil || d.client != client:
		refuse(w, http.StatusBadRequest, "invalid_grant", "unknown device code")
	case now.After(d.expires):
		refuse(w, http.StatusBadRequest, "expired_token", "the code was not used in time")
	case d.denied:
		refuse(w, http.StatusBadRequest, "access_denied", "the person declined")
	case now.Sub(d.polled) < d.interval-50*time.Millisecond: // for the client's timer
		d.interval += 5 * time.Second
		d.polled = now
		refuse(w, http.StatusBadRequest, "slow_down", "")
	case d.grant.user == "":
		d.polled = now
		refuse(w, http.StatusBadRequest, "authorization_pending", "")
	default:
		delete(s.devices, name)
		s.give(w, d.grant, s.newRefresh(d.grant))
	}
}
