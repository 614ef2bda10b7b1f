package queue

import bolt "go.etcd.io/bbolt"

// smallMapping is the size up to which the database may stay in memory whole, in octets.
const smallMapping = 32 << 20

// release gives back the memory through which the database was read: bbolt maps the file, and every page that was looked
// at counts as the daemon's until the system wants it back. The pages stay in the system's cache.
func (s *store) release() error {
	return s.db.View(func(tx *bolt.Tx) error { // which keeps the mapping where it is
		if tx.Size() <= smallMapping {
			return nil
		}
		return releaseMapping(s.db.Info().Data, uintptr(tx.Size()))
	})
}
