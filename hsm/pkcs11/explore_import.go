package pkcs11

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// incomingWraps are the mechanisms that may be AES key wrap with padding (RFC 5649),
// the best first.
var incomingWraps = []uint{mechAESKeyWrapKWP, mechAESKeyWrapPad, mechLunaAESKWP}

// pairsToWrapTo tries what needs a pair that others wrap to.
func (x *explorer) pairsToWrapTo() (err error) {
	k := hsm.Key{KeyID: "explored", Spec: keyspec.RSA2048, Usage: keyspec.ImportWrapping}
	t := keyTypes[k.Spec][k.Usage]
	if x.f.keys[keyID{k.Spec, keyspec.EncryptDecrypt}].Residency == Nowhere {
		return nil
	}
	key, err := x.sample(&t, &k)
	if err != nil {
		if broken(err) {
			return err
		}
		return nil
	}
	defer x.destroyAfter(key, &err)
	if err := x.imports(key, &k); err != nil {
		return err
	}
	return x.transports(key, &k)
}

// imports finds out how material under each wrapping algorithm gets in: secret keys
// by C_UnwrapKey where that works, and everything else with the RSA step alone in
// the token. Private keys come with an encoding around them that is checked here.
func (x *explorer) imports(key handle, k *hsm.Key) error {
	for _, row := range keyspec.WrappingAlgorithms {
		p := ImportProfile{Algorithm: row.Algorithm, Secrets: InToken, Pairs: Nowhere}
		if way := x.f.ways[wayID{keyspec.RSA2048, oaepAlgorithms[row.Hash]}].Private; way == InToken || way == RawInToken {
			p.Pairs = RawInToken
		}
		err := x.sure(func() error { return x.importWay(key, k, &row) })
		if broken(err) {
			return err
		}
		if err != nil {
			p.Secrets, p.Problem = p.Pairs, problemOf(err)
		}
		x.f.importing[row.Algorithm] = p
		x.f.profile.Imported = append(x.f.profile.Imported, p)
	}
	return nil
}

// importWay brings a known secret in, in the token, as an AES key and as an HMAC key.
func (x *explorer) importWay(wrapping handle, k *hsm.Key, row *keyspec.WrappingRow) error {
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	if !row.Hybrid {
		wrapped, err := encryptHere(public, row.Hash, knownKey[:])
		if err != nil {
			return err
		}
		return x.bringsKnown(wrapping, row, wrapped)
	}
	outer, err := encryptHere(public, row.Hash, outerKey[:])
	if err != nil {
		return err
	}
	inner, err := wrapPadded(outerKey[:], knownKey[:])
	if err != nil {
		return err
	}
	if x.f.importWrap != 0 {
		return x.bringsKnown(wrapping, row, slices.Concat(outer, inner))
	}
	for _, x.f.importWrap = range incomingWraps {
		e := x.bringsKnown(wrapping, row, slices.Concat(outer, inner))
		if e == nil || broken(e) {
			return e
		}
		if err == nil || errors.Is(e, errNoLength) { // which says more than that there is no such mechanism
			err = e
		}
	}
	x.f.importWrap = 0
	return err
}

// bringsKnown is nil if the known key comes out of what was wrapped, and nothing of
// what was damaged; it learns what the token says of that.
func (x *explorer) bringsKnown(wrapping handle, row *keyspec.WrappingRow, wrapped []byte) (err error) {
	secret, err := x.unwrapIncoming(wrapping, row, wrapped, template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_GENERIC_SECRET, may: maySign})
	if err != nil {
		return err
	}
	got, err := x.hmac(secret, crypto.SHA256, canary[:])
	if err == nil {
		err = x.tellsLength(secret)
	}
	x.destroyAfter(secret, &err)
	if err != nil {
		return err
	}
	want := hmac.New(sha256.New, knownKey[:])
	want.Write(canary[:])
	if !hmac.Equal(got, want.Sum(nil)) {
		return errOther
	}
	making := keyTypeAES
	making.valueLen = 0
	key, err := x.unwrapIncoming(wrapping, row, wrapped, making)
	if err != nil {
		return err
	}
	defer x.destroyAfter(key, &err)
	if err := x.isKnown(key); err != nil {
		return err
	}
	return x.refusesDamaged(wrapping, row, wrapped, making)
}

// tellsLength is nil if the token tells the length of the known key: without that,
// material of another length than it should have would get in.
func (x *explorer) tellsLength(secret handle) error {
	if n, err := x.secretLength(secret); err != nil || n != len(knownKey) {
		return cmp.Or(err, errNoLength)
	}
	return nil
}

var errNoLength = errors.New("the token does not tell the length of what it unwraps")

// refusesDamaged is nil if the token makes nothing of material that was changed at
// its beginning or at its end.
func (x *explorer) refusesDamaged(wrapping handle, row *keyspec.WrappingRow, wrapped []byte, making template) error {
	for _, at := range []int{1, len(wrapped) - 1} {
		bad := bytes.Clone(wrapped)
		bad[at] ^= 1
		key, err := x.unwrapIncoming(wrapping, row, bad, making)
		if err == nil {
			x.destroyAfter(key, &err)
			return errOther
		}
		learn(&x.f.badWrapped, err)
	}
	return nil
}
