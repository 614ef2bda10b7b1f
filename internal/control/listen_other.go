//go:build !unix

package control

import (
	"errors"
	"fmt"
	"net"
)

// listen fails: without unix modes nothing here could keep other users from the socket.
func listen(path string) (net.Listener, error) {
	return nil, fmt.Errorf("control_socket %s: this system has no private unix sockets: %w", path, errors.ErrUnsupported)
}
