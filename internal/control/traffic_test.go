package control_test

import (
	"log/slog"
	"reflect"
	"slices"
	"testing"

	"relayd/internal/control"
	"relayd/queue"
	"relayd/smarthost"
)

func TestStatus_TellsWhatHasGoneThrough(t *testing.T) {
	want := queue.Traffic{Received: 3, Routes: []queue.RouteTraffic{{Route: "isp", Delivered: 2, Deferred: 5, Failed: 1}}}
	c, _ := start(t, control.Options{Traffic: func() queue.Traffic { return want }})
	st, err := c.Status(t.Context())
	if err != nil || st.Traffic == nil || !reflect.DeepEqual(*st.Traffic, want) {
		t.Errorf("%+v, %v", st.Traffic, err)
	}
}

// Others in the daemon who show the status see what an operator sees.
func TestStatus_IsTheSameForOthersInTheDaemon(t *testing.T) {
	s := control.NewServer(control.Options{Queue: &fakeQueue{quarantined: 1}, Log: slog.New(slog.DiscardHandler), Version: "v1",
		Smarthost: func() []smarthost.RouteStatus { return []smarthost.RouteStatus{{Name: "isp"}} },
		Paused:    func() []string { return []string{"the disk is full"} }})
	st := s.Status()
	if !st.Running || st.Version != "v1" || len(st.Routes) != 1 || st.Queue.Quarantined != 1 || len(st.Problems) != 2 {
		t.Errorf("%+v", st)
	}
}

func TestUsable_OnlyWhatIsUpOrWasNotTried(t *testing.T) {
	states := control.HostStates()
	for _, s := range states {
		want := s == smarthost.StateUp || s == smarthost.StateUnknown
		if got := control.Usable(smarthost.HostStatus{State: s}); got != want {
			t.Errorf("%s: usable %v", s, got)
		}
	}
	for _, s := range []smarthost.State{smarthost.StateUnknown, smarthost.StateUp, smarthost.StateDown, smarthost.StateLoginRefused,
		smarthost.StateTLSFailed, smarthost.StateThrottled, smarthost.StateRefused, smarthost.StateLooping} {
		if n := len(states); n != 8 || !slices.Contains(states, s) {
			t.Errorf("%s is not among the %d states %v, once each", s, n, states)
		}
	}
}
