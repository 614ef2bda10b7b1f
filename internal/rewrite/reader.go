package rewrite

import "io"

// edit puts octets into a message at a place, counted in what came, and takes out those that follow.
type edit struct {
	at, cut int64
	put     []byte
}

// Untouched reports whether the content stays as it is.
func (p *Plan) Untouched() bool { return len(p.edits) == 0 }

// Quiet reports whether there is nothing to tell of: nothing changes, and nothing was in the way of a change.
func (p *Plan) Quiet() bool {
	return p.Untouched() && len(p.Changes)+len(p.Unclear) == 0 && !p.TooLong
}

// Size returns the size that content of size octets has as planned.
func (p *Plan) Size(size int64) int64 {
	for _, e := range p.edits {
		size += int64(len(e.put)) - e.cut
	}
	return size
}

// Reader returns the content of r as planned; r must begin with what the plan was made from. If it is shorter than that
// the error is io.ErrUnexpectedEOF. Other errors are those of r, the one at its end included.
func (p *Plan) Reader(r io.Reader) io.Reader {
	if p.Untouched() {
		return r
	}
	return &reader{src: r, edits: p.edits}
}

// reader carries a plan out.
type reader struct {
	src   io.Reader
	edits []edit
	at    int64  // how much of src was read
	put   []byte // what comes before the next octet of src
}

func (r *reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for len(r.put) == 0 && len(r.edits) > 0 {
		next := r.edits[0]
		if left := next.at - r.at; left > 0 {
			n, err := r.src.Read(b[:min(int64(len(b)), left)])
			r.at += int64(n)
			if err == io.EOF {
				err = nil // the next read finds out whether that was the end that the plan knows
				if int64(n) < left {
					err = io.ErrUnexpectedEOF
				}
			}
			return n, err
		}
		if err := r.begin(next); err != nil {
			return 0, err
		}
	}
	if len(r.put) > 0 {
		n := copy(b, r.put)
		r.put = r.put[n:]
		return n, nil
	}
	return r.src.Read(b)
}

// begin passes over what the edit takes out, and takes up what it puts in.
func (r *reader) begin(e edit) error {
	n, err := io.CopyN(io.Discard, r.src, e.cut)
	r.at += n
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	r.put, r.edits = e.put, r.edits[1:]
	return err
}

// WriteTo hands the part behind the last edit to r's own WriteTo, if it has one, and so copies no octet of the body twice.
func (r *reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		n, err := w.Write(r.put)
		r.put = r.put[n:]
		written += int64(n)
		if err != nil {
			return written, err
		}
		if len(r.edits) == 0 {
			m, err := io.Copy(w, r.src)
			return written + m, err
		}
		e := r.edits[0]
		m, err := io.CopyN(w, r.src, e.at-r.at)
		r.at += m
		written += m
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			err = r.begin(e)
		}
		if err != nil {
			return written, err
		}
	}
}
