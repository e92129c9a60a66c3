package hsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// edits are what somebody with access to the rows could do to a key. Every
// one must be refused, whether the honest key is cached or not.
var edits = map[string]func(s *suite, k, other *hsm.Key){
	"other key id":         func(_ *suite, k, other *hsm.Key) { k.KeyID = other.KeyID },
	"other account":        func(_ *suite, k, _ *hsm.Key) { k.Account = "444455556666" },
	"other region":         func(_ *suite, k, _ *hsm.Key) { k.Region = "eu-west-1" },
	"other store":          func(s *suite, k, _ *hsm.Key) { k.Store = s.OtherStore },
	"other material id":    func(_ *suite, k, other *hsm.Key) { k.MaterialID = other.MaterialID },
	"retyped as HMAC":      func(_ *suite, k, _ *hsm.Key) { k.Spec = keyspec.HMAC256 },
	"other usage":          func(_ *suite, k, _ *hsm.Key) { k.Usage = keyspec.GenerateVerifyMAC },
	"retyped with usage":   func(_ *suite, k, _ *hsm.Key) { k.Spec, k.Usage = keyspec.HMAC256, keyspec.GenerateVerifyMAC },
	"other origin":         func(_ *suite, k, _ *hsm.Key) { k.Origin = keyspec.External },
	"other residency":      func(_ *suite, k, _ *hsm.Key) { k.Residency = hsm.Resident },
	"no generation":        func(_ *suite, k, _ *hsm.Key) { k.Generation = 0 },
	"negative generation":  func(_ *suite, k, _ *hsm.Key) { k.Generation = -1 },
	"a public key":         func(_ *suite, k, _ *hsm.Key) { k.PublicKey = []byte{1} },
	"no blob":              func(_ *suite, k, _ *hsm.Key) { k.Blob = nil },
	"empty blob":           func(_ *suite, k, _ *hsm.Key) { k.Blob = []byte{} },
	"blob of another key":  func(_ *suite, k, other *hsm.Key) { k.Blob = other.Blob },
	"no check value":       func(_ *suite, k, _ *hsm.Key) { k.CheckValue = nil },
	"check value of other": func(_ *suite, k, other *hsm.Key) { k.CheckValue = other.CheckValue },
	"no binding":           func(_ *suite, k, _ *hsm.Key) { k.Binding = nil },
	"binding of another":   func(_ *suite, k, other *hsm.Key) { k.Binding = other.Binding },
	"longer binding":       func(_ *suite, k, _ *hsm.Key) { k.Binding = append(bytes.Clone(k.Binding), 0) },
	"bytes moved from region to account": func(_ *suite, k, _ *hsm.Key) {
		k.Region, k.Account = k.Region[:1], k.Region[1:]+k.Account
	},
	"bytes moved from check value to blob": func(_ *suite, k, _ *hsm.Key) {
		k.CheckValue, k.Blob = k.CheckValue[:50], append(bytes.Clone(k.CheckValue[50:]), k.Blob...)
	},
	"blob and check value of another": func(_ *suite, k, other *hsm.Key) {
		k.Blob, k.CheckValue = other.Blob, other.CheckValue
	},
	"everything of another under its own name": func(_ *suite, k, other *hsm.Key) {
		k.MaterialID, k.Blob, k.CheckValue, k.Binding = other.MaterialID, other.Blob, other.CheckValue, other.Binding
	},
}

func clone(k *hsm.Key) *hsm.Key {
	c := *k
	c.Blob, c.CheckValue, c.Binding = bytes.Clone(k.Blob), bytes.Clone(k.CheckValue), bytes.Clone(k.Binding)
	return &c
}

func (s *suite) editedKey(t T) {
	k, other := s.generate(t), s.generate(t)
	for name, edit := range edits {
		for _, cached := range []bool{false, true} {
			if cached {
				s.encrypt(t, k, []byte("x"), nil)
			}
			forged := clone(k)
			edit(s, forged, other)
			c, err := s.Token.Encrypt(s.ctx, client, forged, []byte("x"), nil)
			refused(t, fmt.Sprintf("Encrypt with %s (cached: %v)", name, cached), c.Data, err, hsm.ErrBinding)
		}
	}
	// A generation that is not here may be one that has yet to be loaded.
	forged := clone(k)
	forged.Generation = 99
	if c, err := s.Token.Encrypt(s.ctx, client, forged, []byte("x"), nil); err == nil {
		t.Errorf("Encrypt with an unknown generation = %d bytes, want an error", len(c.Data))
	}
	s.encrypt(t, k, []byte("x"), nil)
}

