// Package hsm is the seam between the gateway and the tokens that hold its
// keys: what a token can be asked to do, the keys it is asked to do it with,
// and the few errors that a caller can act on. It has no PKCS#11 type, no AWS
// type and no object handle, so that an engine, a worker process or a second
// token can stand behind it unseen.
//
// Secrets and plaintext cross the seam as byte slices. An implementation
// copies what it is given before it returns, and returns fresh slices that the
// caller owns and clears.
package hsm

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"

	"kmsgate/hsm/keyspec"
)

// MaterialID identifies one key material of a KMS key. AWS prints it as 64
// lower-case hexadecimal digits (KeyMaterialId).
type MaterialID [32]byte

// String is the 64 hexadecimal digits of AWS's KeyMaterialId.
func (id MaterialID) String() string { return hex.EncodeToString(id[:]) }

// Residency says where a key material lives.
type Residency string

// Residencies. External and Absent are for imported keys and external key
// stores; no token is asked to use such a material.
const (
	Wrapped  Residency = "wrapped"  // a blob under the store's domain key
	Resident Residency = "resident" // a token object with a CKA_ID of ours
	External Residency = "external" // outside, behind an external key store
	Absent   Residency = "absent"   // not imported yet, expired or deleted
)

// Key is one key material by value: who it is, what it is, and what the token
// made of it. The token takes nothing about it on trust: Binding authenticates
// every other field, so a blob that somebody with access to the database moved,
// retyped or swapped is refused with [ErrBinding].
type Key struct {
	// Identity, chosen by the caller of Generate.
	Store      string // key store
	Region     string
	Account    string // 12 digits
	KeyID      string // KMS key id
	MaterialID MaterialID
	Spec       keyspec.Spec
	Usage      keyspec.Usage
	Origin     keyspec.Origin

	// Outcome, filled in by Generate.
	Residency  Residency
	Generation int32  // of the store's service keys that Blob and Binding were made with
	Blob       []byte // wrapped material; for a resident key its CKA_ID
	PublicKey  []byte // SubjectPublicKeyInfo; nil for secret keys
	CheckValue []byte // proves at first use that the right material came out
	Binding    []byte // authenticates all of the above
}

// Equal tells whether two keys are the same in every field.
func (k *Key) Equal(o *Key) bool {
	return k.Store == o.Store && k.Region == o.Region && k.Account == o.Account &&
		k.KeyID == o.KeyID && k.MaterialID == o.MaterialID &&
		k.Spec == o.Spec && k.Usage == o.Usage && k.Origin == o.Origin &&
		k.Residency == o.Residency && k.Generation == o.Generation &&
		bytes.Equal(k.Blob, o.Blob) && bytes.Equal(k.PublicKey, o.PublicKey) &&
		bytes.Equal(k.CheckValue, o.CheckValue) && bytes.Equal(k.Binding, o.Binding)
}

// Class says what kind of work a call is, so that one kind cannot starve another.
type Class uint8

// Classes of work, the most urgent last.
const (
	Interactive Class = iota // a client is waiting
	Generation               // slow key generation a client is waiting for
	Background               // reconcilers, rewrapping
	Health                   // self-tests and readiness; never queues behind clients
)

// Call says for whom and as what kind of work a token is asked to do something.
type Call struct {
	Account string // 12 digits; empty for the gateway itself
	Class   Class
}

// Ciphertext is the outcome of AES-GCM in the token.
type Ciphertext struct {
	IV   []byte // 12 or 16 bytes, as the token makes them
	Data []byte // ciphertext and 16-byte tag
}

// DataKeyPair is a key pair made in the token for a caller's own use.
type DataKeyPair struct {
	Private []byte // PKCS#8 (RFC 5958), DER; the caller's to clear
	Public  []byte // SubjectPublicKeyInfo, DER
}

