package hsmtest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// client is the account of the suite's keys.
var client = hsm.Call{Account: "111122223333", Class: hsm.Interactive}

// identity is a key to be generated.
func (s *suite) identity(of kind) hsm.Key {
	var id [16]byte
	k := hsm.Key{
		Store: s.Store, Region: "us-east-1", Account: client.Account,
		Spec: of.spec, Usage: of.usage, Origin: keyspec.AWSKMS,
	}
	rand.Read(id[:])           // never fails
	rand.Read(k.MaterialID[:]) // nor does this
	k.KeyID = fmt.Sprintf("%s-%x", s.Store, id)
	return k
}

// generate makes a key for AES-GCM.
func (s *suite) generate(t T) *hsm.Key {
	k, err := s.generateKind(t, symmetric)
	if err != nil {
		t.Fatalf("Generate = %v", err)
	}
	return k
}

// generateKind makes a key. The error is ErrUnsupported; all others end the part.
func (s *suite) generateKind(t T, of kind) (*hsm.Key, error) {
	want := s.identity(of)
	k, err := s.Token.Generate(s.ctx, hsm.Call{Account: client.Account, Class: hsm.Generation}, want)
	if errors.Is(err, hsm.ErrUnsupported) {
		return nil, err
	}
	if err != nil {
		t.Fatalf("Generate = %v", err)
	}
	if k.Residency == hsm.Resident {
		s.mu.Lock()
		s.residents = append(s.residents, *clone(&k))
		s.mu.Unlock()
	}
	named := k
	named.Residency, named.Generation, named.Blob, named.PublicKey, named.CheckValue, named.Binding = "", 0, nil, nil, nil, nil
	if !named.Equal(&want) {
		t.Fatalf("Generate = %+v, want %+v with its outcome", k, want)
	}
	if k.Generation < 1 || len(k.Blob) == 0 || len(k.Binding) == 0 || of.isPair() == (k.PublicKey == nil) || (!of.isPair() && len(k.CheckValue) == 0) {
		t.Fatalf("Generate = %+v, which lacks something", k)
	}
	if k.Residency != hsm.Resident && (k.Residency != hsm.Wrapped || s.Resident) {
		t.Fatalf("Generate made a key that is %q; all keys of the store are to live in the token: %t", k.Residency, s.Resident)
	}
	if of.isPair() {
		if public, err := der.ParsePublic(k.PublicKey); err != nil || public.Spec != of.spec {
			t.Fatalf("Generate made the public key %x: %v", k.PublicKey, err)
		}
	}
	return &k, nil
}

// key is a key of a kind that all parts share. If the token makes no such keys, it
// says so, and ok is false.
func (s *suite) key(t T, of kind) (k *hsm.Key, ok bool) {
	if k := s.kept[of]; k != nil {
		return k, true
	}
	k, err := s.generateKind(t, of)
	if err != nil {
		t.Lacking("%s", reason(err))
		return nil, false
	}
	s.kept[of] = k
	return k, true
}

// otherKey is another key of the same spec. RSA keys take long to make: there it
// is the one for the other usage.
func (s *suite) otherKey(t T, k *hsm.Key) *hsm.Key {
	row, _ := keyspec.Lookup(k.Spec)
	for _, usage := range row.Usages() {
		if usage == k.Usage {
			continue
		}
		if other, ok := s.key(t, kind{k.Spec, usage}); ok {
			return other
		}
	}
	other, err := s.generateKind(t, kind{k.Spec, k.Usage})
	if err != nil {
		t.Fatalf("Generate of another key = %v", err)
	}
	return other
}

// reason is why something is not supported.
func reason(err error) string {
	return strings.TrimPrefix(err.Error(), hsm.ErrUnsupported.Error()+": ")
}

// lacks says that the token has no mechanism for something, if that is the error;
// other errors end the part.
func lacks(t T, what string, err error) bool {
	if err == nil {
		return false
	}
	if !errors.Is(err, hsm.ErrUnsupported) {
		t.Fatalf("%s = %v", what, err)
	}
	t.Lacking("%s: %s", what, reason(err))
	return true
}

// refused reports a call that did not fail as it must.
func refused(t T, what string, got []byte, err error, want ...error) {
	fits := false
	for _, w := range want {
		fits = fits || errors.Is(err, w)
	}
	if !fits {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
	if len(got) != 0 {
		t.Errorf("%s returned %d bytes beside its error", what, len(got))
	}
}

// pattern is n bytes that are not all the same.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + 3)
	}
	return b
}

// eachFlip calls f with every single bit of b flipped, one after the other.
func eachFlip(b []byte, f func(bit int)) { someFlips(b, 8*len(b), f) }

// someFlips is eachFlip with about so many bits, spread over b, the first and the
// last among them.
func someFlips(b []byte, many int, f func(bit int)) {
	bits := 8 * len(b)
	if bits == 0 {
		return
	}
	step := max(1, bits/many)
	if step%8 == 0 {
		step++ // not the same bit of every byte
	}
	flip := func(bit int) {
		b[bit/8] ^= 1 << (bit % 8)
		f(bit)
		b[bit/8] ^= 1 << (bit % 8)
	}
	for bit := 0; bit < bits-1; bit += step {
		flip(bit)
	}
	flip(bits - 1)
}