func (s *suite) flippedKey(t T) {
	k := s.generate(t)
	c := s.encrypt(t, k, []byte("x"), nil)
	forged := clone(k)
	for name, part := range map[string][]byte{
		"blob": forged.Blob, "binding": forged.Binding, "check value": forged.CheckValue, "material id": forged.MaterialID[:],
	} {
		eachFlip(part, func(bit int) {
			got, err := s.Token.Decrypt(s.ctx, client, forged, c, nil)
			refused(t, fmt.Sprintf("Decrypt with bit %d of %s flipped", bit, name), got, err, hsm.ErrBinding)
		})
	}
}

// swappedKey uses two honest keys in turn: neither may ever serve for the other.
func (s *suite) swappedKey(t T) {
	a, b := s.generate(t), s.generate(t)
	c := s.encrypt(t, a, []byte("for a"), nil)
	for range 20 {
		got, err := s.Token.Decrypt(s.ctx, client, b, c, nil)
		refused(t, "Decrypt under b", got, err, hsm.ErrInvalidCiphertext)
		if got, err := s.Token.Decrypt(s.ctx, client, a, c, nil); err != nil || string(got) != "for a" {
			t.Errorf("Decrypt under a = %q, %v", got, err)
		}
	}
}

func (s *suite) unsupportedKey(t T) {
	for _, edit := range []func(*hsm.Key){
		func(k *hsm.Key) { k.Spec = "NO_SUCH_SPEC" },
		func(k *hsm.Key) { k.Spec = "" },
		func(k *hsm.Key) { k.Usage = keyspec.KeyAgreement },
		func(k *hsm.Key) { k.Origin = keyspec.External },
	} {
		k := s.identity(t)
		edit(&k)
		got, err := s.Token.Generate(s.ctx, client, k)
		refused(t, fmt.Sprintf("Generate(%s, %s, %s)", k.Spec, k.Usage, k.Origin), got.Blob, err, hsm.ErrUnsupported)
	}
}

func (s *suite) seal(t T) {
	for _, size := range []int{0, 1, 40, 4096} {
		sealed, err := s.Token.Seal(s.ctx, client, s.Store, pattern(size), []byte("aad"))
		if err != nil {
			t.Fatalf("Seal(%d bytes) = %v", size, err)
		}
		got, err := s.Token.Open(s.ctx, client, sealed, []byte("aad"))
		if err != nil || !bytes.Equal(got, pattern(size)) {
			t.Errorf("Open(Seal(%d bytes)) = %d bytes, %v", size, len(got), err)
		}
		got, err = s.Token.Open(s.ctx, client, sealed, []byte("AAD"))
		refused(t, "Open with another aad", got, err, hsm.ErrInvalidCiphertext)
	}
	got, err := s.Token.Seal(s.ctx, client, s.Store, pattern(4097), nil)
	refused(t, "Seal(4097 bytes)", got, err, hsm.ErrUnsupported)
	got, err = s.Token.Seal(s.ctx, client, "no-such-store", []byte("x"), nil)
	refused(t, "Seal for an unknown store", got, err, hsm.ErrUnavailable)
}

func (s *suite) flippedSeal(t T) {
	sealed, err := s.Token.Seal(s.ctx, client, s.Store, []byte("secret"), nil)
	if err != nil {
		t.Fatalf("Seal = %v", err)
	}
	eachFlip(sealed, func(bit int) {
		got, err := s.Token.Open(s.ctx, client, sealed, nil)
		refused(t, fmt.Sprintf("Open with bit %d flipped", bit), got, err, hsm.ErrInvalidCiphertext)
	})
	for n := range sealed {
		got, err := s.Token.Open(s.ctx, client, sealed[:n], nil)
		refused(t, fmt.Sprintf("Open of the first %d bytes", n), got, err, hsm.ErrInvalidCiphertext)
	}
	got, err := s.Token.Open(s.ctx, client, append(bytes.Clone(sealed), 0), nil)
	refused(t, "Open of a longer value", got, err, hsm.ErrInvalidCiphertext)
	relabelled := bytes.Replace(sealed, []byte(s.Store), []byte(s.OtherStore), 1)
	relabelled[1] = byte(len(s.OtherStore))
	got, err = s.Token.Open(s.ctx, client, relabelled, nil)
	refused(t, "Open with another store's name", got, err, hsm.ErrInvalidCiphertext)
}

