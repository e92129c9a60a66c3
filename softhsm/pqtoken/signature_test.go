package pqtoken_test

import (
	"bytes"
	"crypto/sha3"
	"runtime"
	"sync"
	"testing"
	"unsafe"

	"filippo.io/mldsa"
	mldsax509 "filippo.io/mldsa/x509"
	"github.com/miekg/pkcs11"

	"kmsgate/softhsm/pqtoken"
)

// mldsaSets are the parameter sets by their CKP_ number.
var mldsaSets = map[uint]mldsa.Parameters{1: mldsa.MLDSA44(), 2: mldsa.MLDSA65(), 3: mldsa.MLDSA87()}

// signContext is CK_SIGN_ADDITIONAL_CONTEXT as a mechanism's parameter. The
// context stays where it is until the test ends.
func signContext(t *testing.T, hedge uint, context string) []*pkcs11.Mechanism {
	var pointer uint
	if context != "" {
		b := []byte(context)
		pin := &runtime.Pinner{}
		pin.Pin(&b[0])
		t.Cleanup(pin.Unpin)
		pointer = uint(uintptr(unsafe.Pointer(&b[0])))
	}
	param := bytes.Join([][]byte{ulong(hedge), ulong(pointer), ulong(uint(len(context)))}, nil)
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmMLDSA, param)}
}

func TestSignaturesVerifyElsewhere(t *testing.T) {
	b := newBench(t)
	for set, parameters := range mldsaSets {
		publicKey, privateKey := b.mldsaPair(set)
		outside, err := mldsa.NewPublicKey(parameters, b.value(publicKey, pkcs11.CKA_VALUE))
		b.must(err)
		for _, message := range [][]byte{{}, []byte("hello"), make([]byte, 100000)} {
			signature := b.sign(privateKey, mech(ckmMLDSA), message)
			if err := mldsa.Verify(outside, message, signature, nil); err != nil {
				t.Errorf("%v: a signature of %d bytes does not verify elsewhere: %v", parameters, len(message), err)
			}
			if err := b.verify(publicKey, mech(ckmMLDSA), message, signature); err != nil {
				t.Errorf("%v: C_Verify = %v", parameters, err)
			}
			if bytes.Equal(signature, b.sign(privateKey, mech(ckmMLDSA), message)) {
				t.Errorf("%v: two signatures are the same, want hedged ones", parameters)
			}
		}
		info, err := mldsax509.ParsePKIXPublicKey(b.value(privateKey, pkcs11.CKA_PUBLIC_KEY_INFO))
		if err != nil || !outside.Equal(info) {
			t.Errorf("%v: CKA_PUBLIC_KEY_INFO of the private key is %v, %v", parameters, info, err)
		}
	}
}

func TestVerifyRefusesWhatWasChanged(t *testing.T) {
	b := newBench(t)
	for set, parameters := range mldsaSets {
		publicKey, privateKey := b.mldsaPair(set)
		other, _ := b.mldsaPair(set)
		message := []byte("message")
		signature := b.sign(privateKey, mech(ckmMLDSA), message)
		for bit := 0; bit < 8*len(signature); bit += 977 {
			b.refused("C_Verify of a changed signature", b.verify(publicKey, mech(ckmMLDSA), message, flipped(signature, bit)), pkcs11.CKR_SIGNATURE_INVALID)
		}
		b.refused("C_Verify of another message", b.verify(publicKey, mech(ckmMLDSA), flipped(message, 3), signature), pkcs11.CKR_SIGNATURE_INVALID)
		b.refused("C_Verify with another key", b.verify(other, mech(ckmMLDSA), message, signature), pkcs11.CKR_SIGNATURE_INVALID)
		for _, n := range []int{0, 1, parameters.SignatureSize() - 1} {
			b.refused("C_Verify of a short signature", b.verify(publicKey, mech(ckmMLDSA), message, signature[:n]), pkcs11.CKR_SIGNATURE_LEN_RANGE)
		}
		b.refused("C_Verify of a long signature", b.verify(publicKey, mech(ckmMLDSA), message, append(signature, 0)), pkcs11.CKR_SIGNATURE_LEN_RANGE)
	}
}

