package metadata

import (
	"strings"
	"sync"
	"time"
)

// leaseTerm is how long a heartbeat that came back lets an instance trust its
// cache, from the moment it was sent: the promise to every other instance.
const leaseTerm = time.Second

// maxAbsent bounds the access keys that are remembered as absent.
const maxAbsent = 4096

// cacheKey names what is cached. Account is empty for what is looked up without
// knowing it; region is empty for what has none.
type cacheKey struct {
	kind                kind
	account, region, id string
}

func keyKey(region, id string) cacheKey { return cacheKey{kind: kindKey, region: region, id: id} }

func aliasKey(account, region, name string) cacheKey {
	return cacheKey{kind: kindAlias, account: account, region: region, id: name}
}

func grantsKey(region, keyID, grantee string) cacheKey {
	return cacheKey{kind: kindGrants, region: region, id: granteeOf(keyID, grantee)}
}

// granteeOf is the id of the grants on a key to a grantee. No key id has a space.
func granteeOf(keyID, grantee string) string { return keyID + " " + grantee }

func accessKeyKey(id string) cacheKey { return cacheKey{kind: kindAccessKey, id: id} }

func principalKey(account string, kind PrincipalKind, name string) cacheKey {
	return cacheKey{kind: kindPrincipal, account: account, id: principalID(kind, name)}
}

// principalID names a principal in its account, in the cache and in notices.
func principalID(kind PrincipalKind, name string) string { return string(kind) + "/" + name }

func splitPrincipalID(id string) (kind PrincipalKind, name string) {
	k, name, _ := strings.Cut(id, "/")
	return PrincipalKind(k), name
}

// loaded is what a fill read: a value with the owner's version, in one snapshot.
type loaded struct {
	value   any
	account string
	version int64
	size    int           // bytes, estimated
	policy  *sharedPolicy // that the value holds; nil for none
}

// entry is a cached value. It holds at version and at every later version up to
// what is applied of its account, unless the account's epoch moved on.
type entry struct {
	loaded
	key   cacheKey
	owner *accountState
	epoch uint64
	place int  // in cache.ring
	used  bool // since it was put or the hand passed
}

// accountState is what is known of an account's versions.
type accountState struct {
	applied int64  // every notice up to this one has been applied
	noticed int64  // the newest version heard of, by notice or own change; at least applied
	epoch   uint64 // entries of an earlier one are dropped
}

// cache holds entries up to a number and a size, and knows how far they can be
// trusted. Safe for concurrent use; nothing is waited for under its lock.
type cache struct {
	clock      func() time.Time
	maxEntries int
	maxBytes   int

	mu         sync.Mutex
	generation uint64 // moves when account states are forgotten: fills under way are void
	absences   uint64 // moves when an access key changes: absences being read are void
	entries    map[cacheKey]*entry
	ring       []*entry // every entry, in the order of the hand
	hand       int
	bytes      int
	accounts   map[string]*accountState
	absent     map[string]time.Time // access keys that do not exist, until when
	policies   policyTable
	leaseFrom  time.Time // when the newest heartbeat that came back was sent
	counts     cacheCounts
}

// cacheCounts are what the cache did since it was made.
type cacheCounts struct{ hits, misses, voidFills, gaps, evictions, drops uint64 }

func newCache(clock func() time.Time, maxEntries, maxBytes int) *cache {
	c := &cache{clock: clock, maxEntries: maxEntries, maxBytes: maxBytes}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked()
	return c
}

// get returns a cached value and the version of its account at which it holds.
func (c *cache) get(key cacheKey) (value any, saw accountVersion, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e != nil && e.epoch != e.owner.epoch {
		c.removeLocked(e)
		e = nil
	}
	if e == nil {
		c.counts.misses++
		return nil, accountVersion{}, false
	}
	c.counts.hits++
	e.used = true
	return e.value, accountVersion{e.account, max(e.version, e.owner.applied), c.untilLocked()}, true
}

// fill is a read under way.
type fill struct{ generation, absences uint64 }

// begin must be called before the query of a fill is sent.
func (c *cache) begin() fill {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fill{c.generation, c.absences}
}