func (s *suite) manyKeysAtOnce(t T) {
	keys := make([]*hsm.Key, 3*s.Handles)
	for i := range keys {
		keys[i] = s.generate(t)
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 4 * len(keys) {
				k := keys[(i*(worker+1)+worker)%len(keys)]
				want := []byte(k.KeyID)
				c, err := s.Token.Encrypt(s.ctx, client, k, want, nil)
				if err != nil {
					t.Errorf("Encrypt = %v", err)
					return
				}
				if got, err := s.Token.Decrypt(s.ctx, client, k, c, nil); err != nil || !bytes.Equal(got, want) {
					t.Errorf("Decrypt = %q, %v, want %q", got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (s *suite) rewrap(t T) {
	k, other := s.generate(t), s.generate(t)
	if k.Generation != 1 {
		t.Fatalf("Generation = %d before another was added, want 1", k.Generation)
	}
	c := s.encrypt(t, k, []byte("made under generation 1"), nil)
	if got, err := s.Rewrap(s.ctx, client, k, 2); err == nil {
		t.Errorf("Rewrap to a generation that is not there = %+v, want an error", got)
	}
	if err := s.AddGeneration(s.ctx); err != nil {
		t.Fatalf("AddGeneration = %v", err)
	}
	s.forgedRewraps(t, k, other)
	moved, err := s.Rewrap(s.ctx, hsm.Call{Class: hsm.Background}, k, 2)
	if err != nil {
		t.Fatalf("Rewrap = %v", err)
	}
	if moved.Generation != 2 || moved.MaterialID != k.MaterialID || bytes.Equal(moved.Blob, k.Blob) || bytes.Equal(moved.Binding, k.Binding) {
		t.Errorf("Rewrap = %+v, want another blob and binding of generation 2", moved)
	}
	for name, key := range map[string]*hsm.Key{"old": k, "moved": &moved} {
		got, err := s.Token.Decrypt(s.ctx, client, key, c, nil)
		if err != nil || string(got) != "made under generation 1" {
			t.Errorf("Decrypt with the %s row = %q, %v", name, got, err)
		}
	}
	if fresh := s.generate(t); fresh.Generation != 2 {
		t.Errorf("Generation of a new key = %d, want 2", fresh.Generation)
	}
	forged := clone(k)
	forged.Generation = 2
	got, err := s.Token.Encrypt(s.ctx, client, forged, []byte("x"), nil)
	refused(t, "Encrypt with the old blob as generation 2", got.Data, err, hsm.ErrBinding)
	back, err := s.Rewrap(s.ctx, client, &moved, 1)
	if err != nil || back.Generation != 1 {
		t.Errorf("Rewrap back = generation %d, %v", back.Generation, err)
	}
}

// forgedRewraps: the mover must not make an honest row of a forged one.
func (s *suite) forgedRewraps(t T, k, other *hsm.Key) {
	for name, edit := range edits {
		forged := clone(k)
		edit(s, forged, other)
		if got, err := s.Rewrap(s.ctx, client, forged, 2); !errors.Is(err, hsm.ErrBinding) || got.Blob != nil {
			t.Errorf("Rewrap with %s = %+v, %v, want %v", name, got, err, hsm.ErrBinding)
		}
	}
	forged := clone(k)
	for name, part := range map[string][]byte{"blob": forged.Blob, "binding": forged.Binding, "check value": forged.CheckValue} {
		eachFlip(part, func(bit int) {
			if bit%13 != 0 {
				return
			}
			if _, err := s.Rewrap(s.ctx, client, forged, 2); !errors.Is(err, hsm.ErrBinding) {
				t.Errorf("Rewrap with bit %d of %s flipped = %v, want %v", bit, name, err, hsm.ErrBinding)
			}
		})
	}
}
