package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"github.com/klauspost/compress/zstd"
)

// Limits of a batch, enforced when it is read.
const (
	// MaxRecordBytes is the longest record; no [Event] is longer.
	MaxRecordBytes = 1 << 20
	// MaxBatchBytes is the longest uncompressed batch, lengths included.
	MaxBatchBytes = 4 << 20
)

const lengthBytes = 4

// batchLabel keeps the hash of a batch apart from all other uses of SHA-256.
const batchLabel = "kmsgate audit batch v1\x00\x00"

// StreamID is the UUID of a stream.
type StreamID [16]byte

// String is the usual form of a UUID.
func (id StreamID) String() string {
	b := make([]byte, 0, 36)
	for i, part := range [][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return string(b)
}

// Hash is a SHA-256 hash of the chain.
type Hash [sha256.Size]byte

// String is 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Head is where a stream stands after its newest batch. Before the first one
// all but Stream is zero.
type Head struct {
	Stream StreamID
	Number int64 // of the newest batch
	Seq    int64 // of the newest record
	Hash   Hash
}

// Batch is a part of a stream as it is stored.
type Batch struct {
	Stream     StreamID
	Number     int64
	FirstSeq   int64
	Count      int32
	HashBefore Hash
	Hash       Hash
	Records    []byte // compressed
}

// Head is the head of the stream after this batch.
func (b *Batch) Head() Head {
	return Head{Stream: b.Stream, Number: b.Number, Seq: b.FirstSeq + int64(b.Count) - 1, Hash: b.Hash}
}

// Encoder makes batches. It keeps its buffers between calls and serves one
// goroutine at a time.
type Encoder struct {
	zstd   *zstd.Encoder
	sum    hash.Hash
	joined []byte
}

// NewEncoder makes an encoder. It holds no resource that needs closing.
func NewEncoder() *Encoder {
	z := must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false)))
	return &Encoder{zstd: z, sum: sha256.New()}
}

// must is for constructors whose only error is an option of ours out of range.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Seal makes the batch of the given records that follows a head. There is at
// least one record, and each has at most MaxRecordBytes; all of them, with 4
// bytes each for the length, at most MaxBatchBytes. The batch shares no memory
// with the encoder or the records.
func (e *Encoder) Seal(h Head, records [][]byte) Batch {
	b := Batch{
		Stream: h.Stream, Number: h.Number + 1, FirstSeq: h.Seq + 1, Count: int32(len(records)),
		HashBefore: h.Hash,
	}
	e.joined = join(e.joined[:0], records)
	b.Hash = chainHash(e.sum, &b, e.joined)
	b.Records = e.zstd.EncodeAll(e.joined, nil)
	return b
}

// join appends the records with their lengths.
func join(dst []byte, records [][]byte) []byte {
	for _, r := range records {
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(r)))
		dst = append(dst, r...)
	}
	return dst
}

// chainHash is the hash of a batch with the given joined records, as the
// package comment defines it.
func chainHash(sum hash.Hash, b *Batch, joined []byte) (h Hash) {
	var head [len(batchLabel) + 16 + 8 + 8 + 4 + sha256.Size]byte
	p := append(head[:0], batchLabel...)
	p = append(p, b.Stream[:]...)
	p = binary.BigEndian.AppendUint64(p, uint64(b.Number))
	p = binary.BigEndian.AppendUint64(p, uint64(b.FirstSeq))
	p = binary.BigEndian.AppendUint32(p, uint32(b.Count))
	p = append(p, b.HashBefore[:]...)
	sum.Reset()
	sum.Write(p)
	sum.Write(joined)
	sum.Sum(h[:0])
	return h
}

// ErrDamaged is returned for a batch whose records cannot be read back.
var ErrDamaged = errors.New("audit batch is damaged")

// Decoder reads batches. It is safe for concurrent use.
type Decoder struct{ zstd *zstd.Decoder }

// NewDecoder makes a decoder. It holds no resource that needs closing.
func NewDecoder() *Decoder {
	return &Decoder{zstd: must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(MaxBatchBytes), zstd.WithDecoderLowmem(true)))}
}

// Records are the exact bytes of the records of a batch. It proves only that
// they are well formed and as many as the batch says; see [Verify] for the
// chain. The error wraps ErrDamaged.
func (d *Decoder) Records(b *Batch) ([][]byte, error) {
	joined, err := d.joined(b)
	if err != nil {
		return nil, err
	}
	return split(joined, int(b.Count))
}

func (d *Decoder) joined(b *Batch) ([]byte, error) {
	joined, err := d.zstd.DecodeAll(b.Records, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return joined, nil
}

// split cuts joined records apart; there must be exactly count of them.
func split(joined []byte, count int) ([][]byte, error) {
	if count < 1 || count > len(joined)/lengthBytes {
		return nil, fmt.Errorf("%w: %d records in %d bytes", ErrDamaged, count, len(joined))
	}
	records := make([][]byte, 0, count)
	for len(joined) > 0 {
		if len(joined) < lengthBytes {
			return nil, fmt.Errorf("%w: a record's length is cut off", ErrDamaged)
		}
		size := int64(binary.BigEndian.Uint32(joined))
		joined = joined[lengthBytes:]
		if size > int64(len(joined)) || size > MaxRecordBytes {
			return nil, fmt.Errorf("%w: a record of %d bytes", ErrDamaged, size)
		}
		records = append(records, joined[:size:size])
		joined = joined[size:]
	}
	if len(records) != count {
		return nil, fmt.Errorf("%w: %d records, want %d", ErrDamaged, len(records), count)
	}
	return records, nil
}
