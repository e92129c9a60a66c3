package metadata

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"kmsgate/metadata/audit"
)

// AuditCursor says how far a reader has read each stream. The zero value is the
// beginning of the log. It is not changed by reading: Records returns a new one.
type AuditCursor struct {
	read map[audit.StreamID]readTo
}

// readTo is a place between two records of a stream.
type readTo struct {
	number int64 // every batch up to this one is read
	more   int   // and so many records of the next
}

// End is the cursor after everything that is in the log now.
func (l *AuditLog) End(ctx context.Context) (AuditCursor, error) {
	streams, err := l.Streams(ctx)
	if err != nil {
		return AuditCursor{}, err
	}
	return endOf(streams), nil
}

func endOf(streams []AuditStream) AuditCursor {
	c := AuditCursor{read: make(map[audit.StreamID]readTo, len(streams))}
	for _, s := range streams {
		c.read[s.Head.Stream] = readTo{number: s.Head.Number}
	}
	return c
}

// Records reads up to limit records after a cursor, and where to go on. Fewer
// than limit mean that there are no more now; who follows the log asks again
// later. The records of a stream come in their order and none is left out; those
// of several streams are merged by the times they tell.
func (l *AuditLog) Records(ctx context.Context, after AuditCursor, limit int) ([]StoredRecord, AuditCursor, error) {
	if limit < 1 {
		return nil, after, errNoLimit
	}
	streams, err := l.Streams(ctx)
	if err != nil {
		return nil, after, err
	}
	m := l.merge(streams, after)
	var records []StoredRecord
	for len(records) < limit {
		r, err := m.next(ctx)
		if err != nil {
			return nil, after, err
		}
		if r == nil {
			break
		}
		records = append(records, *r)
	}
	return records, m.cursor(after), nil
}

// maxTail bounds Last, which holds the records of several streams in memory.
const maxTail = 10_000

// Last reads the newest n records, at most 10,000, and the cursor after them.
// What is in the outbox is not among them.
func (l *AuditLog) Last(ctx context.Context, n int) ([]StoredRecord, AuditCursor, error) {
	if n < 1 || n > maxTail {
		return nil, AuditCursor{}, fmt.Errorf("%w, or above %d", errNoLimit, maxTail)
	}
	streams, err := l.Streams(ctx)
	if err != nil {
		return nil, AuditCursor{}, err
	}
	start := tailOf(streams, int64(n))
	m := l.merge(streams, start)
	var last []StoredRecord
	for {
		r, err := m.next(ctx)
		if err != nil {
			return nil, AuditCursor{}, err
		}
		if r == nil {
			return last, m.cursor(start), nil
		}
		if len(last) == n {
			last = slices.Delete(last, 0, 1)
		}
		last = append(last, *r)
	}
}

// tailOf is a cursor before the newest n records. They are looked for in the
// streams that are being written, and in so many of the newest others that n
// are surely found. A batch has at least one record, so n batches back is far
// enough in each.
func tailOf(streams []AuditStream, n int64) AuditCursor {
	c := endOf(streams)
	var found int64
	for _, s := range slices.Backward(streams) {
		if s.Ended && found >= n {
			continue
		}
		found += s.Head.Seq
		c.read[s.Head.Stream] = readTo{number: max(0, s.Head.Number-n)}
	}
	return c
}

// merge reads several streams as one.
type merge struct {
	log     *AuditLog
	decoder *audit.Decoder
	waiting []*source // not begun, by the time the stream started
	open    []*source
}

// source is a stream that has something to read.
type source struct {
	stream AuditStream
	at     readTo
	months []time.Time
	loaded []audit.Batch // not decoded yet
	batch  []StoredRecord
	time   []byte // of the next record, batch[0]
}

// mergeBatches is how many batches a merge has in memory, about.
const mergeBatches = 32

func (l *AuditLog) merge(streams []AuditStream, after AuditCursor) *merge {
	m := &merge{log: l, decoder: audit.NewDecoder()}
	for _, s := range streams {
		if at := after.read[s.Head.Stream]; at.number < s.Head.Number {
			m.waiting = append(m.waiting, &source{
				stream: s, at: at, months: monthsBetween(s.Started, nextMonth(l.clock())),
			})
		}
	}
	return m
}

// cursor is where the merge has come to.
func (m *merge) cursor(from AuditCursor) AuditCursor {
	c := AuditCursor{read: maps.Clone(from.read)}
	if c.read == nil {
		c.read = make(map[audit.StreamID]readTo)
	}
	for _, s := range m.open {
		c.read[s.stream.Head.Stream] = s.at
	}
	return c
}

// next is the record with the earliest time among the streams' next ones; nil
// when all are read.
func (m *merge) next(ctx context.Context) (*StoredRecord, error) {
	first, err := m.earliest(ctx)
	if err != nil {
		return nil, err
	}
	for len(m.waiting) > 0 && (first == nil || bytes.Compare(startText(m.waiting[0].stream), first.time) <= 0) {
		m.open, m.waiting = append(m.open, m.waiting[0]), m.waiting[1:]
		if first, err = m.earliest(ctx); err != nil {
			return nil, err
		}
	}
	if first == nil {
		return nil, nil
	}
	return first.take(), nil
}

func startText(s AuditStream) []byte { return s.Started.UTC().AppendFormat(nil, time.RFC3339) }

// earliest is the open source whose next record is the earliest; nil if there is
// none.
func (m *merge) earliest(ctx context.Context) (first *source, err error) {
	for _, s := range m.open {
		if err := m.load(ctx, s); err != nil {
			return nil, err
		}
		if len(s.batch) > 0 && (first == nil || bytes.Compare(s.time, first.time) < 0) {
			first = s
		}
	}
	return first, nil
}

// load makes sure that a source has a next record, if it has any.
func (m *merge) load(ctx context.Context, s *source) error {
	if len(s.batch) > 0 || s.at.number >= s.stream.Head.Number {
		return nil
	}
	if len(s.loaded) == 0 {
		batches, err := selectBatches(ctx, m.log.pool, batchRange{
			stream: s.stream.Head.Stream, after: s.at.number, months: s.months, limit: max(1, mergeBatches/len(m.open)),
		})
		if err != nil {
			return err
		}
		if len(batches) == 0 { // gone: verification will say so
			s.at = readTo{number: s.stream.Head.Number}
			return nil
		}
		s.loaded = batches
	}
	return m.decode(s)
}

// decode makes the next loaded batch the current one, without the records of it
// that are read already.
func (m *merge) decode(s *source) error {
	b := s.loaded[0]
	s.loaded = s.loaded[1:]
	records, err := m.decoder.Records(&b)
	if err != nil {
		return fmt.Errorf("audit stream %v, batch %d: %w", b.Stream, b.Number, err)
	}
	s.batch = make([]StoredRecord, len(records))
	for i, r := range records {
		s.batch[i] = StoredRecord{Stream: b.Stream, Seq: b.FirstSeq + int64(i), Event: r}
	}
	if s.at.number != b.Number-1 { // a number is missing
		s.at = readTo{number: b.Number - 1}
	}
	s.skip(min(s.at.more, len(s.batch)))
	return nil
}

// take gives the next record away.
func (s *source) take() *StoredRecord {
	r := s.batch[0]
	s.at.more++
	s.skip(1)
	return &r
}

// skip goes n records further in the current batch.
func (s *source) skip(n int) {
	s.batch = s.batch[n:]
	if len(s.batch) == 0 {
		s.at = readTo{number: s.at.number + 1}
		return
	}
	s.time = eventTime(s.batch[0].Event)
}
