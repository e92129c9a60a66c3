package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm/pqtoken"
)

// farStore is the store of the token that keys travel to.
const farStore = "far"

// addStore makes service keys for one more store in a token.
func addStore(t *testing.T, e *Engine, store string) {
	t.Helper()
	_, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(store, 1))
	must(t, err)
}

// transportPair makes a pair that keys travel to.
func transportPair(t *testing.T, e *Engine, store string, spec keyspec.Spec) *hsm.Key {
	t.Helper()
	k := newKey("transport")
	k.Store, k.Spec, k.Usage = store, spec, keyspec.Transport
	made, err := e.Generate(t.Context(), client, k)
	must(t, err)
	return &made
}

// arriving is a sent key as it is to be received.
func arriving(sent *hsm.Key) hsm.Key {
	k := cloneKey(sent)
	k.Store, k.Region, k.Generation, k.Residency, k.Blob, k.Binding = farStore, "eu-west-1", 0, "", nil, nil
	return k
}

// send has one token send a key and another receive it.
func send(t *testing.T, from, to *Engine, k, through *hsm.Key) (hsm.Key, error) {
	t.Helper()
	parcel, err := from.Send(t.Context(), client, k, through)
	if err != nil {
		return hsm.Key{}, err
	}
	return to.Receive(t.Context(), client, through, parcel, arriving(k))
}

// travelled wants a key that has travelled to be the one that was sent, and both to
// work for each other.
func travelled(t *testing.T, from, to *Engine, sent, got *hsm.Key) {
	t.Helper()
	want := arriving(sent)
	named := cloneKey(got)
	named.Residency, named.Generation, named.Blob, named.Binding = "", 0, nil, nil
	if !named.Equal(&want) || got.Residency != hsm.Wrapped || got.Generation != 1 || len(got.Blob) == 0 || bytes.Equal(got.Blob, sent.Blob) {
		t.Fatalf("Receive = %+v, want %+v with its outcome", got, want)
	}
	row, _ := keyspec.Lookup(sent.Spec)
	a := row.Algorithms[sent.Usage][0]
	for _, way := range []struct {
		one, other   *Engine
		mine, theirs *hsm.Key
	}{{from, to, sent, got}, {to, from, got, sent}} {
		servesFor(t, way.one, way.other, way.mine, way.theirs, a)
	}
}

// servesFor does something with a key in one token and undoes it in another.
func servesFor(t *testing.T, one, other *Engine, mine, theirs *hsm.Key, a keyspec.Algorithm) {
	t.Helper()
	ctx, text := t.Context(), []byte("message")
	switch {
	case mine.Spec == keyspec.SymmetricDefault:
		c, err := one.Encrypt(ctx, client, mine, text, nil)
		must(t, err)
		got, err := other.Decrypt(ctx, client, theirs, c, nil)
		must(t, err)
		same(t, got, text)
	case mine.Usage == keyspec.EncryptDecrypt:
		c, err := one.EncryptAsymmetric(ctx, client, mine, a, text)
		must(t, err)
		got, err := other.DecryptAsymmetric(ctx, client, theirs, a, c)
		must(t, err)
		same(t, got, text)
	case mine.Usage == keyspec.SignVerify:
		signature, err := one.Sign(ctx, client, mine, a, keyspec.Raw, text)
		must(t, err)
		must(t, other.Verify(ctx, client, theirs, a, keyspec.Raw, text, signature))
	case mine.Usage == keyspec.GenerateVerifyMAC:
		mac, err := one.GenerateMAC(ctx, client, mine, a, text)
		must(t, err)
		must(t, other.VerifyMAC(ctx, client, theirs, a, text, mac))
	case mine.Usage == keyspec.KeyAgreement:
		secret, peer := agreeWith(t, one, mine)
		got, err := other.DeriveSecret(ctx, client, theirs, peer)
		must(t, err)
		same(t, got, secret)
	default:
		secret, encapsulation, err := one.Encapsulate(ctx, client, mine)
		must(t, err)
		got, err := other.Decapsulate(ctx, client, theirs, encapsulation)
		must(t, err)
		same(t, got, secret)
	}
}

