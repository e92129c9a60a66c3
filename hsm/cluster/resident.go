package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"kmsgate/hsm"
)

// maxPlaces bounds the keys whose member is remembered.
const maxPlaces = 100_000

// places remembers where keys live that were seen in a token.
type places struct {
	mu sync.Mutex
	of map[string]*member // by store and CKA_ID
}

func placeOf(k *hsm.Key) string { return k.Store + "/" + string(k.Blob) }

func (p *places) find(k *hsm.Key) *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of[placeOf(k)]
}

// remember notes where a key lives; nil forgets it.
func (p *places) remember(k *hsm.Key, m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m == nil {
		delete(p.of, placeOf(k))
		return
	}
	if p.of == nil || len(p.of) >= maxPlaces {
		p.of = map[string]*member{}
	}
	p.of[placeOf(k)] = m
}

// withResident has the member use a key that it lives in. A key is missing if every
// member has said that it is not there; while one does not answer it may be in that.
func withResident[T any](ctx context.Context, c *Token, k *hsm.Key, do func(context.Context, hsm.Token) (T, error)) (out T, err error) {
	set := c.holdersOf(k)
	if m := c.places.find(k); m != nil {
		if out, err = ask(ctx, c, m, do); !errors.Is(err, hsm.ErrMissing) {
			return out, err
		}
		c.places.remember(k, nil)
	}
	failed := errNowhere
	for rest := set; rest != 0; {
		m := c.pick(rest, nil)
		rest &^= m.bit
		if m.isOut() {
			failed = worse(failed, fmt.Errorf("%w: key %s may live in token %s, which is away", hsm.ErrUnavailable, k.KeyID, m.Name))
			continue
		}
		limited, cancel := ctx, context.CancelFunc(func() {})
		if rest != 0 {
			limited, cancel = keepHalf(ctx)
		}
		out, err = ask(limited, c, m, do)
		cancel()
		if err == nil {
			c.places.remember(k, m)
			return out, nil
		}
		if !errors.Is(err, hsm.ErrMissing) && !errors.Is(err, hsm.ErrUnsupported) && !errors.Is(err, hsm.ErrBusy) && !isOutage(err) {
			return out, err // about the caller's data, or the row
		}
		failed = worse(failed, err)
	}
	return out, failed
}

// worse is what is said of a key that no member has used: that it is missing only if
// nothing else stands against it.
func worse(one, other error) error {
	if one == errNowhere || errors.Is(one, hsm.ErrMissing) { //nolint:errorlint // identity
		return other
	}
	if errors.Is(one, hsm.ErrUnsupported) && !errors.Is(other, hsm.ErrMissing) {
		return other
	}
	return one
}

// Destroy destroys a key. Members that are away have no part in destroying a wrapped
// one: what they have cached of it nobody asks for any more. One that lives in a token
// is destroyed when the member that it was seen in says so, or every member. See
// [hsm.Token].
func (c *Token) Destroy(ctx context.Context, on hsm.Call, k *hsm.Key) error {
	home, set := c.places.find(k), c.holdersOf(k)
	if home != nil {
		set |= home.bit
	}
	errs := make([]error, len(c.members))
	var asked sync.WaitGroup
	for i, m := range c.members {
		errs[i] = errNowhere
		if set&m.bit != 0 {
			asked.Go(func() {
				_, errs[i] = ask(ctx, c, m, nothing(func(ctx context.Context, t hsm.Token) error { return t.Destroy(ctx, on, k) }))
			})
		}
	}
	asked.Wait()
	done, away := uint64(0), errNowhere
	for i, m := range c.members {
		switch {
		case set&m.bit == 0:
		case errs[i] == nil:
			done |= m.bit
		case isOutage(errs[i]) || errors.Is(errs[i], hsm.ErrBusy):
			away = fmt.Errorf("token %s: %w", m.Name, errs[i])
		default:
			return errs[i]
		}
	}
	if done == 0 || k.Residency == hsm.Resident && done != set && (home == nil || done&home.bit == 0) {
		return away
	}
	c.places.remember(k, nil)
	return nil
}
