// Package hsmtest is the conformance suite of [hsm.Token]: what the gateway
// relies on, asked of a real token. It runs in the tests of an engine and, by
// kmsgate hsm probe -exercise, on a customer's token. It trusts nothing but the
// interface, and takes some seconds on a token in software.
package hsmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
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
	// Store has service keys of generation 1, and OtherStore keys of its own.
	Store, OtherStore string
	// AddGeneration puts generation 2 of Store's service keys in service.
	AddGeneration func(context.Context) error
	// Rewrap moves a key to another generation.
	Rewrap func(ctx context.Context, on hsm.Call, k *hsm.Key, generation int32) (hsm.Key, error)
	// Handles is how many unwrapped keys the engine caches; the suite uses
	// three times as many keys at once.
	Handles int
	// Close ends the service. It is called once, at the end.
	Close func()
}

// timeout is that of every call of the suite.
const timeout = 30 * time.Second

// suite is one run.
type suite struct {
	Fixture
	ctx context.Context
}

// Exercise asks of a token everything that the gateway relies on.
func Exercise(t T, open func() Fixture) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*timeout)
	defer cancel()
	s := &suite{Fixture: open(), ctx: ctx}
	defer s.Close()
	for _, part := range []struct {
		name string
		run  func(T)
	}{
		{"Check", s.check},
		{"RoundTrip", s.roundTrip},
		{"OtherAdditionalData", s.otherAdditionalData},
		{"FlippedCiphertext", s.flippedCiphertext},
		{"MalformedCiphertext", s.malformedCiphertext},
		{"FreshIVs", s.freshIVs},
		{"EditedKey", s.editedKey},
		{"FlippedKey", s.flippedKey},
		{"SwappedKey", s.swappedKey},
		{"UnsupportedKey", s.unsupportedKey},
		{"Random", s.random},
		{"Seal", s.seal},
		{"FlippedSeal", s.flippedSeal},
		{"EndedContext", s.endedContext},
		{"ManyKeysAtOnce", s.manyKeysAtOnce},
		{"Rewrap", s.rewrap}, // last: it adds a generation
	} {
		t.Run(part.name, part.run)
	}
}

// client is the account of the suite's keys.
var client = hsm.Call{Account: "111122223333", Class: hsm.Interactive}

// identity is a key to be generated.
func (s *suite) identity(t T) hsm.Key {
	var id [16]byte
	k := hsm.Key{
		Store: s.Store, Region: "us-east-1", Account: client.Account,
		Spec: keyspec.SymmetricDefault, Usage: keyspec.EncryptDecrypt, Origin: keyspec.AWSKMS,
	}
	if _, err := rand.Read(id[:]); err != nil {
		t.Fatalf("random: %v", err)
	}
	if _, err := rand.Read(k.MaterialID[:]); err != nil {
		t.Fatalf("random: %v", err)
	}
	k.KeyID = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	return k
}

func (s *suite) generate(t T) *hsm.Key {
	want := s.identity(t)
	k, err := s.Token.Generate(s.ctx, hsm.Call{Account: client.Account, Class: hsm.Generation}, want)
	if err != nil {
		t.Fatalf("Generate = %v", err)
	}
	if k.KeyID != want.KeyID || k.MaterialID != want.MaterialID || k.Store != want.Store || k.Residency == "" ||
		k.Generation < 1 || len(k.Blob) == 0 || len(k.CheckValue) == 0 || len(k.Binding) == 0 || k.PublicKey != nil {
		t.Fatalf("Generate = %+v, want %+v with its outcome", k, want)
	}
	return &k
}

func (s *suite) encrypt(t T, k *hsm.Key, plaintext, aad []byte) hsm.Ciphertext {
	c, err := s.Token.Encrypt(s.ctx, client, k, plaintext, aad)
	if err != nil {
		t.Fatalf("Encrypt = %v", err)
	}
	return c
}

// refused reports a call that did not fail as it must.
func refused(t T, what string, got []byte, err, want error) {
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
	if len(got) != 0 {
		t.Errorf("%s returned %d bytes beside its error", what, len(got))
	}
}

func (s *suite) check(t T) {
	if err := s.Token.Check(s.ctx); err != nil {
		t.Errorf("Check = %v", err)
	}
}

