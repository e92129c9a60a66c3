// Package audit has the records of the audit log and the arithmetic that makes
// them tamper-evident: the CloudTrail-shaped [Event] and its encoding, batches
// of records, the hash chain over batches, its verification, and the uses of
// key material that records tell of. It is pure: no I/O, no clock, no
// randomness. It trusts nothing that it decodes.
//
// # Streams
//
// A stream is the log of one run of one process, named by a random UUID. It is
// a sequence of batches numbered from 1 without a gap; each batch holds one or
// more records, and the records of a stream are numbered from 1 without a gap
// too. Neither number stands in the record itself. The first record of a
// stream ([StreamStarted]) names the instance, the stream before it and the
// head it found there; the last record of a stream that was closed in order is
// [StreamEnded].
//
// # Chain
//
// A batch is stored as its position, two hashes and its records. The hash is
// SHA-256 over the concatenation of, all integers big-endian,
//
//	label        24 bytes  "kmsgate audit batch v1" and two zero bytes
//	stream       16 bytes  the stream's UUID
//	number        8 bytes  of the batch
//	first_seq     8 bytes  sequence number of its first record
//	count         4 bytes  of records
//	hash_before  32 bytes  hash of batch number-1; zero bytes for number 1
//	and for each record:
//	length        4 bytes
//	record               its exact bytes
//
// Every part has a fixed width or its length before it, so no two different
// batches have the same input. The records are stored as the part "for each
// record", compressed as one Zstandard frame (RFC 8878); the compressed bytes
// are not hashed, so that they may be recompressed.
//
// The head of a stream, after its newest batch, is (stream, number, sequence
// number of the newest record, hash). Whoever keeps a head can tell later
// whether the log up to it was changed.
package audit
