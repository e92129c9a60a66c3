package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// Places of a material among those of its key.
const (
	isCurrent = "current"
	isOld     = "old"
	isPending = "pending"
)

// knownMaterial is what the model knows of a material that the key has had.
type knownMaterial struct {
	place   string
	there   bool
	expires time.Time // zero: it does not
}

// usable tells whether the material can be used at a time.
func (m *knownMaterial) usable(now time.Time) bool {
	return m.there && (m.expires.IsZero() || now.Before(m.expires))
}

// importWalk is a key of imported material on its way, and what it must be by section
// "Importing key material" alone.
type importWalk struct {
	f    fixture
	ctx  context.Context
	key  metadata.Key
	like metadata.Material
	now  time.Time

	state     metadata.State
	materials map[byte]*knownMaterial
	requested time.Time // zero: no rotation is asked for
	rotations int32

	// claimed is what a job works on, under a claim; nil for nothing.
	claimed *metadata.DueRotation
	claim   metadata.Claim
}

// TestRandomWalksOfImports takes keys through random sequences of imports, deletions,
// expiries and rotations, on Postgres and in a model, and wants both to allow the same
// and to come to the same.
func TestRandomWalksOfImports(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := context.WithoutCancel(t.Context())
	rapid.Check(t, func(rt *rapid.T) {
		k, m := newKey(account)
		k.Origin, m.Origin, k.State = keyspec.External, keyspec.External, metadata.PendingImport
		w := &importWalk{f: f, ctx: ctx, key: k, like: m, now: noon, state: k.State, materials: map[byte]*knownMaterial{}}
		w.try(rt, func(tx *metadata.Tx) error {
			return tx.InsertKey(ctx, k, metadata.Material{}, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil)
		}, nil)
		if rapid.Bool().Draw(rt, "with material") {
			w.bringNew(rt)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":             w.compare,
			"import":       w.bring,
			"import new":   w.bringNew,
			"import again": w.bringBack,
			"restore":      w.restore,
			"delete":       w.drop,
			"expire":       w.expire,
			"request":      w.request,
			"begin":        w.begin,
			"rotate":       w.rotate,
			"rotate now":   w.rotateNow,
			"wait": func(rt *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 4, 20}).Draw(rt, "minutes")) * time.Minute)
			},
			"turn": w.turn,
		})
	})
}

// try makes a change that must end with an error.
func (w *importWalk) try(rt *rapid.T, change func(*metadata.Tx) error, want error) {
	if err := w.f.try(w.ctx, change); !errors.Is(err, want) || want == nil && err != nil {
		rt.Fatalf("%v, want %v; %v", err, want, w)
	}
}

// String is what the key must be now, for failures.
func (w *importWalk) String() string {
	text := fmt.Sprintf("at %v the key is to be %s", w.now, w.state)
	for n, m := range w.materials {
		text += fmt.Sprintf("; material %d %+v", n, *m)
	}
	return text
}

func (w *importWalk) id(n byte) hsm.MaterialID { return like(w.like, n).MaterialID }

// at is the number of the material in a place; zero for none.
func (w *importWalk) at(place string) byte {
	for n, m := range w.materials {
		if m.place == place {
			return n
		}
	}
	return 0
}

// lacks tells whether a material that is not pending is missing.
func (w *importWalk) lacks() bool {
	for _, m := range w.materials {
		if m.place != isPending && !m.usable(w.now) {
			return true
		}
	}
	return false
}

// bring imports any material as anything.
func (w *importWalk) bring(rt *rapid.T) {
	kinds := []metadata.ImportKind{metadata.FirstOrKnown, metadata.NewMaterial, metadata.KnownAgain}
	w.bringAs(rt, rapid.ByteRange(1, 5).Draw(rt, "material"), rapid.SampledFrom(kinds).Draw(rt, "kind"))
}

// bringNew imports what the key does not have, bringBack what it has had: what it lacks
// first.
func (w *importWalk) bringNew(rt *rapid.T) {
	n := byte(1)
	for w.materials[n] != nil {
		n++
	}
	w.bringAs(rt, n, metadata.NewMaterial)
}

func (w *importWalk) bringBack(rt *rapid.T) {
	known := slices.Sorted(maps.Keys(w.materials))
	if w.lacks() {
		known = slices.DeleteFunc(known, func(n byte) bool { return w.materials[n].place == isPending || w.materials[n].usable(w.now) })
	}
	if len(known) > 0 {
		w.bringAs(rt, rapid.SampledFrom(known).Draw(rt, "material"), metadata.KnownAgain)
	}
}

// restore undoes whatever keeps the key from being enabled, as far as it can be undone.
func (w *importWalk) restore(rt *rapid.T) {
	if w.state == metadata.PendingDeletion {
		w.turn(rt)
	}
	for w.lacks() {
		w.bringBack(rt)
	}
	if w.state == metadata.Disabled && len(w.materials) > 0 {
		w.turn(rt)
	}
}

