package metadata

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Claim is a process's word that it works on what it claims, until it has done or
// has had its time. Work is claimed in a short transaction, done without one, and
// committed if the claim still stands.
type Claim struct {
	Holder uuid.UUID // of the process: a new one at every start
	Now    time.Time
	Until  time.Time // when others may claim the work
}

// KeyName names a key.
type KeyName struct{ Region, Account, ID string }

// args are the arguments of a query about one key.
func (k KeyName) args() pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"region": k.Region, "account": k.Account, "id": k.ID}
}

// moving are those and the transition's.
func (k KeyName) moving(t Transition) pgx.StrictNamedArgs { return with(k.args(), t.args()) }

// args are the transition's in a statement.
func (t Transition) args() pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"from": t.From.names(), "to": string(t.To)}
}

// with is args and more.
func with(args, more pgx.StrictNamedArgs) pgx.StrictNamedArgs {
	all := maps.Clone(args)
	maps.Copy(all, more)
	return all
}

// Due is a kind of work on keys that is found by query.
type Due string

// Kinds of due work. Each is what the WHERE of its query says of the key, k.
const (
	// DueDeletion: the window of its deletion is over.
	DueDeletion Due = `k.state = 'PendingDeletion' AND k.deletion_at <= @now`
	// UnfinishedDeletion: it is deleted, and its material may still be there.
	UnfinishedDeletion Due = `k.state = 'Deleted' AND k.claimed_until IS NOT NULL`
	// DueMove: it has become the primary key of its related keys, or was it before.
	DueMove Due = `k.state = 'Updating'`
	// DueReplication: it is a replica without its materials, and the store of its primary
	// key is one of the stores, too.
	DueReplication Due = `k.state = 'Creating' AND EXISTS (
		SELECT FROM keys p
		WHERE p.account = k.account AND p.id = k.id AND p.multi_region_role = 'PRIMARY' AND p.state <> 'Deleted' AND p.store = ANY (@stores))`
)

const claimKeys = `
UPDATE keys AS c SET claimed_by = @holder, claimed_until = @until
FROM (
	SELECT k.region, k.id
	FROM keys k
	WHERE %s AND k.store = ANY (@stores) AND (k.claimed_until IS NULL OR k.claimed_until <= @now)
	LIMIT @limit
	FOR NO KEY UPDATE SKIP LOCKED
) AS due
WHERE c.region = due.region AND c.id = due.id
RETURNING c.region, c.account, c.id`

// ClaimKeys claims at most limit keys of these stores that are due and that nobody
// else has claimed. It changes nothing that anybody else looks at.
func (s *Store) ClaimKeys(ctx context.Context, due Due, c Claim, stores []string, limit int) ([]KeyName, error) {
	return list(ctx, s, "claim keys", fmt.Sprintf(claimKeys, string(due)), pgx.StrictNamedArgs{
		"holder": c.Holder, "now": c.Now, "until": c.Until, "stores": stores, "limit": limit,
	}, pgx.RowToStructByPos[KeyName])
}

const releaseKey = `
UPDATE keys SET claimed_by = NULL, claimed_until = NULL
WHERE region = @region AND account = @account AND id = @id AND claimed_by = @holder AND claimed_until = @until`

// ReleaseKey gives up a claim, so that the key can be claimed at once. A later claim of
// the same process's stands: the key's deletion may rest on it.
func (s *Store) ReleaseKey(ctx context.Context, c Claim, k KeyName) error {
	_, err := s.pool.Exec(ctx, releaseKey, with(k.args(), pgx.StrictNamedArgs{"holder": c.Holder, "until": c.Until}))
	return wrap(err, "release key %s", k.ID)
}

const postponeKey = `
UPDATE keys SET claimed_until = @at
WHERE region = @region AND account = @account AND id = @id AND claimed_by = @holder AND claimed_until = @until`

// PostponeKey ends a claim at a time before its own: the work on the key has failed, and
// may be claimed again then. A later claim of the same process's stands.
func (s *Store) PostponeKey(ctx context.Context, c Claim, k KeyName, at time.Time) error {
	_, err := s.pool.Exec(ctx, postponeKey, with(k.args(), pgx.StrictNamedArgs{"holder": c.Holder, "until": c.Until, "at": at}))
	return wrap(err, "postpone key %s", k.ID)
}

// claimStands is what the WHERE of a commit says of the row that was claimed.
const claimStands = `claimed_by = @holder AND claimed_until > @now`
