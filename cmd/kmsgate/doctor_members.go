package main

import (
	"context"
	"errors"
	"slices"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
)

// members are the tokens of a key store, as far as the doctor has opened them.
type members struct {
	open   []memberToken
	closed []string // names of the others
}

// memberToken is a token and the generations of the store's binding key in it.
type memberToken struct {
	*pkcs11.Engine
	generations []int32
}

// comesLater tells whether another token of a key store is still to be examined: its
// keys are examined with the last.
func (d *doctor) comesLater(r regionConfig, t configuredToken) bool {
	n := slices.IndexFunc(d.tokens, func(other configuredToken) bool { return other.Name == t.Name })
	return slices.ContainsFunc(d.tokens[n+1:], func(other configuredToken) bool {
		return slices.Contains(r.tokens(), other.Name)
	})
}

func (d *doctor) membersOf(ctx context.Context, r regionConfig) (m members, err error) {
	rows, err := d.store.ServiceKeys(ctx, r.Store)
	if err != nil {
		return m, err
	}
	for _, name := range r.tokens() {
		engine, ok := d.opened[name]
		if !ok {
			m.closed = append(m.closed, name)
			continue
		}
		member := memberToken{Engine: engine}
		for _, k := range d.config.rowsIn(rows, r.Store, engine.Stats().Serial) {
			if k.Kind == hsm.BindingKey {
				member.generations = append(member.generations, k.Generation)
			}
		}
		m.open = append(m.open, member)
	}
	return m, nil
}

// present has the tokens prove a material that have its generation: one of them if it
// is wrapped, and else that which has it. It is missing only if all have said so.
func (m *members) present(ctx context.Context, k *hsm.Key) error {
	on := hsm.Call{Account: k.Account, Class: hsm.Background}
	failed := error(nil)
	for _, member := range m.open {
		if len(m.open) > 1 && !slices.Contains(member.generations, k.Generation) {
			continue
		}
		err := member.Present(ctx, on, k)
		if err == nil || !errors.Is(err, hsm.ErrMissing) && k.Residency != hsm.Resident {
			return err
		}
		if failed == nil || errors.Is(failed, hsm.ErrMissing) {
			failed = err
		}
	}
	if failed == nil {
		return errNoMember
	}
	return failed
}

var errNoMember = errors.Join(hsm.ErrUnavailable, errors.New("no token of the key store has its generation of the service keys"))