func same(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// kindsOf are the specs and usages of which a token wraps keys.
func kindsOf(e *Engine) (kinds []keyID) {
	for _, k := range e.Profile().Keys {
		if k.Residency == string(hsm.Wrapped) {
			kinds = append(kinds, keyID{k.Spec, k.Usage})
		}
	}
	return kinds
}

// TestKeysTravel sends a key of every kind that SoftHSM wraps from one store to
// another, and uses both. Nothing of it is done outside the token.
func TestKeysTravel(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.Strict = true })
	addStore(t, e, farStore)
	if stay := travelAll(t, e, e, transportPair(t, e, farStore, keyspec.RSA3072)); len(stay) > 0 {
		t.Errorf("keys of %v do not travel", stay)
	}
	k := makeKey(t, e, keyspec.RSA4096, keyspec.SignVerify)
	got, err := send(t, e, e, k, transportPair(t, e, farStore, keyspec.RSA4096))
	must(t, err)
	travelled(t, e, e, k, &got)
}

// travelAll sends a key of every kind that the first token wraps to the second and
// returns the kinds that do not travel. RSA keys of one size stand for all.
func travelAll(t *testing.T, from, to *Engine, through *hsm.Key) (stay []keyID) {
	t.Helper()
	for _, of := range kindsOf(from) {
		if sameFamily[of.spec] != "" {
			continue
		}
		t.Run(fmt.Sprint(of.spec, of.usage), func(t *testing.T) {
			k := makeKey(t, from, of.spec, of.usage)
			got, err := send(t, from, to, k, through)
			if errors.Is(err, hsm.ErrUnsupported) {
				stay = append(stay, of)
				return
			}
			must(t, err)
			travelled(t, from, to, k, &got)
		})
	}
	return stay
}

func TestPostQuantumKeysTravel(t *testing.T) {
	p := openPostQuantum(t, pqtoken.Config{Wraps: true})
	addStore(t, p.Engine, farStore)
	if stay := travelAll(t, p.Engine, p.Engine, transportPair(t, p.Engine, farStore, keyspec.RSA3072)); len(stay) > 0 {
		t.Errorf("keys of %v do not travel", stay)
	}
	for spec := range postQuantumSpecs() {
		if p.findings.makes(spec, postQuantumSpecs()[spec]) != nil {
			t.Errorf("the token makes no %s keys", spec)
		}
	}
}

// TestKeysTravelToAnotherKindOfToken: SoftHSM wraps keys with padding of its own, and
// has OAEP with SHA-1 alone; NSS takes no EC keys.
func TestKeysTravelToAnotherKindOfToken(t *testing.T) {
	soft := openWithKeys(t, nil)
	nss, err := Open(t.Context(), newNSSToken(t))
	must(t, err)
	t.Cleanup(func() { must(t, nss.Close()) })
	addStore(t, soft, farStore)
	addStore(t, nss, farStore)
	addStore(t, nss, testStore)
	for name, c := range map[string]struct {
		from, to *Engine
		stay     []keyID
	}{
		"to NSS": {soft, nss, []keyID{
			{keyspec.ECCNISTP256, keyspec.SignVerify},
			{keyspec.ECCNISTP256, keyspec.KeyAgreement},
			{keyspec.ECCNISTP384, keyspec.SignVerify},
			{keyspec.ECCNISTP384, keyspec.KeyAgreement},
			{keyspec.ECCNISTP521, keyspec.SignVerify},
			{keyspec.ECCNISTP521, keyspec.KeyAgreement},
			{keyspec.ECCSECGP256K1, keyspec.SignVerify},
		}},
		"from NSS": {nss, soft, nil},
	} {
		t.Run(name, func(t *testing.T) {
			stay := travelAll(t, c.from, c.to, transportPair(t, c.to, farStore, keyspec.RSA3072))
			if !slices.Equal(stay, c.stay) {
				t.Errorf("keys of %v do not travel, want %v", stay, c.stay)
			}
		})
	}
}

