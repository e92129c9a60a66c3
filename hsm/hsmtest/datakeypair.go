package hsmtest

import (
	"bytes"
	"crypto"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// pairReaders read a data key pair outside, and use it.
var pairReaders = map[keyspec.Spec]func(hsm.DataKeyPair) error{
	keyspec.RSA2048: readPair, keyspec.RSA3072: readPair, keyspec.RSA4096: readPair,
	keyspec.ECCNISTP256: readPair, keyspec.ECCNISTP384: readPair, keyspec.ECCNISTP521: readPair,
	keyspec.ECCNISTEdwards25519: readPair, keyspec.ECCSECGP256K1: readSecp256k1Pair,
	keyspec.MLKEM512: readSeed, keyspec.MLKEM768: readSeed, keyspec.MLKEM1024: readSeed,
}

// pairsAtOnce is how many pairs are made of the specs where that is quick.
const pairsAtOnce = 16

// dataKeyPair makes pairs for a caller, and uses both keys outside.
func (s *suite) dataKeyPair(t T, spec keyspec.Spec) {
	many := pairsAtOnce
	if _, slow := modulusBytes[spec]; slow {
		many = 1
	}
	seen := map[string]bool{}
	for range many {
		pair, err := s.Token.GenerateDataKeyPair(s.ctx, hsm.Call{Account: client.Account, Class: hsm.Generation}, spec)
		if lacks(t, "GenerateDataKeyPair", err) {
			return
		}
		public, err := der.ParsePublic(pair.Public)
		if err != nil || public.Spec != spec {
			t.Errorf("GenerateDataKeyPair made the public key %x: %v", pair.Public, err)
			continue
		}
		if seen[string(pair.Public)] {
			t.Errorf("GenerateDataKeyPair made a pair twice")
		}
		seen[string(pair.Public)] = true
		if err := pairReaders[spec](pair); err != nil {
			t.Errorf("GenerateDataKeyPair made a pair that is not one: %v", err)
		}
		clear(pair.Private)
	}
}

var errNotAPair = errors.New("the private key does not belong to the public key")

// readPair is for the keys that the standard library knows.
func readPair(pair hsm.DataKeyPair) error {
	private, err := x509.ParsePKCS8PrivateKey(pair.Private)
	if err != nil {
		return err
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return fmt.Errorf("a private key of type %T", private)
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return err
	}
	if !bytes.Equal(public, pair.Public) {
		return errNotAPair
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1)}
	certificate, err := x509.CreateCertificate(rand.Reader, &template, &template, signer.Public(), signer)
	if err != nil {
		return err
	}
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		return err
	}
	return parsed.CheckSignature(parsed.SignatureAlgorithm, parsed.RawTBSCertificate, parsed.Signature)
}

// privateKeyInfo is PKCS#8 (RFC 5958).
type privateKeyInfo struct {
	Version   int
	Algorithm struct {
		OID        asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	Key []byte
}

func parsePKCS8(text []byte) (info privateKeyInfo, err error) {
	rest, err := asn1.Unmarshal(text, &info)
	if err == nil && (len(rest) > 0 || info.Version != 0) {
		err = fmt.Errorf("PKCS#8 of version %d, with %d bytes behind it", info.Version, len(rest))
	}
	return info, err
}

// readSecp256k1Pair multiplies the base point, and signs and verifies.
func readSecp256k1Pair(pair hsm.DataKeyPair) error {
	info, err := parsePKCS8(pair.Private)
	if err != nil {
		return err
	}
	var key struct { // ECPrivateKey (RFC 5915)
		Version int
		D       []byte
		Public  asn1.BitString `asn1:"explicit,tag:1"`
	}
	if rest, err := asn1.Unmarshal(info.Key, &key); err != nil || len(rest) > 0 || key.Version != 1 || len(key.D) != 32 {
		return fmt.Errorf("no ECPrivateKey of 32 bytes: %w", err)
	}
	defer clear(key.D)
	public, err := der.ParsePublic(pair.Public)
	if err != nil {
		return err
	}
	c := newSecp256k1()
	d := new(big.Int).SetBytes(key.D)
	q := c.multiply(d, c.base)
	want := append(append([]byte{4}, q.x.FillBytes(make([]byte, 32))...), q.y.FillBytes(make([]byte, 32))...)
	if !bytes.Equal(public.Point, want) || !bytes.Equal(key.Public.Bytes, want) {
		return errNotAPair
	}
	digest := sha256.Sum256(pattern(10))
	if !verifySecp256k1(public.Point, digest[:], c.sign(d, digest[:])) {
		return errNotAPair
	}
	return nil
}

// readSeed makes the keys again of the seed that an ML-KEM-PrivateKey is (RFC
// 9935, section 6).
func readSeed(pair hsm.DataKeyPair) error {
	info, err := parsePKCS8(pair.Private)
	if err != nil {
		return err
	}
	defer clear(info.Key)
	public, err := der.ParsePublic(pair.Public)
	if err != nil {
		return err
	}
	if len(info.Key) != 66 || info.Key[0] != 0x80 || info.Key[1] != 64 {
		return fmt.Errorf("a private key of %d bytes, want a seed of 64", len(info.Key))
	}
	seed := info.Key[2:]
	var again []byte
	switch public.Spec {
	case keyspec.MLKEM768:
		key, err := mlkem.NewDecapsulationKey768(seed)
		if err != nil {
			return err
		}
		again = key.EncapsulationKey().Bytes()
	case keyspec.MLKEM1024:
		key, err := mlkem.NewDecapsulationKey1024(seed)
		if err != nil {
			return err
		}
		again = key.EncapsulationKey().Bytes()
	default: // the standard library lacks ML-KEM-512
		return nil
	}
	if !bytes.Equal(again, public.Raw) {
		return errNotAPair
	}
	return nil
}
