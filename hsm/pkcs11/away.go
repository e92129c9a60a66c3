package pkcs11

import (
	"errors"
	"fmt"
	"time"

	"kmsgate/hsm"
)

// awayError is why callers are refused, and since when.
type awayError struct {
	why   error
	since time.Time
}

func (e *awayError) Error() string {
	return fmt.Sprintf("%v, since %s", e.why, e.since.UTC().Format(time.RFC3339))
}

func (e *awayError) Unwrap() error { return e.why }

// away makes of a reason one that says since when: now, or since callers have been
// refused for another one.
func (e *Engine) away(why error) error {
	since := e.awaySince()
	if since.IsZero() {
		since = e.cfg.Clock()
	}
	return &awayError{why: why, since: since}
}

// awaySince is since when all callers have been refused; zero while they are not.
func (e *Engine) awaySince() time.Time {
	if away, ok := errors.AsType[*awayError](e.admit()); ok {
		return away.since
	}
	return time.Time{}
}

// tooMuchStuck refuses callers while more calls hang in the token than may.
func (e *Engine) tooMuchStuck() error {
	n := e.stuck.Load()
	if n <= e.maxStuck {
		return nil
	}
	return &awayError{
		why:   fmt.Errorf("%w: %d calls have not returned", hsm.ErrUnavailable, n),
		since: time.Unix(0, e.stuckSince.Load()),
	}
}
