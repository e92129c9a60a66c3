package metadata

import (
	"context"

	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
)

var _ hsm.LoginMarks = (*Store)(nil)

const loginRefused = `SELECT EXISTS (SELECT FROM login_marks WHERE token_serial = @serial)`

// LoginRefused tells whether any instance's PIN was refused by the token and no
// operator has cleared that: all instances share the token's count of tries.
func (s *Store) LoginRefused(ctx context.Context, tokenSerial string) (bool, error) {
	var refused bool
	err := s.pool.QueryRow(ctx, loginRefused, pgx.StrictNamedArgs{"serial": tokenSerial}).Scan(&refused)
	return refused, wrap(err, "login mark of token %s", tokenSerial)
}

const markLoginRefused = `
INSERT INTO login_marks (token_serial, instance, refused_at)
VALUES (@serial, @instance, @refusedAt)
ON CONFLICT (token_serial, instance) DO UPDATE SET refused_at = excluded.refused_at`

// MarkLoginRefused notes that the token refused this instance's PIN.
func (s *Store) MarkLoginRefused(ctx context.Context, tokenSerial string) error {
	_, err := s.pool.Exec(ctx, markLoginRefused, pgx.StrictNamedArgs{
		"serial": tokenSerial, "instance": s.instance, "refusedAt": s.clock(),
	})
	return wrap(err, "mark login of token %s", tokenSerial)
}

const clearLoginMark = `DELETE FROM login_marks WHERE token_serial = @serial`

// ClearLoginMark takes every instance's mark off the token, at an operator's word.
func (s *Store) ClearLoginMark(ctx context.Context, tokenSerial string) error {
	_, err := s.pool.Exec(ctx, clearLoginMark, pgx.StrictNamedArgs{"serial": tokenSerial})
	return wrap(err, "clear login mark of token %s", tokenSerial)
}
