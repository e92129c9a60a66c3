package metadata

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"kmsgate/gateway/arn"
)

// changeAttempts is how often a transaction that lost against another is run.
const changeAttempts = 5

// Change runs fn in one transaction and commits what it did together with the
// finished audit record that it returns. When Change returns nil the change is
// durable, holds on this instance, and will hold on every other one within a
// second.
//
// fn may run several times, each time in a new transaction, and must have no
// other effect. An error of fn undoes everything and is returned wrapped.
// ErrStale if an account that v saw has moved and no lease covers it: decide
// again on a new View. v may be nil for a change that rests on nothing.
// ErrUnknownOutcome if the connection broke during commit. After ErrStale and
// ErrState what v saw is read from the database again.
func (s *Store) Change(ctx context.Context, v *View, fn func(*Tx) (event []byte, err error)) error {
	var err error
	for range changeAttempts {
		if err = s.tryChange(ctx, v, fn); !isRetryable(err) {
			break
		}
	}
	if errors.Is(err, ErrStale) || errors.Is(err, ErrState) {
		s.cache.drop(v.versions()) // what the caller had read is not so any more
	}
	return wrap(err, "change")
}

func (s *Store) tryChange(ctx context.Context, v *View, fn func(*Tx) ([]byte, error)) (err error) {
	pgTx, err := s.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rollback(ctx, pgTx)) }()
	tx := &Tx{tx: pgTx, touched: make(map[string][]target), queueEvents: s.queueEvents}
	rows, notices, err := s.fillChange(ctx, v, tx, fn)
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case pgTx.Conn().IsClosed(): // then nothing is sent
		return pgconn.ErrConnClosed
	}
	if err := pgTx.Commit(ctx); err != nil {
		if commitIsUnknown(err) {
			s.cache.drop(accountsOf(notices))
			return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		}
		return err
	}
	for _, n := range notices {
		s.cache.applyOwn(n)
	}
	s.writer.committed(rows...)
	return nil
}

// rollback gives the connection back unless a commit did. Its error is only worth
// telling if the connection was still there.
func rollback(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := tx.Rollback(ctx)
	if isUnavailable(err) || errors.Is(err, pgx.ErrTxClosed) {
		return nil
	}
	return err
}

// fillChange does everything between BEGIN and COMMIT: the change, its records,
// and last the versions, for their rows are what changes of one account queue at.
func (s *Store) fillChange(ctx context.Context, v *View, tx *Tx, fn func(*Tx) ([]byte, error)) ([]outboxRow, []notice, error) {
	event, err := fn(tx)
	if err != nil {
		return nil, nil, err
	}
	if len(event) == 0 {
		return nil, nil, errors.New("a change without an audit record")
	}
	rows, err := s.writer.outboxInsert(ctx, tx.tx, append([][]byte{event}, tx.events...)...)
	if err != nil {
		return nil, nil, err
	}
	seen := v.versions()
	covered := s.cache.covered(seen)
	if !covered {
		if err := tx.compare(ctx, seen); err != nil {
			return nil, nil, err
		}
	}
	notices, err := tx.raise(ctx)
	if err == nil && covered && len(seen) > 0 && !s.cache.covered(seen) {
		err = ErrStale // the lease ran out, or others moved, while it queued for the versions
	}
	return rows, notices, err
}

func accountsOf(notices []notice) []accountVersion {
	accounts := make([]accountVersion, 0, len(notices))
	for _, n := range notices {
		accounts = append(accounts, accountVersion{account: n.Account})
	}
	return accounts
}

// Tx is a transaction of [Store.Change]; its methods are the changes there are.
// Each names region and account, so that nothing of another account is reached.
// One goroutine, and only while Change runs.
type Tx struct {
	tx      pgx.Tx
	touched map[string][]target // by account: what other instances may have cached
	events  [][]byte            // finished records beyond the one that every change has
	// queueEvents: there is a webhook that wants to know.
	queueEvents bool
}

// AlsoRecord adds a finished audit record to the change: that of another account
// that it concerns, or of something else that it does.
func (tx *Tx) AlsoRecord(event []byte) { tx.events = append(tx.events, event) }

// touch notes that something that may be cached changes.
func (tx *Tx) touch(account string, t target) {
	tx.touched[account] = append(tx.touched[account], t)
}

const selectSeen = `
SELECT id, version
FROM accounts
WHERE id = ANY (@accounts)`

// compare returns ErrStale unless every account is at the version that was seen.
func (tx *Tx) compare(ctx context.Context, seen []accountVersion) error {
	if len(seen) == 0 {
		return nil
	}
	accounts := make([]string, 0, len(seen))
	for _, v := range seen {
		accounts = append(accounts, v.account)
	}
	rows, err := tx.tx.Query(ctx, selectSeen, pgx.StrictNamedArgs{"accounts": accounts})
	if err != nil {
		return err
	}
	now := make(map[string]int64, len(seen))
	var account string
	var version int64
	_, err = pgx.ForEachRow(rows, []any{&account, &version}, func() error {
		now[account] = version
		return nil
	})
	if err != nil {
		return err
	}
	for _, v := range seen {
		if now[v.account] != v.version {
			return ErrStale
		}
	}
	return nil
}

const raiseVersion = `
WITH raised AS (
	UPDATE accounts SET version = version + 1 WHERE id = @account RETURNING version
)
SELECT version, pg_notify('kmsgate', json_build_object('a', @account::text, 'v', version, 't', @targets::json)::text)
FROM raised`

const selectRelatives = `
SELECT region, id
FROM keys
WHERE account = @account AND id = ANY (@ids)`

// touchRelatives notes that with a multi-Region key all of its related keys may be
// cached as they were: each of them knows the others' states.
func (tx *Tx) touchRelatives(ctx context.Context) error {
	for account, targets := range tx.touched {
		var ids []string
		for _, t := range targets {
			if t.Kind == kindKey && arn.IsMultiRegion(t.ID) {
				ids = append(ids, t.ID)
			}
		}
		if len(ids) == 0 {
			continue
		}
		rows, err := tx.tx.Query(ctx, selectRelatives, pgx.StrictNamedArgs{"account": account, "ids": ids})
		if err != nil {
			return err
		}
		var region, id string
		_, err = pgx.ForEachRow(rows, []any{&region, &id}, func() error {
			if t := (target{kindKey, region, id}); !slices.Contains(targets, t) {
				tx.touch(account, t)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// raise raises the versions of the accounts touched and notifies, in the order
// of their ids, so that two changes never wait for each other.
func (tx *Tx) raise(ctx context.Context) ([]notice, error) {
	if err := tx.touchRelatives(ctx); err != nil {
		return nil, fmt.Errorf("related keys: %w", err)
	}
	var notices []notice
	for _, account := range slices.Sorted(maps.Keys(tx.touched)) {
		n := notice{Account: account, Targets: tx.touched[account]}
		targets, err := encodeTargets(n.Targets)
		if err != nil {
			return nil, err
		}
		args := pgx.StrictNamedArgs{"account": account, "targets": targets}
		if err := tx.tx.QueryRow(ctx, raiseVersion, args).Scan(&n.Version, nil); err != nil {
			return nil, fmt.Errorf("raise version of account %s: %w", account, err)
		}
		notices = append(notices, n)
	}
	return notices, nil
}