// put caches what a fill read. It returns false, and keeps nothing, if a later
// version of the account was heard of meanwhile: the notice that would have
// invalidated the value may have passed.
func (c *cache) put(f fill, key cacheKey, l loaded) (accountVersion, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	owner, ok := c.acceptLocked(f, l)
	if !ok {
		return accountVersion{}, false
	}
	if old := c.entries[key]; old != nil {
		c.removeLocked(old)
	}
	e := &entry{loaded: l, key: key, owner: owner, epoch: owner.epoch, place: len(c.ring)}
	c.entries[key], c.ring = e, append(c.ring, e)
	c.bytes += l.size + c.policies.hold(l.policy)
	c.shrinkLocked(e)
	return accountVersion{l.account, l.version, c.untilLocked()}, true
}

// accept is put for what is not to be kept: it tells whether what was read held.
func (c *cache) accept(f fill, l loaded) (accountVersion, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.acceptLocked(f, l); !ok {
		return accountVersion{}, false
	}
	return accountVersion{l.account, l.version, c.untilLocked()}, true
}

// acceptLocked is the account of what a fill read, unless something later was heard
// of meanwhile.
func (c *cache) acceptLocked(f fill, l loaded) (*accountState, bool) {
	if f.generation != c.generation {
		c.counts.voidFills++
		return nil, false
	}
	owner := c.accountLocked(l.account, l.version)
	if owner.noticed > l.version {
		c.counts.voidFills++
		return nil, false
	}
	return owner, true
}

// isAbsent tells whether an access key was found absent less than a second ago.
func (c *cache) isAbsent(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.absent[id]
	return ok && c.clock().Before(until)
}

// putAbsent remembers that there was no such access key at the time asked.
func (c *cache) putAbsent(f fill, id string, asked time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.absences != c.absences {
		return
	}
	if len(c.absent) >= maxAbsent {
		clear(c.absent)
	}
	c.absent[id] = asked.Add(leaseTerm)
}

// compile returns a compiled policy, of an entry if one holds it.
func (c *cache) compile(document, bindings string) (*sharedPolicy, error) {
	key := policyKey{document, bindings}
	c.mu.Lock()
	shared := c.policies[key]
	c.mu.Unlock()
	if shared != nil {
		return shared, nil
	}
	return compilePolicy(key)
}

// accountLocked returns the state of an account, making one that knows nothing
// older than version. At the limit another account is forgotten for it.
func (c *cache) accountLocked(account string, version int64) *accountState {
	if a := c.accounts[account]; a != nil {
		return a
	}
	if len(c.accounts) >= c.maxEntries {
		for id, a := range c.accounts { // any one
			a.epoch++
			delete(c.accounts, id)
			c.generation++
			break
		}
	}
	a := &accountState{applied: version, noticed: version}
	c.accounts[account] = a
	return a
}

// shrinkLocked makes room by second chance: the hand removes what was not used
// since it passed, and what is dropped anyway. What was read but once goes first,
// so that a walk over all keys leaves those that are in use. newest stays.
func (c *cache) shrinkLocked(newest *entry) {
	for len(c.ring) > 1 && (len(c.ring) > c.maxEntries || c.bytes > c.maxBytes) {
		c.hand %= len(c.ring)
		e := c.ring[c.hand]
		switch {
		case e == newest, e.used && e.epoch == e.owner.epoch:
			e.used = false
			c.hand++
		default:
			c.removeLocked(e)
			c.counts.evictions++
		}
	}
}

func (c *cache) removeLocked(e *entry) {
	delete(c.entries, e.key)
	last := len(c.ring) - 1
	c.ring[e.place] = c.ring[last]
	c.ring[e.place].place = e.place
	c.ring[last] = nil
	c.ring = c.ring[:last]
	c.bytes -= e.size + c.policies.release(e.policy)
}

// forgetLocked empties the cache and voids the fills under way.
func (c *cache) forgetLocked() {
	c.generation++
	c.absences++
	c.entries = make(map[cacheKey]*entry)
	c.ring, c.hand, c.bytes = nil, 0, 0
	c.accounts = make(map[string]*accountState)
	c.absent = make(map[string]time.Time)
	c.policies = make(policyTable)
}
