package relay

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"relayd/internal/envelope"
)

// nullWriter is a queue that forgets.
type nullWriter struct{}

func (nullWriter) Write(p []byte) (int, error)  { return len(p), nil }
func (nullWriter) ID() string                   { return "Q0001" }
func (nullWriter) Commit(context.Context) error { return nil }
func (nullWriter) Abort() error                 { return nil }

// BenchmarkIntake takes messages on one session that is kept open: what a session costs beside the queue.
func BenchmarkIntake(b *testing.B) {
	for _, size := range []int{2 << 10, 100 << 10, 1 << 20} {
		body := strings.Repeat(strings.Repeat("x", 76)+"\r\n", size/78)
		for _, way := range []string{"DATA", "BDAT"} {
			b.Run(fmt.Sprintf("%s/%dKiB", way, size>>10), func(b *testing.B) { benchmarkIntake(b, way, body) })
		}
	}
}

func benchmarkIntake(b *testing.B, way, body string) {
	s, err := New(Options{
		Hostname:  "relay.test",
		Begin:     func(envelope.Envelope, envelope.Origin) (Writer, error) { return nullWriter{}, nil },
		Listeners: []Listener{{Address: "127.0.0.1:0"}},
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Start(); err != nil {
		b.Fatal(err)
	}
	defer s.Shutdown(context.Background())
	conn, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	replies := bufio.NewReader(conn)
	do := func(send []byte, lines int) {
		if _, err := conn.Write(send); err != nil {
			b.Fatal(err)
		}
		for range lines {
			line, err := replies.ReadSlice('\n')
			if err != nil || line[0] > '3' {
				b.Fatalf("%s %v", line, err)
			}
		}
	}
	envelope := "MAIL FROM:<a@client.test>\r\nRCPT TO:<b@other.test>\r\n"
	data, dot := []byte(envelope+"DATA\r\n"), []byte(body+".\r\n")
	chunk := fmt.Appendf(nil, "%sBDAT %d LAST\r\n%s", envelope, len(body), body)
	do([]byte("HELO c\r\n"), 2)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if way == "DATA" {
			do(data, 3)
			do(dot, 1)
		} else {
			do(chunk, 3)
		}
	}
}
