// Package sevenbit turns 8-bit message content into 7-bit content, for a next hop that does not offer 8BITMIME
// (RFC 6152 section 3). It reads and writes message content as it travels after DATA: CRLF line ends, no dot-stuffing.
//
// It takes two readings. The label of a part stands before its content, and labels cannot be trusted to tell whether
// that content is 8-bit, so [Scan] reads the message once and notes what is to be done with each part, in one octet
// a part, and [Plan.Encode] reads the same content again and writes the result. [Encode] does both. A message is never
// held in memory.
//
// What changes is decided by octets, not by labels, and whatever holds no 8-bit octet stays byte for byte as it came,
// its Content-Transfer-Encoding, the order and folding of its header fields and its delimiters included:
//
//   - A leaf part with 8-bit octets becomes quoted-printable (RFC 2045 section 6.7), as Postfix does with every type of
//     leaf. Its Content-Transfer-Encoding field is replaced where it stands, or added at the end of its header. In text
//     a line break stays a line break; in other types it becomes =0D=0A, so that it survives a reader that gives
//     quoted-printable lines local line ends.
//   - Multiparts and message/rfc822 are descended into, because they must not be encoded themselves (RFC 2045
//     section 6.4). Where they claim 8bit or binary they are relabelled 7bit.
//   - A part that is already labelled quoted-printable keeps its label, and its stray 8-bit octets are written as =XX.
//     In a part labelled base64 they become question marks, which a decoder must ignore just as much (RFC 2045
//     section 6.8). NULs in these parts are treated like 8-bit octets: 7-bit content may not have them.
//   - Text that readers pass over, before the first and after the last delimiter of a multipart, and reports such as
//     message/delivery-status, which may not be encoded, get =XX in place of each 8-bit octet and NUL.
//   - A message, at the top or enclosed, that holds 8-bit octets and no MIME-Version field gets one; if its content is
//     encoded and it has no Content-Type either, it gets that of text in an unknown 8-bit character set (RFC 1428).
//
// Labels that nobody knows count as 8bit. A header that other text ends than an empty line gets the empty line when its
// part is converted.
//
// What cannot be made 7-bit is refused, by [Scan] and so before anything is written. 8-bit octets in header fields end
// in [ErrHeader8Bit]: they belong to SMTPUTF8, to guess a character set for them would be to invent content, and
// although Postfix lets them pass, a 7-bit next hop was never promised them. [ErrUnencodable] is for the rest: 8-bit
// octets in message/partial and message/external-body, which RFC 2046 wants 7-bit always; multiparts whose delimiters
// are missing altogether; and nesting beyond 100 levels or more than a million parts.
//
// Encoding changes content. A DKIM signature over the body no longer holds afterwards, nor does the signature of
// a multipart/signed with an 8-bit part inside; Postfix converts these too. Prefer a next hop that has 8BITMIME.
//
// Lines that are not encoded keep their length, also where it is more than the 998 octets that RFC 5321
// section 4.5.3.1.6 allows.
package sevenbit

import (
	"errors"
	"io"
)

// ErrHeader8Bit is the fault of a message with 8-bit octets in a header field, be it the message's own or that of a part.
// There is no encoding for them that would not be a guess; report it with 5.6.9 (RFC 6531).
var ErrHeader8Bit = errors.New("8-bit octets in the header; the sending program must encode them (RFC 2047, RFC 2231)")

// ErrUnencodable is the fault of a message whose 8-bit content stands where no encoding is allowed; report it with 5.6.3.
var ErrUnencodable = errors.New("the message has 8-bit content that cannot be converted to 7-bit")

// Is8Bit returns true when an octet of r has its high bit set, which it knows when it meets the first. The error is
// that of reading r.
func Is8Bit(r io.Reader) (bool, error) {
	buf := make([]byte, bufferSize)
	for {
		n, err := r.Read(buf)
		if has8Bit(buf[:n]) {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// Encode writes the content that open gives to w, as 7-bit. It calls open twice, closes what it got, and expects the
// same content both times. Nothing is written if the content is refused, with an error that wraps [ErrHeader8Bit] or
// [ErrUnencodable]; other errors are those of open, of reading, and of writing to w.
func Encode(w io.Writer, open func() (io.ReadCloser, error)) error {
	r, err := open()
	if err != nil {
		return err
	}
	p, err := Scan(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if r, err = open(); err != nil {
		return err
	}
	return errors.Join(p.Encode(w, r), r.Close())
}
