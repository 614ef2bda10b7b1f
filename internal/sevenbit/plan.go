package sevenbit

import (
	"fmt"
	"io"
)

// Plan is what is to be done with each part of one message. It is not changed by use.
type Plan struct {
	verdicts []verdict
}

// Scan reads a message and returns the plan for making it 7-bit. An error wraps [ErrHeader8Bit] or [ErrUnencodable] and
// names the line when the message cannot be made 7-bit; otherwise it is that of reading r. A message without 8-bit
// octets needs no plan: ask [Is8Bit] first, for Scan may refuse one that is nested too deep.
func Scan(r io.Reader) (*Plan, error) {
	p := &planner{}
	if err := walk(r, p); err != nil {
		return nil, err
	}
	return &Plan{verdicts: p.verdicts}, nil
}

// planner finds the 8-bit octets.
type planner struct {
	verdicts []verdict
}

func (p *planner) begin(*entity) error {
	p.verdicts = append(p.verdicts, keep)
	return nil
}

func (p *planner) body(e *entity, chunk []byte, _ bool) error {
	if !has8Bit(chunk) {
		return nil
	}
	if e.class == classFixed {
		return fmt.Errorf("8-bit octets in message/partial or message/external-body: %w", ErrUnencodable)
	}
	if !e.opened {
		e.stray = true
	}
	for ; e != nil && p.verdicts[e.index] == keep; e = e.parent {
		p.verdicts[e.index] = e.judge()
	}
	return nil
}

func (p *planner) end(e *entity) error {
	if e.class == classMultipart && e.stray && !e.opened {
		return fmt.Errorf("8-bit octets in a multipart without delimiters: %w", ErrUnencodable)
	}
	return nil
}

func (*planner) field(*entity, fieldKind, []byte, bool) error { return nil }
func (*planner) endHeader(*entity, []byte) error              { return nil }
func (*planner) delimiter([]byte) error                       { return nil }
