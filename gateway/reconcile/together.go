package reconcile

import (
	"context"
	"errors"
	"sync"

	"kmsgate/metadata"
)

// maxTogether is how many changes of one account are committed in one transaction: as
// many as one notice to the other instances can name.
const maxTogether = 32

// together is the changes that wait to be committed. Changes of one account queue at
// the version that each of them raises: those that come meanwhile go in one
// transaction. Safe for concurrent use.
type together struct {
	mu      sync.Mutex
	waiting map[string][]*waitingChange // by account
}

// waitingChange is one of them. done is told how it ended, once.
type waitingChange struct {
	change func(*metadata.Tx) (event []byte, err error)
	done   chan error
}

func (t *together) add(account string, w *waitingChange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting[account] = append(t.waiting[account], w)
}

// take takes the first changes of an account; none if others have taken them.
func (t *together) take(account string) []*waitingChange {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.waiting[account]
	n := min(len(all), maxTogether)
	if t.waiting[account] = all[n:]; len(all) == n {
		delete(t.waiting, account)
	}
	return all[:n:n]
}

// commitTogether is commit for a change of one account and of nothing that other such
// changes touch. It may go in one transaction with others; that one of them is refused
// is none of the others' business.
func (r *Reconciler) commitTogether(ctx context.Context, account string, change func(*metadata.Tx) ([]byte, error)) error {
	w := &waitingChange{change, make(chan error, 1)}
	r.together.add(account, w)
	for {
		select {
		case err := <-w.done:
			return err
		case r.committing <- struct{}{}:
		}
		taken := r.together.take(account)
		r.commitAll(ctx, taken)
		<-r.committing
		if len(taken) == 0 { // somebody has it
			return <-w.done
		}
	}
}

// commitAll commits changes in one transaction or, should that be refused, in one for
// each.
func (r *Reconciler) commitAll(ctx context.Context, changes []*waitingChange) {
	if len(changes) == 0 {
		return
	}
	err := guarded(func() error { return r.Store.Change(ctx, nil, inOne(changes)) })
	settled := err == nil || len(changes) == 1 || errors.Is(err, metadata.ErrUnknownOutcome) || ctx.Err() != nil
	for _, w := range changes {
		if !settled {
			err = guarded(func() error { return r.Store.Change(ctx, nil, w.change) })
		}
		w.done <- err
	}
}

// inOne is one change of several, with a record of each.
func inOne(changes []*waitingChange) func(*metadata.Tx) ([]byte, error) {
	return func(tx *metadata.Tx) (first []byte, err error) {
		for i, w := range changes {
			event, err := w.change(tx)
			switch {
			case err != nil:
				return nil, err
			case i == 0:
				first = event
			default:
				tx.AlsoRecord(event)
			}
		}
		return first, nil
	}
}