func (s *suite) roundTrip(t T) {
	k := s.generate(t)
	for _, size := range []int{1, 2, 15, 16, 17, 32, 1000, 4095, 4096} {
		for _, aadSize := range []int{0, 1, 64, 8192} {
			plaintext, aad := pattern(size), pattern(aadSize)
			c := s.encrypt(t, k, plaintext, aad)
			if len(c.Data) != size+16 || (len(c.IV) != 12 && len(c.IV) != 16) {
				t.Errorf("Encrypt(%d bytes) = %d bytes with an IV of %d", size, len(c.Data), len(c.IV))
			}
			got, err := s.Token.Decrypt(s.ctx, client, k, c, aad)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("Decrypt(Encrypt(%d bytes, aad %d)) = %d bytes, %v", size, aadSize, len(got), err)
			}
			if !bytes.Equal(plaintext, pattern(size)) || !bytes.Equal(aad, pattern(aadSize)) {
				t.Errorf("Encrypt changed its input")
			}
		}
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

func (s *suite) otherAdditionalData(t T) {
	k, other := s.generate(t), s.generate(t)
	c := s.encrypt(t, k, []byte("secret"), []byte("context"))
	for _, aad := range []string{"", "contex", "context ", "Context"} {
		got, err := s.Token.Decrypt(s.ctx, client, k, c, []byte(aad))
		refused(t, fmt.Sprintf("Decrypt with aad %q", aad), got, err, hsm.ErrInvalidCiphertext)
	}
	got, err := s.Token.Decrypt(s.ctx, client, other, c, []byte("context"))
	refused(t, "Decrypt under another key", got, err, hsm.ErrInvalidCiphertext)
}

func (s *suite) flippedCiphertext(t T) {
	k := s.generate(t)
	c := s.encrypt(t, k, pattern(32), []byte("aad"))
	for name, part := range map[string][]byte{"IV": c.IV, "data": c.Data} {
		eachFlip(part, func(bit int) {
			got, err := s.Token.Decrypt(s.ctx, client, k, c, []byte("aad"))
			refused(t, fmt.Sprintf("Decrypt with bit %d of %s flipped", bit, name), got, err, hsm.ErrInvalidCiphertext)
		})
	}
	if _, err := s.Token.Decrypt(s.ctx, client, k, c, []byte("aad")); err != nil {
		t.Errorf("Decrypt of the unchanged ciphertext = %v", err)
	}
}

// eachFlip calls f with every single bit of b flipped, one after the other.
func eachFlip(b []byte, f func(bit int)) {
	for bit := range 8 * len(b) {
		b[bit/8] ^= 1 << (bit % 8)
		f(bit)
		b[bit/8] ^= 1 << (bit % 8)
	}
}

func (s *suite) malformedCiphertext(t T) {
	k := s.generate(t)
	good := s.encrypt(t, k, pattern(20), nil)
	for name, c := range map[string]hsm.Ciphertext{
		"nothing":          {},
		"no IV":            {Data: good.Data},
		"no data":          {IV: good.IV},
		"empty IV":         {IV: []byte{}, Data: good.Data},
		"IV of 11":         {IV: make([]byte, 11), Data: good.Data},
		"IV of 13":         {IV: make([]byte, 13), Data: good.Data},
		"IV of 17":         {IV: make([]byte, 17), Data: good.Data},
		"IV of zeros":      {IV: make([]byte, 12), Data: good.Data},
		"long IV of zeros": {IV: make([]byte, 16), Data: good.Data},
		"data of 15":       {IV: good.IV, Data: good.Data[:15]},
		"only a tag":       {IV: good.IV, Data: good.Data[20:]},
		"cut":              {IV: good.IV, Data: good.Data[:len(good.Data)-1]},
		"longer":           {IV: good.IV, Data: append(bytes.Clone(good.Data), 0)},
		"huge":             {IV: good.IV, Data: make([]byte, 1<<20)},
	} {
		got, err := s.Token.Decrypt(s.ctx, client, k, c, nil)
		refused(t, "Decrypt of "+name, got, err, hsm.ErrInvalidCiphertext)
	}
}

func (s *suite) freshIVs(t T) {
	k := s.generate(t)
	seen := map[string]bool{}
	for range 2000 {
		iv := string(s.encrypt(t, k, []byte("x"), nil).IV)
		if seen[iv] {
			t.Fatalf("IV %x was used twice", iv)
		}
		seen[iv] = true
	}
}

func (s *suite) random(t T) {
	seen := map[string]bool{}
	for _, n := range []int{1, 16, 32, 1000, 1024} {
		b, err := s.Token.Random(s.ctx, client, n)
		if err != nil || len(b) != n {
			t.Errorf("Random(%d) = %d bytes, %v", n, len(b), err)
		}
		if n >= 16 && seen[string(b[:16])] {
			t.Errorf("Random repeats itself")
		}
		if n >= 16 {
			seen[string(b[:16])] = true
		}
	}
	for _, n := range []int{-1, 0, 1025, 1 << 30} {
		b, err := s.Token.Random(s.ctx, client, n)
		refused(t, fmt.Sprintf("Random(%d)", n), b, err, hsm.ErrUnsupported)
	}
}

func (s *suite) endedContext(t T) {
	k := s.generate(t)
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	late, cancel := context.WithDeadline(s.ctx, time.Unix(1, 0))
	defer cancel()
	for name, ctx := range map[string]context.Context{"cancelled": cancelled, "late": late} {
		c, err := s.Token.Encrypt(ctx, client, k, []byte("x"), nil)
		refused(t, name+" Encrypt", c.Data, err, hsm.ErrDeadline)
		b, err := s.Token.Random(ctx, client, 8)
		refused(t, name+" Random", b, err, hsm.ErrDeadline)
		_, err = s.Token.Generate(ctx, client, s.identity(t))
		refused(t, name+" Generate", nil, err, hsm.ErrDeadline)
	}
	s.encrypt(t, k, []byte("x"), nil)
}
