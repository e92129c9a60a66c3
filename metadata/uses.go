package metadata

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"kmsgate/metadata/audit"
)

// Uses of keys are a fold over the audit streams: the tables can be made again
// from the batches. audit_folds says up to which batch a stream is counted; it
// moves in the transaction that adds the counts, and only from where it is.

// material names a key material.
type material struct {
	region, keyID string
	id            [32]byte
}

func (m material) compare(o material) int {
	return cmp.Or(cmp.Compare(m.region, o.region), cmp.Compare(m.keyID, o.keyID), bytes.Compare(m.id[:], o.id[:]))
}

// key names a key.
type key struct{ region, id string }

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.region, o.region), cmp.Compare(k.id, o.id))
}

type useCount struct{ encryptions, decryptions int64 }

// fold is what the batches of a stream after number from, up to number to, tell
// of uses.
type fold struct {
	stream   audit.StreamID
	from, to int64
	counts   map[material]useCount
	last     map[key]audit.Use
}

func newFold(stream audit.StreamID, from int64) *fold {
	return &fold{
		stream: stream, from: from, to: from,
		counts: make(map[material]useCount), last: make(map[key]audit.Use),
	}
}

func (f *fold) add(uses []audit.Use) {
	for _, u := range uses {
		u.Region, u.KeyID = storable(u.Region), storable(u.KeyID)
		if u.Encryptions+u.Decryptions > 0 {
			m := material{u.Region, u.KeyID, u.MaterialID}
			c := f.counts[m]
			f.counts[m] = useCount{c.encryptions + u.Encryptions, c.decryptions + u.Decryptions}
		}
		k := key{u.Region, u.KeyID}
		if l, ok := f.last[k]; !ok || laterUse(u, l) {
			f.last[k] = u
		}
	}
}

// storable is a text that Postgres takes. Ours all are; a record that somebody
// planted must not keep a stream from being counted.
func storable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsRune(s, 0) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

// laterUse orders uses by time and, within a second, by event id, as the table
// does, so that the order of folding does not matter.
func laterUse(u, than audit.Use) bool {
	return cmp.Or(u.Time.Compare(than.Time), cmp.Compare(u.EventID, than.EventID)) > 0
}

// useCounter adds up the uses of the current stream as its batches are stored.
// Safe for concurrent use.
type useCounter struct {
	mu  sync.Mutex
	now *fold
}

func newUseCounter() *useCounter { return &useCounter{now: newFold(audit.StreamID{}, 0)} }

// begin turns to a new stream. What is left of the last one is dropped: whoever
// takes that stream up counts it from its batches.
func (c *useCounter) begin(stream audit.StreamID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = newFold(stream, 0)
}

// add counts the uses of a batch.
func (c *useCounter) add(items []*item, number int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, it := range items {
		c.now.add(it.uses)
	}
	c.now.to = number
}

// cut takes what was added up; nil if there is no new batch.
func (c *useCounter) cut() *fold {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.now
	if f.to == f.from {
		return nil
	}
	c.now = newFold(f.stream, f.to)
	return f
}

// fold writes the uses that were added up. After an error they are kept and
// written the next time, before newer ones.
func (k *keeper) fold(ctx context.Context) error {
	if k.pending != nil {
		if err := k.writePending(ctx); err != nil {
			return err
		}
	}
	if k.pending = k.uses.cut(); k.pending == nil {
		return nil
	}
	return k.writePending(ctx)
}

func (k *keeper) writePending(ctx context.Context) error {
	_, err := k.write(ctx, k.pending)
	if err == nil {
		k.pending = nil
	}
	return err
}

const moveFold = `
UPDATE audit_folds SET number = @to
WHERE stream = @stream AND number = @from`

// Rows of both tables are written in the order of their keys, so that instances
// do not lock them crosswise.
const addUses = `
INSERT INTO material_uses AS u (region, key_id, material_id, encryptions, decryptions)
SELECT * FROM unnest(@regions::text[], @keys::text[], @materials::bytea[], @encryptions::bigint[], @decryptions::bigint[])
ON CONFLICT (region, key_id, material_id) DO UPDATE
SET encryptions = u.encryptions + excluded.encryptions, decryptions = u.decryptions + excluded.decryptions`

const setLastUses = `
INSERT INTO key_last_uses AS u (region, key_id, operation, used_at, event_id, request_id)
SELECT * FROM unnest(@regions::text[], @keys::text[], @operations::text[], @times::timestamptz[], @events::uuid[], @requests::text[])
ON CONFLICT (region, key_id) DO UPDATE
SET operation = excluded.operation, used_at = excluded.used_at, event_id = excluded.event_id, request_id = excluded.request_id
WHERE (excluded.used_at, excluded.event_id) > (u.used_at, u.event_id)`

