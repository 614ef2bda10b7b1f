package sevenbit

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// repeated is a message of size octets or a little more that is made while it is read.
func repeated(head, unit string, size int) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader(head), &repeater{unit: unit, left: size})), nil
	}
}

type repeater struct {
	unit string
	off  int
	left int
}

func (r *repeater) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) && (r.left > 0 || r.off > 0) {
		k := copy(p[n:], r.unit[r.off:])
		n, r.off, r.left = n+k, (r.off+k)%len(r.unit), r.left-k
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

type counter struct{ n, most int }

// Write counts, and notes how much memory is in use.
func (c *counter) Write(p []byte) (int, error) {
	if c.n += len(p); c.n%(1<<20) < len(p) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		c.most = max(c.most, int(m.HeapInuse))
	}
	return len(p), nil
}

const textHead = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"

func TestEncode_NeedsLittleMemory(t *testing.T) {
	const mixed = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
	const size = 10 << 20
	for name, open := range map[string]func() (io.ReadCloser, error){
		"text":        repeated(textHead, strings.Repeat("Schöne Grüße aus der Küche, und bis bald.\r\n", 20), size),
		"one line":    repeated(textHead, strings.Repeat("ü", 500), size),
		"many parts":  repeated(mixed, "--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"+strings.Repeat("ü", 100)+"\r\n", size),
		"long header": repeated("", "X-Long: "+strings.Repeat("x", 100)+"\r\n", size),
		"long field":  repeated("Content-Type: text/plain;\r\n", " x="+strings.Repeat("y", 100)+";\r\n", size),
	} {
		t.Run(name, func(t *testing.T) {
			runtime.GC()
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			out := &counter{}
			if err := Encode(out, open); err != nil {
				t.Fatal(err)
			}
			if out.n < size {
				t.Errorf("%d octets came out", out.n)
			}
			if grown := out.most - int(before.HeapInuse); grown > 8<<20 {
				t.Errorf("the heap grew by %d octets", grown)
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	const size = 1 << 20
	for name, unit := range map[string]string{
		"ascii":  "Schoene Gruesse aus der Kueche, und bis bald. Wir freuen uns.\r\n",
		"german": "Schöne Grüße aus der Küche, und bis bald. Wir freuen uns.\r\n",
		"greek":  "Χαιρετισμούς από την κουζίνα και τα λέμε σύντομα.\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			open := repeated(textHead, unit, size)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if err := Encode(io.Discard, open); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkScan_Parts(b *testing.B) {
	const size = 1 << 20
	for _, content := range []int{0, 1000} {
		b.Run(fmt.Sprint(content), func(b *testing.B) {
			open := repeated("Content-Type: multipart/mixed; boundary=b\r\n\r\n", "--b\r\n\r\n"+strings.Repeat("x", content)+"\r\n", size)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				r, err := open()
				if err != nil {
					b.Fatal(err)
				}
				if _, err := Scan(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
