package sendermx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/dnstest"
	"relayd/internal/envelope"
)

// checker asks a DNS server on loopback.
func checker(t *testing.T, o Options) (*Checker, *dnstest.Server) {
	t.Helper()
	dns, err := dnstest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dns.Close() })
	o.Lookup = dnstest.Resolver(dns.Addr()).LookupMX
	return New(o), dns
}

func TestCheck_WhatDNSSays(t *testing.T) {
	c, dns := checker(t, Options{Wait: 30 * time.Second, Timeout: time.Second})
	dns.Set("good.example", dnstest.Answer{MX: []string{"mx1.good.example", "mx2.good.example"}})
	dns.Set("address.example", dnstest.Answer{})
	dns.Set("null.example", dnstest.Answer{MX: []string{"."}})
	dns.Set("broken.example", dnstest.Answer{Failed: true})
	dns.Set("silent.example", dnstest.Answer{Silent: true})
	dns.Set("odd.example", dnstest.Answer{MX: []string{"a b"}})
	dns.Set("half.example", dnstest.Answer{MX: []string{"a b", "mx.half.example"}})
	for domain, want := range map[string]Verdict{
		"good.example": Found, "GOOD.example.": Found, "address.example": None, "nowhere.example": None, "null.example": Null,
		"broken.example": Unknown, "silent.example": Unknown, "odd.example": Unknown, "half.example": Found, "bücher.example": Unknown,
		"[192.0.2.1]": None, "printer": None,
	} {
		a := c.Check(t.Context(), domain)
		if a.Verdict != want || (a.Err != nil) != (want == Unknown) || a.Missing() != (want == None || want == Null) {
			t.Errorf("%s: %+v, want %d", domain, a, want)
		}
	}
	if a := c.Check(t.Context(), "good.example"); !slices.Equal(a.Hosts, []string{"mx1.good.example.", "mx2.good.example."}) {
		t.Errorf("%q", a.Hosts)
	}
	if n := dns.Queries("good.example"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// fake is a DNS under synctest's clock.
type fake struct {
	mu     sync.Mutex
	asked  map[string]int
	answer func(ctx context.Context, domain string) ([]*net.MX, error)
}

func (f *fake) lookup(ctx context.Context, domain string) ([]*net.MX, error) {
	f.mu.Lock()
	if f.asked == nil {
		f.asked = make(map[string]int)
	}
	f.asked[domain]++
	answer := f.answer
	f.mu.Unlock()
	return answer(ctx, domain)
}

func (f *fake) times(domain string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[domain]
}

func found(context.Context, string) ([]*net.MX, error) { return []*net.MX{{Host: "mx."}}, nil }
func none(_ context.Context, domain string) ([]*net.MX, error) {
	return nil, &net.DNSError{Name: domain, IsNotFound: true}
}
func failing(context.Context, string) ([]*net.MX, error) {
	return nil, &net.DNSError{IsTemporary: true}
}
func slow(ctx context.Context, _ string) ([]*net.MX, error) {
	<-ctx.Done()
	return nil, &net.DNSError{IsTimeout: true}
}

func TestCheck_AnswersAreKeptForTheirTime(t *testing.T) {
	for name, answer := range map[string]struct {
		lookup func(context.Context, string) ([]*net.MX, error)
		keep   time.Duration
	}{"found": {found, time.Hour}, "none": {none, 10 * time.Minute}, "unknown": {failing, time.Minute}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{answer: answer.lookup}
				c := New(Options{Lookup: f.lookup})
				c.Check(t.Context(), "a.example")
				time.Sleep(answer.keep - time.Second)
				c.Check(t.Context(), "a.example")
				if n := f.times("a.example."); n != 1 {
					t.Errorf("asked %d times before the end", n)
				}
				time.Sleep(2 * time.Second)
				c.Check(t.Context(), "a.example")
				if n := f.times("a.example."); n != 2 {
					t.Errorf("asked %d times after it", n)
				}
			})
		})
	}
}

// A DNS that does not answer costs a question three seconds, once; the answer that comes late is kept.
func TestCheck_SlowDNSDelaysByABoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: func(ctx context.Context, domain string) ([]*net.MX, error) {
			time.Sleep(10 * time.Second)
			return none(ctx, domain)
		}}
		c := New(Options{Lookup: f.lookup})
		start := time.Now()
		a := c.Check(t.Context(), "a.example")
		if took := time.Since(start); took != 3*time.Second || a.Verdict != Unknown || !errors.Is(a.Err, ErrSlow) {
			t.Errorf("%+v after %v", a, took)
		}
		time.Sleep(8 * time.Second)
		start = time.Now()
		if a := c.Check(t.Context(), "a.example"); a.Verdict != None || time.Since(start) != 0 || f.times("a.example.") != 1 {
			t.Errorf("%+v after %v, asked %d times", a, time.Since(start), f.times("a.example."))
		}
	})
}

func TestCheck_AnOutageStallsADomainOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: slow}
		c := New(Options{Lookup: f.lookup, Timeout: 2 * time.Second})
		start := time.Now()
		for range 100 {
			if a := c.Check(t.Context(), "a.example"); a.Verdict != Unknown {
				t.Fatalf("%+v", a)
			}
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("100 questions took %v", took)
		}
	})
}

func TestCheck_QuestionsShareALookupAndFewRunAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &fake{answer: func(ctx context.Context, domain string) ([]*net.MX, error) {
			<-release
			return found(ctx, domain)
		}}
		c := New(Options{Lookup: f.lookup, MaxLookups: 2})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if a := c.Check(t.Context(), fmt.Sprintf("%d.example", i%2)); a.Verdict != Found {
					t.Errorf("%+v", a)
				}
			})
		}
		synctest.Wait()
		if a := c.Check(t.Context(), "third.example"); !errors.Is(a.Err, ErrBusy) {
			t.Errorf("%+v", a)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if a := c.Check(ctx, "1.example"); a.Verdict != Unknown || !errors.Is(a.Err, context.Canceled) {
			t.Errorf("%+v", a)
		}
		close(release)
		wg.Wait()
		if f.times("0.example.") != 1 || f.times("1.example.") != 1 || f.times("third.example.") != 0 {
			t.Errorf("asked %v", f.asked)
		}
		if a := c.Check(t.Context(), "third.example"); a.Verdict != Found {
			t.Errorf("%+v", a)
		}
	})
}

func TestCheck_RemembersABoundedNumberOfDomains(t *testing.T) {
	f := &fake{answer: found}
	c := New(Options{Lookup: f.lookup, MaxDomains: 10})
	for i := range 100 {
		c.Check(t.Context(), fmt.Sprintf("%d.example", i))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.domains); n > 10 {
		t.Errorf("%d domains", n)
	}
}

func TestJudge_RefusesInWordsThatSayWhatToPublish(t *testing.T) {
	c, dns := checker(t, Options{Wait: 30 * time.Second})
	dns.Set("good.example", dnstest.Answer{MX: []string{"mx.good.example"}})
	dns.Set("null.example", dnstest.Answer{MX: []string{"."}})
	dns.Set("broken.example", dnstest.Answer{Failed: true})
	long := strings.Repeat("long.", 45) + "example"
	for _, tt := range []struct {
		outgoing []envelope.Path
		want     string // "" when it passes
	}{
		{[]envelope.Path{"a@good.example"}, ""},
		{[]envelope.Path{"a@broken.example"}, ""},
		{[]envelope.Path{envelope.Null}, ""},
		{[]envelope.Path{"a@lan.example", "b@good.example"}, ""},
		{[]envelope.Path{"a@lan.example", "b@broken.example"}, ""},
		{[]envelope.Path{"a@lan.example"}, `550 5.1.8 the sender's domain lan.example has no MX record, and the smarthost takes mail only from ` +
			`domains with one: publish an MX record for it, as "lan.example. MX 10 mail.lan.example.", set another sender, or have the relay rewrite it`},
		{[]envelope.Path{"a@null.example"}, "null.example says by a null MX that it takes no mail"},
		{[]envelope.Path{"a@[192.0.2.1]"}, "the sender is at an address, [192.0.2.1], which can have no MX record"},
		{[]envelope.Path{envelope.Path("a@" + long)}, `as "@ MX 10 mail"`},
	} {
		got := c.Judge(t.Context(), tt.outgoing)
		if tt.want == "" != got.IsZero() || !strings.Contains(got.String(), tt.want) {
			t.Errorf("%v: %v", tt.outgoing, got)
		}
		for line := range strings.SplitSeq(got.Text, "\n") {
			if len(line) > 480 {
				t.Errorf("%v: a line of %d octets", tt.outgoing, len(line))
			}
		}
	}
}

func TestJudge_WaitsForAllOutgoingAsLongAsForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Lookup: (&fake{answer: slow}).lookup})
		start := time.Now()
		if r := c.Judge(t.Context(), []envelope.Path{"a@a.example", "b@b.example"}); !r.IsZero() || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", r, time.Since(start))
		}
		time.Sleep(time.Minute) // the look-up under way ends
	})
}

func TestShouldWarn_OnceADayForEachDomain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{})
		for _, want := range []bool{true, false, false} {
			if got := c.ShouldWarn("a@LAN.example"); got != want {
				t.Errorf("%v, want %v", got, want)
			}
			time.Sleep(11 * time.Hour)
		}
		if !c.ShouldWarn("b@lan.example") || !c.ShouldWarn("a@other.example") || c.ShouldWarn("a@other.example") {
			t.Error("after a day, or for another domain")
		}
		for i := range 2 * maxWarned {
			c.ShouldWarn(envelope.Path(fmt.Sprintf("a@%d.example", i)))
		}
		if len(c.warned) > maxWarned {
			t.Errorf("%d domains are remembered", len(c.warned))
		}
		time.Sleep(25 * time.Hour)
		if !c.ShouldWarn("a@new.example") || len(c.warned) != 1 {
			t.Errorf("%d domains are remembered", len(c.warned))
		}
	})
}

func TestExplain_SaysWhatIsKnown(t *testing.T) {
	for want, a := range map[string]Answer{
		"lan.example has an MX record: a., b.":                                          {Verdict: Found, Hosts: []string{"a.", "b."}},
		"lan.example has no MX record":                                                  {Verdict: None},
		"lan.example has a null MX, which says that it takes no mail":                   {Verdict: Null},
		"whether lan.example has an MX record is not known: DNS did not answer in time": {Err: context.DeadlineExceeded},
	} {
		if got := a.Explain("a@lan.example"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (Answer{Verdict: None}).Explain("a@[192.0.2.1]"); got != "[192.0.2.1] is an address and can have no MX record" {
		t.Error(got)
	}
}