func TestContextAndHedgeAreFollowed(t *testing.T) {
	b := newBench(t)
	publicKey, privateKey := b.mldsaPair(2)
	outside, err := mldsa.NewPublicKey(mldsa.MLDSA65(), b.value(publicKey, pkcs11.CKA_VALUE))
	b.must(err)
	message := []byte("message")
	inContext := signContext(t, 0, "context")
	signature := b.sign(privateKey, inContext, message)
	if err := mldsa.Verify(outside, message, signature, &mldsa.Options{Context: "context"}); err != nil {
		t.Errorf("a signature in a context does not verify elsewhere: %v", err)
	}
	b.must(b.verify(publicKey, inContext, message, signature))
	b.refused("C_Verify without the context", b.verify(publicKey, mech(ckmMLDSA), message, signature), pkcs11.CKR_SIGNATURE_INVALID)
	for hedge, same := range map[uint]bool{0: false, 1: false, 2: true} {
		one, two := b.sign(privateKey, signContext(t, hedge, ""), message), b.sign(privateKey, signContext(t, hedge, ""), message)
		if bytes.Equal(one, two) != same {
			t.Errorf("hedge variant %d: the same signature twice = %t, want %t", hedge, !same, same)
		}
	}
	b.refused("C_SignInit with hedge variant 3", b.SignInit(b.s, signContext(t, 3, ""), privateKey), pkcs11.CKR_MECHANISM_PARAM_INVALID)
	b.refused("C_SignInit with a long context", b.SignInit(b.s, signContext(t, 0, string(make([]byte, 256))), privateKey), pkcs11.CKR_MECHANISM_PARAM_INVALID)
	short := []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmMLDSA, make([]byte, 8))}
	b.refused("C_SignInit with another parameter", b.SignInit(b.s, short, privateKey), pkcs11.CKR_MECHANISM_PARAM_INVALID)
}

func TestOperationsWantTheirKeys(t *testing.T) {
	b := newBench(t)
	publicKey, privateKey := b.mldsaPair(1)
	_, silent := b.mldsaPair(1, attr(pkcs11.CKA_SIGN, false))
	_, limited := b.mldsaPair(1, attr(pkcs11.CKA_ALLOWED_MECHANISMS, ulong(pkcs11.CKM_SHA256)))
	_, kem, err := b.GenerateKeyPair(b.s, mech(ckmMLKEMKeyPairGen), template(attr(ckaParameterSet, 1)), template(attr(ckaDecapsulate, true)))
	b.must(err)
	for _, tc := range []struct {
		name string
		init func(pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle) error
		mech uint
		key  pkcs11.ObjectHandle
		code uint
	}{
		{"sign with a public key", b.SignInit, ckmMLDSA, publicKey, pkcs11.CKR_KEY_TYPE_INCONSISTENT},
		{"verify with a private key", b.VerifyInit, ckmMLDSA, privateKey, pkcs11.CKR_KEY_TYPE_INCONSISTENT},
		{"sign with an ML-KEM key", b.SignInit, ckmMLDSA, kem, pkcs11.CKR_KEY_TYPE_INCONSISTENT},
		{"sign without SIGN", b.SignInit, ckmMLDSA, silent, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED},
		{"sign with a mechanism that is not allowed", b.SignInit, ckmMLDSA, limited, pkcs11.CKR_MECHANISM_INVALID},
		{"sign with the generation mechanism", b.SignInit, ckmMLDSAKeyPairGen, privateKey, pkcs11.CKR_MECHANISM_INVALID},
		{"sign with ML-KEM", b.SignInit, ckmMLKEM, kem, pkcs11.CKR_MECHANISM_INVALID},
		{"sign with RSA", b.SignInit, pkcs11.CKM_RSA_PKCS, privateKey, pkcs11.CKR_MECHANISM_INVALID},
		{"sign with no key", b.SignInit, ckmMLDSA, privateKey + 1000, pkcs11.CKR_KEY_HANDLE_INVALID},
	} {
		b.refused(tc.name, tc.init(b.s, mech(tc.mech), tc.key), tc.code)
	}
}