// TestKeysThatStayDoNotTravel: neither do those that are no KMS keys.
func TestKeysThatStayDoNotTravel(t *testing.T) {
	e := openWithKeys(t, nil)
	addStore(t, e, farStore)
	through := transportPair(t, e, farStore, keyspec.RSA3072)
	imports := wrappingKey(t, e, keyspec.RSA3072)
	for what, k := range map[string]*hsm.Key{
		"of a resident key":    makeKey(t, e, keyspec.ECCNISTEdwards25519, keyspec.SignVerify),
		"of a transport pair":  through,
		"of a pair of imports": imports,
	} {
		got, err := e.Send(t.Context(), client, k, through)
		refusedWith(t, "Send "+what, got, err, hsm.ErrUnsupported)
	}
	k := generate(t, e, "k")
	small := cloneKey(through)
	small.Spec, small.PublicKey = keyspec.RSA2048, wrappingKey(t, e, keyspec.RSA2048).PublicKey
	retyped := cloneKey(through)
	retyped.PublicKey = small.PublicKey
	deaf := cloneKey(through)
	deaf.CheckValue = []byte{parcelVersion, 1, 1, 0}
	for what, c := range map[string]struct {
		to   hsm.Key
		want error
	}{
		"to a pair of imports":          {*imports, hsm.ErrUnsupported},
		"to a key that decrypts":        {*makeKey(t, e, keyspec.RSA3072, keyspec.EncryptDecrypt), hsm.ErrUnsupported},
		"to RSA-2048":                   {small, hsm.ErrUnsupported},
		"to another's public key":       {retyped, hsm.ErrInvalidPublicKey},
		"to a token that takes nothing": {deaf, hsm.ErrUnsupported},
	} {
		got, err := e.Send(t.Context(), client, k, &c.to)
		refusedWith(t, "Send "+what, got, err, c.want)
	}
	forged := cloneKey(k)
	forged.KeyID = "another"
	got, err := e.Send(t.Context(), client, &forged, through)
	refusedWith(t, "Send of a forged row", got, err, hsm.ErrBinding)
	_, err = e.Import(t.Context(), client, through, keyspec.WrapOAEPSHA1, make([]byte, 384), externalKey(keyspec.SymmetricDefault, keyspec.EncryptDecrypt))
	refusedWith(t, "Import through a transport pair", nil, err, hsm.ErrUnsupported)
}

func refusedWith(t *testing.T, what string, got []byte, err, want error) {
	t.Helper()
	if !errors.Is(err, want) || len(got) > 0 {
		t.Errorf("%s = %d bytes, %v, want %v", what, len(got), err, want)
	}
}

