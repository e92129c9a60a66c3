// Package reconcile does what is due without anybody's asking: deletion, rotation,
// expiry. Its jobs are functions of (context, time), find their work by query,
// claim it in a short transaction, do it without one, and commit it if the claim
// still stands: any instance may run them, and run them again after a crash.
package reconcile

import (
	"log/slog"

	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/metadata"
)

// Reconciler is what jobs work with. Safe for concurrent use.
type Reconciler struct {
	Store  *metadata.Store
	Tokens map[string]hsm.Token // by key store
	Logger *slog.Logger
	// Holder is the name under which this process claims work: a new one at every start.
	Holder uuid.UUID
}
