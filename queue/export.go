package queue

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// A message outside of a queue is two files: ID.eml with its content, octet by octet, and ID.json with all that the queue
// knows of it. The second is written when the first is complete.
//
// Of a message in quarantine the files are ID.damaged.eml, with what there is of its content, and ID.damaged, with what there
// is of its record. An import does not take them.
const (
	damagedSuffix = ".damaged"
	contentSuffix = ".eml"
	recordSuffix  = ".json"
	exportFormat  = 1
)

// exported is what ID.json holds.
type exported struct {
	Format  int     `json:"format"`
	ID      string  `json:"id"`
	Message *record `json:"message"`
	// Quarantine is set for a message in quarantine; Message is then what can be read of its record.
	Quarantine *aside `json:"quarantine,omitempty"`
}

// Export calls save, such as SaveExported, with the messages that have the given ids, or with all of the queue for none, and
// returns how many were saved. A message whose content or record is damaged is left out; the error says so, and the others are
// saved.
func (r *Reader) Export(save func(io.Reader) error, ids []string) (n int, err error) {
	var failed []error
	fail := func(id ID, err error) { failed = append(failed, fmt.Errorf("%s: %w", id, err)) }
	export := func(rec *record) {
		if err := r.exportOne(save, rec); err != nil {
			fail(rec.ID, err)
			return
		}
		n++
	}
	if len(ids) > 0 {
		err = r.exportNamed(ids, export, func(a *aside) {
			if err := r.exportAside(save, a); err != nil {
				fail(a.ID, err)
				return
			}
			n++
		})
	} else {
		err = r.exportAll(export, fail)
	}
	return n, errors.Join(err, errors.Join(failed...))
}

// FinishExport returns once what was exported to a folder is on disk.
func FinishExport(to *os.Root) error {
	d, err := to.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// exportNamed calls export with the messages of these ids, when all of them are in the queue.
func (r *Reader) exportNamed(ids []string, export func(*record), exportAside func(*aside)) error {
	var records []*record
	var asides []*aside
	missing := &NotFoundError{}
	for _, s := range ids {
		id, err := ParseID(s)
		if err != nil {
			missing.IDs = append(missing.IDs, s)
			continue
		}
		rec, err := r.store.record(id)
		if errors.Is(err, ErrNotFound) {
			var a *aside
			if a, err = r.store.aside(id); err == nil {
				asides = append(asides, a)
				continue
			}
		}
		switch {
		case errors.Is(err, ErrNotFound):
			missing.IDs = append(missing.IDs, s)
		case err != nil:
			return fmt.Errorf("%s: %w", s, err)
		}
		records = append(records, rec)
	}
	if len(missing.IDs) > 0 {
		return missing
	}
	for _, rec := range records {
		export(rec)
	}
	for _, a := range asides {
		exportAside(a)
	}
	return nil
}

func (r *Reader) exportAside(save func(io.Reader) error, a *aside) error {
	_, content, err := openAside(r.read, r.spool, a.ID)
	if err != nil {
		return err
	}
	defer content.Close()
	text, err := encodeAside(a)
	if err != nil {
		return err
	}
	return save(io.MultiReader(bytes.NewReader(append(text, '\n')), content))
}

func (r *Reader) exportAll(export func(*record), fail func(ID, error)) error {
	for after := ID(0); ; {
		records, last, err := r.store.pageOr(after, applyBatch, fail)
		if err != nil || last == after {
			return err
		}
		for _, rec := range records {
			export(rec)
		}
		after = last
	}
}

func (r *Reader) exportOne(save func(io.Reader) error, rec *record) error {
	from, err := r.Body(rec.ID.String())
	if err != nil {
		return err
	}
	defer from.Close()
	text, err := encodeExported(rec)
	if err != nil {
		return err
	}
	return save(io.MultiReader(bytes.NewReader(append(text, '\n')), from))
}

// encodeExported returns what ID.json holds, in one line.
func encodeExported(rec *record) ([]byte, error) {
	return json.Marshal(exported{Format: exportFormat, ID: rec.ID.String(), Message: rec})
}

func encodeAside(a *aside) ([]byte, error) {
	rec, _ := a.record()
	return json.Marshal(exported{Format: exportFormat, ID: a.ID.String(), Message: rec, Quarantine: a})
}

// saveAside writes the two files of a message in quarantine.
func saveAside(to *os.Root, a *aside, content io.Reader) error {
	text, err := encodeAside(a)
	if err != nil {
		return err
	}
	base := a.ID.String() + damagedSuffix
	err = writeFileFrom(to, base+contentSuffix, func(w io.Writer) error { _, err := io.Copy(w, content); return err })
	if err != nil {
		return err
	}
	return writeIndented(to, base, text)
}

func writeIndented(to *os.Root, name string, text []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	return writeFileFrom(to, name, func(w io.Writer) error { _, err := b.WriteTo(w); return err })
}

// saveExported writes the two files of a message, whose content must be as rec says.
func saveExported(to *os.Root, rec *record, text []byte, content io.Reader) error {
	base := rec.ID.String()
	err := writeFileFrom(to, base+contentSuffix, func(w io.Writer) error { return copyContent(w, content, rec) })
	if err != nil {
		return err
	}
	return writeIndented(to, base+recordSuffix, text)
}

// Export returns a message of a queue that is running, as SaveExported takes it: what ID.json holds as a line, then the
// content. The error is ErrNotFound when the message is not in the queue, or not any more. What it reads of large messages
// is not checked here.
func (q *Queue) Export(id string) (io.ReadCloser, error) {
	if n := q.exports.Add(1); n%exportRelease == 0 {
		_ = q.committer.read((*store).release) // the memory is the system's to take back in any case
	}
	var text []byte
	rec, content, err := openMessage(q.committer.read, q.spool, id)
	if n, parseErr := ParseID(id); errors.Is(err, ErrNotFound) && parseErr == nil {
		var a *aside
		if a, content, err = openAside(q.committer.read, q.spool, n); err == nil {
			text, err = encodeAside(a)
		}
	} else if err == nil {
		text, err = encodeExported(rec)
	}
	if content == nil {
		return nil, err
	}
	if err != nil {
		return nil, errors.Join(err, content.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(append(text, '\n')), content), content}, nil
}

// exportRelease is how many messages are exported until the memory is given back that they were read through.
const exportRelease = 1000

// SaveExported writes the files of one message, which from has as Queue.Export returns it, to a folder. Files of the same names
// are replaced. When from ends early or is damaged nothing is written that an import would take.
func SaveExported(to *os.Root, from io.Reader) error {
	r := bufio.NewReaderSize(from, 64<<10)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("a message ends before its content: %w", noEOF(err))
	}
	var damaged exported
	if json.Unmarshal(line, &damaged) == nil && damaged.Quarantine != nil {
		a := damaged.Quarantine
		if a.ID, err = ParseID(damaged.ID); err != nil {
			return err
		}
		return saveAside(to, a, r)
	}
	rec, err := decodeExported(line)
	if err != nil {
		return err
	}
	if err := saveExported(to, rec, bytes.TrimSuffix(line, []byte("\n")), r); err != nil {
		return fmt.Errorf("%s: %w", rec.ID, err)
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFileFrom creates a file with what write writes, so that a crash or an error leaves all of it or what was there.
func writeFileFrom(to *os.Root, name string, write func(io.Writer) error) error {
	next := ".new-" + rand.Text()
	f, err := to.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 64<<10)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = to.Rename(next, name)
	}
	if err != nil {
		return errors.Join(err, to.Remove(next))
	}
	return nil
}