func (w *importWalk) bringAs(rt *rapid.T, n byte, kind metadata.ImportKind) {
	m := like(w.like, n)
	m.CreatedAt = w.now
	is := knownMaterial{there: true}
	if minutes := rapid.SampledFrom([]int{0, 0, 5, 20, 90}).Draw(rt, "minutes that it is valid"); minutes > 0 {
		is.expires = w.now.Add(time.Duration(minutes) * time.Minute)
		m.ExpiresAt = &is.expires
	}
	p := metadata.ImportParameters{
		ID: uuid.New(), Algorithm: keyspec.WrapOAEPSHA256, Wrapping: w.like.Key, CreatedAt: w.now, ExpiresAt: w.now.Add(day),
	}
	p.Wrapping.PublicKey = []byte("public")
	w.try(rt, func(tx *metadata.Tx) error { return tx.InsertImportParameters(w.ctx, p) }, nil)
	want := w.takes(n, kind)
	err := w.f.try(w.ctx, func(tx *metadata.Tx) error { return tx.ImportMaterial(w.ctx, m, kind, p.ID, w.now) })
	if waits, ok := errors.AsType[*metadata.PendingMaterialError](err); ok {
		if want != errWaits || waits.ID != w.id(w.at(isPending)) {
			rt.Fatalf("import of %d as %q = %v, want %v; %v", n, kind, err, want, w)
		}
	} else if !errors.Is(err, want) {
		rt.Fatalf("import of %d as %q = %v, want %v; %v", n, kind, err, want, w)
	}
	if want != nil {
		return
	}
	known := w.materials[n]
	switch {
	case known != nil:
		is.place = known.place
	case len(w.materials) == 0:
		is.place = isCurrent
	default:
		is.place = isPending
	}
	w.materials[n] = &is
	if w.state == metadata.PendingImport && !w.lacks() {
		w.state = metadata.Enabled
	}
}

// errWaits stands for a *metadata.PendingMaterialError.
var errWaits = errors.New("another material waits")

// takes is how an import must end; nil: the material is taken.
func (w *importWalk) takes(n byte, kind metadata.ImportKind) error {
	known := w.materials[n] != nil
	switch {
	case w.state == metadata.PendingDeletion:
		return metadata.ErrState
	case kind == metadata.KnownAgain && !known, kind == metadata.NewMaterial && known,
		kind == metadata.FirstOrKnown && !known && len(w.materials) > 0:
		return metadata.ErrOtherMaterial
	case !known && w.at(isPending) != 0:
		return errWaits
	}
	return nil
}

// dropped is what becomes of the key without a material.
func (w *importWalk) dropped(n byte) {
	m := w.materials[n]
	if m.place == isPending {
		delete(w.materials, n)
		w.requested = time.Time{}
		return
	}
	m.there, m.expires = false, time.Time{}
	if w.state != metadata.PendingDeletion {
		w.state = metadata.PendingImport
	}
}

func (w *importWalk) drop(rt *rapid.T) {
	n := rapid.ByteRange(1, 5).Draw(rt, "material")
	there, want := w.materials[n] != nil && w.materials[n].there, error(metadata.ErrNotFound)
	if there {
		want = nil
	}
	w.try(rt, func(tx *metadata.Tx) error { return tx.DropMaterial(w.ctx, region, account, w.key.ID, w.id(n), nil) }, want)
	if there {
		w.dropped(n)
	}
}

// expire does what the job does. The keys of earlier walks may have materials that
// have expired, too.
func (w *importWalk) expire(rt *rapid.T) {
	expired, err := w.f.ExpiredMaterials(w.ctx, w.now, 1_000_000)
	if err != nil {
		rt.Fatal(err)
	}
	for _, n := range slices.Sorted(maps.Keys(w.materials)) {
		m := w.materials[n]
		due := m.there && !m.usable(w.now)
		found := slices.ContainsFunc(expired, func(e metadata.ExpiredMaterial) bool { return e.KeyID == w.key.ID && e.ID == w.id(n) })
		if due != found {
			rt.Fatalf("material %d is listed as expired: %t, want %t", n, found, due)
		}
		if due {
			w.try(rt, func(tx *metadata.Tx) error { return tx.DropMaterial(w.ctx, region, account, w.key.ID, w.id(n), &w.now) }, nil)
			w.dropped(n)
		}
	}
}

// canRotate tells whether there is material that the key can be rotated to.
func (w *importWalk) canRotate() bool {
	pending := w.at(isPending)
	return pending != 0 && w.materials[pending].usable(w.now)
}

func (w *importWalk) request(rt *rapid.T) {
	want := error(metadata.ErrState)
	if w.state == metadata.Enabled && w.requested.IsZero() && w.canRotate() && w.rotations < metadata.MaxOnDemandRotations {
		want, w.requested = nil, w.now
	}
	w.try(rt, func(tx *metadata.Tx) error { return tx.RequestRotation(w.ctx, region, account, w.key.ID, w.now) }, want)
}

