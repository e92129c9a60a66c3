package metadata

import "time"

// accountVersion says which version of an account a decision rests on.
//
// The writer asks its config's covered func whether all of them still hold
// without asking the database; if not, it compares account and version with the
// accounts table in the round trip of the batch and answers ErrStale for records
// whose account moved.
type accountVersion struct {
	account string
	version int64
	until   time.Time // by the lease under which it was read; zero without one
}
