package rewrite

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/header"
)

// Job is what is known of a message besides its content.
type Job struct {
	ReversePath envelope.Path
	// ID is the queue id, ReceivedAt the time of arrival; where that is zero nothing that is missing is added.
	ID         string
	ReceivedAt time.Time
	// Hostname is the relay's name.
	Hostname string
}

// Change is an address that was replaced.
type Change struct {
	Where    string // "reverse-path", "From" or "Sender"
	From, To envelope.Path
	// Rule says in words which rule did it.
	Rule string
}

// Plan is what is to be done with one message. It is not changed by use.
type Plan struct {
	// ReversePath is the new one, or the old one where no rule says otherwise.
	ReversePath envelope.Path
	Changes     []Change
	// Added names the fields that were missing, Removed those that are taken out, once for each; Unclear are From and
	// Sender fields in which no address was found.
	Added, Removed, Unclear []string
	// TooLong is set when the header is too long to be changed.
	TooLong bool

	edits []edit
}

// Plan reads the head of a message from r and returns what is to be done with it. The error is that of reading r.
func (c Chain) Plan(j Job, r io.Reader) (*Plan, error) {
	h, err := readHead(r, len(c) > 0)
	if err != nil {
		return nil, err
	}
	p := &Plan{TooLong: h.tooLong}
	to, rule := c.ReversePath(j.ReversePath)
	if p.ReversePath = j.ReversePath; !same(to, p.ReversePath) {
		p.ReversePath = to
		p.Changes = append(p.Changes, Change{"reverse-path", j.ReversePath, to, rule})
	}
	if h.tooLong {
		return p, nil
	}
	b := builder{Plan: p, head: h, rules: c}
	if len(c) > 0 {
		b.rewriteAuthors()
	}
	if !j.ReceivedAt.IsZero() {
		b.complete(j)
	}
	b.removeSignatures()
	// At one place what is put in comes before what is taken out.
	slices.SortStableFunc(p.edits, func(a, b edit) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(min(a.cut, 1), min(b.cut, 1))) })
	return p, nil
}

// same reports whether two addresses are the same but for the case of their letters, which no host that is known tells
// apart: such a change would only break signatures.
func same(a, b envelope.Path) bool { return strings.EqualFold(string(a), string(b)) }

// builder makes a Plan.
type builder struct {
	*Plan
	head    *head
	rules   Chain
	touched [kinds]bool // fields that were changed or added
}

// rewriteAuthors rewrites From and Sender, and keeps the original From in Reply-To.
func (b *builder) rewriteAuthors() {
	for i := range b.head.fields {
		f := &b.head.fields[i]
		if f.kind != from && f.kind != sender {
			continue
		}
		changed, legible := b.rewriteField(f)
		if !changed {
			continue
		}
		if f.kind == from && legible && !b.head.has[replyTo] && !b.touched[replyTo] {
			b.keepOriginal(f)
		}
		b.touched[f.kind] = true
	}
}

// rewriteField rewrites the addresses of a field. It reports whether it changed any, and whether the field was legible.
func (b *builder) rewriteField(f *field) (changed, legible bool) {
	where := "From"
	if f.kind == sender {
		where = "Sender"
	}
	value := header.Value(f.text)
	start := f.at + int64(len(f.text)-len(value))
	found, ok := mailboxes(value)
	if !ok {
		to, rule := b.rules.anyAuthor()
		b.Unclear = append(b.Unclear, where)
		if to == "" {
			return false, false
		}
		content, _ := header.CutLineEnd(value)
		b.edits = append(b.edits, edit{start, int64(len(content)), []byte(" " + string(to))})
		b.Changes = append(b.Changes, Change{where, "", to, rule})
		return true, false
	}
	for _, m := range found {
		to, rule := b.rules.Author(m.path)
		if same(to, m.path) {
			continue
		}
		b.edits = append(b.edits, edit{start + int64(m.start), int64(m.end - m.start), append([]byte(to), m.comments...)})
		b.Changes = append(b.Changes, Change{where, m.path, to, rule})
		changed = true
	}
	return changed, true
}

// keepOriginal adds a Reply-To with the value of f behind it.
func (b *builder) keepOriginal(f *field) {
	const name, longest = "Reply-To:", 998 // RFC 5322 section 2.1.1
	value := header.Value(f.text)
	add := name
	if !bytes.HasSuffix(value, []byte("\n")) { // the message ends within the field
		add = "\r\n" + name
	}
	if line, _, _ := bytes.Cut(value, []byte("\r\n")); len(name)+len(line) > longest && header.IsFolded(value) {
		add += "\r\n"
	}
	b.edits = append(b.edits, edit{at: f.at + f.size, put: append([]byte(add), value...)})
	b.touched[replyTo] = true
}

// complete adds the fields that are missing.
func (b *builder) complete(j Job) {
	if has := &b.head.has; has[date] && has[from] && has[messageID] {
		return
	}
	var add strings.Builder
	put := func(k kind, name, value string) {
		if b.head.has[k] || k != from && b.signedAbsent(k) {
			return
		}
		add.WriteString(name + ": " + value + "\r\n")
		b.Added = append(b.Added, name)
		b.touched[k] = true
	}
	put(date, "Date", j.ReceivedAt.UTC().Format(time.RFC1123Z))
	put(from, "From", "<"+string(b.author(j))+">")
	put(messageID, "Message-ID", fmt.Sprintf("<%s@%s>", j.ID, j.Hostname))
	if add.Len() == 0 {
		return
	}
	text := add.String()
	if b.head.ragged {
		text = "\r\n" + text
	}
	if b.head.bare {
		text += "\r\n"
	}
	b.edits = append(b.edits, edit{at: b.head.traceEnd, put: []byte(text)})
}

// author returns who stands in for an author that is not named.
func (b *builder) author(j Job) envelope.Path {
	if j.ReversePath.IsNull() {
		return envelope.Path("MAILER-DAEMON@" + j.Hostname)
	}
	to, _ := b.rules.Author(j.ReversePath)
	return to
}

// signedAbsent reports whether a signature holds only as long as there is no field of the kind.
func (b *builder) signedAbsent(k kind) bool {
	return slices.ContainsFunc(b.head.fields, func(f field) bool { return f.kind == dkim && covers(f.text, k) })
}

// removeSignatures takes out what no longer holds.
func (b *builder) removeSignatures() {
	broken := func(f field) bool {
		for k := from; k <= messageID; k++ {
			if b.touched[k] && covers(f.text, k) {
				return true
			}
		}
		return false
	}
	arc := slices.ContainsFunc(b.head.fields, func(f field) bool { return f.kind == arcSignature && broken(f) })
	for _, f := range b.head.fields {
		if f.kind == dkim && broken(f) || f.kind >= arcSignature && arc {
			b.edits = append(b.edits, edit{at: f.at, cut: f.size})
			b.Removed = append(b.Removed, f.kind.signature())
		}
	}
}

// covers reports whether the h= tag of a signature field names fields of the kind (RFC 6376 section 3.5, RFC 8617 section
// 4.1.2).
func covers(signature []byte, k kind) bool {
	for tag := range bytes.SplitSeq(header.Value(signature), []byte(";")) {
		name, value, _ := bytes.Cut(tag, []byte("="))
		if string(bytes.TrimSpace(name)) != "h" {
			continue
		}
		for covered := range bytes.SplitSeq(value, []byte(":")) {
			if bytes.EqualFold(bytes.TrimSpace(covered), []byte(k.fieldName())) {
				return true
			}
		}
	}
	return false
}
