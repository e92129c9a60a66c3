package gateway

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"kmsgate/metadata"
)

// noteUsesEvery is how late GetAccessKeyLastUsed tells of a use.
const noteUsesEvery = 10 * time.Second

// maxKeyUses bounds the access keys whose uses are noted at once. Of more the first
// use in ten seconds may be lost: nothing is decided by it.
const maxKeyUses = 10_000

// keyUses are the last uses of access keys that are not stored yet. Safe for
// concurrent use.
type keyUses struct {
	mu   sync.Mutex
	last map[string]metadata.AccessKeyUse // guarded by mu; by the key's id
}

// note keeps a use unless a later one of the key is known.
func (k *keyUses) note(uses ...metadata.AccessKeyUse) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil {
		k.last = map[string]metadata.AccessKeyUse{}
	}
	for _, use := range uses {
		known, ok := k.last[use.AccessKeyID]
		if ok && !known.At.Before(use.At) || !ok && len(k.last) >= maxKeyUses {
			continue
		}
		k.last[use.AccessKeyID] = use
	}
}

// cut takes what was noted.
func (k *keyUses) cut() []metadata.AccessKeyUse {
	k.mu.Lock()
	defer k.mu.Unlock()
	uses := slices.Collect(maps.Values(k.last))
	k.last = nil
	return uses
}

// flushKeyUses stores the last uses of access keys. What could not be stored is kept
// for the next time.
func (g *Gateway) flushKeyUses(ctx context.Context) {
	uses := g.keyUses.cut()
	if len(uses) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, g.recordTimeout)
	defer cancel()
	if err := g.store.NoteAccessKeyUses(ctx, uses); err != nil {
		g.keyUses.note(uses...)
		g.logger.Warn("last uses of access keys not stored yet", "error", err)
	}
}
