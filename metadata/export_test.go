package metadata

import (
	"context"
	"errors"
)

// Doors for tests into what a Store does not show.

// SlowFill fills the cache with a key, and runs meanwhile between its query and
// the moment at which what was read would be cached. It tells whether it was.
func (s *Store) SlowFill(ctx context.Context, region, id string, meanwhile func()) (kept bool, err error) {
	k := keyKey(region, id)
	f := s.cache.begin()
	l, err := loadKey(ctx, s, k)
	if err != nil {
		return false, err
	}
	meanwhile()
	_, kept = s.cache.put(f, k, l)
	return kept, nil
}

// SlowAbsence does the same with an access key that is not there.
func (s *Store) SlowAbsence(ctx context.Context, id string, meanwhile func()) error {
	f, asked := s.cache.begin(), s.clock()
	if _, err := loadAccessKey(ctx, s, accessKeyKey(id)); !errors.Is(err, ErrNotFound) {
		return err
	}
	meanwhile()
	s.cache.putAbsent(f, id, asked)
	return nil
}

// Caches tells whether a key would be answered without a query.
func (s *Store) Caches(region, id string) bool {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	e := s.cache.entries[keyKey(region, id)]
	return e != nil && e.epoch == e.owner.epoch
}

// CacheSize is the number of entries, their estimated bytes, and the number of
// different policies.
func (s *Store) CacheSize() (entries, bytes, policies, accounts int) {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	return len(s.cache.ring), s.cache.bytes, len(s.cache.policies), len(s.cache.accounts)
}

// Noticed is the newest version of an account that the store has heard of.
func (s *Store) Noticed(account string) int64 {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if a := s.cache.accounts[account]; a != nil {
		return a.noticed
	}
	return 0
}

// Notice has the cache apply a notice as if it had come in.
func (s *Store) Notice(payload string) error {
	n, err := parseNotice(payload)
	if err != nil {
		return err
	}
	s.cache.apply(n)
	return nil
}

// Leased tells whether the store trusts its cache.
func (s *Store) Leased() bool { return s.cache.leaseValid(s.clock()) }

// StopListening ends the listening connection for good.
func (s *Store) StopListening() { s.listener.stop() }

// Queries is how often a connection was asked for.
func (s *Store) Queries() int64 { return s.pool.Stat().AcquireCount() }

// Saw is the version of the account that the view rests on; 0 for none.
func (v *View) Saw(account string) int64 {
	for _, a := range v.seen {
		if a.account == account {
			return a.version
		}
	}
	return 0
}

// Queries behind View.Grants.
const (
	SelectGrants     = selectGrants
	SelectFiledGrant = selectFiledGrant
)

// FiledUnder is what a grant with a constraint to equal a context is found by.
func FiledUnder(region, keyID, grantee, granteeID string, context map[string]string) string {
	return filedUnder(region, keyID, grantee, granteeID, equalsPrefix+hashOfPairs(pairsOf(context)))
}
