// Package dnstest is a DNS server on loopback for tests. It answers questions about MX records as it is told to, over UDP,
// and knows nothing else: all other names do not exist.
package dnstest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// Answer is what the server says of a domain.
type Answer struct {
	// MX are the hosts of its MX records, the preferred first; "." is a null MX. Without any there is no record.
	MX []string
	// Failed answers with SERVFAIL, Silent not at all.
	Failed, Silent bool
}

// Server is the server. Its methods may be called at the same time.
type Server struct {
	conn net.PacketConn

	mu      sync.Mutex
	zone    map[string]Answer
	queries map[string]int
	done    chan struct{}
}

// Start starts a server that knows no domain.
func Start() (*Server, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{conn: conn, zone: make(map[string]Answer), queries: make(map[string]int), done: make(chan struct{})}
	go s.serve()
	return s, nil
}

// Set says what the server answers from now on about a domain.
func (s *Server) Set(domain string, a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[key(domain)] = a
}

// Queries returns how often the server was asked about a domain.
func (s *Server) Queries(domain string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries[key(domain)]
}

// Addr is the server's address, for Resolver.
func (s *Server) Addr() string { return s.conn.LocalAddr().String() }

// Close stops the server.
func (s *Server) Close() error {
	err := s.conn.Close()
	<-s.done
	return err
}

// Resolver returns a resolver that asks the server at addr and no other.
func Resolver(addr string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", addr)
	}}
}

func key(domain string) string { return strings.ToLower(strings.TrimSuffix(domain, ".")) }

func (s *Server) serve() {
	defer close(s.done)
	buf := make([]byte, 4096)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if reply, ok := s.answer(buf[:n]); ok {
			s.conn.WriteTo(reply, from)
		}
	}
}

// answer returns the reply to a packet, if there is to be one.
func (s *Server) answer(packet []byte) ([]byte, bool) {
	var m dnsmessage.Message
	if m.Unpack(packet) != nil || len(m.Questions) != 1 {
		return nil, false
	}
	q := m.Questions[0]
	s.mu.Lock()
	a, known := s.zone[key(q.Name.String())]
	if q.Type == dnsmessage.TypeMX {
		s.queries[key(q.Name.String())]++
	}
	s.mu.Unlock()
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true},
		Questions: m.Questions}
	switch {
	case a.Silent:
		return nil, false
	case a.Failed:
		reply.RCode = dnsmessage.RCodeServerFailure
	case !known:
		reply.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeMX:
		reply.Answers = records(q, a.MX)
	}
	out, err := reply.Pack()
	if err != nil {
		panic(fmt.Sprintf("dnstest: an answer that is none: %v", err))
	}
	return out, true
}

func records(q dnsmessage.Question, hosts []string) []dnsmessage.Resource {
	var out []dnsmessage.Resource
	for i, host := range hosts {
		out = append(out, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeMX, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.MXResource{Pref: uint16(10 * (i + 1)), MX: dnsmessage.MustNewName(strings.TrimSuffix(host, ".") + ".")},
		})
	}
	return out
}
