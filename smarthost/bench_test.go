package smarthost

import (
	"bufio"
	"bytes"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// sink answers on loopback as fast as it can, and keeps nothing. With pipelining it answers a whole group at once.
func sink(b *testing.B, pipelining bool) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go serveSink(nc, pipelining)
		}
	}()
	return l.Addr().String()
}

func serveSink(nc net.Conn, pipelining bool) {
	defer nc.Close()
	br, bw := bufio.NewReaderSize(nc, 64<<10), bufio.NewWriter(nc)
	bw.WriteString("220 sink\r\n")
	for inBody := false; ; {
		if br.Buffered() == 0 {
			bw.Flush()
		}
		line, err := br.ReadSlice('\n')
		switch {
		case err != nil:
			return
		case inBody:
			if inBody = !bytes.Equal(line, []byte(".\r\n")); !inBody {
				bw.WriteString("250 2.0.0 queued\r\n")
			}
		case bytes.HasPrefix(line, []byte("EHLO")):
			if pipelining {
				bw.WriteString("250-sink\r\n")
				bw.WriteString("250-8BITMIME\r\n")
				bw.WriteString("250-PIPELINING\r\n")
			}
			bw.WriteString("250 SIZE\r\n")
		case bytes.HasPrefix(line, []byte("DATA")):
			inBody = true
			bw.WriteString("354 go\r\n")
		default:
			bw.WriteString("250 2.1.0 ok\r\n")
		}
	}
}

// BenchmarkDeliverBacklog has as many deliveries waiting for one connection as the router has use for.
func BenchmarkDeliverBacklog(b *testing.B) {
	small := hello + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 2048/80)
	for _, c := range []struct {
		name       string
		pipelining bool
	}{{"lock-step/2KiB", false}, {"pipelined/2KiB", true}} {
		b.Run(c.name, func(b *testing.B) {
			r, err := New(Options{Hostname: "relay.example.com",
				Routes: []Route{{Name: "isp", Hosts: []string{sink(b, c.pipelining)}, TLS: ModeOff, MaxConnections: 1}}})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close(b.Context())
			m := mail(small)
			b.SetBytes(int64(len(small)))
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			var workers sync.WaitGroup
			for range r.Concurrency("isp") {
				workers.Go(func() {
					for left.Add(-1) >= 0 {
						if a := r.Deliver(b.Context(), "isp", m); a.Site != nil || a.Results[0].Failure != nil {
							b.Error(show(a))
						}
					}
				})
			}
			workers.Wait()
		})
	}
}

func BenchmarkDeliver(b *testing.B) {
	small := hello + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 2048/80)
	big := strings.Repeat(strings.Repeat("x", 78)+"\r\n", 1<<20/80)
	for _, c := range []struct {
		name       string
		pipelining bool
		body       string
	}{
		{"lock-step/2KiB", false, small},
		{"pipelined/2KiB", true, small},
		{"pipelined/1MiB", true, big},
	} {
		b.Run(c.name, func(b *testing.B) {
			r, err := New(Options{Hostname: "relay.example.com",
				Routes: []Route{{Name: "isp", Hosts: []string{sink(b, c.pipelining)}, TLS: ModeOff}}})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close(b.Context())
			m := mail(c.body)
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				if a := r.Deliver(b.Context(), "isp", m); a.Site != nil || a.Results[0].Failure != nil {
					b.Fatal(show(a))
				}
			}
		})
	}
}
