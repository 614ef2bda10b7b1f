package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Grant is what a person's login left: a refresh token, and whom it is good for.
type Grant struct {
	Version      int    `json:"version"`
	RefreshToken string `json:"refresh_token"`
	// Username, ClientID and TokenURL are the account's at the login. The token is shown to nobody else.
	Username string `json:"username"`
	ClientID string `json:"client_id"`
	TokenURL string `json:"token_url"`
	// Obtained is when the provider gave the token, be it at the login or in exchange for an earlier one.
	Obtained time.Time `json:"obtained"`
}

const (
	grantVersion = 1
	maxGrant     = 64 << 10 // octets
)

// String says whom the grant is for. It is there to keep the token out of whatever prints a Grant.
func (g Grant) String() string { return g.Username }

// GoString is like String.
func (g Grant) GoString() string { return g.Username }

// ErrNoGrant: nobody has logged in for this account yet. Run relayctl oauth login.
var ErrNoGrant = errors.New("nobody has logged in yet")

// Store is the folder of the grants: DATA_DIR/oauth, with a file for each account, readable by the daemon's user alone.
// All Sources of a process share one, so that a reload, after which the Source of the account as it was and that of what
// it is now may both be at work, does not exchange one refresh token twice: that looks to a provider like a theft.
type Store struct {
	dataDir string

	mu    sync.Mutex
	slots map[string]*slot
}

// NewStore returns the store beside the queue in dataDir. It touches nothing yet.
func NewStore(dataDir string) *Store { return &Store{dataDir: dataDir, slots: make(map[string]*slot)} }

func (s *Store) dir() string { return filepath.Join(s.dataDir, "oauth") }

// Path returns the file of an account's grant.
func (s *Store) Path(name string) string { return filepath.Join(s.dir(), url.PathEscape(name)+".json") }

// Load returns an account's grant. Without one the error is ErrNoGrant; one that others than its owner can read or write
// is refused, since who writes it decides whose mailbox is used.
func (s *Store) Load(name string) (Grant, error) {
	path := s.Path(name)
	f, err := openRegular(path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return Grant{}, ErrNoGrant
	}
	if err != nil {
		return Grant{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Grant{}, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return Grant{}, fmt.Errorf("%s holds a refresh token, and others than its owner have access to it (mode %04o); "+
			"chmod 600 %s", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxGrant))
	if err != nil {
		return Grant{}, err
	}
	var g Grant
	if err := json.Unmarshal(text, &g); err != nil || g.RefreshToken == "" { // err could quote the token
		return Grant{}, fmt.Errorf("%s holds no grant that can be read; log in again", path)
	}
	if g.Version != grantVersion {
		return Grant{}, fmt.Errorf("%s is of version %d, which this relayd does not know; log in again", path, g.Version)
	}
	return g, nil
}

// Save writes the grant of a new login. Once it returns nil, the grant is on the disk; after an error the old one is.
func (s *Store) Save(name string, g Grant) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return s.write(name, g)
}

// Rotate writes g in place of the grant with the refresh token old. Where another is stored by now, by a login that came
// in between, or none because somebody has removed it, that is left so, and Rotate reports false.
func (s *Store) Rotate(name, old string, g Grant) (bool, error) {
	unlock, err := s.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	have, err := s.Load(name)
	if errors.Is(err, ErrNoGrant) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if have.RefreshToken != old {
		return false, nil
	}
	return true, s.write(name, g)
}

// Ready reports whether Save can be expected to work, before a person goes through a login.
func (s *Store) Ready() error {
	unlock, err := s.lock()
	if err == nil {
		unlock()
	}
	return err
}

// lock makes the folder if need be, and keeps other processes from writing until unlock is called.
func (s *Store) lock() (unlock func(), err error) {
	if _, err := os.Stat(s.dataDir); err != nil {
		return nil, fmt.Errorf("the folder of the queue: %w; start relayd once, which makes it", err)
	}
	if err := os.Mkdir(s.dir(), 0o700); err == nil {
		if err := syncDir(s.dataDir); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	info, err := os.Lstat(s.dir())
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsDir() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s must be a folder that its owner alone has access to (it is %v); chmod 700 %s", s.dir(), mode, s.dir())
	}
	path := filepath.Join(s.dir(), "lock")
	f, err := openRegular(path, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// write replaces an account's file as a whole: a crash leaves the old one or the new one.
func (s *Store) write(name string, g Grant) (err error) {
	g.Version = grantVersion
	text, err := json.MarshalIndent(g, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir(), ".new-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.Path(name)); err != nil {
		return err
	}
	return syncDir(s.dir())
}

// openRegular opens a file that must be a regular one: whose folder it is may have put a link or a pipe there.
func openRegular(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|noFollow, 0o600)
	if err != nil {
		if info, e := os.Lstat(path); e == nil && !info.Mode().IsRegular() {
			return nil, notRegular(path)
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = notRegular(path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func notRegular(path string) error {
	return fmt.Errorf("%s is not a regular file; remove it and log in again", path)
}

func syncDir(dir string) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|onlyFolder, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// stamp tells whether a file was changed: each write makes a new one.
type stamp struct {
	info fs.FileInfo
}

func (s *Store) stamp(name string) stamp {
	info, err := os.Stat(s.Path(name))
	if err != nil {
		return stamp{}
	}
	return stamp{info}
}

func (a stamp) equal(b stamp) bool {
	if a.info == nil || b.info == nil {
		return a.info == nil && b.info == nil
	}
	return os.SameFile(a.info, b.info) && a.info.ModTime().Equal(b.info.ModTime()) && a.info.Size() == b.info.Size() &&
		a.info.Mode() == b.info.Mode()
}