// errFolded ends a transaction whose uses somebody has counted already.
var errFolded = errors.New("counted already")

// write adds a fold to the tables. It returns false if the stream is counted
// from elsewhere than the fold begins: an earlier write, whose answer got lost,
// or whoever took up the stream, has counted these batches.
func (k *keeper) write(ctx context.Context, f *fold) (bool, error) {
	err := pgx.BeginFunc(ctx, k.cfg.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, moveFold, pgx.StrictNamedArgs{"stream": uuid.UUID(f.stream), "from": f.from, "to": f.to})
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errFolded
		}
		if _, err := tx.Exec(ctx, addUses, f.countArgs()); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, setLastUses, f.lastArgs())
		return err
	})
	if errors.Is(err, errFolded) {
		return false, nil
	}
	return err == nil, wrap(err, "uses of audit stream %v", f.stream)
}

func (f *fold) countArgs() pgx.StrictNamedArgs {
	n := len(f.counts)
	regions, keys, ids := make([]string, 0, n), make([]string, 0, n), make([][]byte, 0, n)
	encryptions, decryptions := make([]int64, 0, n), make([]int64, 0, n)
	for _, m := range slices.SortedFunc(maps.Keys(f.counts), material.compare) {
		regions, keys, ids = append(regions, m.region), append(keys, m.keyID), append(ids, m.id[:])
		encryptions = append(encryptions, f.counts[m].encryptions)
		decryptions = append(decryptions, f.counts[m].decryptions)
	}
	return pgx.StrictNamedArgs{
		"regions": regions, "keys": keys, "materials": ids, "encryptions": encryptions, "decryptions": decryptions,
	}
}

func (f *fold) lastArgs() pgx.StrictNamedArgs {
	n := len(f.last)
	regions, keys, operations := make([]string, 0, n), make([]string, 0, n), make([]string, 0, n)
	times, events, requests := make([]time.Time, 0, n), make([]uuid.UUID, 0, n), make([]string, 0, n)
	for _, k := range slices.SortedFunc(maps.Keys(f.last), key.compare) {
		u := f.last[k]
		regions, keys, operations = append(regions, k.region), append(keys, k.id), append(operations, u.Operation)
		event, _ := uuid.Parse(u.EventID) // an id that is none becomes zero
		times, events, requests = append(times, u.Time), append(events, event), append(requests, storable(u.RequestID))
	}
	return pgx.StrictNamedArgs{
		"regions": regions, "keys": keys, "operations": operations, "times": times, "events": events, "requests": requests,
	}
}

const foldBatches = 256 // batches that are counted in one transaction

// foldStored counts a dead stream from its batches, to its end.
func (k *keeper) foldStored(ctx context.Context, stream audit.StreamID) error {
	decoder := audit.NewDecoder()
	for {
		at, err := k.selectFold(ctx, stream)
		if err != nil || at.folded == at.number {
			return err
		}
		batches, err := selectBatches(ctx, k.cfg.pool, batchRange{
			stream: stream, after: at.folded, months: monthsBetween(at.started, nextMonth(k.cfg.clock())), limit: foldBatches,
		})
		if err != nil {
			return err
		}
		f := newFold(stream, at.folded)
		for i := range batches {
			k.addStored(ctx, f, decoder, &batches[i])
		}
		if len(batches) == 0 { // they are gone: verification will say so
			f.to = at.number
		}
		if _, err := k.write(ctx, f); err != nil {
			return err
		}
	}
}

// addStored adds a stored batch to a fold. What cannot be read is left out:
// verification will find it, and the rest still counts.
func (k *keeper) addStored(ctx context.Context, f *fold, decoder *audit.Decoder, b *audit.Batch) {
	records, err := decoder.Records(b)
	k.log(ctx, "uses of a stored batch", err)
	for _, r := range records {
		uses, err := audit.UsesOf(r)
		k.log(ctx, "uses of a stored record", err)
		f.add(uses)
	}
	f.to = b.Number
}

type foldPosition struct {
	number  int64 // of the newest batch
	folded  int64 // of the newest batch that is counted
	started time.Time
}

const selectFoldPosition = `
SELECT s.number, f.number, s.started_at
FROM audit_streams AS s
JOIN audit_folds AS f ON f.stream = s.id
WHERE s.id = @id`

func (k *keeper) selectFold(ctx context.Context, stream audit.StreamID) (p foldPosition, err error) {
	err = k.cfg.pool.QueryRow(ctx, selectFoldPosition, pgx.StrictNamedArgs{"id": uuid.UUID(stream)}).
		Scan(&p.number, &p.folded, &p.started)
	if errors.Is(err, pgx.ErrNoRows) {
		return foldPosition{}, nil // the outbox names a stream that is not there
	}
	return p, wrap(err, "uses of audit stream %v", stream)
}
