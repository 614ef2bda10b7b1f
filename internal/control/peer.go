package control

import (
	"context"
	"net"
	"net/http"
	"os"
)

type peerKey struct{}

// withPeer notes, once for each connection, whether the process at its other end may use the API.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, peerAllowed(c))
}

func peerAllowed(c net.Conn) bool {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	uid, known := peerUID(uc)
	return mayControl(uid, known, os.Geteuid())
}

// mayControl decides on a peer's user id. Where the system does not tell it, the socket's mode has to be enough.
func mayControl(uid int, known bool, daemon int) bool {
	return !known || uid == 0 || uid == daemon
}

func onlyOperators(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if allowed, _ := r.Context().Value(peerKey{}).(bool); !allowed {
			writeError(w, http.StatusForbidden, "only root and the user that relayd runs as may use the control socket", nil)
			return
		}
		next.ServeHTTP(w, r)
	})
}
