package pkcs11

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"kmsgate/hsm"
)

// lookPause is the least time between two looks for the service keys of a store:
// rows that name generations which do not exist cost the database ten queries a
// second, however many there are. Who needs a key waits for the next look.
const lookPause = 100 * time.Millisecond

// looks are the looks for service keys, by store.
type looks struct {
	mu     sync.Mutex
	stores map[string]*look
}

// look is the newest look for the service keys of a store.
type look struct {
	ended chan struct{} // closed at its end
	err   error         // set before that
	at    time.Time     // of its end; zero before
}

// LearnServiceKeys asks [Config.FindServiceKeys] for the service keys of a store,
// and puts exactly these in service: those that are new, which must be in the token,
// and no others; spare ones only stay. What is cached under one that goes is given up. Calls at the same
// time share one look.
func (e *Engine) LearnServiceKeys(ctx context.Context, store string) error {
	l, _ := e.beginLook(store)
	if l == nil {
		return errClosed
	}
	select {
	case <-l.ended:
		return l.err
	case <-ctx.Done():
		return lateError(ctx)
	}
}

// learn looks for a generation that a key names and that is not in service. If it
// stays unknown, the call that needs it says so.
func (e *Engine) learn(ctx context.Context, k *hsm.Key) {
	e.lookFor(ctx, k.Store, func() bool { return e.knows(k.Store, hsm.BindingKey, k.Generation) })
}

// learnSealing does that for the generation of a sealed value.
func (e *Engine) learnSealing(ctx context.Context, v *sealedValue) {
	e.lookFor(ctx, v.store, func() bool { return e.knows(v.store, hsm.SealingKey, v.generation) })
}

func (e *Engine) lookFor(ctx context.Context, store string, known func() bool) {
	for n := 0; n < 2 && !known(); n++ {
		l, mine := e.beginLook(store)
		if l == nil {
			return
		}
		select {
		case <-l.ended:
		case <-ctx.Done():
			return
		}
		if mine || l.err != nil {
			return
		}
		// That look may have begun before the key's row was there: once more.
	}
}

// knows tells whether a generation of a store's service key is in service, or is none
// that could be.
func (e *Engine) knows(store string, kind hsm.ServiceKeyKind, generation int32) bool {
	if e.cfg.FindServiceKeys == nil || generation < 1 {
		return true
	}
	service := e.service.Load()
	if _, ok := service.find(store, kind, generation); ok {
		return true
	}
	_, ours := service.newest(store)
	return !ours
}

// beginLook joins the look that is running, or begins one; mine tells which. Nil once
// the engine is closed.
func (e *Engine) beginLook(store string) (l *look, mine bool) {
	e.looks.mu.Lock()
	defer e.looks.mu.Unlock()
	last := e.looks.stores[store]
	if last != nil && last.at.IsZero() {
		return last, false
	}
	l = &look{ended: make(chan struct{})}
	pause := time.Duration(0)
	if last != nil {
		pause = lookPause - e.cfg.Clock().Sub(last.at)
	}
	if !e.spawn(func() { e.runLook(store, l, pause) }) {
		return nil, false
	}
	if e.looks.stores == nil {
		e.looks.stores = map[string]*look{}
	}
	e.looks.stores[store] = l
	return l, true
}

func (e *Engine) runLook(store string, l *look, pause time.Duration) {
	wait := time.NewTimer(max(pause, 0))
	defer wait.Stop()
	select {
	case <-wait.C:
		ctx, cancel := context.WithTimeout(context.Background(), e.cfg.CallTimeout)
		defer cancel()
		l.err = e.replaceServiceKeys(ctx, store)
	case <-e.closed:
		l.err = errClosed
	}
	e.looks.mu.Lock()
	l.at = e.cfg.Clock()
	e.looks.mu.Unlock()
	close(l.ended)
}

// replaceServiceKeys puts the keys in service that there are by the database.
func (e *Engine) replaceServiceKeys(ctx context.Context, store string) error {
	rows, err := e.cfg.FindServiceKeys(ctx, store)
	if err != nil {
		return fmt.Errorf("%w: look for the service keys of store %s: %w", hsm.ErrUnavailable, store, err)
	}
	if len(rows) == 0 { // a database that was emptied, and not one key destroyed
		return fmt.Errorf("%w: the database names no service keys of store %s", hsm.ErrUnavailable, store)
	}
	e.dropOthers(ctx, store, rows)
	service := e.service.Load()
	rows = slices.DeleteFunc(rows, func(row hsm.ServiceKey) bool {
		_, ok := service.find(row.Store, row.Kind, row.Generation)
		return ok || row.Spare
	})
	if len(rows) == 0 {
		return nil
	}
	if err := e.LoadServiceKeys(ctx, rows); err != nil {
		return err
	}
	e.cfg.Logger.Info("service keys in service", "store", store, "keys", describeAll(rows))
	return nil
}

// dropOthers takes the store's service keys out of service that rows do not have.
func (e *Engine) dropOthers(ctx context.Context, store string, rows []hsm.ServiceKey) {
	e.serviceMu.Lock()
	defer e.serviceMu.Unlock()
	var gone []hsm.ServiceKey
	for id, k := range e.service.Load().keys {
		if id.store == store && !slices.ContainsFunc(rows, func(row hsm.ServiceKey) bool {
			return row.Kind == id.kind && row.Generation == id.generation
		}) {
			gone = append(gone, k.row)
		}
	}
	for i := range gone {
		e.dropServiceKey(ctx, &gone[i])
		if gone[i].Kind == hsm.DomainKey {
			e.handles.dropGeneration(ctx, store, gone[i].Generation)
		}
	}
	if len(gone) > 0 {
		e.cfg.Logger.Info("service keys out of service", "store", store, "keys", describeAll(gone))
	}
}

func describeAll(rows []hsm.ServiceKey) []string {
	var all []string
	for i := range rows {
		all = append(all, describe(&rows[i]))
	}
	slices.Sort(all)
	return all
}
