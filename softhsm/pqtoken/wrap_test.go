package pqtoken_test

import (
	"bytes"
	"encoding/asn1"
	"testing"

	"filippo.io/mldsa"
	mldsax509 "filippo.io/mldsa/x509"
	"github.com/miekg/pkcs11"

	"kmsgate/softhsm/pqtoken"
)

// wrappingKey is an AES key that wraps and unwraps; more attributes may be given.
func (b *bench) wrappingKey(more ...*pkcs11.Attribute) pkcs11.ObjectHandle {
	b.t.Helper()
	key, err := b.GenerateKey(b.s, mech(pkcs11.CKM_AES_KEY_GEN), template(append([]*pkcs11.Attribute{
		attr(pkcs11.CKA_VALUE_LEN, 32), attr(pkcs11.CKA_WRAP, true), attr(pkcs11.CKA_UNWRAP, true), attr(pkcs11.CKA_DECRYPT, true),
	}, more...)...))
	b.must(err)
	return key
}

var keyWrap = mech(pkcs11.CKM_AES_KEY_WRAP_PAD)

// unwrapTemplate is that of an ML-DSA key that signs.
func unwrapTemplate(more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return template(append([]*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), attr(pkcs11.CKA_KEY_TYPE, ckkMLDSA), attr(pkcs11.CKA_SIGN, true),
	}, more...)...)
}

func TestKeysAreNotWrappableByDefault(t *testing.T) {
	b := newBench(t)
	wrapping := b.wrappingKey()
	publicKey, extractable := b.mldsaPair(1, attr(pkcs11.CKA_EXTRACTABLE, true))
	_, locked := b.mldsaPair(1)
	_, err := b.WrapKey(b.s, keyWrap, wrapping, extractable)
	b.refused("C_WrapKey", err, pkcs11.CKR_KEY_NOT_WRAPPABLE)
	_, err = b.WrapKey(b.s, keyWrap, wrapping, locked)
	b.refused("C_WrapKey of what is not extractable", err, pkcs11.CKR_KEY_UNEXTRACTABLE)
	_, err = b.WrapKey(b.s, keyWrap, publicKey, wrapping)
	b.refused("C_WrapKey under a key of ours", err, pkcs11.CKR_WRAPPING_KEY_TYPE_INCONSISTENT)
	secret, err := b.WrapKey(b.s, keyWrap, wrapping, b.wrappingKey(attr(pkcs11.CKA_EXTRACTABLE, true)))
	b.must(err)
	_, err = b.UnwrapKey(b.s, keyWrap, wrapping, secret, unwrapTemplate())
	b.refused("C_UnwrapKey", err, pkcs11.CKR_WRAPPED_KEY_INVALID)
	_, err = b.UnwrapKey(b.s, keyWrap, extractable, secret, unwrapTemplate())
	b.refused("C_UnwrapKey under a key of ours", err, pkcs11.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT)
}

func TestWrappedKeysComeBack(t *testing.T) {
	b := newBenchOf(t, pqtoken.Config{Wraps: true})
	wrapping := b.wrappingKey()
	for set, parameters := range mldsaSets {
		publicKey, privateKey := b.mldsaPair(set, attr(pkcs11.CKA_EXTRACTABLE, true))
		before := len(b.find())
		blob, err := b.WrapKey(b.s, keyWrap, wrapping, privateKey)
		b.must(err)
		again, err := b.UnwrapKey(b.s, keyWrap, wrapping, blob, unwrapTemplate(attr(pkcs11.CKA_EXTRACTABLE, false)))
		b.must(err)
		if n := len(b.find()) - before; n != 1 {
			t.Errorf("%v: %d objects are left of wrapping and unwrapping, want the key", parameters, n)
		}
		signature := b.sign(again, mech(ckmMLDSA), []byte("message"))
		b.must(b.verify(publicKey, mech(ckmMLDSA), []byte("message"), signature))
		_, err = b.WrapKey(b.s, keyWrap, wrapping, again)
		b.refused("C_WrapKey of what came back not extractable", err, pkcs11.CKR_KEY_UNEXTRACTABLE)
		if got := b.value(again, pkcs11.CKA_LOCAL); got[0] != 0 {
			t.Errorf("%v: LOCAL = %v of an unwrapped key", parameters, got)
		}
		b.readsElsewhere(parameters, wrapping, blob, publicKey)
	}
}

