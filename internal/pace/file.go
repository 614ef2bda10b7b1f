package pace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// mostCredit bounds what a wall clock may say of the time that the relay was off; coverFor is how long a block that was
// counted ahead is good for.
const (
	mostCredit = 12 * time.Hour
	coverFor   = 10 * time.Minute
)

// state is the file.
type state struct {
	Boot   string        `json:"boot,omitempty"`
	Uptime time.Duration `json:"uptime_ns,omitempty"`
	Wall   time.Time     `json:"written_at"`
	// Closed is set by an orderly end. Only then Level is what it says.
	Closed   bool           `json:"closed"`
	Accounts []accountState `json:"accounts"`
}

type accountState struct {
	Name
	Level  float64      `json:"level"`            // of the bucket, in messages
	Factor float64      `json:"factor,omitempty"` // below 1 while the account is slowed
	Learnt float64      `json:"learnt,omitempty"` // messages a second, of an account that is slowed and has no rate
	Day    []shareState `json:"day,omitempty"`
}

// shareState is a share of the day: for how long it had been complete when the file was written, and its recipients.
type shareState struct {
	Age time.Duration `json:"age_ns"`
	N   int           `json:"n"`
}

// snapshot returns the account as the file has it, and up to which count that covers what is spent. b.saving is held.
func (a *Account) snapshot(ahead bool) (s accountState, covered int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.advance()
	s = accountState{Name: Name{a.name.Username, slices.Clone(a.name.Hosts)}, Level: a.bucket.level, Learnt: a.bucket.learnt}
	if a.bucket.factor < 1 {
		s.Factor = a.bucket.factor
	}
	for _, share := range a.day.shares {
		if share.n > 0 {
			s.Day = append(s.Day, shareState{now - share.end, share.n})
		}
	}
	covered = a.spent
	if block := a.block(); ahead && block > 0 {
		// Those who come until then count from then on.
		s.Day = append(s.Day, shareState{-coverFor - grain, block})
		covered += block
	}
	return s, covered
}

// write replaces the file; at the end of the relay exactly, otherwise with a block ahead. b.saving is held.
func (b *Book) write(closed bool) error {
	id, ago := b.boot()
	st := state{Boot: id, Uptime: ago, Wall: time.Now().Round(0), Closed: closed, Accounts: []accountState{}}
	b.mu.Lock() // no account becomes another's before all are seen
	accounts := slices.Concat(b.accounts, b.dormant)
	covered := make([]int, len(accounts))
	for i, a := range accounts {
		var s accountState
		s, covered[i] = a.snapshot(!closed)
		st.Accounts = append(st.Accounts, s)
	}
	b.mu.Unlock()
	until := b.clock() + coverFor
	text, err := json.MarshalIndent(st, "", "\t")
	if err == nil {
		err = replaceFile(b.path, append(text, '\n'))
	}
	for i, a := range accounts {
		a.mu.Lock()
		if a.coveredAt = until; err == nil {
			a.covered = covered[i]
		} else {
			// Not written: it is tried again with the next message.
			a.covered = 0
		}
		a.mu.Unlock()
	}
	return err
}

// replaceFile puts text in place of what the file at path holds, whole or not at all.
func replaceFile(path string, text []byte) (err error) {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// load reads the file. What it holds are accounts that the configuration has not asked for yet.
func (b *Book) load() error {
	text, err := os.ReadFile(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var st state
	if err == nil {
		err = json.Unmarshal(text, &st)
	}
	if err != nil {
		return fmt.Errorf("%s, the count of what was sent, cannot be read: %w; it begins at nothing", b.path, err)
	}
	off := b.offFor(&st)
	for _, s := range st.Accounts {
		a := &Account{book: b, name: s.Name, bucket: newBucket(Rate{}, 0)}
		for _, share := range s.Day {
			a.day.restore(share, off)
		}
		a.day.sort()
		a.bucket.restored = &restored{level: s.Level, off: off}
		if !st.Closed {
			a.bucket.restored = &restored{}
		}
		if s.Factor >= leastFactor && s.Factor < 1 {
			a.bucket.resume(s.Factor, max(0, s.Learnt), off)
		}
		b.dormant = append(b.dormant, a)
	}
	return nil
}

// restore adds a share of the file, which was off for so long.
func (d *day) restore(s shareState, off time.Duration) {
	if s.N <= 0 || s.Age < -coverFor-grain || s.Age > dayLength {
		return
	}
	d.shares = append(d.shares, share{end: -s.Age - off, n: s.N})
	d.used += s.N
}

// offFor returns how long ago st was written, as far as that can be believed.
func (b *Book) offFor(st *state) time.Duration {
	if id, ago := b.boot(); id != "" && id == st.Boot && ago >= st.Uptime {
		return ago - st.Uptime
	}
	return min(mostCredit, max(0, time.Since(st.Wall)))
}
