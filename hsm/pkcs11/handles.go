package pkcs11

import (
	"container/list"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"kmsgate/hsm"
)

// maxFills is how many unwraps may wait for one owner session.
const maxFills = 512

// handles caches the handles of unwrapped keys. The keys are spread over a few
// owners, each with a session, a lock and a share of the cache of its own.
type handles struct{ owners []*owner }

func newHandles(e *Engine) *handles {
	h := &handles{owners: make([]*owner, e.cfg.OwnerSessions)}
	share := max(1, e.cfg.MaxHandles/e.cfg.OwnerSessions)
	for i := range h.owners {
		h.owners[i] = &owner{engine: e, capacity: share, fullCapacity: share, filling: map[string]int{}}
		h.owners[i].share = newShare()
	}
	return h
}

// get returns the entry of a verified key, which the caller releases. The
// binding has been verified and the check value compared for exactly this k.
func (h *handles) get(ctx context.Context, k *hsm.Key, part keyPart) (*entry, error) {
	return h.owner(k).get(ctx, k, part)
}

// owner is whose share of the cache a key belongs to.
func (h *handles) owner(k *hsm.Key) *owner {
	return h.owners[binary.BigEndian.Uint32(k.MaterialID[:4])%uint32(len(h.owners))]
}

// destroy takes a key out of the cache and has its objects destroyed. What a call
// still uses goes when that has ended.
func (h *handles) destroy(ctx context.Context, k *hsm.Key) error {
	o := h.owner(k)
	o.mu.Lock()
	for _, part := range []keyPart{secretPart, publicPart} {
		if en, ok := o.share.entries[idOf(k, part)]; ok {
			en.dropLocked(true)
		}
	}
	o.mu.Unlock()
	return o.clear(ctx)
}

// dropGeneration takes the keys of a generation out of the cache and has their objects
// destroyed: where a token does not, they go with their session.
func (h *handles) dropGeneration(ctx context.Context, store string, generation int32) {
	for _, o := range h.owners {
		o.mu.Lock()
		for _, en := range o.share.entries {
			if en.key.Store == store && en.key.Generation == generation {
				en.dropLocked(true)
			}
		}
		o.mu.Unlock()
		_ = o.clear(ctx) // what cannot be destroyed now is by the next fill, or with the session
	}
}

// reset forgets all handles, after a reconnect made them meaningless.
func (h *handles) reset() {
	for _, o := range h.owners {
		o.mu.Lock()
		o.retireLocked(o.share, false)
		o.mu.Unlock()
	}
}

// trim gives up half of the unused handles, where the token has no memory left.
// Every fill that succeeds gives one place back.
func (h *handles) trim() {
	for _, o := range h.owners {
		o.mu.Lock()
		o.capacity = min(o.capacity, max(1, len(o.share.entries)/2))
		o.mu.Unlock()
	}
}

func (h *handles) count() (n int) {
	for _, o := range h.owners {
		o.mu.Lock()
		n += len(o.share.entries)
		o.mu.Unlock()
	}
	return n
}

// keyPart is the half of a key that a call needs.
type keyPart uint8

const (
	secretPart keyPart = iota // the secret or private key
	publicPart                // a pair's public key
)

// entryID is what a key is looked up by. All of k is compared before an entry
// is used, so this only has to tell keys of honest rows apart.
type entryID struct {
	store, region, keyID string
	materialID           hsm.MaterialID
	usage                string
	part                 keyPart
}

func idOf(k *hsm.Key, part keyPart) entryID {
	return entryID{k.Store, k.Region, k.KeyID, k.MaterialID, string(k.Usage), part}
}

// entry is one unwrapped key. ready is closed when handle, epoch and err are set.
type entry struct {
	owner *owner
	share *share
	id    entryID
	key   hsm.Key // a copy of what was verified

	ready  chan struct{}
	handle handle
	epoch  uint64
	err    error

	// Guarded by owner.mu.
	refs  int
	dead  bool          // not in the share's map any more
	place *list.Element // in the share's use order
}

// owner is one slice of the cache.
type owner struct {
	engine *Engine
	turn   turn // of the fill that uses the share's session

	mu           sync.Mutex
	share        *share
	capacity     int // entries; less than full after the token had no memory left
	fullCapacity int
	fills        int            // waiting and running
	filling      map[string]int // of these, by the account of the key
}

