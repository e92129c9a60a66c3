package pkcs11

import (
	"context"

	"kmsgate/hsm"
)

// MaxBatch is the most keys that RewrapAll and ProveAll take: one session has them
// all, within the time of one call.
const MaxBatch = 16

// A Batched is the outcome for one key of a batch.
type Batched struct {
	Key hsm.Key
	Err error
}

// Rewrap moves a key to another generation of its store's service keys: it
// verifies it, wraps it under the other domain key and binds it anew. The
// material, its id and its ciphertexts stay what they are.
func (e *Engine) Rewrap(ctx context.Context, on hsm.Call, k *hsm.Key, generation int32) (hsm.Key, error) {
	all, err := e.RewrapAll(ctx, on, []hsm.Key{*k}, generation)
	if err != nil {
		return hsm.Key{}, err
	}
	return all[0].Key, all[0].Err
}

// RewrapAll rewraps at most [MaxBatch] keys, on one session after each other. What is
// wrong with one of them is said of it alone; an error is one of the token. What it
// returns is not opened again, which takes as long as moving it: the caller has ProveAll
// do that before it lets go of the old blobs.
func (e *Engine) RewrapAll(ctx context.Context, on hsm.Call, keys []hsm.Key, generation int32) ([]Batched, error) {
	return e.batch(ctx, on, "rewrap", keys, func(s *session, keys []hsm.Key) ([]Batched, error) {
		bound := bindings{}
		outcomes, err := each(keys, func(k *hsm.Key) (hsm.Key, error) { return s.rewrap(k, generation, bound) })
		if err != nil {
			return nil, err
		}
		return outcomes, bound.prove(s)
	})
}

// ProveAll proves at most [MaxBatch] keys, as Present does each, and keeps none of
// them in service.
func (e *Engine) ProveAll(ctx context.Context, on hsm.Call, keys []hsm.Key) ([]Batched, error) {
	return e.batch(ctx, on, "prove", keys, func(s *session, keys []hsm.Key) ([]Batched, error) {
		return each(keys, func(k *hsm.Key) (_ hsm.Key, err error) {
			key, err := s.admitKey(k, 0)
			if err == nil && k.Residency == hsm.Wrapped {
				s.destroyAfter(key, &err)
			}
			return *k, err
		})
	})
}

// batch does something with some keys on one session.
func (e *Engine) batch(ctx context.Context, on hsm.Call, mechanism string, keys []hsm.Key, do func(*session, []hsm.Key) ([]Batched, error)) ([]Batched, error) {
	own := make([]hsm.Key, 0, len(keys))
	for i := range keys {
		own = append(own, cloneKey(&keys[i]))
		e.learn(ctx, &own[i])
	}
	made := make(chan []Batched, 1)
	w := work{mechanism: mechanism, run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		outcomes, err := do(s, own)
		if err == nil {
			made <- outcomes
		}
		return nil, err
	}}
	if _, err := e.do(ctx, on, nil, &w); err != nil {
		return nil, err
	}
	return <-made, nil
}

// each does something with each of some keys; an error is one of the token.
func each(keys []hsm.Key, do func(*hsm.Key) (hsm.Key, error)) ([]Batched, error) {
	outcomes := make([]Batched, 0, len(keys))
	for i := range keys {
		k, err := do(&keys[i])
		if c := classOf(err, false); c != classOK && c != classAnswer {
			return nil, err
		}
		if err != nil {
			k = hsm.Key{}
		}
		outcomes = append(outcomes, Batched{k, err})
	}
	return outcomes, nil
}

// rewrap is, with Send and Receive, the mover: the only code that unwraps a key
// EXTRACTABLE, for the length of one call.
func (s *session) rewrap(k *hsm.Key, generation int32, bound bindings) (hsm.Key, error) {
	key, err := s.admitKey(k, mayBeExtracted)
	if err != nil {
		return hsm.Key{}, err
	}
	moved := *k
	moved.Generation = generation
	if k.Residency == hsm.Wrapped { // the others stay where they are
		err = s.wrap(key, &moved)
		s.destroyAfter(key, &err)
	}
	if err == nil {
		err = bound.bind(s, &moved)
	}
	return moved, err
}
