package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const (
	// sampleKeys is how many materials of a key store are opened without -all.
	sampleKeys = 100
	// keyPage is how many materials or objects are looked at at once.
	keyPage = 500
)

// keys holds the keys of a token's key stores against the token. What is in memory
// grows with the objects in the token, and not with the rows in the database.
func (d *doctor) keys(ctx context.Context, t configuredToken, engine *pkcs11.Engine, usable map[string]bool) error {
	w := &keyWalk{doctor: d, engine: engine, there: map[string]string{}, unnamed: map[string]pkcs11.Resident{}}
	if err := w.list(ctx, t); err != nil {
		return fmt.Errorf("list the KMS keys in the token: %w", err)
	}
	for _, r := range d.config.Regions {
		switch {
		case !slices.Contains(r.tokens(), t.Name), d.comesLater(r, t):
		case !usable[r.Store]:
			d.warning("key store "+r.Store, "its KMS keys were not examined, because of its service keys", "")
		default:
			if err := w.walk(ctx, r); err != nil {
				return fmt.Errorf("keys of key store %s: %w", r.Store, err)
			}
		}
	}
	for _, o := range w.unnamed {
		d.warning("token "+t.Name, fmt.Sprintf("object %s with the CKA_ID %x (%s, %s) looks like a KMS key, and no row of the database names it",
			printable(o.Label), o.ID, o.Class, o.KeyType),
			"nothing destroys it but you. It may be a key that is being made just now, left of a CreateKey that was cut off, of another installation, or its row was lost")
	}
	d.fine("token "+t.Name, counted(len(w.there), "KMS key lives in it", "KMS keys live in it"))
	return nil
}

// keyWalk goes through the keys of a token.
type keyWalk struct {
	*doctor
	engine *pkcs11.Engine
	// there has the classes of the token's KMS keys by CKA_ID, unnamed those that
	// no row has named so far.
	there   map[string]string
	unnamed map[string]pkcs11.Resident

	// Of one key store.
	members members                // tokens that its keys may be in
	passed  int                    // candidates for the sample
	sample  []metadata.KeyMaterial // to be opened at the end
	back    comeback
}

// comeback is what was seen of an Unavailable key.
type comeback struct {
	key     metadata.Key
	proved  bool // everything seen of it
	current bool // the current material was seen
}

// list lists the KMS keys in the token, and asks the database for their rows.
func (w *keyWalk) list(ctx context.Context, t configuredToken) error {
	var page []pkcs11.Resident
	err := w.engine.Residents(ctx, hsm.Call{Class: hsm.Background}, func(r pkcs11.Resident) error {
		if w.there[string(r.ID)] == r.Class {
			w.problem("token "+t.Name, fmt.Sprintf("several objects have the CKA_ID %x of a KMS key (%s)", r.ID, printable(r.Label)),
				"the key cannot be used until only its own is left: find out which it is, and who has made the other")
		}
		w.there[string(r.ID)], w.residents[string(r.ID)] = r.Class, true
		if page = append(page, r); len(page) < keyPage {
			return nil
		}
		w.progress("token %s: %d KMS keys found in it", t.Name, len(w.there))
		err := w.ask(ctx, page)
		page = page[:0]
		return err
	})
	if err != nil {
		return err
	}
	return w.ask(ctx, page)
}

// ask notes the objects that no row of their key names.
func (w *keyWalk) ask(ctx context.Context, page []pkcs11.Resident) error {
	ids := make([]string, 0, len(page))
	for _, r := range page {
		ids = append(ids, strings.TrimPrefix(r.Label, labelOfKMSKeys))
	}
	rows, err := w.store.Residents(ctx, ids)
	if err != nil {
		return err
	}
	named := make(map[string]bool, len(rows))
	for _, id := range rows {
		named[string(id)] = true
	}
	for _, r := range page {
		if !named[string(r.ID)] {
			w.unnamed[string(r.ID)] = r
		}
	}
	return nil
}

// walk goes through the materials of a key store, and opens the sample.
func (w *keyWalk) walk(ctx context.Context, r regionConfig) error {
	var err error
	if w.members, err = w.membersOf(ctx, r); err != nil {
		return err
	}
	if len(w.members.closed) > 0 {
		w.warning("key store "+r.Store, "keys that live in other tokens of it were not looked for: "+strings.Join(w.members.closed, ", "), "examine all tokens together")
	}
	w.passed, w.sample, w.back = 0, nil, comeback{}
	var place metadata.MaterialPlace
	for more := true; more; {
		page, err := w.store.ListMaterials(ctx, r.Name, r.Store, place, keyPage)
		if err != nil {
			return err
		}
		for i := range page {
			if err := w.material(ctx, &page[i]); err != nil {
				return err
			}
			place = metadata.MaterialPlace{KeyID: page[i].Key.ID, MaterialID: page[i].Material.MaterialID}
		}
		if more = len(page) == keyPage; more {
			w.progress("key store %s: %d key materials looked at, %d opened", r.Store, w.Materials, w.Opened)
		}
	}
	w.finish(ctx)
	for i := range w.sample {
		if _, err := w.open(ctx, &w.sample[i]); err != nil {
			return err
		}
	}
	return nil
}