// readsElsewhere holds that a blob is the key's PKCS#8 that others read.
func (b *bench) readsElsewhere(parameters mldsa.Parameters, wrapping pkcs11.ObjectHandle, blob []byte, publicKey pkcs11.ObjectHandle) {
	b.t.Helper()
	secret, err := b.UnwrapKey(b.s, keyWrap, wrapping, blob, template(attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), attr(pkcs11.CKA_SENSITIVE, false), attr(pkcs11.CKA_EXTRACTABLE, true)))
	b.must(err)
	var der asn1.RawValue
	_, err = asn1.Unmarshal(b.value(secret, pkcs11.CKA_VALUE), &der) // SoftHSM leaves the padding behind it
	b.must(err)
	key, err := mldsax509.ParsePKCS8PrivateKey(der.FullBytes)
	private, ok := key.(*mldsa.PrivateKey)
	if err != nil || !ok {
		b.t.Fatalf("%v: the blob is no PKCS#8 of ML-DSA: %v", parameters, err)
	}
	if !bytes.Equal(private.PublicKey().Bytes(), b.value(publicKey, pkcs11.CKA_VALUE)) {
		b.t.Errorf("%v: the blob is another key", parameters)
	}
}

func TestUnwrappingIsStrict(t *testing.T) {
	b := newBenchOf(t, pqtoken.Config{Wraps: true})
	wrapping := b.wrappingKey()
	_, privateKey := b.mldsaPair(1, attr(pkcs11.CKA_EXTRACTABLE, true))
	_, trusting := b.mldsaPair(1, attr(pkcs11.CKA_EXTRACTABLE, true), attr(pkcs11.CKA_WRAP_WITH_TRUSTED, true))
	blob, err := b.WrapKey(b.s, keyWrap, wrapping, privateKey)
	b.must(err)
	_, err = b.WrapKey(b.s, keyWrap, wrapping, trusting)
	b.refused("C_WrapKey of a key for trusted ones", err, pkcs11.CKR_KEY_NOT_WRAPPABLE)
	for name, tc := range map[string]struct {
		t    []*pkcs11.Attribute
		code uint
	}{
		"another key type": {unwrapTemplate(attr(pkcs11.CKA_KEY_TYPE, ckkMLKEM), attr(pkcs11.CKA_SIGN, false)), pkcs11.CKR_WRAPPED_KEY_INVALID},
		"parameter set":    {unwrapTemplate(attr(ckaParameterSet, 1)), pkcs11.CKR_TEMPLATE_INCONSISTENT},
		"another class":    {unwrapTemplate(attr(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY)), pkcs11.CKR_TEMPLATE_INCONSISTENT},
		"another usage":    {unwrapTemplate(attr(ckaDecapsulate, true)), pkcs11.CKR_TEMPLATE_INCONSISTENT},
	} {
		before := len(b.find())
		_, err := b.UnwrapKey(b.s, keyWrap, wrapping, blob, tc.t)
		b.refused(name, err, tc.code)
		if n := len(b.find()) - before; n != 0 {
			t.Errorf("%s: left %d objects", name, n)
		}
	}
	if _, err := b.UnwrapKey(b.s, keyWrap, wrapping, flipped(blob, 77), unwrapTemplate()); err == nil {
		t.Error("C_UnwrapKey of a changed blob works")
	}
	aes, err := b.WrapKey(b.s, keyWrap, wrapping, b.wrappingKey(attr(pkcs11.CKA_EXTRACTABLE, true)))
	b.must(err)
	_, err = b.UnwrapKey(b.s, keyWrap, wrapping, aes, unwrapTemplate())
	b.refused("C_UnwrapKey of an AES key", err, pkcs11.CKR_WRAPPED_KEY_INVALID)
}