func TestOperationsAreOneAtATime(t *testing.T) {
	b := newBench(t)
	publicKey, privateKey := b.mldsaPair(1)
	b.must(b.SignInit(b.s, mech(ckmMLDSA), privateKey))
	b.refused("C_SignInit again", b.SignInit(b.s, mech(ckmMLDSA), privateKey), pkcs11.CKR_OPERATION_ACTIVE)
	signature, err := b.Sign(b.s, nil)
	b.must(err)
	_, err = b.Sign(b.s, nil)
	b.refused("C_Sign without C_SignInit", err, pkcs11.CKR_OPERATION_NOT_INITIALIZED)
	b.must(b.SignInit(b.s, mech(ckmMLDSA), privateKey))
	b.refused("C_SignUpdate", b.SignUpdate(b.s, []byte("part")), pkcs11.CKR_FUNCTION_NOT_SUPPORTED)
	b.must(b.VerifyInit(b.s, mech(ckmMLDSA), publicKey))
	b.refused("C_VerifyUpdate", b.VerifyUpdate(b.s, []byte("part")), pkcs11.CKR_FUNCTION_NOT_SUPPORTED)
	b.must(b.SignInit(b.s, mech(ckmMLDSA), privateKey))
	b.must(b.DestroyObject(b.s, privateKey))
	_, err = b.Sign(b.s, nil)
	b.refused("C_Sign with a key that is gone", err, pkcs11.CKR_KEY_HANDLE_INVALID)
	b.must(b.verify(publicKey, mech(ckmMLDSA), nil, signature))
}

