package smarthost

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer is a DNS server on loopback that knows what a test tells it.
type nameServer struct {
	addr string

	mu      sync.Mutex
	records map[string][]dnsmessage.ResourceBody // by "TYPE name."
	down    bool                                 // answers SERVFAIL
	asked   map[string]int
}

func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{addr: pc.LocalAddr().String(), records: map[string][]dnsmessage.ResourceBody{}, asked: map[string]int{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := s.reply(buf[:n]); reply != nil {
				pc.WriteTo(reply, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return s
}

// resolver asks this server and nobody else.
func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", s.addr)
	}}
}

func (s *nameServer) reply(query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.ToLower(q.Name.String())
	key := strings.TrimPrefix(q.Type.String(), "Type") + " " + name
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[key]++
	m.Response, m.Authoritative, m.RecursionAvailable, m.Additionals = true, true, true, nil
	if s.down {
		m.RCode = dnsmessage.RCodeServerFailure
	}
	known := false
	for k, bodies := range s.records {
		known = known || strings.HasSuffix(k, " "+name)
		for _, body := range bodies {
			if k == key && !s.down {
				h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: body})
			}
		}
	}
	if !known && !s.down {
		m.RCode = dnsmessage.RCodeNameError
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

func (s *nameServer) add(key string, body dnsmessage.ResourceBody) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[key] = append(s.records[key], body)
}

// address gives name the addresses.
func (s *nameServer) address(name string, addresses ...string) {
	for _, a := range addresses {
		if ip := netip.MustParseAddr(a); ip.Is4() {
			s.add("A "+name, &dnsmessage.AResource{A: ip.As4()})
		} else {
			s.add("AAAA "+name, &dnsmessage.AAAAResource{AAAA: ip.As16()})
		}
	}
}

func (s *nameServer) srv(name string, priority, weight, port uint16, target string) {
	s.add("SRV "+name, &dnsmessage.SRVResource{Priority: priority, Weight: weight, Port: port, Target: dnsmessage.MustNewName(target)})
}

func (s *nameServer) mx(name string, preference uint16, target string) {
	s.add("MX "+name, &dnsmessage.MXResource{Pref: preference, MX: dnsmessage.MustNewName(target)})
}

func (s *nameServer) setDown(down bool) {
	s.mu.Lock()
	s.down = down
	s.mu.Unlock()
}

// times is how often a question was asked.
func (s *nameServer) times(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[key]
}
