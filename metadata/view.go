package metadata

import (
	"context"
	"errors"
	"slices"
	"time"
)

// fillAttempts is how often a read is repeated because its account kept moving.
// What the last one read is used without being cached.
const fillAttempts = 3

// View is what one request has read of what its decision depends on, with the
// versions of the accounts it saw. One goroutine at a time; after ErrStale the
// request decides again on a new one.
//
// A View reads through the store's cache: on a hit there is no query. Its
// answers are shared and must not be written to.
type View struct {
	store *Store
	seen  []accountVersion
	room  [2]accountVersion // seen's first array: most requests see one or two accounts
}

// View begins a request's reading.
func (s *Store) View() *View {
	v := &View{store: s}
	v.seen = v.room[:0]
	return v
}

// Key returns a key with its materials and its policy. It is the one look-up
// without an account: the caller compares the entry's Account before it does
// anything else with it. ErrNotFound if there is no such key.
func (v *View) Key(ctx context.Context, region, id string) (*KeyEntry, error) {
	e, err := v.read(ctx, keyKey(region, id))
	if err != nil {
		return nil, wrap(err, "key %s", id)
	}
	return e.(*KeyEntry), nil
}

// FreshKey is Key from Postgres, whatever is cached; what it read is cached then.
func (v *View) FreshKey(ctx context.Context, region, id string) (*KeyEntry, error) {
	e, err := v.fill(ctx, keyKey(region, id))
	if err != nil {
		return nil, wrap(err, "key %s", id)
	}
	return e.(*KeyEntry), nil
}

// Alias returns an alias of the account; name begins with "alias/". ErrNotFound
// if the account has no such alias in the region.
func (v *View) Alias(ctx context.Context, account, region, name string) (*Alias, error) {
	a, err := v.read(ctx, aliasKey(account, region, name))
	if err != nil {
		return nil, wrap(err, "alias of %s", account)
	}
	return a.(*Alias), nil
}

// AccessKey returns an access key, whoever owns it. ErrNotFound if there is no
// such key, or was none less than a second ago.
func (v *View) AccessKey(ctx context.Context, id string) (*AccessKey, error) {
	if v.store.cache.isAbsent(id) {
		return nil, ErrNotFound
	}
	k, err := v.read(ctx, accessKeyKey(id))
	if err != nil {
		return nil, wrap(err, "access key")
	}
	return k.(*AccessKey), nil
}

// read returns what lies under key, from the cache or from Postgres.
func (v *View) read(ctx context.Context, key cacheKey) (any, error) {
	if value, saw, ok := v.store.cache.get(key); ok {
		v.saw(saw)
		return value, nil
	}
	return v.fill(ctx, key)
}

func (v *View) fill(ctx context.Context, key cacheKey) (any, error) {
	keep := func(f fill, l loaded) (accountVersion, bool) { return v.store.cache.put(f, key, l) }
	return v.load(keep, func(f fill) (loaded, error) {
		asked := v.store.clock()
		l, err := loaders[key.kind](ctx, v.store, key)
		if errors.Is(err, ErrNotFound) && key.kind == kindAccessKey {
			v.store.cache.putAbsent(f, key.id, asked)
		}
		return l, err
	})
}

// load reads until keep says that what was read held all the time.
func (v *View) load(keep func(fill, loaded) (accountVersion, bool), read func(fill) (loaded, error)) (any, error) {
	var l loaded
	for range fillAttempts {
		f := v.store.cache.begin()
		var err error
		if l, err = read(f); err != nil {
			return nil, err
		}
		if saw, ok := keep(f, l); ok {
			v.saw(saw)
			return l.value, nil
		}
	}
	v.saw(accountVersion{l.account, l.version, time.Time{}})
	return l.value, nil
}

// loaders are the queries behind the kinds of the cache. Each reads a row and
// its account's version in one statement, hence in one snapshot.
var loaders = map[kind]func(context.Context, *Store, cacheKey) (loaded, error){
	kindKey:       loadKey,
	kindAlias:     loadAlias,
	kindAccessKey: loadAccessKey,
	kindGrants:    loadGrants,
	kindPrincipal: loadPrincipal,
	kindManaged:   loadManagedPolicy,
	kindProvider:  loadProvider,
}

// saw notes a version that the request's decision rests on. Of several reads of
// an account the oldest counts.
func (v *View) saw(a accountVersion) {
	i := slices.IndexFunc(v.seen, func(s accountVersion) bool { return s.account == a.account })
	if i < 0 {
		v.seen = append(v.seen, a)
		return
	}
	s := &v.seen[i]
	s.version = min(s.version, a.version)
	if a.until.Before(s.until) {
		s.until = a.until
	}
}

// versions are the versions that were seen; none for a nil View.
func (v *View) versions() []accountVersion {
	if v == nil {
		return nil
	}
	return v.seen
}

// accountVersion says which version of an account a decision rests on.
type accountVersion struct {
	account string
	version int64
	until   time.Time // end of the lease under which it was read; in the past without one
}
