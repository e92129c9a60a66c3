package metadata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Errors that a caller acts on, by errors.Is. Everything else is a bug or a
// damaged database.
var (
	// ErrNotFound: there is no such thing in that region and account.
	ErrNotFound = errors.New("metadata: not found")
	// ErrExists: there is one of that name already.
	ErrExists = errors.New("metadata: exists already")
	// ErrState: the key's state does not allow the change; errors.As with a
	// *StateError tells the state.
	ErrState = errors.New("metadata: wrong key state")
	// ErrClaim: the claim under which work was done does not stand any more. Whoever
	// has claimed the work since does it.
	ErrClaim = errors.New("metadata: claim lost")
	// ErrLimit: the change would pass a limit, such as that of a key's aliases. Of
	// IAM's limits errors.As with a *LimitError tells which.
	ErrLimit = errors.New("metadata: limit exceeded")
	// ErrInUse: what is to be deleted still has something; errors.As with an
	// *InUseError tells what.
	ErrInUse = errors.New("metadata: still in use")
	// ErrStale: the decision rests on an account that has changed since. Decide
	// again on a new View.
	ErrStale = errors.New("metadata: decided on stale data")
	// ErrUnavailable: Postgres cannot be reached, does not answer in time or
	// does not take work now. Nothing was done; try later.
	ErrUnavailable = errors.New("metadata: database unavailable")
	// ErrUnknownOutcome: the connection broke while a change was committed. It
	// may or may not hold, together with its audit record.
	ErrUnknownOutcome = errors.New("metadata: outcome of the commit is unknown")
)

// StateError is ErrState with the state that the key is in.
type StateError struct{ State State }

// Error names the state.
func (e *StateError) Error() string { return "metadata: key is " + string(e.State) }

// Is makes a StateError match ErrState.
func (e *StateError) Is(target error) bool { return target == ErrState }

// LimitError is ErrLimit with the limit.
type LimitError struct{ Limit int }

// Error says the limit.
func (e *LimitError) Error() string { return "metadata: more than " + strconv.Itoa(e.Limit) }

// Is makes a LimitError match ErrLimit.
func (e *LimitError) Is(target error) bool { return target == ErrLimit }

// Dependant is what a user, group, role or managed policy must not have any more
// when it is deleted.
type Dependant string

// Dependants, by what hangs on what.
const (
	AccessKeys       Dependant = "access keys"       // of a user
	Memberships      Dependant = "memberships"       // of a user, or of a group
	InlinePolicies   Dependant = "inline policies"   // of a user, group or role
	AttachedPolicies Dependant = "attached policies" // the same
	Attachments      Dependant = "attachments"       // of a managed policy, as a boundary too
)

// InUseError is ErrInUse with what there still is.
type InUseError struct{ By Dependant }

// Error names it.
func (e *InUseError) Error() string { return "metadata: still has " + string(e.By) }

// Is makes an InUseError match ErrInUse.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// SQLSTATE codes (PostgreSQL documentation, appendix A) that mean something to us.
const (
	codeUniqueViolation       = "23505"
	codeForeignKeyViolation   = "23503"
	codeSerialization         = "40001"
	codeDeadlock              = "40P01"
	codeUndefinedTable        = "42P01"
	codeDuplicateDatabase     = "42P04"
	codeReadOnlyTransaction   = "25006"
	codeIdleInTransaction     = "25P03"
	codeLockNotAvailable      = "55P03"
	codeCompletionUnknown     = "40003"
	codeResolutionUnknown     = "08007"
	classConnection           = "08"
	classResources            = "53"
	classOperatorIntervention = "57"
)

// unavailable are the codes and classes by which a server that is there says
// that it does not do the work now.
var unavailable = map[string]bool{
	classConnection: true, classResources: true, classOperatorIntervention: true,
	codeReadOnlyTransaction: true, codeIdleInTransaction: true, codeLockNotAvailable: true,
	codeSerialization: true, codeDeadlock: true,
}

// wrap says what was being done and turns the driver's errors into ours. It
// returns nil for nil.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	switch {
	case isOurs(err):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	case sqlState(err) == codeUniqueViolation:
		return fmt.Errorf("%s: %w", what, ErrExists)
	case isUnavailable(err):
		return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// isOurs tells whether an error has been turned into one of ours.
func isOurs(err error) bool {
	return slices.ContainsFunc([]error{
		ErrNotFound, ErrExists, ErrState, ErrOtherMaterial, ErrLimit, ErrInUse, ErrStale, ErrUnavailable, ErrUnknownOutcome,
	}, func(ours error) bool { return errors.Is(err, ours) })
}

// isUnavailable tells an error of reaching Postgres from an error of the work.
func isUnavailable(err error) bool {
	if code := sqlState(err); code != "" {
		return unavailable[code] || unavailable[code[:2]]
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || pgconn.SafeToRetry(err)
}

// sqlState is the code of an error that the server sent, else empty.
func sqlState(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// isRetryable tells whether a transaction should be run again: it lost against
// another one and left nothing.
func isRetryable(err error) bool {
	code := sqlState(err)
	return code == codeSerialization || code == codeDeadlock
}

// commitIsUnknown tells whether an error of a COMMIT that was sent leaves open what
// happened. An error that the server sent is an answer, unless it ended the session
// or says itself that it does not know. Everything else is unknown: pgx says of a
// connection that broke before the answer came, too, that it was closed and that
// the statement was never sent.
func commitIsUnknown(err error) bool {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return !errors.Is(err, pgx.ErrTxCommitRollback)
	}
	return server.SeverityUnlocalized == "FATAL" || server.SeverityUnlocalized == "PANIC" ||
		server.Code == codeCompletionUnknown || server.Code == codeResolutionUnknown
}
