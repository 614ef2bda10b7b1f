package smarthost

import "slices"

// doubtsInARow is how many different messages, one after the other, may be lost between their final dots and the replies
// before that is the site's failure. Nobody can know of one message whether it arrived; of a host that never answers a
// dot it is known that it is broken, and what it has not seen yet is better off with the next host, or waiting.
const doubtsInARow = 3

// doubt notes that the fate of message id is not known, and reports whether the host is to be left alone for it.
func (h *host) doubt(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.doubts) < doubtsInARow && !slices.Contains(h.doubts, id) {
		h.doubts = append(h.doubts, id)
	}
	return len(h.doubts) >= doubtsInARow
}
