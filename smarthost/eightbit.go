package smarthost

import (
	"errors"
	"io"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/sevenbit"
)

// A message with 8-bit octets goes to a host that offers 8BITMIME (RFC 6152), wherever it stands in the list. Where there
// is none its MIME parts are encoded for a host that has not; octets with their high bit set never go where they were
// not offered a way. Content is read for that only when a host without 8BITMIME is met, and once for each attempt.

// eightBitPatience is how long a host that offers 8BITMIME may be away before a message that wants it is encoded for
// another: encoding breaks signatures, and a wait without end breaks promises.
const eightBitPatience = time.Hour

// eightBit is what an attempt knows of its content.
type eightBit struct {
	read bool // whether is holds
	is   bool
	// encode is set once no host takes the content as it is. Plan and size are then those of the encoded form, once
	// that is known; cannot is set when there is none.
	encode bool
	cannot bool
	plan   *sevenbit.Plan
	size   int64
}

// is8Bit reports whether the content has 8-bit octets.
func (w *work) is8Bit() (bool, error) {
	if w.eight.read {
		return w.eight.is, nil
	}
	err := w.reading(func(r io.Reader) (err error) {
		w.eight.is, err = sevenbit.Is8Bit(r)
		return err
	})
	w.eight.read = err == nil
	return w.eight.is, err
}

// planEncoding finds out how the content is encoded, and to what size. An error that is not a *contentError says why it
// cannot be.
func (w *work) planEncoding() error {
	if w.eight.plan != nil {
		return nil
	}
	var plan *sevenbit.Plan
	var size counter
	err := w.reading(func(r io.Reader) (err error) {
		plan, err = sevenbit.Scan(r)
		return err
	})
	if err == nil {
		err = w.reading(func(r io.Reader) error { return plan.Encode(&size, r) })
	}
	if err == nil {
		w.eight.plan, w.eight.size = plan, int64(size)
	}
	return err
}

// reading calls f with the content. A fault of the store, and not of the content, is a *contentError.
func (w *work) reading(f func(io.Reader) error) error {
	content, err := w.m.Open()
	if err != nil {
		return &contentError{err}
	}
	defer content.Close()
	err = f(content)
	if errors.Is(err, sevenbit.ErrHeader8Bit) || errors.Is(err, sevenbit.ErrUnencodable) {
		return err
	}
	if err != nil {
		return &contentError{err}
	}
	return nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// shape decides in what form the content goes to a host with these capabilities. Outcome asks for another host where it
// cannot go as it is and is not to be encoded yet; it is the failure where it cannot go at all.
func (w *work) shape(caps capabilities, p place) (body, outcome, error) {
	plain := w.plain()
	if caps.eightBit {
		return plain, outcome{}, nil
	}
	is8Bit, err := w.is8Bit()
	if err != nil || !is8Bit {
		return plain, outcome{}, err
	}
	if !w.eight.encode {
		return body{}, outcome{eightBit: true}, nil
	}
	if err := w.planEncoding(); err != nil {
		if _, ok := errors.AsType[*contentError](err); ok {
			return body{}, outcome{}, err
		}
		w.eight.cannot = true
		f := unencodable(p, err)
		return body{}, outcome{unfit: &f}, nil
	}
	return body{size: w.eight.size, write: w.eight.write}, outcome{}, nil
}

// plain is the content as it came.
func (w *work) plain() body { return body{size: w.m.Size, write: io.Copy} }

// write writes the content, encoded, and returns how many octets that took.
func (e *eightBit) write(dst io.Writer, content io.Reader) (int64, error) {
	var size counter
	err := e.plan.Encode(io.MultiWriter(dst, &size), content)
	return int64(size), err
}

// unencodable is an 8-bit message that no host takes, and that cannot be encoded.
func unencodable(p place, err error) envelope.Failure {
	enhanced := envelope.EnhancedCode{5, 6, 3}
	if errors.Is(err, sevenbit.ErrHeader8Bit) {
		enhanced = envelope.EnhancedCode{5, 6, 7}
	}
	return envelope.Failure{Scope: envelope.ScopeMessage, Permanent: true, Local: true, Stage: stageMail, Reply: envelope.Reply{Code: 554,
		Enhanced: enhanced, Text: p.words("%HOST does not offer 8BITMIME, and the message cannot be encoded for it: ") +
			err.Error()}}
}

// waitsFor8Bit is a message that a host will take as it is when it is back.
func waitsFor8Bit() envelope.Failure {
	return envelope.Failure{Scope: envelope.ScopeMessage, Stage: stageMail,
		Reason: "the message has 8-bit content, for which of the hosts that answer none offers 8BITMIME; one that has just " +
			"gone away does, so the message waits a while for that one before it is encoded for another"}
}
