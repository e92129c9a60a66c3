package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const tokenFingerprint = `SELECT document FROM token_fingerprints WHERE token_serial = @serial`

// TokenFingerprint returns what the token was when it was last accepted, as a JSON
// document. [ErrNotFound] if it never was.
func (s *Store) TokenFingerprint(ctx context.Context, tokenSerial string) ([]byte, error) {
	var document []byte
	err := s.pool.QueryRow(ctx, tokenFingerprint, pgx.StrictNamedArgs{"serial": tokenSerial}).Scan(&document)
	return document, wrap(err, "fingerprint of token %s", tokenSerial)
}

const acceptToken = `
INSERT INTO token_fingerprints (token_serial, document, accepted_at)
VALUES (@serial, @document, @now)
ON CONFLICT (token_serial) DO UPDATE SET document = excluded.document, accepted_at = excluded.accepted_at`

// AcceptToken notes what the token is, a JSON document.
func (tx *Tx) AcceptToken(ctx context.Context, tokenSerial string, document []byte, now time.Time) error {
	_, err := tx.tx.Exec(ctx, acceptToken, pgx.StrictNamedArgs{"serial": tokenSerial, "document": document, "now": now})
	return wrap(err, "accept token %s", tokenSerial)
}
