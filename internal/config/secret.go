package config

import (
	"fmt"
	"io"
	"log/slog"
)

// masked is what a secret looks like wherever it is printed.
const masked = "[secret]"

// Secret is a password. It shows itself as "[secret]" in fmt, slog, JSON and other text encodings; only Reveal gives
// it away. fmt cannot call methods of a value in an unexported field, so keep a Secret out of those.
type Secret string

// Reveal returns the password itself.
func (s Secret) Reveal() string { return string(s) }

// String returns "[secret]".
func (s Secret) String() string { return masked }

// GoString returns "[secret]".
func (s Secret) GoString() string { return masked }

// Format writes "[secret]" whatever the verb: without it fmt prints the value itself for a verb such as %d.
func (s Secret) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, masked) }

// MarshalText returns "[secret]".
func (s Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }

// LogValue returns "[secret]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(masked) }
