// Package hsmtest is the conformance suite of [hsm.Token]: what the gateway
// relies on, asked of a real token. It runs in the tests of an engine and, by
// kmsgate hsm probe -exercise, on a customer's token. It trusts nothing but the
// interface, and judges by Go's standard library and by arithmetic of its own. It
// makes RSA keys of all sizes, which takes half a minute and more in software.
package hsmtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// T is the part of *testing.T that the suite needs, and Lacking. Fatalf does not
// return. A part may call the others from several goroutines, but not Run and Fatalf.
type T interface {
	Run(name string, f func(T)) bool
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	// Lacking says what the token has no mechanism for, and that was not tried for
	// that reason. The part has neither failed nor passed for it.
	Lacking(format string, args ...any)
}

// Fixture is a token in service. The suite leaves no key behind but the
// service keys, which are the caller's.
type Fixture struct {
	Token hsm.Token
	// Store has service keys of generation 1, and OtherStore keys of its own. The
	// ids of all keys that the suite makes begin with Store's name and a hyphen.
	Store, OtherStore string
	// AddGeneration puts generation 2 of Store's service keys in service.
	AddGeneration func(context.Context) error
	// Rewrap moves a key to another generation.
	Rewrap func(ctx context.Context, on hsm.Call, k *hsm.Key, generation int32) (hsm.Key, error)
	// Handles is how many unwrapped keys the engine caches; the suite uses
	// three times as many keys at once.
	Handles int
	// Resident says that all keys of Store live in the token.
	Resident bool
	// Specs are the key specs to be tried. Nil: all of them.
	Specs []keyspec.Spec
	// VerifyOutside verifies signatures that the suite itself cannot, those of
	// ML-DSA. Nil: they are verified by the token alone.
	VerifyOutside func(spki []byte, as keyspec.MessageType, message, signature []byte) error
	// Close ends the service. It is called once, at the end.
	Close func()
}

// discardTimeout bounds the clearing up.
const discardTimeout = time.Minute

// suite is one run.
type suite struct {
	Fixture
	ctx     context.Context
	kept    map[kind]*hsm.Key // one key of each kind, made when it is first needed
	through *hsm.Key          // the pair of OtherStore that keys travel to, made likewise

	mu        sync.Mutex // guards residents
	residents []hsm.Key  // to be discarded
}

// kind is a key spec and usage.
type kind struct {
	spec  keyspec.Spec
	usage keyspec.Usage
}

func (k kind) String() string { return fmt.Sprintf("%s %s", k.spec, k.usage) }

// symmetric is the kind of the keys of AES-GCM.
var symmetric = kind{keyspec.SymmetricDefault, keyspec.EncryptDecrypt}

// isPair tells pairs from secret keys.
func (k kind) isPair() bool { return k != symmetric && k.usage != keyspec.GenerateVerifyMAC }

// part is one thing that is asked of the token.
type part struct {
	name string
	run  func(T)
}

// Exercise asks of a token everything that the gateway relies on. It ends early,
// and fails, when ctx does.
func Exercise(ctx context.Context, t T, open func() Fixture) {
	s := &suite{Fixture: open(), ctx: ctx, kept: map[kind]*hsm.Key{}}
	defer s.Close()
	for _, p := range slices.Concat(s.symmetricParts(), s.kindParts(), s.lastParts()) {
		if ctx.Err() != nil {
			t.Errorf("ended before %s: %v", p.name, context.Cause(ctx))
			break
		}
		t.Run(p.name, p.run)
	}
	t.Run("Discard", s.discard)
}

func (s *suite) symmetricParts() []part {
	return []part{
		{"Check", s.check},
		{"RoundTrip", s.roundTrip},
		{"OtherAdditionalData", s.otherAdditionalData},
		{"FlippedCiphertext", s.flippedCiphertext},
		{"MalformedCiphertext", s.malformedCiphertext},
		{"FreshIVs", s.freshIVs},
		{"SwappedKey", s.swappedKey},
		{"UnsupportedKey", s.unsupportedKey},
		{"Random", s.random},
		{"Seal", s.seal},
		{"FlippedSeal", s.flippedSeal},
		{"EndedContext", s.endedContext},
		{"ManyKeysAtOnce", s.manyKeysAtOnce},
	}
}

// kindParts are those of each key spec: its algorithms, and for each usage what
// must not work.
func (s *suite) kindParts() (parts []part) {
	add := func(run func(T), name ...any) { parts = append(parts, part{fmt.Sprintln(name...), run}) }
	for _, row := range s.rows() {
		for _, usage := range row.Usages() {
			k := kind{row.Spec, usage}
			for _, a := range row.Algorithms[usage] {
				if uses, ok := algorithmParts[usage]; ok && k != symmetric {
					add(func(t T) { uses(s, t, k, a) }, row.Spec, a)
				}
			}
			add(func(t T) { s.editedRows(t, k) }, row.Spec, usage, "EditedRows")
			add(func(t T) { s.wrongUse(t, k) }, row.Spec, usage, "WrongUse")
			add(func(t T) { s.transport(t, k) }, row.Spec, usage, "Transport")
			if !row.SlowToMake {
				add(func(t T) { s.destroy(t, k) }, row.Spec, usage, "Destroy")
			}
		}
		if _, ok := pairReaders[row.Spec]; ok {
			add(func(t T) { s.dataKeyPair(t, row.Spec) }, row.Spec, "DataKeyPair")
		}
	}
	for i := range parts {
		parts[i].name = parts[i].name[:len(parts[i].name)-1] // the line end
	}
	return parts
}

// rows are those of the key specs that are tried, last those whose keys take long
// to make.
func (s *suite) rows() (rows []keyspec.Row) {
	for _, slow := range []bool{false, true} {
		for _, row := range keyspec.Specs {
			if row.SlowToMake == slow && row.Spec != keyspec.SM2 && (s.Specs == nil || slices.Contains(s.Specs, row.Spec)) {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// algorithmParts are what is asked of a key with one algorithm.
var algorithmParts = map[keyspec.Usage]func(*suite, T, kind, keyspec.Algorithm){
	keyspec.EncryptDecrypt:         (*suite).oaep,
	keyspec.SignVerify:             (*suite).signatures,
	keyspec.GenerateVerifyMAC:      (*suite).macs,
	keyspec.KeyAgreement:           (*suite).agreement,
	keyspec.EncapsulateDecapsulate: (*suite).encapsulation,
}

func (s *suite) lastParts() []part {
	return []part{
		{"Import", s.imports},
		{"ManyKindsAtOnce", s.manyKindsAtOnce},
		{"Rewrap", s.rewrap}, // last: it adds a generation
	}
}

// discard destroys the keys that live in the token.
func (s *suite) discard(t T) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), discardTimeout)
	defer cancel()
	for i := range s.residents {
		k := &s.residents[i]
		if err := s.Token.Destroy(ctx, client, k); err != nil {
			t.Errorf("Destroy of the %s key %s, which stays in the token (CKA_ID %x) = %v", k.Spec, k.KeyID, k.Blob, err)
		}
	}
}