// Token is a key store's HSM (one or several tokens behind one engine).
//
// All methods are safe for concurrent use and keep ctx's deadline: a call that
// the token does not answer in time returns [ErrDeadline] and its session is
// not used again. Errors are one of this package's, wrapped; anything else is
// a bug.
type Token interface {
	// Generate makes new material for the key that k identifies and returns k
	// with its outcome filled in. ErrUnsupported if the token cannot make keys
	// of k.Spec.
	Generate(ctx context.Context, on Call, k Key) (Key, error)
	// Imports is nil if material for keys of a store, a spec and a usage can be brought
	// in under a wrapping algorithm, else ErrUnsupported with the reason. It does not
	// ask the token.
	Imports(store string, spec keyspec.Spec, usage keyspec.Usage, a keyspec.WrappingAlgorithm) error
	// Import brings in material that was wrapped to a pair of usage ImportWrapping
	// that Generate made, for the key that k identifies, and returns k with its
	// outcome and with its MaterialID, which follows from KMS key id and material: it
	// is the same when the same comes again, and tells nothing of the material. If k has
	// a MaterialID, the material must be that one. Where such keys live in the token,
	// nothing is made without it: the key comes back with its MaterialID and is
	// [Absent], and whoever wants it calls again with that.
	// ErrInvalidCiphertext if it does not unwrap, ErrIncorrectMaterial if what comes
	// out is no material of k.Spec, or another than k's.
	Import(ctx context.Context, on Call, wrapping *Key, a keyspec.WrappingAlgorithm, wrapped []byte, k Key) (Key, error)
	// Send wraps a wrapped key's material for another token: to the public key of a
	// pair of usage Transport that the other token has just made and handed over in
	// this process; one that comes out of a database is nobody's. Only what Receive
	// takes comes of it. ErrUnsupported if the token cannot, or if the key is resident.
	Send(ctx context.Context, on Call, k *Key, to *Key) ([]byte, error)
	// Receives is nil if keys of a spec and a usage can be brought to a store by Receive,
	// else ErrUnsupported with the reason. It does not ask the token.
	Receives(store string, spec keyspec.Spec, usage keyspec.Usage) error
	// Receive brings in what Send wrapped to a pair of this token's, for the key that k
	// identifies: k has the KeyID, MaterialID, Spec, Usage, Origin, PublicKey and
	// CheckValue of the key that was sent, and the store and region that it comes to.
	// It returns k with its outcome. ErrWrongMaterial if what arrives is not what k's
	// check value or public key says, ErrInvalidCiphertext if it does not open.
	Receive(ctx context.Context, on Call, through *Key, parcel []byte, k Key) (Key, error)
	// Encrypt encrypts with AES-256-GCM under a fresh IV from the token.
	Encrypt(ctx context.Context, on Call, k *Key, plaintext, aad []byte) (Ciphertext, error)
	// Decrypt opens what Encrypt made. ErrInvalidCiphertext if the tag does not
	// match, whatever the reason.
	Decrypt(ctx context.Context, on Call, k *Key, c Ciphertext, aad []byte) ([]byte, error)
	// PublicKey returns the SubjectPublicKeyInfo of a pair's public key, after the
	// token has proved that it belongs to the private key it holds.
	PublicKey(ctx context.Context, on Call, k *Key) ([]byte, error)
	// Sign signs with k's private key. The encoding is AWS's: DER for ECDSA, raw
	// for the others. ErrUnsupported if the token has no way to do it.
	Sign(ctx context.Context, on Call, k *Key, a keyspec.Algorithm, as keyspec.MessageType, message []byte) ([]byte, error)
	// Verify verifies with k's public key. ErrInvalidSignature for every
	// signature that is not valid, whatever the reason.
	Verify(ctx context.Context, on Call, k *Key, a keyspec.Algorithm, as keyspec.MessageType, message, signature []byte) error
	// GenerateMAC makes an HMAC.
	GenerateMAC(ctx context.Context, on Call, k *Key, a keyspec.Algorithm, message []byte) ([]byte, error)
	// VerifyMAC makes the HMAC again and compares. ErrInvalidSignature if the two
	// differ, in length too.
	VerifyMAC(ctx context.Context, on Call, k *Key, a keyspec.Algorithm, message, mac []byte) error
	// EncryptAsymmetric encrypts with k's public key, with RSAES-OAEP. The caller
	// has checked that the plaintext fits.
	EncryptAsymmetric(ctx context.Context, on Call, k *Key, a keyspec.Algorithm, plaintext []byte) ([]byte, error)
	// DecryptAsymmetric opens what EncryptAsymmetric made. ErrInvalidCiphertext
	// for whatever does not open, whatever the reason.
	DecryptAsymmetric(ctx context.Context, on Call, k *Key, a keyspec.Algorithm, ciphertext []byte) ([]byte, error)
	// DeriveSecret is the raw ECDH x-coordinate, in the full width of the field,
	// of k's private key and the peer's public key, a SubjectPublicKeyInfo.
	// ErrInvalidPublicKey if that is not a point of k's own curve.
	DeriveSecret(ctx context.Context, on Call, k *Key, peer []byte) ([]byte, error)
	// Encapsulate makes a fresh secret of 32 bytes and its encapsulation for k's
	// public key (FIPS 203).
	Encapsulate(ctx context.Context, on Call, k *Key) (secret, encapsulation []byte, err error)
	// Decapsulate recovers the secret. ErrInvalidCiphertext only for an
	// encapsulation of the wrong length; any other gives a secret of its own.
	Decapsulate(ctx context.Context, on Call, k *Key, encapsulation []byte) ([]byte, error)
	// GenerateDataKeyPair makes a key pair for the caller, who gets the private
	// key too. Nothing of it stays in the token.
	GenerateDataKeyPair(ctx context.Context, on Call, spec keyspec.Spec) (DataKeyPair, error)
	// Destroy destroys what the token holds of k: of a resident key its object in the
	// token, of any the handles that are cached. It goes by a row that the token has
	// bound together, so that nobody has it destroy another key; what is not there is
	// destroyed already. Of a wrapped key the blob is the caller's to erase.
	Destroy(ctx context.Context, on Call, k *Key) error
	// Random returns n bytes of the token's random generator, 1 to 1024.
	Random(ctx context.Context, on Call, n int) ([]byte, error)
	// Seal encrypts a small secret of the gateway's own (at most 4096 bytes)
	// under the store's sealing key. The result names store and generation.
	Seal(ctx context.Context, on Call, store string, secret, aad []byte) ([]byte, error)
	// Open opens what Seal made. ErrInvalidCiphertext if it was changed or aad
	// is another.
	Open(ctx context.Context, on Call, sealed, aad []byte) ([]byte, error)
	// Check really asks the token: its session, its presence, its random
	// generator and a canary under every active service key.
	Check(ctx context.Context) error
}

