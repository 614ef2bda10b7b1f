package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"relayd/internal/envelope"
)

// Imported says what Import did. The ids of messages that got another one are in Renamed, by their old ones.
type Imported struct {
	Messages int               `json:"messages"`
	Known    int               `json:"known"` // were here before, or are, and were left out
	Renamed  map[string]string `json:"renamed"`
}

// Import takes the messages that SaveExported wrote to the folder from into the queue in dir, which is created when it is missing and
// whose daemon is not running. A message keeps its id, its recipients' states, its attempts and its hold; when another
// one has the id it gets a new one. One that is or was in this queue, as far back as its history goes, is left out unless
// force is set. A message that is not as it was written is left out, and the error says so; the others are taken. To
// import a message in two places is to deliver it twice.
func Import(dir string, from fs.FS, force bool) (done Imported, err error) {
	names, err := exportedNames(from)
	if err != nil {
		return done, err
	}
	if err := supported(); err != nil {
		return done, err
	}
	if err := makeFolder(dir); err != nil {
		return done, err
	}
	spool, err := openSpool(dir)
	if err != nil {
		return done, err
	}
	lock, err := lockQueue(dir, true)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, unlockQueue(lock)) }()
	st, err := openStore(dir)
	if err != nil {
		return done, err
	}
	im := importer{Imported: Imported{Renamed: make(map[string]string)}, from: from, st: st, spool: spool, force: force}
	if err = im.learn(); err == nil {
		for _, name := range names {
			if e := im.take(name); e != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", name, e))
			}
		}
	}
	return im.Imported, errors.Join(err, st.close())
}

// ErrNoExport: the folder has no message that SaveExported wrote. Name the folder that was exported to.
var ErrNoExport = errors.New("there is no exported message (no ID.json)")

// exportedNames returns the records in the folder from, in order.
func exportedNames(from fs.FS) (names []string, err error) {
	entries, err := fs.ReadDir(from, ".")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoExport, err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), recordSuffix) {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return nil, ErrNoExport
	}
	return names, nil
}

type importer struct {
	Imported
	from  fs.FS
	st    *store
	spool spool
	force bool
	ids   idSource
	known map[identity]bool
}

// identity tells whether two records are of the same message, whatever ids they have.
type identity struct {
	id   ID // that it was received under
	at   int64
	sum  uint32
	size int64
}

func (r *record) identity() identity {
	id := r.ID
	if r.From != 0 {
		id = r.From
	}
	return identity{id, r.ReceivedAt.UnixNano(), r.Sum, r.Size}
}

// learn looks at every message that is or was in the queue.
func (im *importer) learn() (err error) {
	if im.st.behind != nil { // what is to be known is not all in the database
		return im.st.behind
	}
	im.known = make(map[identity]bool)
	if im.ids.last, err = im.st.last(); err != nil {
		return err
	}
	return im.st.eachRecord(func(r *record) { im.known[r.identity()] = true })
}

// take imports the message whose record is in the file called name.
func (im *importer) take(name string) error {
	text, err := fs.ReadFile(im.from, name)
	if err != nil {
		return err
	}
	r, err := parseExported(text)
	if err != nil {
		return err
	}
	same := im.known[r.identity()]
	if same && !im.force {
		im.Known++
		return nil
	}
	old := r.ID
	taken, err := im.taken(r.ID)
	if err != nil {
		return err
	}
	if taken || same {
		if r.From == 0 {
			r.From = r.ID
		}
		for taken = true; taken; {
			r.ID = im.ids.next(time.Now())
			if taken, err = im.taken(r.ID); err != nil {
				return err
			}
		}
	}
	f, err := im.from.Open(strings.TrimSuffix(name, recordSuffix) + contentSuffix)
	if err != nil {
		return fmt.Errorf("its content is missing: %w", err)
	}
	defer f.Close()
	if err := im.store(r, f); err != nil {
		return err
	}
	im.known[r.identity()] = true
	if im.Messages++; r.ID != old {
		im.Renamed[old.String()] = r.ID.String()
	}
	return nil
}

// taken reports whether an id names a message that is or was in the queue, or a file of the spool.
func (im *importer) taken(id ID) (bool, error) {
	has, err := im.st.has(id)
	if err != nil || has {
		return has, err
	}
	if _, err = im.st.history(id); err == nil || !errors.Is(err, ErrNotFound) {
		return true, nil
	}
	_, err = os.Lstat(im.spool.path(id))
	return !errors.Is(err, fs.ErrNotExist), nil
}

