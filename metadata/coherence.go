package metadata

import "time"

// What this file does to the cache is promise and proof at once: see "The cache
// and its lease" in the package comment.

// apply applies a notice that came in. Notices of an account come in the order
// of its versions; a gap means that one was lost.
func (c *cache) apply(n notice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, known := c.accounts[n.Account]
	switch {
	case !known: // nothing of it is cached, but a fill may be under way
		a = c.accountLocked(n.Account, n.Version)
		c.invalidateLocked(a, n)
	case n.Version <= a.applied:
		return
	case n.Version > a.applied+1:
		c.counts.gaps++
		a.epoch++
		c.absences++
		clear(c.absent)
	default:
		c.invalidateLocked(a, n)
	}
	a.applied = n.Version
	a.noticed = max(a.noticed, n.Version)
}

// applyOwn applies a change of this instance's own as soon as it is committed,
// before its notice has come in. Notices of earlier versions may be on their way
// still, so applied only moves if this is the next version.
func (c *cache) applyOwn(n notice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.accountLocked(n.Account, n.Version)
	c.invalidateLocked(a, n)
	a.noticed = max(a.noticed, n.Version)
	if n.Version == a.applied+1 {
		a.applied = n.Version
	}
}

// invalidateLocked removes what a notice names, unless it was read later.
func (c *cache) invalidateLocked(a *accountState, n notice) {
	if len(n.Targets) == 0 {
		a.epoch++
	}
	for _, t := range n.Targets {
		locate, ok := cacheKeys[t.Kind]
		if !ok {
			a.epoch++
			continue
		}
		key := locate(n.Account, t)
		if e := c.entries[key]; e != nil && e.version < n.Version {
			c.removeLocked(e)
		}
		if t.Kind == kindAccessKey {
			c.absences++
			delete(c.absent, t.ID)
		}
	}
}

// drop drops everything of the accounts, which are known to have moved.
func (c *cache) drop(accounts []accountVersion) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range accounts {
		if a := c.accounts[v.account]; a != nil {
			a.epoch++
			c.counts.drops++
		}
	}
}

// forget drops everything. The listener calls it when it listens anew.
func (c *cache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked()
}

// extendLease notes that the heartbeat sent then came back.
func (c *cache) extendLease(sent time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sent.After(c.leaseFrom) {
		c.leaseFrom = sent
	}
}

// leaseValid tells whether the cache can be trusted now.
func (c *cache) leaseValid(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return within(now, c.untilLocked())
}

// untilLocked is when the lease ends; in the past if it has.
func (c *cache) untilLocked() time.Time {
	if c.leaseFrom.IsZero() {
		return time.Time{}
	}
	return c.leaseFrom.Add(leaseTerm)
}

// within tells whether now is before the end of a lease by both clocks: the
// monotonic one, which nobody sets, and the wall's, since the monotonic one stands
// still while a machine is suspended.
func within(now, until time.Time) bool {
	return now.Before(until) && now.Round(0).Before(until.Round(0))
}

// covered tells whether a decision that saw these versions still holds without
// asking the database: the lease it was made under runs, or the lease of now
// does and has brought no later version of any of its accounts.
func (c *cache) covered(seen []accountVersion) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	if !within(now, c.untilLocked()) {
		return false
	}
	for _, v := range seen {
		if within(now, v.until) {
			continue
		}
		if a := c.accounts[v.account]; a == nil || a.noticed > v.version {
			return false
		}
	}
	return true
}

// snapshot is what the cache holds and did, for metrics.
func (c *cache) snapshot() (counts cacheCounts, entries, bytes int, leased bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts, len(c.ring), c.bytes, within(c.clock(), c.untilLocked())
}