// Errors of a Token. The gateway acts on them by errors.Is.
var (
	// ErrInvalidCiphertext: the ciphertext, its tag or its additional data is
	// not what was encrypted. The caller's data is at fault, never the token.
	ErrInvalidCiphertext = errors.New("hsm: ciphertext does not authenticate")
	// ErrInvalidSignature: the signature or MAC is not that of the message under
	// this key.
	ErrInvalidSignature = errors.New("hsm: signature or MAC does not verify")
	// ErrInvalidPublicKey: a peer's public key is not well encoded, or not a
	// point of the key's curve.
	ErrInvalidPublicKey = errors.New("hsm: public key of the peer is not valid")
	// ErrIncorrectMaterial: what was wrapped for an import is no material of the key's
	// spec.
	ErrIncorrectMaterial = errors.New("hsm: not material of the key's spec")
	// ErrMissing: the key is resident in the token, and the token does not have
	// it. It may be back tomorrow, so nothing is given up; raise an alarm.
	ErrMissing = errors.New("hsm: the token does not have the key")
	// ErrBinding: the key's row is not what the token bound together. Somebody
	// changed the database. The key must not be used; raise an alarm.
	ErrBinding = errors.New("hsm: key binding does not verify")
	// ErrWrongMaterial: the blob opened, but to other material than its check
	// value says. The key must not be used; raise an alarm.
	ErrWrongMaterial = errors.New("hsm: key material does not match its check value")
	// ErrUnsupported: this token has no mechanism for what is asked.
	ErrUnsupported = errors.New("hsm: not supported by this token")
	// ErrUnavailable: the token cannot be reached or used now; try later.
	ErrUnavailable = errors.New("hsm: token unavailable")
	// ErrBusy: every session is in use and stayed so until the deadline, or the
	// queue is full; try again.
	ErrBusy = errors.New("hsm: token busy")
	// ErrDeadline: the token did not answer in time. What it did is unknown.
	ErrDeadline = errors.New("hsm: token did not answer in time")
	// ErrPIN: the PIN was refused, or must not be tried for now. An operator
	// has to act: kmsgate hsm login.
	ErrPIN = errors.New("hsm: PIN refused")
)

// ServiceKeyKind is one of the three keys that a store's token keeps for the
// store itself.
type ServiceKeyKind string

// Kinds of service keys; each is a token object that cannot be extracted.
const (
	DomainKey  ServiceKeyKind = "domain"  // AES-256: wraps and unwraps materials, nothing else
	BindingKey ServiceKeyKind = "binding" // HMAC-SHA-256: binds a blob to its row
	SealingKey ServiceKeyKind = "sealing" // AES-256-GCM: secrets of the gateway's own
)

// ServiceKeyKinds are all kinds, in the order in which they are made.
var ServiceKeyKinds = []ServiceKeyKind{DomainKey, BindingKey, SealingKey}

// ServiceKey is one generation of one service key of a store, as Postgres
// remembers it.
type ServiceKey struct {
	Store      string
	Kind       ServiceKeyKind
	Generation int32  // from 1
	ID         []byte // CKA_ID, 16 bytes, chosen by us
	CheckValue []byte // proves that the object found is the key that was made
	// Spare: no row needs it. It stays in service where it is, for calls that have read
	// their rows before, and the token need not have it.
	Spare bool
}

// LoginMarks remembers, outside the process, that a PIN was refused, so that a
// supervisor's restarts cannot lock a partition. Nothing of the PIN is kept.
type LoginMarks interface {
	// LoginRefused tells whether a mark stands for the token.
	LoginRefused(ctx context.Context, tokenSerial string) (bool, error)
	// Exclusively runs fn while no other process runs it under the same name: of
	// several that start with a wrong PIN, only the first tries it.
	Exclusively(ctx context.Context, name string, fn func(context.Context) error) error
	// MarkLoginRefused sets the mark; only kmsgate hsm login clears it.
	MarkLoginRefused(ctx context.Context, tokenSerial string) error
}
