package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

var testStream = StreamID{0xf8, 0x1d, 0x4f, 0xae, 0x7d, 0xec, 0x41, 0xd0, 0xa7, 0x65, 0, 0xa0, 0xc9, 0x1e, 0x6b, 0xf6}

// auditorHash is the definition in the package comment, written down once more.
func auditorHash(stream string, number, firstSeq uint64, count uint32, before string, records ...string) string {
	in := []byte("kmsgate audit batch v1\x00\x00")
	in, _ = hex.AppendDecode(in, []byte(stream))
	in = binary.BigEndian.AppendUint64(in, number)
	in = binary.BigEndian.AppendUint64(in, firstSeq)
	in = binary.BigEndian.AppendUint32(in, count)
	in, _ = hex.AppendDecode(in, []byte(before))
	for _, r := range records {
		in = binary.BigEndian.AppendUint32(in, uint32(len(r)))
		in = append(in, r...)
	}
	return fmt.Sprintf("%x", sha256.Sum256(in))
}

func TestSealedBatchHasTheDocumentedHash(t *testing.T) {
	t.Parallel()
	e := NewEncoder()
	if got, want := testStream.String(), "f81d4fae-7dec-41d0-a765-00a0c91e6bf6"; got != want {
		t.Errorf("stream = %s, want %s", got, want)
	}
	first := e.Seal(Head{Stream: testStream}, [][]byte{[]byte(`{"a":1}`), {}})
	zero := fmt.Sprintf("%064d", 0)
	want := auditorHash("f81d4fae7dec41d0a76500a0c91e6bf6", 1, 1, 2, zero, `{"a":1}`, "")
	if got := first.Hash.String(); got != want {
		t.Errorf("hash of batch 1 = %s, want %s", got, want)
	}
	second := e.Seal(first.Head(), [][]byte{[]byte("x")})
	want = auditorHash("f81d4fae7dec41d0a76500a0c91e6bf6", 2, 3, 1, want, "x")
	if got := second.Hash.String(); got != want {
		t.Errorf("hash of batch 2 = %s, want %s", got, want)
	}
	wantHead := Head{Stream: testStream, Number: 2, Seq: 3, Hash: second.Hash}
	if got := second.Head(); got != wantHead {
		t.Errorf("head = %+v, want %+v", got, wantHead)
	}
	// A fixed vector, so that the definition cannot drift together with its test.
	if got, want := first.Hash.String(), "373da905610e3d6d71c5016e23abb89ff868eefe056d92febbc2d2eba65d1eca"; got != want {
		t.Errorf("hash of batch 1 = %s, want %s", got, want)
	}
}

func TestRecordsSurviveABatch(t *testing.T) {
	t.Parallel()
	e, d := NewEncoder(), NewDecoder()
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 1, 20).Draw(t, "records")
		b := e.Seal(Head{Stream: testStream, Number: 6, Seq: 41}, records)
		got, err := d.Records(&b)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(records) {
			t.Fatalf("%d records, want %d", len(got), len(records))
		}
		for i := range records {
			if !bytes.Equal(got[i], records[i]) {
				t.Fatalf("record %d = %x, want %x", i, got[i], records[i])
			}
		}
	})
}

func TestBadOptionPanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("must did not panic")
		}
	}()
	must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(-1)))
}

func compress(t testing.TB, joined []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(joined, nil)
}

func TestDamagedRecordsAreRefused(t *testing.T) {
	t.Parallel()
	good := join(nil, [][]byte{[]byte("one"), []byte("two")})
	tooLong := join(nil, [][]byte{make([]byte, MaxRecordBytes+1)})
	tests := map[string]struct {
		count   int32
		records []byte
	}{
		"not compressed":     {2, good},
		"nothing":            {1, nil},
		"no records":         {0, compress(t, nil)},
		"negative count":     {-1, compress(t, good)},
		"huge count":         {1 << 30, compress(t, good)},
		"one too few":        {3, compress(t, good)},
		"one too many":       {1, compress(t, good)},
		"trailing byte":      {2, compress(t, append(good[:len(good):len(good)], 0))},
		"record cut off":     {2, compress(t, good[:len(good)-1])},
		"bytes after frame":  {2, append(compress(t, good), 0)},
		"record too long":    {1, compress(t, tooLong)},
		"decompression bomb": {1, compress(t, make([]byte, MaxBatchBytes+1))},
		"two-frame bomb":     {1, bytes.Repeat(compress(t, make([]byte, MaxBatchBytes)), 2)},
	}
	d := NewDecoder()
	for name, tt := range tests {
		if got, err := d.Records(&Batch{Count: tt.count, Records: tt.records}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %d records, error %v, want ErrDamaged", name, len(got), err)
		}
	}
}