// TestParcelsThatAreNotGood are received as what they are, and leave nothing behind.
func TestParcelsThatAreNotGood(t *testing.T) {
	e := openWithKeys(t, nil)
	addStore(t, e, farStore)
	through := transportPair(t, e, farStore, keyspec.RSA3072)
	k, other := generate(t, e, "k"), generate(t, e, "other")
	ec, otherEC := makeKey(t, e, keyspec.ECCNISTP256, keyspec.SignVerify), makeKey(t, e, keyspec.ECCNISTP256, keyspec.SignVerify)
	parcel, ofOther, ofEC := pack(t, e, k, through), pack(t, e, other, through), pack(t, e, ec, through)
	got, err := e.Receive(t.Context(), client, through, parcel, arriving(k))
	must(t, err)
	travelled(t, e, e, k, &got)
	before := sessionObjects(t, e)

	receive := func(what string, through *hsm.Key, parcel []byte, k hsm.Key, want error) {
		t.Helper()
		got, err := e.Receive(t.Context(), client, through, parcel, k)
		refusedWith(t, "Receive of "+what, got.Blob, err, want)
	}
	for _, good := range []struct {
		k      *hsm.Key
		parcel []byte
	}{{k, parcel}, {ec, ofEC}} {
		for i := range good.parcel {
			bad := bytes.Clone(good.parcel)
			bad[i] ^= 1 << (i % 8)
			receive(fmt.Sprintf("%s with byte %d flipped", good.k.Spec, i), through, bad, arriving(good.k), hsm.ErrInvalidCiphertext)
		}
		for _, n := range []int{0, 1, parcelHead, parcelHead + 383, parcelHead + 384, parcelHead + 392, len(good.parcel) - 8, len(good.parcel) - 1} {
			receive(fmt.Sprintf("%s cut to %d bytes", good.k.Spec, n), through, good.parcel[:n], arriving(good.k), hsm.ErrInvalidCiphertext)
		}
		receive("more", through, append(bytes.Clone(good.parcel), 0), arriving(good.k), hsm.ErrInvalidCiphertext)
		receive("much more", through, append(bytes.Clone(good.parcel), make([]byte, maxBlobBytes)...), arriving(good.k), hsm.ErrInvalidCiphertext)
	}
	mixed := append(bytes.Clone(parcel[:parcelHead+384]), ofOther[parcelHead+384:]...)
	receive("halves of two", through, mixed, arriving(k), hsm.ErrInvalidCiphertext)
	receive("another key's", through, ofOther, arriving(k), hsm.ErrWrongMaterial)
	receive("another pair's", through, pack(t, e, otherEC, through), arriving(ec), hsm.ErrWrongMaterial)
	receive("what was sent to another pair", transportPair(t, e, farStore, keyspec.RSA3072), parcel, arriving(k), hsm.ErrInvalidCiphertext)
	receive("what comes through a pair of imports", wrappingKey(t, e, keyspec.RSA3072), parcel, arriving(k), hsm.ErrUnsupported)
	receive("what comes in a way that is not known here", through, append([]byte{parcelVersion, 2, 2}, parcel[parcelHead:]...), arriving(k), hsm.ErrUnsupported)
	forged := cloneKey(through)
	forged.Region = "eu-west-1"
	receive("what comes through a forged row", &forged, parcel, arriving(k), hsm.ErrBinding)
	for what, c := range map[string]struct {
		parcel []byte
		k      *hsm.Key
		edit   func(k *hsm.Key)
		want   error
	}{
		"another material id":     {parcel, k, func(k *hsm.Key) { k.MaterialID = other.MaterialID }, hsm.ErrWrongMaterial},
		"another key id":          {parcel, k, func(k *hsm.Key) { k.KeyID = other.KeyID }, hsm.ErrWrongMaterial},
		"another check value":     {parcel, k, func(k *hsm.Key) { k.CheckValue = other.CheckValue }, hsm.ErrWrongMaterial},
		"no check value":          {parcel, k, func(k *hsm.Key) { k.CheckValue = nil }, hsm.ErrWrongMaterial},
		"a public key":            {parcel, k, func(k *hsm.Key) { k.PublicKey = ec.PublicKey }, hsm.ErrWrongMaterial},
		"another spec":            {parcel, k, func(k *hsm.Key) { k.Spec, k.Usage = keyspec.HMAC256, keyspec.GenerateVerifyMAC }, hsm.ErrWrongMaterial},
		"a pair's spec":           {parcel, ec, func(*hsm.Key) {}, hsm.ErrInvalidCiphertext},
		"no such spec":            {parcel, k, func(k *hsm.Key) { k.Spec = "NO_SUCH_SPEC" }, hsm.ErrUnsupported},
		"the usage of a pair":     {parcel, k, func(k *hsm.Key) { k.Usage = keyspec.Transport }, hsm.ErrUnsupported},
		"another public key":      {ofEC, ec, func(k *hsm.Key) { k.PublicKey = otherEC.PublicKey }, hsm.ErrWrongMaterial},
		"no public key":           {ofEC, ec, func(k *hsm.Key) { k.PublicKey = nil }, hsm.ErrWrongMaterial},
		"a check value of a pair": {ofEC, ec, func(k *hsm.Key) { k.CheckValue = []byte{1} }, hsm.ErrWrongMaterial},
		"another curve":           {ofEC, ec, func(k *hsm.Key) { k.Spec = keyspec.ECCSECGP256K1 }, hsm.ErrWrongMaterial},
		"a store that is not":     {parcel, k, func(k *hsm.Key) { k.Store = "none" }, hsm.ErrUnavailable},
		"keys that stay":          {ofEC, ec, func(k *hsm.Key) { k.Spec = keyspec.ECCNISTEdwards25519 }, hsm.ErrUnsupported},
	} {
		edited := arriving(c.k)
		c.edit(&edited)
		receive("a key with "+what, through, c.parcel, edited, c.want)
	}
	if n := sessionObjects(t, e) - before; n != 1 { // the other pair, which the cache has
		t.Errorf("%d session objects are left in the token", n)
	}
}

// pack sends a key and returns the parcel.
func pack(t *testing.T, e *Engine, k, through *hsm.Key) []byte {
	t.Helper()
	parcel, err := e.Send(t.Context(), client, k, through)
	must(t, err)
	return parcel
}
