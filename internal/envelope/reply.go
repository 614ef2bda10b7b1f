package envelope

import (
	"fmt"
	"strconv"
	"strings"
)

// EnhancedCode is an enhanced status code (RFC 3463), or the zero value when there is none.
type EnhancedCode [3]int

// String returns the code as "5.7.1", or "" when there is none.
func (e EnhancedCode) String() string {
	if e == (EnhancedCode{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", e[0], e[1], e[2])
}

// ParseEnhancedCode reads an enhanced status code from the front of s and returns what is behind it; ok is false,
// and rest is s, when there is none. Class 2, 4 and 5 exist (RFC 3463 section 2).
func ParseEnhancedCode(s string) (e EnhancedCode, rest string, ok bool) {
	word, rest, _ := strings.Cut(s, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || (parts[0] != "2" && parts[0] != "4" && parts[0] != "5") {
		return EnhancedCode{}, s, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 10)
		if err != nil || n > 999 {
			return EnhancedCode{}, s, false
		}
		e[i] = int(n)
	}
	return e, rest, true
}

// Reply is an SMTP reply (RFC 5321 section 4.2). It is an error too, so that a refusal can travel as one.
type Reply struct {
	Code     int          `json:"code"`
	Enhanced EnhancedCode `json:"enhanced,omitzero"`
	// Text is the reply's words without the codes; several lines are joined by "\n".
	Text string `json:"text"`
}

// Positive reports whether r is a 2yz or 3yz reply.
func (r Reply) Positive() bool { return r.Code >= 200 && r.Code < 400 }

// Temporary reports whether r is a 4yz reply: the command may succeed later (RFC 5321 section 4.2.1).
func (r Reply) Temporary() bool { return r.Code >= 400 && r.Code < 500 }

// Permanent reports whether r is a 5yz reply.
func (r Reply) Permanent() bool { return r.Code >= 500 && r.Code < 600 }

// IsZero reports whether r holds no reply.
func (r Reply) IsZero() bool { return r.Code == 0 }

// String returns the reply on one line, as "550 5.1.1 No such user".
func (r Reply) String() string {
	words := make([]string, 0, 3)
	if r.Code != 0 {
		words = append(words, strconv.Itoa(r.Code))
	}
	if e := r.Enhanced.String(); e != "" {
		words = append(words, e)
	}
	if r.Text != "" {
		words = append(words, strings.ReplaceAll(r.Text, "\n", " "))
	}
	return strings.Join(words, " ")
}

// Error returns the same as String.
func (r Reply) Error() string { return r.String() }