// share is an owner's entries and the session whose objects they are: the
// objects live as long as the session. A share that is retired is never filled
// again; its session closes when the last entry is released.
type share struct {
	entries map[entryID]*entry
	order   list.List // of *entry, last used in front
	refs    int
	retired bool
	unused  chan struct{} // closed when retired and refs is zero

	session *session // of whoever holds the turn
	garbage []handle // objects of dead entries, to be destroyed by the next fill
}

func newShare() *share {
	return &share{entries: map[entryID]*entry{}, unused: make(chan struct{})}
}

func (o *owner) get(ctx context.Context, k *hsm.Key, part keyPart) (*entry, error) {
	en, err := o.lookUp(k, part)
	if err != nil {
		return nil, err
	}
	select {
	case <-en.ready:
	default:
		select {
		case <-en.ready:
		case <-ctx.Done():
			en.release()
			return nil, lateError(ctx)
		}
	}
	if en.err != nil {
		en.release()
		return nil, en.err
	}
	return en, nil
}

// lookUp finds the entry of k or starts a fill of a new one. Whoever comes
// while it runs waits for the same fill.
func (o *owner) lookUp(k *hsm.Key, part keyPart) (*entry, error) {
	id := idOf(k, part)
	o.mu.Lock()
	defer o.mu.Unlock()
	en, ok := o.share.entries[id]
	if ok && en.key.Equal(k) {
		o.engine.hits.Add(1)
		o.share.order.MoveToFront(en.place)
		en.refs++
		o.share.refs++
		return en, nil
	}
	o.engine.misses.Add(1)
	if o.filling[k.Account] >= maxFills-o.fills { // who has many leaves room for others
		return nil, fmt.Errorf("%w: %d keys wait to be unwrapped", hsm.ErrBusy, o.fills)
	}
	en = &entry{owner: o, share: o.share, id: id, key: cloneKey(k), ready: make(chan struct{}), refs: 2} // the caller's and the fill's
	if !o.engine.spawn(func() { o.fill(en) }) {
		return nil, errClosed
	}
	if old, ok := o.share.entries[id]; ok {
		old.dropLocked(true)
	}
	o.share.entries[id] = en
	en.place = o.share.order.PushFront(en)
	o.share.refs += 2
	o.fills++
	o.filling[k.Account]++
	return en, nil
}

// fill verifies and unwraps the entry's key. It outlives the caller who asked
// for it, because others may wait for it too, and has a deadline of its own.
func (o *owner) fill(en *entry) {
	ctx, cancel := context.WithTimeout(context.Background(), o.engine.cfg.CallTimeout)
	defer cancel()
	err := o.fillInTurn(ctx, en)
	o.mu.Lock()
	o.fills--
	if o.filling[en.key.Account]--; o.filling[en.key.Account] == 0 {
		delete(o.filling, en.key.Account)
	}
	if en.err = err; err != nil {
		en.dropLocked(false)
	} else {
		o.capacity = min(o.capacity+1, o.fullCapacity)
	}
	close(en.ready)
	o.mu.Unlock()
	en.release()
}

func (o *owner) fillInTurn(ctx context.Context, en *entry) error {
	if err := o.turn.take(ctx, en.key.Account); err != nil {
		return err
	}
	defer o.turn.give()
	if err := o.engine.tooMuchStuck(); err != nil { // since it began to wait
		return err
	}
	sh := en.share
	if err := o.ensureSession(ctx, sh); err != nil {
		return err
	}
	doomed := o.doomed(sh)
	return o.execute(ctx, sh, &work{mechanism: "unwrap", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		_ = s.destroyAll(doomed) // what stays goes with the session
		var err error
		en.handle, err = s.admit(&en.key, en.id.part)
		en.epoch = s.epoch
		return nil, err
	}})
}

// clear destroys the objects that have to go now, where there are any. If the token
// does not, the session is given up, and they go with it.
func (o *owner) clear(ctx context.Context) error {
	if err := o.turn.take(ctx, ""); err != nil {
		return err
	}
	defer o.turn.give()
	o.mu.Lock()
	sh := o.share
	o.mu.Unlock()
	doomed := o.doomed(sh)
	if len(doomed) == 0 || sh.session == nil {
		return nil
	}
	err := o.execute(ctx, sh, &work{mechanism: "destroy", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		return nil, s.destroyAll(doomed)
	}})
	if err != nil {
		o.retire(sh, false)
	}
	return err
}

