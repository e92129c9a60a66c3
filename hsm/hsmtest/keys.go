package hsmtest

import (
	"bytes"
	"fmt"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// edits are what somebody with access to the rows could do to a key. Every
// one that changes something must be refused, whether the honest key is cached or
// not. The other key is one of the same spec.
var edits = map[string]func(s *suite, k, other *hsm.Key){
	"other key id":          func(_ *suite, k, other *hsm.Key) { k.KeyID = other.KeyID },
	"other account":         func(_ *suite, k, _ *hsm.Key) { k.Account = "444455556666" },
	"other region":          func(_ *suite, k, _ *hsm.Key) { k.Region = "eu-west-1" },
	"other store":           func(s *suite, k, _ *hsm.Key) { k.Store = s.OtherStore },
	"other material id":     func(_ *suite, k, other *hsm.Key) { k.MaterialID = other.MaterialID },
	"retyped as HMAC":       func(_ *suite, k, _ *hsm.Key) { k.Spec = keyspec.HMAC256 },
	"retyped as AES":        func(_ *suite, k, _ *hsm.Key) { k.Spec, k.Usage = symmetric.spec, symmetric.usage },
	"usage of another":      func(_ *suite, k, other *hsm.Key) { k.Usage = other.Usage },
	"other usage":           func(_ *suite, k, _ *hsm.Key) { k.Usage = keyspec.GenerateVerifyMAC },
	"retyped with usage":    func(_ *suite, k, _ *hsm.Key) { k.Spec, k.Usage = keyspec.HMAC256, keyspec.GenerateVerifyMAC },
	"other origin":          func(_ *suite, k, _ *hsm.Key) { k.Origin = keyspec.External },
	"other residency":       func(_ *suite, k, _ *hsm.Key) { k.Residency = otherResidency[k.Residency] },
	"no residency":          func(_ *suite, k, _ *hsm.Key) { k.Residency = "" },
	"no generation":         func(_ *suite, k, _ *hsm.Key) { k.Generation = 0 },
	"negative generation":   func(_ *suite, k, _ *hsm.Key) { k.Generation = -1 },
	"a public key":          func(_ *suite, k, _ *hsm.Key) { k.PublicKey = []byte{1} },
	"no public key":         func(_ *suite, k, _ *hsm.Key) { k.PublicKey = nil },
	"longer public key":     func(_ *suite, k, _ *hsm.Key) { k.PublicKey = append(bytes.Clone(k.PublicKey), 0) },
	"public key of another": func(_ *suite, k, other *hsm.Key) { k.PublicKey = other.PublicKey },
	"no blob":               func(_ *suite, k, _ *hsm.Key) { k.Blob = nil },
	"empty blob":            func(_ *suite, k, _ *hsm.Key) { k.Blob = []byte{} },
	"cut blob":              func(_ *suite, k, _ *hsm.Key) { k.Blob = k.Blob[:len(k.Blob)-1] },
	"longer blob":           func(_ *suite, k, _ *hsm.Key) { k.Blob = append(bytes.Clone(k.Blob), 0) },
	"blob of another key":   func(_ *suite, k, other *hsm.Key) { k.Blob = other.Blob },
	"no check value":        func(_ *suite, k, _ *hsm.Key) { k.CheckValue = nil },
	"check value of other":  func(_ *suite, k, other *hsm.Key) { k.CheckValue = other.CheckValue },
	"no binding":            func(_ *suite, k, _ *hsm.Key) { k.Binding = nil },
	"binding of another":    func(_ *suite, k, other *hsm.Key) { k.Binding = other.Binding },
	"longer binding":        func(_ *suite, k, _ *hsm.Key) { k.Binding = append(bytes.Clone(k.Binding), 0) },
	"bytes moved from region to account": func(_ *suite, k, _ *hsm.Key) {
		k.Region, k.Account = k.Region[:1], k.Region[1:]+k.Account
	},
	"bytes moved from check value to blob": func(_ *suite, k, _ *hsm.Key) {
		half := len(k.CheckValue) / 2
		k.CheckValue, k.Blob = k.CheckValue[:half], append(bytes.Clone(k.CheckValue[half:]), k.Blob...)
	},
	"bytes moved from public key to blob": func(_ *suite, k, _ *hsm.Key) {
		half := len(k.PublicKey) / 2
		k.PublicKey, k.Blob = k.PublicKey[:half], append(bytes.Clone(k.PublicKey[half:]), k.Blob...)
	},
	"blob and check value of another": func(_ *suite, k, other *hsm.Key) {
		k.Blob, k.CheckValue = other.Blob, other.CheckValue
	},
	"blob and public key of another": func(_ *suite, k, other *hsm.Key) {
		k.Blob, k.PublicKey = other.Blob, other.PublicKey
	},
	"everything of another under its own name": func(_ *suite, k, other *hsm.Key) {
		k.MaterialID, k.Blob, k.PublicKey, k.CheckValue, k.Binding = other.MaterialID, other.Blob, other.PublicKey, other.CheckValue, other.Binding
	},
}

var otherResidency = map[hsm.Residency]hsm.Residency{hsm.Wrapped: hsm.Resident, hsm.Resident: hsm.Wrapped}

func clone(k *hsm.Key) *hsm.Key {
	c := *k
	c.Blob, c.PublicKey = bytes.Clone(k.Blob), bytes.Clone(k.PublicKey)
	c.CheckValue, c.Binding = bytes.Clone(k.CheckValue), bytes.Clone(k.Binding)
	return &c
}

// keyFlips is about how many bits of each member of a row are flipped.
const keyFlips = 128

// editedRows uses a key by rows that somebody has changed.
func (s *suite) editedRows(t T, of kind) {
	kept, ok := s.key(t, of)
	if !ok {
		return
	}
	in, ok := s.inputsOf(t, kept)
	if !ok {
		return
	}
	k := kept
	if _, slow := modulusBytes[of.spec]; !slow {
		var err error
		if k, err = s.generateKind(t, of); err != nil { // one that nobody has used yet
			t.Fatalf("Generate of another key = %v", err)
		}
	}
	other := s.otherKey(t, k)
	for _, cached := range []bool{false, true} {
		if cached {
			s.works(t, k, in)
		}
		for name, edit := range edits {
			forged := clone(k)
			edit(s, forged, other)
			if !forged.Equal(k) {
				s.forged(t, fmt.Sprintf("%s, the honest key in use: %t", name, cached), k, forged, in)
			}
		}
	}
	s.flippedRow(t, k, in)
	// A generation that is not here may be one that has yet to be loaded.
	unknown := clone(k)
	unknown.Generation = 99
	for _, o := range operationsOf(of) {
		if got, err := o.do(s, unknown, in); err == nil || len(got) > 0 {
			t.Errorf("%s with an unknown generation = %d bytes, %v, want an error", o.name, len(got), err)
		}
	}
	s.works(t, k, in)
}

// forged does with a forged row everything that is done with the honest key, and
// with a key of the kind that it pretends to be.
func (s *suite) forged(t T, what string, k, forged *hsm.Key, in *inputs) {
	was, is := kind{k.Spec, k.Usage}, kind{forged.Spec, forged.Usage}
	want := []error{hsm.ErrBinding}
	if is != was {
		want = append(want, hsm.ErrUnsupported, hsm.ErrInvalidSignature) // a signature of another form
	}
	if !bytes.Equal(forged.PublicKey, k.PublicKey) {
		// A public key that cannot be one, or that a ciphertext does not fit, is
		// refused before the token is asked for anything.
		want = append(want, hsm.ErrWrongMaterial, hsm.ErrInvalidCiphertext)
	}
	for _, o := range operations {
		if o.fits(was) || o.fits(is) {
			got, err := o.do(s, forged, in)
			refused(t, fmt.Sprintf("%s with a row with %s", o.name, what), got, err, want...)
		}
	}
}

// flippedRow flips bits of a row's members.
func (s *suite) flippedRow(t T, k *hsm.Key, in *inputs) {
	o := operationsOf(kind{k.Spec, k.Usage})[0]
	forged := clone(k)
	for name, part := range map[string][]byte{
		"blob": forged.Blob, "binding": forged.Binding, "check value": forged.CheckValue, "material id": forged.MaterialID[:],
	} {
		someFlips(part, keyFlips, func(bit int) {
			got, err := o.do(s, forged, in)
			refused(t, fmt.Sprintf("%s with bit %d of %s flipped", o.name, bit, name), got, err, hsm.ErrBinding)
		})
	}
	someFlips(forged.PublicKey, keyFlips, func(bit int) {
		got, err := s.Token.PublicKey(s.ctx, client, forged)
		refused(t, fmt.Sprintf("PublicKey with bit %d of it flipped", bit), got, err, hsm.ErrBinding)
	})
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
		k := s.identity(symmetric)
		edit(&k)
		got, err := s.Token.Generate(s.ctx, client, k)
		refused(t, fmt.Sprintf("Generate(%s, %s, %s)", k.Spec, k.Usage, k.Origin), got.Blob, err, hsm.ErrUnsupported)
	}
}
