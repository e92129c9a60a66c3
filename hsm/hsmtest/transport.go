package hsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// parcelFlips is about how many bits of a parcel are flipped.
const parcelFlips = 32

// transport sends a key to the other store, where it must be the same, and sends
// what is not good.
func (s *suite) transport(t T, of kind) {
	k, ok := s.key(t, of)
	if !ok {
		return
	}
	in, ok := s.inputsOf(t, k)
	if !ok {
		return
	}
	if k.Residency == hsm.Resident {
		parcel, err := s.Token.Send(s.ctx, client, k, &hsm.Key{Spec: keyspec.RSA3072, Usage: keyspec.Transport})
		refused(t, "Send of a key that lives in the token", parcel, err, hsm.ErrUnsupported)
		if !s.Resident {
			t.Lacking("Send: such keys live in the token")
		}
		return
	}
	through, err := s.transportPair(t)
	if lacks(t, "a pair to travel to", err) {
		return
	}
	parcel, err := s.Token.Send(s.ctx, client, k, through)
	if lacks(t, "Send", err) {
		return
	}
	got, err := s.Token.Receive(s.ctx, client, through, parcel, s.arriving(k))
	if lacks(t, "Receive", err) {
		return
	}
	if err := s.Token.Receives(got.Store, got.Spec, got.Usage); err != nil {
		t.Errorf("Receives = %v, and a key was received", err)
	}
	want := s.arriving(k)
	want.Residency, want.Generation, want.Blob, want.Binding = hsm.Wrapped, got.Generation, got.Blob, got.Binding
	if !got.Equal(&want) || len(got.Blob) == 0 || len(got.Binding) == 0 || got.Generation < 1 {
		t.Fatalf("Receive = %+v, want %+v with its outcome", got, want)
	}
	s.works(t, &got, in)
	s.sameKeys(t, k, &got, in)
	s.badParcels(t, k, through, parcel)
}

// transportPair is a pair of the other store that all parts share. The error is
// ErrUnsupported; all others end the part.
func (s *suite) transportPair(t T) (*hsm.Key, error) {
	if s.through != nil {
		return s.through, nil
	}
	k := s.identity(kind{keyspec.RSA3072, keyspec.Transport})
	k.Store = s.OtherStore
	made, err := s.Token.Generate(s.ctx, hsm.Call{Account: client.Account, Class: hsm.Generation}, k)
	if errors.Is(err, hsm.ErrUnsupported) {
		return nil, err
	}
	if err != nil {
		t.Fatalf("Generate of a pair to travel to = %v", err)
	}
	s.through = &made
	return s.through, nil
}

// arriving is a key as it is received in the other store.
func (s *suite) arriving(k *hsm.Key) hsm.Key {
	a := *clone(k)
	a.Store, a.Region, a.Residency, a.Generation, a.Blob, a.Binding = s.OtherStore, "eu-west-1", "", 0, nil, nil
	return a
}

// tellTheSame are the operations that give the same with the same key and inputs.
var tellTheSame = []string{"Decrypt", "DecryptAsymmetric", "GenerateMAC", "DeriveSecret", "Decapsulate", "PublicKey"}

// sameKeys does with two rows of one key what is done with a key, with inputs that
// the first has made.
func (s *suite) sameKeys(t T, k, same *hsm.Key, in *inputs) {
	for _, o := range operationsOf(kind{k.Spec, k.Usage}) {
		want, err := o.do(s, k, in)
		if err != nil {
			t.Errorf("%s with the key = %v", o.name, err)
		}
		got, err := o.do(s, same, in)
		if err != nil || slices.Contains(tellTheSame, o.name) && !bytes.Equal(got, want) {
			t.Errorf("%s with the same key elsewhere = %d bytes, %v, want what the key gives", o.name, len(got), err)
		}
	}
}

// badParcels receives a parcel that was changed, and one for another key.
func (s *suite) badParcels(t T, k, through *hsm.Key, parcel []byte) {
	someFlips(parcel, parcelFlips, func(bit int) {
		got, err := s.Token.Receive(s.ctx, client, through, parcel, s.arriving(k))
		refused(t, fmt.Sprintf("Receive with bit %d of the parcel flipped", bit), got.Blob, err, hsm.ErrInvalidCiphertext)
	})
	got, err := s.Token.Receive(s.ctx, client, through, parcel[:len(parcel)-1], s.arriving(k))
	refused(t, "Receive of a parcel that was cut", got.Blob, err, hsm.ErrInvalidCiphertext)
	other := s.otherKey(t, k)
	another := s.arriving(k)
	another.MaterialID, another.PublicKey, another.CheckValue = other.MaterialID, other.PublicKey, other.CheckValue
	got, err = s.Token.Receive(s.ctx, client, through, parcel, another)
	refused(t, "Receive of another key's parcel", got.Blob, err, hsm.ErrWrongMaterial)
	forged := clone(through)
	forged.Usage = keyspec.ImportWrapping
	got, err = s.Token.Receive(s.ctx, client, forged, parcel, s.arriving(k))
	refused(t, "Receive through a pair for imports", got.Blob, err, hsm.ErrUnsupported)
}
