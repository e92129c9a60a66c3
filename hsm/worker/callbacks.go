package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"kmsgate/hsm"
)

// What the worker may ask of the gateway, for one of its tokens: it has neither PIN
// files nor a database.
var (
	readPIN = method[*Token, nothing, secret]{"PIN", true, func(_ context.Context, t *Token, _ *nothing) (secret, error) {
		return t.cfg.PIN()
	}}
	findServiceKeys = method[*Token, string, []hsm.ServiceKey]{"FindServiceKeys", true, func(ctx context.Context, t *Token, store *string) ([]hsm.ServiceKey, error) {
		if t.cfg.FindServiceKeys == nil {
			return nil, fmt.Errorf("%w: nobody finds service keys", hsm.ErrUnsupported)
		}
		return t.cfg.FindServiceKeys(ctx, *store)
	}}
	loginRefused = method[*Token, string, bool]{"LoginRefused", true, func(ctx context.Context, t *Token, serial *string) (bool, error) {
		return t.loginRefused(ctx, *serial)
	}}
	markLoginRefused = method[*Token, string, nothing]{"MarkLoginRefused", true, func(ctx context.Context, t *Token, serial *string) (nothing, error) {
		return nothing{}, t.markLoginRefused(ctx, *serial)
	}}
	takeTurn = method[*Token, string, uint64]{"TakeTurn", false, func(ctx context.Context, t *Token, name *string) (uint64, error) {
		return t.turns.take(ctx, t.cfg.Marks, *name)
	}}
	endTurn = method[*Token, uint64, nothing]{"EndTurn", false, func(_ context.Context, t *Token, turn *uint64) (nothing, error) {
		t.turns.end(*turn)
		return nothing{}, nil
	}}
)

func callbackMethods() map[string]row[*Token] {
	return tableOf[*Token](readPIN, findServiceKeys, loginRefused, markLoginRefused, takeTurn, endTurn)
}

// loginRefused heeds what this process has seen itself, where nobody else remembers it.
func (t *Token) loginRefused(ctx context.Context, serial string) (bool, error) {
	t.mu.Lock()
	refused := t.refusedPIN
	t.mu.Unlock()
	if refused || t.cfg.Marks == nil {
		return refused, nil
	}
	return t.cfg.Marks.LoginRefused(ctx, serial)
}

func (t *Token) markLoginRefused(ctx context.Context, serial string) error {
	t.mu.Lock()
	t.refusedPIN = true
	t.mu.Unlock()
	if t.cfg.Marks == nil {
		return nil
	}
	return t.cfg.Marks.MarkLoginRefused(ctx, serial)
}

// turns are the times in which the worker alone, of all processes, tries a PIN. They
// end with the worker that has them.
type turns struct {
	mu      sync.Mutex
	last    uint64
	holding map[uint64]context.CancelFunc
	held    sync.WaitGroup
}

// take waits until it is the worker's turn, and keeps it until it is ended.
func (t *turns) take(ctx context.Context, marks hsm.LoginMarks, name string) (uint64, error) {
	holding, end := context.WithCancel(context.WithoutCancel(ctx))
	t.mu.Lock()
	t.last++
	turn := t.last
	if t.holding == nil {
		t.holding = map[uint64]context.CancelFunc{}
	}
	t.holding[turn] = end
	t.mu.Unlock()
	if marks == nil {
		return turn, nil
	}
	taken := make(chan error, 1)
	t.held.Go(func() {
		err := marks.Exclusively(holding, name, func(context.Context) error {
			taken <- nil
			<-holding.Done()
			return nil
		})
		if err == nil {
			err = errors.New("the turn was over before it began")
		}
		select {
		case taken <- err:
		default: // it was taken
		}
	})
	select {
	case err := <-taken:
		if err != nil {
			t.end(turn)
		}
		return turn, err
	case <-ctx.Done():
		t.end(turn)
		return 0, lateError(ctx)
	}
}

func (t *turns) end(turn uint64) {
	t.mu.Lock()
	end := t.holding[turn]
	delete(t.holding, turn)
	t.mu.Unlock()
	if end != nil {
		end()
	}
}

// endAll ends the turns of a worker that has gone, and waits for that.
func (t *turns) endAll() {
	t.mu.Lock()
	for turn, end := range t.holding {
		end()
		delete(t.holding, turn)
	}
	t.mu.Unlock()
	t.held.Wait()
}