// parseExported returns the record in what an ID.json holds, when an import may take it.
func parseExported(text []byte) (*record, error) {
	r, err := decodeExported(text)
	if err != nil {
		return nil, err
	}
	if r.Gone || len(r.unsettled()) == 0 {
		return nil, errors.New("none of its recipients waits")
	}
	return r, checkImported(r)
}

// decodeExported returns the record in what an ID.json holds.
func decodeExported(text []byte) (*record, error) {
	var e exported
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("it is not what an export writes: %w", err)
	}
	if e.Format != exportFormat {
		return nil, fmt.Errorf("it is in format %d, of which this version knows %d alone; use the relayctl that wrote it, or a newer one",
			e.Format, exportFormat)
	}
	r := e.Message
	id, err := ParseID(e.ID)
	switch {
	case err != nil:
		return nil, err
	case r == nil || id == 0 || len(r.Recipients) == 0 || len(r.Recipients) != len(r.Envelope.Recipients) || r.Size < 0:
		return nil, errors.New("it is not what an export writes: recipients, or their states, are missing")
	}
	r.ID = id
	return r, nil
}

// checkImported returns an error when a record has what no message has that came in by SMTP: on the wire it would be a
// command or a parameter of its own.
func checkImported(r *record) error {
	if !r.Envelope.ReversePath.IsNull() && !isPath(r.Envelope.ReversePath) {
		return fmt.Errorf("its sender %q is no address", string(r.Envelope.ReversePath))
	}
	words := []string{r.Envelope.EnvID}
	for i, rcpt := range r.Envelope.Recipients {
		if !isPath(rcpt.Path) {
			return fmt.Errorf("its recipient %q is no address", string(rcpt.Path))
		}
		state := r.Recipients[i]
		if !slices.Contains([]string{StatusWaiting, StatusDelivered, StatusFailed}, state.Status) || state.Attempts < 0 || state.Waited < 0 {
			return fmt.Errorf("the state of its recipient %q cannot be", string(rcpt.Path))
		}
		words = append(words, rcpt.ORcpt)
	}
	switch {
	case slices.ContainsFunc(words, func(w string) bool { return strings.ContainsFunc(w, notInParam) }),
		!slices.Contains([]string{"", "7BIT", "8BITMIME"}, r.Envelope.Body), !slices.Contains([]string{"", "FULL", "HDRS"}, r.Envelope.Ret):
		return errors.New("its envelope has a parameter that cannot be")
	case strings.ContainsFunc(r.Origin.Helo+r.Origin.Protocol, unicode.IsControl):
		return errors.New("where it came from has control characters")
	case r.Attempts < 0 || r.Panics < 0:
		return errors.New("its attempts are fewer than none")
	}
	return nil
}

// isPath reports whether p is a mailbox as ParsePath returns it.
func isPath(p envelope.Path) bool {
	same, err := envelope.ParsePath(string(p))
	return err == nil && same == p
}

// notInParam reports whether r ends the value of a parameter of MAIL or RCPT.
func notInParam(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }

// store stores a message and its content, which is as r says or an error.
func (im *importer) store(r *record, content io.Reader) (err error) {
	c := &change{id: r.ID, put: r, newSlot: r.slot(""), hasNew: true}
	if r.Spooled = r.Size > inlineLimit; r.Spooled {
		err = im.fill(r, content)
	} else {
		var b bytes.Buffer
		err = copyContent(&b, io.LimitReader(content, inlineLimit+1), r)
		c.body = append([]byte{}, b.Bytes()...)
	}
	if err == nil {
		err = c.encode()
	}
	absent := err != nil // the record, for certain
	if err == nil {
		err = im.st.commit([]*change{c})
		absent = errors.Is(err, errNoRoom)
	}
	// After another error of the commit the record may be there all the same, and would have lost its content; a file that
	// no record names is removed at the next start.
	if absent && r.Spooled {
		err = errors.Join(err, im.spool.remove(r.ID))
	}
	return err
}

func (im *importer) fill(r *record, content io.Reader) error {
	f, err := im.spool.create(r.ID)
	if err != nil {
		return err
	}
	if err := copyContent(f, content, r); err != nil {
		return errors.Join(err, f.Close())
	}
	return im.spool.keep(f)
}