// destroyAll destroys session objects. One that is gone already is what we want; of
// the others the first error is returned.
func (s *session) destroyAll(doomed []handle) (first error) {
	for _, h := range doomed {
		err := s.engine.module.lib.destroy(s.handle, h)
		if err != nil && classOf(err, false) != classObject && first == nil {
			first = err
		}
	}
	return first
}

// execute runs work on a share's session. The caller holds the turn.
func (o *owner) execute(ctx context.Context, sh *share, w *work) error {
	_, err, lost := sh.session.execute(ctx, w)
	if lost {
		o.retire(sh, true)
	} else if !classes[classOf(err, false)].keepsSession {
		o.retire(sh, false)
	}
	return err
}

// ensureSession opens the share's session. The caller holds the turn.
func (o *owner) ensureSession(ctx context.Context, sh *share) error {
	o.mu.Lock()
	retired := sh.retired
	o.mu.Unlock()
	if retired {
		return errStale
	}
	if sh.session != nil {
		return nil
	}
	s, err := o.engine.newSession(sh.unused)
	if err != nil {
		return err
	}
	_, err, lost := s.execute(ctx, &openWork)
	if err != nil && !lost {
		s.stop()
	}
	if err != nil {
		o.retire(sh, true)
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if sh.retired {
		s.stop()
		return errStale
	}
	sh.session = s
	return nil
}

// doomed takes the objects that have to go so that the share keeps to its size.
func (o *owner) doomed(sh *share) []handle {
	o.mu.Lock()
	defer o.mu.Unlock()
	for place := sh.order.Back(); place != nil && len(sh.entries) > o.capacity; {
		en, _ := place.Value.(*entry)
		place = place.Prev()
		if en.refs == 0 {
			en.dropLocked(true)
		}
	}
	doomed := sh.garbage
	sh.garbage = nil
	return doomed
}

func (o *owner) retire(sh *share, lost bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.retireLocked(sh, lost)
}

// retireLocked replaces the share with an empty one. Its session, unless it is
// lost already, closes when the last entry in use is released.
func (o *owner) retireLocked(sh *share, lost bool) {
	if sh.retired {
		return
	}
	sh.retired = true
	if sh.refs == 0 {
		close(sh.unused)
	}
	if sh.session != nil && !lost {
		sh.session.stop()
	}
	if o.share == sh {
		o.share = newShare()
	}
}

// release gives a reference back.
func (en *entry) release() {
	o := en.owner
	o.mu.Lock()
	defer o.mu.Unlock()
	en.refs--
	if en.refs == 0 && en.dead {
		en.share.discardLocked(en)
	}
	en.share.refs--
	if en.share.refs == 0 && en.share.retired {
		close(en.share.unused)
	}
}

// evict takes an entry out whose handle the token does not know. The handle is
// forgotten, not destroyed: it might name another object by now.
func (en *entry) evict() {
	o := en.owner
	o.mu.Lock()
	defer o.mu.Unlock()
	en.dropLocked(false)
}

// dropLocked takes the entry out of its share, and has its object destroyed
// when nobody uses it any more if destroy is set.
func (en *entry) dropLocked(destroy bool) {
	sh := en.share
	if sh.entries[en.id] == en {
		delete(sh.entries, en.id)
		sh.order.Remove(en.place)
	}
	switch {
	case !destroy:
		en.dead = false
	case en.refs > 0:
		en.dead = true
	default:
		sh.discardLocked(en)
	}
}

// discardLocked has the object of an entry destroyed by the next fill, if it is
// one that was made for the entry: a resident key is only forgotten.
func (sh *share) discardLocked(en *entry) {
	if en.handle != 0 && (en.id.part == publicPart || en.key.Residency != hsm.Resident) {
		sh.garbage = append(sh.garbage, en.handle)
	}
}

func cloneKey(k *hsm.Key) hsm.Key {
	c := *k
	c.Blob = slices.Clone(k.Blob)
	c.PublicKey = slices.Clone(k.PublicKey)
	c.CheckValue = slices.Clone(k.CheckValue)
	c.Binding = slices.Clone(k.Binding)
	return c
}