// begin is the first half of what the job does. Each is another process.
func (w *importWalk) begin(rt *rapid.T) {
	if w.claimed != nil && w.now.Before(w.claim.Until) {
		return
	}
	w.claimed, w.claim = nil, claimOf(uuid.New(), w.now)
	due, err := w.f.ClaimOnDemand(w.ctx, w.claim, []string{keyStore}, 1_000_000)
	if err != nil {
		rt.Fatal(err)
	}
	i := slices.IndexFunc(due, func(d metadata.DueRotation) bool { return d.ID == w.key.ID })
	if want := w.state == metadata.Enabled && !w.requested.IsZero() && w.canRotate(); want != (i >= 0) {
		rt.Fatalf("claimed %t, want %t; %v", i >= 0, want, w)
	}
	if i < 0 {
		return
	}
	w.claimed = &due[i]
	if got := [2]hsm.MaterialID{w.claimed.Current, w.claimed.Pending}; got != [2]hsm.MaterialID{w.id(w.at(isCurrent)), w.id(w.at(isPending))} {
		rt.Fatalf("claimed to be rotated from and to %v; %v", got, w)
	}
}

// rotate is the second half: whatever happened since the first, it does all or nothing.
func (w *importWalk) rotate(rt *rapid.T) {
	if w.claimed == nil {
		return
	}
	d, claim := w.claimed, w.claim
	w.claimed, claim.Now = nil, w.now
	pending, want := w.at(isPending), error(metadata.ErrClaim)
	rotates := w.now.Before(claim.Until) && w.state == metadata.Enabled && w.canRotate() && w.id(pending) == d.Pending &&
		w.requested.Equal(*d.Rotation.RequestedAt)
	if rotates {
		want = nil
	}
	w.try(rt, func(tx *metadata.Tx) error { return tx.RotateKey(w.ctx, claim, d, nil, nil) }, want)
	if !rotates {
		if err := w.f.ReleaseKey(w.ctx, claim, d.Name()); err != nil {
			rt.Fatal(err)
		}
		return
	}
	w.materials[w.at(isCurrent)].place, w.materials[pending].place = isOld, isCurrent
	w.rotations, w.requested = w.rotations+1, time.Time{}
}

// rotateNow is all that there is to a rotation, from the import on.
func (w *importWalk) rotateNow(rt *rapid.T) {
	w.restore(rt)
	if w.at(isPending) == 0 {
		w.bringNew(rt)
	}
	if w.requested.IsZero() {
		w.request(rt)
	}
	w.begin(rt)
	w.rotate(rt)
}

// turn disables a key or schedules its deletion, or undoes that as callers may: a key
// that lacks something is not enabled.
func (w *importWalk) turn(rt *rapid.T) {
	switch {
	case w.state == metadata.PendingDeletion:
		w.try(rt, func(tx *metadata.Tx) error { return tx.CancelDeletion(w.ctx, w.key.Name()) }, nil)
		w.state, w.claim.Until = metadata.Disabled, w.now // all claims fall
	case w.state == metadata.Disabled && len(w.materials) > 0 && !w.lacks():
		w.turnTo(rt, metadata.Enabling)
	case w.state == metadata.Enabled && rapid.Bool().Draw(rt, "disable"):
		w.turnTo(rt, metadata.Disabling)
	default:
		w.try(rt, func(tx *metadata.Tx) error {
			_, err := tx.ScheduleDeletion(w.ctx, w.key.Name(), w.now.Add(30*day), 30)
			return err
		}, nil)
		w.state = metadata.PendingDeletion
	}
}

func (w *importWalk) turnTo(rt *rapid.T, way metadata.Transition) {
	w.try(rt, func(tx *metadata.Tx) error { return tx.SetKeyState(w.ctx, region, account, w.key.ID, way) }, nil)
	w.state = way.To
}

// compare holds Postgres against the model.
func (w *importWalk) compare(rt *rapid.T) {
	e, err := w.f.View().Key(w.ctx, region, w.key.ID)
	if err != nil {
		rt.Fatal(err)
	}
	if e.State != w.state || e.Rotation.OnDemand != w.rotations || (e.Rotation.RequestedAt != nil) == w.requested.IsZero() || len(e.Materials) != len(w.materials) {
		rt.Fatalf("the key is %+v, want it rotated %d times, a rotation asked for at %v; %v", e, w.rotations, w.requested, w)
	}
	for n, m := range w.materials {
		got := e.Material(w.id(n))
		if got == nil || got.Current != (m.place == isCurrent) || got.Pending != (m.place == isPending) || got.Present(w.now) != m.usable(w.now) ||
			(got.Residency == hsm.Absent) == m.there || (got.ExpiresAt != nil) == m.expires.IsZero() {
			rt.Fatalf("material %d is %+v, want it %+v", n, got, m)
		}
	}
	if got := e.Whole(w.now); got != (len(w.materials) > 0 && !w.lacks()) {
		rt.Fatalf("the key is whole: %t; %v", got, w)
	}
}
