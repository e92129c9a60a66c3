package audit

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"iter"
)

// Problem is a kind of damage to a stream.
type Problem string

// Problems that [Verify] finds.
const (
	BatchMissing    Problem = "BatchMissing"    // a number is not there
	BatchMisplaced  Problem = "BatchMisplaced"  // of another stream, or its number was already there
	HashBeforeWrong Problem = "HashBeforeWrong" // does not name the hash of the batch before
	HashWrong       Problem = "HashWrong"       // the batch is not what its hash says
	SequenceGap     Problem = "SequenceGap"     // does not begin after the last record before
	RecordsDamaged  Problem = "RecordsDamaged"  // unreadable, or not as many as it says
	HeadWrong       Problem = "HeadWrong"       // the newest batch is not where the stream's head is
	StartMissing    Problem = "StartMissing"    // the first record is not this stream's StreamStarted
)

// Fault is one thing that is wrong with a stream.
type Fault struct {
	Number  int64 // of the batch
	Problem Problem
	Detail  string
}

// maxFaults ends a verification that would only go on listing.
const maxFaults = 100

// Report is what a verification found. A stream is intact if there are no
// faults; it may still have been cut off at its end, unless Head is where
// somebody who is trusted says it is, or Ended.
type Report struct {
	Head    Head // after the last batch read
	Batches int64
	Ended   bool // the last record is this stream's StreamEnded
	Faults  []Fault
}

// Verify checks the batches of a stream, which come in the order of their
// numbers, from the first. It stops after 100 faults. The error is that of the
// iterator, and no finding.
func Verify(stream StreamID, batches iter.Seq2[Batch, error]) (Report, error) {
	v := verifier{stream: stream, decoder: NewDecoder()}
	v.report.Head.Stream = stream
	for b, err := range batches {
		if err != nil {
			return v.report, err
		}
		v.add(&b)
		if len(v.report.Faults) >= maxFaults {
			break
		}
	}
	return v.report, nil
}

type verifier struct {
	stream  StreamID
	decoder *Decoder
	report  Report
}

func (v *verifier) add(b *Batch) {
	before := v.report.Head
	if b.Stream != v.stream || b.Number <= before.Number {
		v.fault(b, BatchMisplaced, "stream %v, after number %d", b.Stream, before.Number)
		return
	}
	v.report.Batches++
	if b.Number == before.Number+1 {
		v.checkLink(b, before)
	} else {
		v.fault(b, BatchMissing, "numbers %d to %d", before.Number+1, b.Number-1)
	}
	v.checkContent(b)
	v.report.Head = b.Head()
}

func (v *verifier) checkLink(b *Batch, before Head) {
	if b.HashBefore != before.Hash {
		v.fault(b, HashBeforeWrong, "%v, want %v", b.HashBefore, before.Hash)
	}
	if b.FirstSeq != before.Seq+1 {
		v.fault(b, SequenceGap, "begins with %d, want %d", b.FirstSeq, before.Seq+1)
	}
}

func (v *verifier) checkContent(b *Batch) {
	joined, err := v.decoder.joined(b)
	if err != nil {
		v.fault(b, RecordsDamaged, "%v", err)
		return
	}
	if h := chainHash(sha256.New(), b, joined); h != b.Hash {
		v.fault(b, HashWrong, "%v, want %v", b.Hash, h)
	}
	records, err := split(joined, int(b.Count))
	if err != nil {
		v.fault(b, RecordsDamaged, "%v", err)
		return
	}
	if b.Number == 1 && !v.marks(records[0], StreamStartedName) {
		v.fault(b, StartMissing, "the first record does not begin this stream")
	}
	v.report.Ended = v.marks(records[len(records)-1], StreamEndedName)
}

// marks tells whether a record is the stream's own event of the given name.
func (v *verifier) marks(record []byte, name string) bool {
	var e struct {
		EventName           string
		EventType           EventType
		ServiceEventDetails struct{ Stream string }
	}
	return json.Unmarshal(record, &e) == nil && e.EventName == name && e.EventType == ServiceEvent &&
		e.ServiceEventDetails.Stream == v.stream.String()
}

func (v *verifier) fault(b *Batch, p Problem, format string, args ...any) {
	v.report.Faults = append(v.report.Faults, Fault{Number: b.Number, Problem: p, Detail: fmt.Sprintf(format, args...)})
}