// material examines one material, now or as part of the sample. One whose object was
// not listed is looked for: it may have been made since.
func (w *keyWalk) material(ctx context.Context, m *metadata.KeyMaterial) error {
	w.Materials++
	lost := false
	if m.Material.Residency == hsm.Resident {
		delete(w.unnamed, string(m.Material.Blob))
		lost = !w.residents[string(m.Material.Blob)]
		if lost && len(w.members.closed) > 0 {
			return nil
		}
	}
	if w.back.key.ID != m.Key.ID {
		w.finish(ctx)
		w.back = comeback{key: m.Key, proved: true}
	}
	unavailable := m.Key.State == metadata.Unavailable
	if !lost && !unavailable && !w.all {
		w.offer(m)
		return nil
	}
	proved, err := w.open(ctx, m)
	w.back.proved = w.back.proved && proved
	w.back.current = w.back.current || m.Material.Current
	return err
}

// offer makes a material one of the sample with the same chance as all others.
func (w *keyWalk) offer(m *metadata.KeyMaterial) {
	w.passed++
	if len(w.sample) < sampleKeys {
		w.sample = append(w.sample, *m)
	} else if n := rand.IntN(w.passed); n < sampleKeys { //nolint:gosec // which ones it takes is no secret
		w.sample[n] = *m
	}
}

// open has the token prove a material. An error is one of the token as a whole.
func (w *keyWalk) open(ctx context.Context, m *metadata.KeyMaterial) (proved bool, err error) {
	w.Opened++
	err = w.members.present(ctx, &m.Material.Key)
	about := m.Key.ARN()
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, hsm.ErrMissing):
		w.missing(ctx, m)
		return false, nil
	case errors.Is(err, hsm.ErrBinding), errors.Is(err, hsm.ErrWrongMaterial):
		w.problem(about, err.Error(), "it is not what the HSM has made: somebody has changed the database or the token, or restored it in part; compare with a backup")
		return false, nil
	}
	if whole := errors.Join(ctx.Err(), w.engine.Check(ctx)); whole != nil {
		return false, whole
	}
	w.problem(about, err.Error(), "look at the HSM's own log and state")
	return false, nil
}

// missing reports a key whose object the token does not have.
func (w *keyWalk) missing(ctx context.Context, m *metadata.KeyMaterial) {
	w.problem(m.Key.ARN(), fmt.Sprintf("it is %s, and its object (CKA_ID %x) is not in the token", m.Key.State, m.Material.Blob),
		"bring the object back from the HSM's backup, then run: kmsgate doctor -config FILE -repair")
	if w.repair && m.Key.State == metadata.Enabled {
		w.setState(ctx, &m.Key, metadata.Losing)
	}
}

// finish enables an Unavailable key, or says that it could be, when all of its
// materials were seen.
func (w *keyWalk) finish(ctx context.Context) {
	k := &w.back.key
	switch {
	case k.State != metadata.Unavailable || !w.back.proved || !w.back.current:
	case w.repair:
		w.setState(ctx, k, metadata.Recovering)
	default:
		w.problem(k.ARN(), "it is Unavailable, and the token has its material", "run: kmsgate doctor -config FILE -repair")
	}
}

// setState moves a key to another state, with an audit record in the same
// transaction. If it is in another state by now, it stays there.
func (w *keyWalk) setState(ctx context.Context, k *metadata.Key, way metadata.Transition) {
	event := adminEvent("doctor", "SetKeyState", k.Account, k.Region, time.Now(), audit.Members{
		audit.String("keyId", k.ARN()), audit.String("from", string(k.State)), audit.String("to", string(way.To)),
	})
	err := w.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		return event, tx.SetKeyState(ctx, k.Region, k.Account, k.ID, way)
	})
	switch {
	case err == nil:
		w.add(severityRepaired, k.ARN(), fmt.Sprintf("made %s; it was %s", way.To, k.State), "")
	case errors.Is(err, metadata.ErrState):
	default:
		w.problem(k.ARN(), fmt.Sprintf("it could not be made %s: %v", way.To, err), "run the command again")
	}
}
