package smarthost

import (
	"context"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A machine without descriptors is no host's fault: no host is marked down, the next is not tried in vain, the status
// tells, and mail goes on at once when there are descriptors again.
func TestMachine_WithoutDescriptorsBlamesNoHost(t *testing.T) {
	for name, lack := range map[string]error{
		"descriptors": &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)},
		"of a lookup": &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "one", Err: "dial udp 127.0.0.1:53: socket: too many open files"}},
		"memory":      &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ENOBUFS)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25", "two:25")
				var short atomic.Bool
				short.Store(true)
				dials := 0
				r := p.router(t, func(o *Options) {
					o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						if dials++; short.Load() {
							return nil, lack
						}
						return p.dial(ctx, network, addr)
					}
				}, "one:25", "two:25")
				a := r.Deliver(t.Context(), "isp", mail(hello))
				if a.Site == nil || !strings.Contains(a.Site.Reason, "this machine") || time.Until(a.RetryAt) > machinePause || dials != 1 {
					t.Errorf("%d dials, %s", dials, show(a))
				}
				for _, h := range r.Status()[0].Hosts {
					if h.State != StateUnknown || h.Failures != 0 {
						t.Errorf("blamed: %+v", h)
					}
				}
				if said := strings.Join(r.Troubles(), "\n"); !strings.Contains(said, "on this machine") {
					t.Errorf("the troubles are %q", said)
				}
				short.Store(false)
				wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
				if said := r.Troubles(); len(said) != 0 {
					t.Errorf("afterwards: %q", said)
				}
			})
		})
	}
}
