package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Account is a tenant.
type Account struct {
	ID        string // 12 digits
	CreatedAt time.Time
}

const listAccounts = `
SELECT id, created_at
FROM accounts
WHERE id > @after
ORDER BY id
LIMIT @limit`

// ListAccounts returns at most limit accounts in the order of their ids, beginning
// after the one given; empty means from the start.
func (s *Store) ListAccounts(ctx context.Context, after string, limit int) ([]Account, error) {
	return list(ctx, s, "list accounts", listAccounts, pgx.StrictNamedArgs{"after": after, "limit": limit},
		pgx.RowToStructByName[Account])
}

const selectAccount = `
SELECT id, created_at
FROM accounts
WHERE id = @id`

// Account returns an account. ErrNotFound if there is none of that id.
func (s *Store) Account(ctx context.Context, id string) (a Account, err error) {
	err = s.pool.QueryRow(ctx, selectAccount, pgx.StrictNamedArgs{"id": id}).Scan(&a.ID, &a.CreatedAt)
	return a, wrap(err, "account %s", id)
}

const accountsExist = `
SELECT NOT EXISTS (
	SELECT FROM unnest(@ids::text[]) AS asked (id)
	WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.id = asked.id)
)`

// AccountsExist tells whether all of the accounts exist; true for none.
func (s *Store) AccountsExist(ctx context.Context, ids []string) (bool, error) {
	var all bool
	err := s.pool.QueryRow(ctx, accountsExist, pgx.StrictNamedArgs{"ids": ids}).Scan(&all)
	return all, wrap(err, "look for accounts")
}

const insertAccount = `
INSERT INTO accounts (id, version, created_at)
VALUES (@id, 1, @createdAt)`

// InsertAccount adds an account. ErrExists if there is one of that id.
func (tx *Tx) InsertAccount(ctx context.Context, a Account) error {
	_, err := tx.tx.Exec(ctx, insertAccount, pgx.StrictNamedArgs{"id": a.ID, "createdAt": a.CreatedAt})
	return wrap(err, "insert account %s", a.ID)
}
