package control

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func TestMayControl_RootAndTheDaemonsUserOnly(t *testing.T) {
	for _, tt := range []struct {
		uid    int
		known  bool
		daemon int
		want   bool
	}{
		{0, true, 990, true},
		{990, true, 990, true},
		{1000, true, 990, false},
		{-1, true, 990, false},
		{1000, true, 0, false},
		{-1, false, 990, true},
	} {
		if got := mayControl(tt.uid, tt.known, tt.daemon); got != tt.want {
			t.Errorf("mayControl(%d, %v, %d) = %v", tt.uid, tt.known, tt.daemon, got)
		}
	}
}

func TestPeerUID_IsThatOfTheOtherEnd(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Skip("no short path for a socket here: ", err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if uid, known := peerUID(s.(*net.UnixConn)); known && uid != os.Getuid() {
		t.Errorf("uid = %d; want %d", uid, os.Getuid())
	}
	s.Close()
	if uid, known := peerUID(s.(*net.UnixConn)); known && uid >= 0 {
		t.Errorf("of a closed connection: uid = %d; want nobody's", uid)
	}
}

func TestOnlyOperators_RefusesWhoIsNotKnown(t *testing.T) {
	reached := false
	h := onlyOperators(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/status", nil))
	if reached || w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "only root") {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}