func FuzzDecoderIsStrictAndBounded(f *testing.F) {
	e := NewEncoder()
	f.Add(int32(2), e.Seal(Head{}, [][]byte{[]byte("one"), []byte("two")}).Records)
	f.Add(int32(1), e.Seal(Head{}, [][]byte{make([]byte, 1000)}).Records)
	f.Add(int32(0), []byte{})
	d := NewDecoder()
	f.Fuzz(func(t *testing.T, count int32, stored []byte) {
		records, err := d.Records(&Batch{Count: count, Records: stored})
		if err != nil {
			return
		}
		joined, err := d.joined(&Batch{Records: stored})
		if err != nil || len(joined) > MaxBatchBytes {
			t.Fatalf("joined records: %d bytes, %v", len(joined), err)
		}
		if len(records) != int(count) || !bytes.Equal(join(nil, records), joined) {
			t.Errorf("%d records of %d do not join to what was stored", len(records), count)
		}
	})
}

// testChain is a whole stream: started, with some records, ended.
func testChain() []Batch {
	e := NewEncoder()
	started := StreamStarted(testStream, "node-1", Head{}, nil, testTime, testEventID)
	ended := StreamEnded(testStream, "node-1", testTime, testEventID)
	var batches []Batch
	head := Head{Stream: testStream}
	for _, records := range [][][]byte{
		{started.AppendJSON(nil), []byte("1")},
		{[]byte("2"), []byte("3"), []byte("4")},
		{[]byte("5")},
		{[]byte("6"), ended.AppendJSON(nil)},
	} {
		batches = append(batches, e.Seal(head, records))
		head = batches[len(batches)-1].Head()
	}
	return batches
}

func each(batches []Batch) func(func(Batch, error) bool) {
	return func(yield func(Batch, error) bool) {
		for _, b := range batches {
			if !yield(b, nil) {
				return
			}
		}
	}
}

func TestVerifyFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	replace := func(bs []Batch, i int, records ...string) {
		raw := make([][]byte, len(records))
		for j, r := range records {
			raw[j] = []byte(r)
		}
		bs[i].Records = NewEncoder().Seal(Head{}, raw).Records
	}
	tests := map[string]struct {
		change func([]Batch) []Batch
		want   []Fault // without Detail
		cutOff bool    // the report says nothing of the end
	}{
		"intact":         {func(bs []Batch) []Batch { return bs }, nil, false},
		"no batches":     {func([]Batch) []Batch { return nil }, nil, true},
		"cut off":        {func(bs []Batch) []Batch { return bs[:3] }, nil, true},
		"number missing": {func(bs []Batch) []Batch { return append(bs[:1], bs[2:]...) }, []Fault{{Number: 3, Problem: BatchMissing}}, false},
		"start missing":  {func(bs []Batch) []Batch { return bs[1:] }, []Fault{{Number: 2, Problem: BatchMissing}}, false},
		"number twice":   {func(bs []Batch) []Batch { return append(bs[:2], bs[1:]...) }, []Fault{{Number: 2, Problem: BatchMisplaced}}, false},
		"another stream": {
			func(bs []Batch) []Batch { bs[1].Stream = StreamID{1}; return bs },
			[]Fault{{Number: 2, Problem: BatchMisplaced}, {Number: 3, Problem: BatchMissing}},
			false,
		},
		"record changed": {func(bs []Batch) []Batch { replace(bs, 1, "2", "x", "4"); return bs }, []Fault{{Number: 2, Problem: HashWrong}}, false},
		"hash changed": {
			func(bs []Batch) []Batch { bs[1].Hash[0]++; return bs },
			[]Fault{{Number: 2, Problem: HashWrong}, {Number: 3, Problem: HashBeforeWrong}},
			false,
		},
		"hash before changed": {
			func(bs []Batch) []Batch { bs[1].HashBefore[0]++; return bs },
			[]Fault{{Number: 2, Problem: HashBeforeWrong}, {Number: 2, Problem: HashWrong}},
			false,
		},
		"sequence moved": {
			func(bs []Batch) []Batch { bs[1].FirstSeq++; return bs },
			[]Fault{{Number: 2, Problem: SequenceGap}, {Number: 2, Problem: HashWrong}, {Number: 3, Problem: SequenceGap}},
			false,
		},
		"count wrong": {
			func(bs []Batch) []Batch { bs[1].Count--; return bs },
			[]Fault{{Number: 2, Problem: HashWrong}, {Number: 2, Problem: RecordsDamaged}, {Number: 3, Problem: SequenceGap}},
			false,
		},
		"record dropped": {
			func(bs []Batch) []Batch { replace(bs, 1, "2", "4"); return bs },
			[]Fault{{Number: 2, Problem: HashWrong}, {Number: 2, Problem: RecordsDamaged}},
			false,
		},
		"unreadable": {func(bs []Batch) []Batch { bs[1].Records = []byte("x"); return bs }, []Fault{{Number: 2, Problem: RecordsDamaged}}, false},
		"resealed without its start": {
			func([]Batch) []Batch {
				return []Batch{NewEncoder().Seal(Head{Stream: testStream}, [][]byte{[]byte("{}")})}
			},
			[]Fault{{Number: 1, Problem: StartMissing}},
			true,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, err := Verify(testStream, each(tt.change(testChain())))
			if err != nil {
				t.Fatal(err)
			}
			for i := range report.Faults {
				if report.Faults[i].Detail == "" {
					t.Errorf("fault %+v has no detail", report.Faults[i])
				}
				report.Faults[i].Detail = ""
			}
			if diff := cmp.Diff(tt.want, report.Faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if report.Ended == tt.cutOff {
				t.Errorf("ended = %v, want %v", report.Ended, !tt.cutOff)
			}
		})
	}
}

