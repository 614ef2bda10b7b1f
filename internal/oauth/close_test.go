package oauth

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// slow answers each request after a time, and does the work of it at once. Who hangs up gets no answer.
type slow struct {
	next http.RoundTripper
	wait time.Duration
}

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.next.RoundTrip(r)
	select {
	case <-time.After(s.wait):
		return resp, err
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// The provider has exchanged the refresh token when the daemon is told to stop: the new one must be on the disk.
func TestSource_ARestartDuringARenewalDoesNotCostTheLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rotating(), account(FlowDevice))
		g.opt.Transport = slow{g.opt.Transport, parting - time.Second}
		g.Start()
		synctest.Wait() // the request is out
		g.Close()
		g.stored(t)
		if p := g.Status().Problem; p != "" {
			t.Error(p)
		}
	})
}

func TestSource_CloseDoesNotWaitForAnEndpointThatHangs(t *testing.T) {
	for flow, patience := range map[Flow]time.Duration{FlowDevice: parting, FlowClientCredentials: 0} {
		synctest.Test(t, func(t *testing.T) {
			o := options()
			if !flow.Personal() {
				o = confidential()
			}
			g := newRig(t, o, account(flow))
			g.opt.Transport = slow{g.opt.Transport, time.Hour}
			g.Start()
			synctest.Wait()
			began := time.Now()
			g.Close()
			if took := time.Since(began); took != patience {
				t.Errorf("%s: %v, want %v", flow, took, patience)
			}
		})
	}
}

// Somebody logged in as the wrong person, which only the host can tell, and now logs in again: the token of the first
// login lives, but is of no use, and the host waits out a long pause.
func TestSource_ANewLoginTakesThePlaceOfATokenThatLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := account(FlowDevice)
		g := newRig(t, options(), a)
		g.Start()
		first := g.must(t, "")
		time.Sleep(10 * tick)
		if n, told := g.requests(), g.back.Load(); n != 1 || told != 0 {
			t.Errorf("%d requests, told %d times without any news", n, told)
		}
		g.login(t, a)
		time.Sleep(tick)
		synctest.Wait()
		if again := g.must(t, ""); again == first || g.requests() != 2 {
			t.Errorf("the same token, or %d requests", g.requests())
		}
		if told := g.back.Load(); told != 1 {
			t.Errorf("told %d times", told)
		}
		time.Sleep(10 * tick)
		synctest.Wait()
		if n := g.requests(); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

// A rotation writes the file, too, which is no login.
func TestSource_ItsOwnRotationIsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rotating(), account(FlowDevice))
		g.Start()
		g.must(t, g.must(t, ""))
		time.Sleep(10 * tick)
		synctest.Wait()
		if n, told := g.requests(), g.back.Load(); n != 2 || told != 0 {
			t.Errorf("%d requests, told %d times", n, told)
		}
	})
}
