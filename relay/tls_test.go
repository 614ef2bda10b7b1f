package relay

import (
	"crypto/tls"
	"errors"
	"os"
	"sync"
	"testing"
	"time"
)

// tickets is a cache of TLS sessions that notes whether a server sent a ticket.
type tickets struct {
	mu  sync.Mutex
	got int
}

func (*tickets) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (c *tickets) Put(string, *tls.ClientSessionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got++
}

// Nothing comes unasked behind a TLS handshake: libesmtp takes the tickets of TLS 1.3 for the reply that it waits for, and
// hangs.
func TestTLS_ListenersSendNoTickets(t *testing.T) {
	tlsConfig, pool := testCertificate()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		h := start(t, func(o *Options, _ *tuning) { o.Listeners[0].TLS, o.Listeners[0].TLSConfig = TLSStartTLS, tlsConfig })
		c := h.dial().hello()
		c.command("STARTTLS", "220 *")
		var seen tickets
		tc := tls.Client(c.conn, &tls.Config{RootCAs: pool, ServerName: "relay.test", MinVersion: version, MaxVersion: version,
			ClientSessionCache: &seen})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		raw := c.conn
		if version == tls.VersionTLS13 { // in which a ticket comes with or behind the handshake
			raw.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := raw.Read(make([]byte, 100)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d octets came unasked, %v", n, err)
			}
			raw.SetReadDeadline(time.Time{})
		}
		c.conn = tc
		c.command("EHLO again.test", "250 *")
		if seen.got > 0 {
			t.Errorf("TLS %x: %d tickets came", version, seen.got)
		}
	}
}