func TestVerifyReportsTheHead(t *testing.T) {
	t.Parallel()
	chain := testChain()
	report, err := Verify(testStream, each(chain))
	want := Report{Head: chain[3].Head(), Batches: 4, Ended: true}
	if err != nil || !cmp.Equal(report, want) {
		t.Errorf("Verify = %+v, %v, want %+v", report, err, want)
	}
}

func TestVerifyStopsAtTooManyFaultsAndAtErrors(t *testing.T) {
	t.Parallel()
	yielded := 0
	report, err := Verify(testStream, func(yield func(Batch, error) bool) {
		for yield(Batch{}, nil) {
			yielded++
		}
	})
	if err != nil || len(report.Faults) != maxFaults || yielded != maxFaults-1 {
		t.Errorf("%d faults of %d batches, %v, want %d", len(report.Faults), yielded+1, err, maxFaults)
	}
	broken := errors.New("connection lost")
	_, err = Verify(testStream, func(yield func(Batch, error) bool) { yield(Batch{}, broken) })
	if !errors.Is(err, broken) {
		t.Errorf("Verify: %v, want %v", err, broken)
	}
}

func TestStreamStartedNamesWhatWasBefore(t *testing.T) {
	t.Parallel()
	found := Head{Stream: StreamID{0xaa}, Number: 7, Seq: 70, Hash: Hash{1}}
	left := Head{Stream: StreamID{0xaa}, Number: 6, Seq: 60, Hash: Hash{2}}
	e := StreamStarted(testStream, "node-1", found, &left, testTime, testEventID)
	head := func(number, seq float64, hash string) map[string]any {
		return map[string]any{
			"stream": "aa000000-0000-0000-0000-000000000000", "number": number, "seq": seq,
			"hash": hash + fmt.Sprintf("%062d", 0),
		}
	}
	want := map[string]any{
		"eventVersion": "1.08", "userIdentity": map[string]any{"type": "AWSService", "invokedBy": "AWS Internal"},
		"eventTime": "2026-11-02T22:25:25Z", "eventSource": "kms.amazonaws.com", "eventName": "StreamStarted",
		"awsRegion": "", "sourceIPAddress": "AWS Internal", "requestParameters": nil, "responseElements": nil,
		"eventID": testEventID, "readOnly": false, "eventType": "AwsServiceEvent", "managementEvent": true,
		"serviceEventDetails": map[string]any{
			"stream": testStream.String(), "instance": "node-1",
			"previous": head(7, 70, "01"), "left": head(6, 60, "02"),
		},
		"eventCategory": "Management",
	}
	if diff := cmp.Diff(want, decode(t, e.AppendJSON(nil))); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func BenchmarkSeal16(b *testing.B) {
	e, head := NewEncoder(), Head{Stream: testStream}
	records := make([][]byte, 16)
	for i := range records {
		ev := encryptEvent()
		ev.RequestID = fmt.Sprintf("%08x-0000-4000-8000-%012x", i*7919, i*104729)
		ev.EventID = fmt.Sprintf("%08x-0000-4000-8000-%012x", i*15485863, i*32452843)
		records[i] = ev.AppendJSON(nil)
	}
	b.ReportAllocs()
	for b.Loop() {
		batch := e.Seal(head, records)
		head = batch.Head()
	}
	batch := e.Seal(head, records)
	b.ReportMetric(float64(len(batch.Records))/16, "stored-B/record")
}
