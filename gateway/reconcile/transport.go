package reconcile

import (
	"context"
	"fmt"
	"sync"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// place is where a material is brought: a key store of a region.
type place struct{ store, region string }

// pairFor is how long a pair that materials travel to is used again.
const pairFor = 10 * time.Minute

// transports are the pairs that tokens have made so that materials travel to them, by
// key store. They are kept in this process alone: to a public key out of a database,
// which somebody may have put there, nothing is sent. Safe for concurrent use.
type transports struct {
	mu    sync.Mutex
	pairs map[string]transport
	turns map[string]chan struct{} // each holds an element while the store's token makes a pair
}

type transport struct {
	pair  hsm.Key
	until time.Time
}

// carry has the token of a material's store send it to that of another place, and
// returns it as it is there. Both tokens are asked, and nothing else is changed.
func (r *Reconciler) carry(ctx context.Context, now time.Time, m *metadata.Material, to place) (metadata.Material, error) {
	source, target := r.Tokens[m.Store], r.Tokens[to.store]
	if source == nil || target == nil {
		return metadata.Material{}, fmt.Errorf("%w: no token is configured for key store %s or %s", hsm.ErrUnavailable, m.Store, to.store)
	}
	through, err := r.transports.pair(ctx, now, target, to)
	if err != nil {
		return metadata.Material{}, err
	}
	on := hsm.Call{Account: m.Account, Class: hsm.Background}
	parcel, err := source.Send(ctx, on, &m.Key, &through)
	if err == nil {
		k := m.Key
		k.Store, k.Region = to.store, to.region
		k.Residency, k.Generation, k.Blob, k.Binding = "", 0, nil, nil
		if k, err = target.Receive(ctx, on, &through, parcel, k); err == nil {
			copied := *m
			copied.Key = k
			return copied, nil
		}
	}
	r.transports.forget(to.store, &through)
	return metadata.Material{}, fmt.Errorf("material %s: %w", m.MaterialID, err)
}

// pair is the pair through which a place's token receives; it is made when it is
// needed, by one caller of the place at a time: a token that hangs keeps no other waiting.
func (t *transports) pair(ctx context.Context, now time.Time, token hsm.Token, at place) (hsm.Key, error) {
	turn := t.turn(at.store)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return hsm.Key{}, fmt.Errorf("%w: another pair is made: %w", hsm.ErrBusy, context.Cause(ctx))
	}
	if made, ok := t.made(at.store); ok && now.Before(made.until) {
		return made.pair, nil
	}
	on := hsm.Call{Class: hsm.Background}
	id, err := token.Random(ctx, on, len(hsm.MaterialID{}))
	if err != nil {
		return hsm.Key{}, err
	}
	pair, err := token.Generate(ctx, on, hsm.Key{
		Store: at.store, Region: at.region, MaterialID: hsm.MaterialID(id), Spec: keyspec.RSA3072, Usage: keyspec.Transport, Origin: keyspec.AWSKMS,
	})
	if err != nil {
		return hsm.Key{}, fmt.Errorf("pair that materials travel to: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pairs[at.store] = transport{pair, now.Add(pairFor)}
	return pair, nil
}

func (t *transports) turn(store string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turns[store] == nil {
		t.turns[store] = make(chan struct{}, 1)
	}
	return t.turns[store]
}

func (t *transports) made(store string) (transport, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	made, ok := t.pairs[store]
	return made, ok
}

// forget drops a pair through which something did not arrive.
func (t *transports) forget(store string, pair *hsm.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if made, ok := t.pairs[store]; ok && made.pair.MaterialID == pair.MaterialID {
		delete(t.pairs, store)
	}
}