func TestSessionsWorkAtOnce(t *testing.T) {
	b := newBench(t)
	publicKey, privateKey := b.mldsaPair(1)
	var wg sync.WaitGroup
	for range 8 {
		s := b.session()
		wg.Go(func() {
			for i := range 10 {
				message := []byte{byte(i)}
				if err := b.SignInit(s, mech(ckmMLDSA), privateKey); err != nil {
					t.Error(err)
					return
				}
				signature, err := b.Sign(s, message)
				if err == nil {
					err = b.VerifyInit(s, mech(ckmMLDSA), publicKey)
				}
				if err == nil {
					err = b.Verify(s, message, signature)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestPublicKeysFromElsewhereVerify(t *testing.T) {
	b := newBench(t)
	for set, parameters := range mldsaSets {
		outside, err := mldsa.GenerateKey(parameters)
		b.must(err)
		message := []byte("message")
		signature, err := outside.Sign(nil, message, nil)
		b.must(err)
		publicKey, err := b.CreateObject(b.s, template(attr(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), attr(pkcs11.CKA_KEY_TYPE, ckkMLDSA),
			attr(pkcs11.CKA_VERIFY, true), attr(ckaParameterSet, set), attr(pkcs11.CKA_VALUE, outside.PublicKey().Bytes())))
		b.must(err)
		b.must(b.verify(publicKey, mech(ckmMLDSA), message, signature))
		b.refused("C_Verify of another message", b.verify(publicKey, mech(ckmMLDSA), nil, signature), pkcs11.CKR_SIGNATURE_INVALID)
	}
}

func TestPrivateKeysFromElsewhereSign(t *testing.T) {
	b := newBench(t)
	outside, err := mldsa.GenerateKey(mldsa.MLDSA87())
	b.must(err)
	from := template(attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), attr(pkcs11.CKA_KEY_TYPE, ckkMLDSA), attr(pkcs11.CKA_SIGN, true),
		attr(ckaParameterSet, 3), attr(ckaSeed, outside.Bytes()))
	privateKey, err := b.CreateObject(b.s, from)
	b.must(err)
	message := []byte("message")
	if err := mldsa.Verify(outside.PublicKey(), message, b.sign(privateKey, mech(ckmMLDSA), message), nil); err != nil {
		t.Errorf("the signature does not verify: %v", err)
	}
	_, err = b.CreateObject(b.s, append(from, attr(pkcs11.CKA_VALUE, make([]byte, 4896))))
	b.refused("C_CreateObject with a seed and another key", err, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)
}

const ckmMLDSAExternalMu = 0x403C

// representative is mu of a message without context (FIPS 204, Algorithms 2 and 7).
func representative(publicKey, message []byte) []byte {
	tr, mu := sha3.SumSHAKE256(publicKey, 64), sha3.NewSHAKE256()
	for _, part := range [][]byte{tr, {0, 0}, message} {
		_, _ = mu.Write(part)
	}
	out := make([]byte, 64)
	_, _ = mu.Read(out)
	return out
}

func TestRepresentativesAreSignedLikeMessages(t *testing.T) {
	b := newBenchOf(t, pqtoken.Config{ExternalMu: true})
	for set, parameters := range mldsaSets {
		publicKey, privateKey := b.mldsaPair(set)
		encoded := b.value(publicKey, pkcs11.CKA_VALUE)
		outside, err := mldsa.NewPublicKey(parameters, encoded)
		b.must(err)
		for i := range 8 {
			message := []byte{byte(i)}
			mu := representative(encoded, message)
			signature := b.sign(privateKey, mech(ckmMLDSAExternalMu), mu)
			if err := mldsa.Verify(outside, message, signature, nil); err != nil {
				t.Errorf("%v: a signature of mu does not verify elsewhere: %v", parameters, err)
			}
			b.must(b.verify(publicKey, mech(ckmMLDSA), message, signature))
			b.must(b.verify(publicKey, mech(ckmMLDSAExternalMu), mu, signature))
			ofMessage := b.sign(privateKey, mech(ckmMLDSA), message)
			b.must(b.verify(publicKey, mech(ckmMLDSAExternalMu), mu, ofMessage))
			b.refused("C_Verify of another mu", b.verify(publicKey, mech(ckmMLDSAExternalMu), flipped(mu, i), signature), pkcs11.CKR_SIGNATURE_INVALID)
		}
		mu := representative(encoded, nil)
		signature := b.sign(privateKey, mech(ckmMLDSAExternalMu), mu)
		for bit := 0; bit < 8*len(signature); bit += 577 {
			changed := flipped(signature, bit)
			got := b.verify(publicKey, mech(ckmMLDSAExternalMu), mu, changed)
			b.refused("C_Verify of a changed signature", got, pkcs11.CKR_SIGNATURE_INVALID)
		}
		deterministic := signContext(t, 2, "")
		deterministic[0].Mechanism = ckmMLDSAExternalMu
		one, two := b.sign(privateKey, deterministic, mu), b.sign(privateKey, deterministic, mu)
		if !bytes.Equal(one, two) || bytes.Equal(one, signature) {
			t.Errorf("%v: deterministic signatures are the same: %t, and others than hedged ones: %t", parameters, bytes.Equal(one, two), !bytes.Equal(one, signature))
		}
		b.must(b.SignInit(b.s, mech(ckmMLDSAExternalMu), privateKey))
		_, err = b.Sign(b.s, mu[:63])
		b.refused("C_Sign of 63 bytes", err, pkcs11.CKR_DATA_LEN_RANGE)
		b.refused("C_Verify of 65 bytes", b.verify(publicKey, mech(ckmMLDSAExternalMu), append(mu, 0), signature), pkcs11.CKR_DATA_LEN_RANGE)
	}
}

func TestRepresentativesAreAnOption(t *testing.T) {
	b := newBench(t)
	_, privateKey := b.mldsaPair(1)
	b.refused("C_SignInit", b.SignInit(b.s, mech(ckmMLDSAExternalMu), privateKey), pkcs11.CKR_MECHANISM_INVALID)
	_, err := b.GetMechanismInfo(b.slot, mech(ckmMLDSAExternalMu))
	b.refused("C_GetMechanismInfo", err, pkcs11.CKR_MECHANISM_INVALID)
}
