// Package metadata is the gateway's memory: keys and their wrapped materials,
// aliases, tags, policies, accounts and access keys, and the audit log, all in
// Postgres. It is the only package that speaks SQL.
//
// Reading goes two ways. What a request's decision depends on is read through a
// [View], which answers from a cache that other instances' changes reach within
// a second and remembers which version of each account it saw. Lists are read
// from Postgres every time.
//
// Writing goes two ways too. [Store.Record] makes the audit record of a request
// durable; [Store.Change] commits a change together with its record.
//
// # The cache and its lease
//
// Every account has a version. A change of anything that a decision depends on
// raises it as the last statement of its transaction and notifies every
// instance of (account, version, what changed). An instance applies the notices
// in the order of the versions; a gap drops everything of that account.
//
// A fill reads the row and the account's version in one snapshot. It is thrown
// away if a later version was noticed while it was under way: the notice that
// would have invalidated it has already passed.
//
// An instance trusts its cache under a lease. Every quarter of a second it
// commits a notice of its own, a heartbeat, on the connection that listens. When
// it comes back, every change committed before it was sent has been applied, so
// the cache is at most as old as that: the lease runs one second from the moment
// the newest heartbeat that came back was sent. If the connection is lost, the
// lease lapses by itself; the next connection listens first, then drops the
// whole cache, then sends heartbeats. In this order, because whatever is read
// after the drop is covered by a connection that was listening before the read.
//
// Without a lease nothing is refused: the versions that a view saw are compared
// with the database's when its record is made durable, and a request whose
// account moved gets [ErrStale] and has to decide again.
//
// # Trust
//
// Who can write to the database can grant themselves anything but key material:
// see README.md.
package metadata
