package integration_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// A kind is a key spec with a usage, and its algorithms in AWS's order.
type kind struct {
	spec       types.KeySpec
	usage      types.KeyUsageType
	algorithms []string
}

// Usages, as short as a table needs them.
const (
	encrypts = types.KeyUsageTypeEncryptDecrypt
	signs    = types.KeyUsageTypeSignVerify
	macs     = types.KeyUsageTypeGenerateVerifyMac
	agrees   = types.KeyUsageTypeKeyAgreement
)

var (
	oaep    = []string{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"}
	rsaSign = []string{
		"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
		"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
	}
)

// kinds are all kinds of keys that SoftHSM can make.
var kinds = []kind{
	{types.KeySpecSymmetricDefault, encrypts, []string{"SYMMETRIC_DEFAULT"}},
	{types.KeySpecRsa2048, encrypts, oaep},
	{types.KeySpecRsa2048, signs, rsaSign},
	{types.KeySpecRsa3072, encrypts, oaep},
	{types.KeySpecRsa3072, signs, rsaSign},
	{types.KeySpecRsa4096, encrypts, oaep},
	{types.KeySpecRsa4096, signs, rsaSign},
	{types.KeySpecEccNistP256, signs, []string{"ECDSA_SHA_256"}},
	{types.KeySpecEccNistP256, agrees, []string{"ECDH"}},
	{types.KeySpecEccNistP384, signs, []string{"ECDSA_SHA_384"}},
	{types.KeySpecEccNistP384, agrees, []string{"ECDH"}},
	{types.KeySpecEccNistP521, signs, []string{"ECDSA_SHA_512"}},
	{types.KeySpecEccNistP521, agrees, []string{"ECDH"}},
	{types.KeySpecEccSecgP256k1, signs, []string{"ECDSA_SHA_256"}},
	{types.KeySpecEccNistEdwards25519, signs, []string{"ED25519_SHA_512", "ED25519_PH_SHA_512"}},
	{types.KeySpecHmac224, macs, []string{"HMAC_SHA_224"}},
	{types.KeySpecHmac256, macs, []string{"HMAC_SHA_256"}},
	{types.KeySpecHmac384, macs, []string{"HMAC_SHA_384"}},
	{types.KeySpecHmac512, macs, []string{"HMAC_SHA_512"}},
}

// kindsOf are the kinds with a usage.
func kindsOf(usage types.KeyUsageType) (found []kind) {
	for _, k := range kinds {
		if k.usage == usage {
			found = append(found, k)
		}
	}
	return found
}

// isPair tells whether the keys are pairs.
func (k kind) isPair() bool {
	return k.spec != types.KeySpecSymmetricDefault && k.usage != macs
}

// lists are the members of KeyMetadata with a key's algorithms.
var lists = map[types.KeyUsageType]string{
	encrypts: "EncryptionAlgorithms", signs: "SigningAlgorithms", macs: "MacAlgorithms", agrees: "KeyAgreementAlgorithms",
}

// ready are keys of the shared gateway that no test changes, one of each kind:
// to make a pair takes a token in software seconds.
var ready struct {
	mu   sync.Mutex
	keys map[string]func() (types.KeyMetadata, error) // by spec and usage
}

// ready is the ARN of the shared gateway's key of a kind.
func (i *instance) ready(t testing.TB, spec types.KeySpec, usage types.KeyUsageType) string {
	t.Helper()
	return *i.readyKey(t, spec, usage).Arn
}

// readyKey is what CreateKey said of it.
func (i *instance) readyKey(t testing.TB, spec types.KeySpec, usage types.KeyUsageType) types.KeyMetadata {
	t.Helper()
	name := fmt.Sprint(spec, usage)
	ready.mu.Lock()
	if ready.keys == nil {
		ready.keys = map[string]func() (types.KeyMetadata, error){}
	}
	if ready.keys[name] == nil {
		ready.keys[name] = sync.OnceValues(func() (types.KeyMetadata, error) {
			out, err := i.newClient(own).CreateKey(context.Background(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
			if err != nil {
				return types.KeyMetadata{}, err
			}
			return *out.KeyMetadata, nil
		})
	}
	create := ready.keys[name]
	ready.mu.Unlock()
	made, err := create()
	if err != nil {
		t.Fatalf("CreateKey of %s for %s: %v", spec, usage, err)
	}
	return made
}

// publicKey is the public key of a key, as GetPublicKey tells it.
func (i *instance) publicKey(t testing.TB, key string) []byte {
	t.Helper()
	out, err := i.newClient(own).GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &key})
	if err != nil {
		t.Fatal(err)
	}
	return out.PublicKey
}

// subjectPublicKeyInfo is that of RFC 5280, section 4.1.2.7.
type subjectPublicKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Key       asn1.BitString
}

var (
	oidECPublicKey = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidSECP256K1   = asn1.ObjectIdentifier{1, 3, 132, 0, 10}
)

// parsePublicKey reads a SubjectPublicKeyInfo; those on secp256k1, which the
// standard library does not know, too.
func parsePublicKey(t testing.TB, der []byte) any {
	t.Helper()
	if public, err := x509.ParsePKIXPublicKey(der); err == nil {
		return public
	}
	var info subjectPublicKeyInfo
	var curve asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(der, &info)
	if err != nil || len(rest) > 0 || !info.Algorithm.Algorithm.Equal(oidECPublicKey) {
		t.Fatalf("public key %x: %v", der, err)
	}
	if _, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &curve); err != nil || !curve.Equal(oidSECP256K1) {
		t.Fatalf("public key %x: curve %v, %v; want secp256k1", der, curve, err)
	}
	public, err := secp256k1.ParsePubKey(info.Key.RightAlign())
	if err != nil {
		t.Fatalf("public key %x: %v", der, err)
	}
	return public
}

func TestCreateKeyOfEveryKind(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, k := range kinds {
		t.Run(fmt.Sprint(k.spec, "/", k.usage), func(t *testing.T) {
			t.Parallel()
			made := g.readyKey(t, k.spec, k.usage)
			got := g.mustCall(t, own, "DescribeKey", m{"KeyId": *made.KeyId})["KeyMetadata"].(m)
			members := append(slices.Clone(metadataMembers), lists[k.usage])
			members = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(members))), func(name string) bool {
				return name == "EncryptionAlgorithms" && k.usage != encrypts || name == "CurrentKeyMaterialId" && k.spec != types.KeySpecSymmetricDefault
			})
			wantMembers(t, "KeyMetadata", got, members...)
			for member, want := range (m{
				"KeySpec": string(k.spec), "CustomerMasterKeySpec": string(k.spec), "KeyUsage": string(k.usage), "KeyState": "Enabled",
				"Enabled": true, "Origin": "AWS_KMS", "MultiRegion": false, lists[k.usage]: k.algorithms,
			}) {
				if fmt.Sprint(got[member]) != fmt.Sprint(want) {
					t.Errorf("%s is %v, want %v", member, got[member], want)
				}
			}
			if made.KeySpec != k.spec || made.KeyUsage != k.usage || made.KeyState != types.KeyStateEnabled {
				t.Errorf("CreateKey said %s, %s, %s", made.KeySpec, made.KeyUsage, made.KeyState)
			}
		})
	}
}

// What SoftHSM has no mechanism for is refused when a key is to be made.
func TestCreateKeyOfOtherKinds(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for spec, usage := range map[string]string{
		"ML_DSA_44": "SIGN_VERIFY", "ML_DSA_65": "SIGN_VERIFY", "ML_DSA_87": "SIGN_VERIFY",
		"ML_KEM_512": "ENCAPSULATE_DECAPSULATE", "ML_KEM_768": "ENCAPSULATE_DECAPSULATE", "ML_KEM_1024": "ENCAPSULATE_DECAPSULATE",
	} {
		g.refused(t, own, "CreateKey", m{"KeySpec": spec, "KeyUsage": usage}, "UnsupportedOperationException",
			"KeySpec "+spec+" is not supported by this key store: its HSM has no mechanism for it. kmsgate hsm probe shows what it can do.")
	}
	for _, usage := range []string{"ENCRYPT_DECRYPT", "SIGN_VERIFY", "KEY_AGREEMENT"} {
		g.refused(t, own, "CreateKey", m{"KeySpec": "SM2", "KeyUsage": usage}, "UnsupportedOperationException", "KeySpec SM2 is not supported in this Region")
	}
	all := []types.KeyUsageType{encrypts, signs, macs, agrees, types.KeyUsageTypeEncapsulateDecapsulate}
	allowed := map[types.KeySpec][]types.KeyUsageType{}
	for _, k := range kinds {
		allowed[k.spec] = append(allowed[k.spec], k.usage)
	}
	for spec, usages := range allowed {
		for _, usage := range all {
			if !slices.Contains(usages, usage) {
				g.refused(t, own, "CreateKey", m{"KeySpec": spec, "KeyUsage": usage}, "ValidationException",
					fmt.Sprintf("KeyUsage %s is not compatible with KeySpec %s", usage, spec))
			}
		}
		if spec != types.KeySpecSymmetricDefault {
			g.refused(t, own, "CreateKey", m{"KeySpec": spec}, "ValidationException",
				"You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
		}
	}
}

func TestGetPublicKey(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, k := range kinds {
		if !k.isPair() {
			continue
		}
		t.Run(fmt.Sprint(k.spec, "/", k.usage), func(t *testing.T) {
			t.Parallel()
			c := g.newClient(own)
			key := g.ready(t, k.spec, k.usage)
			var first []byte
			for _, form := range []string{idOf(key), key} {
				got, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &form})
				if err != nil {
					t.Fatal(err)
				}
				members := c.last.object(t)
				wantMembers(t, "the answer", members, "KeyId", "PublicKey", "KeySpec", "CustomerMasterKeySpec", "KeyUsage", lists[k.usage])
				if *got.KeyId != key || got.KeySpec != k.spec || got.KeyUsage != k.usage || members["CustomerMasterKeySpec"] != string(k.spec) ||
					fmt.Sprint(members[lists[k.usage]]) != fmt.Sprint(k.algorithms) {
					t.Errorf("answer %s, want the key's", c.last.body)
				}
				if first != nil && !bytes.Equal(first, got.PublicKey) {
					t.Error("two answers have different public keys")
				}
				first = got.PublicKey
			}
			if got := sizeOf(parsePublicKey(t, first)); !strings.Contains(string(k.spec), got) {
				t.Errorf("a public key of %s, want one of %s", got, k.spec)
			}
		})
	}
	for _, k := range kinds {
		if !k.isPair() {
			g.refused(t, own, "GetPublicKey", m{"KeyId": g.ready(t, k.spec, k.usage)}, "UnsupportedOperationException", "")
		}
	}
}

// sizeOf is the part of a key spec's name that says the size or curve.
func sizeOf(public any) string {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if public.E != 65537 {
			return fmt.Sprint("exponent ", public.E)
		}
		return fmt.Sprint("RSA_", public.N.BitLen())
	case *ecdsa.PublicKey:
		return "NIST_" + strings.Replace(public.Curve.Params().Name, "-", "", 1)
	case ed25519.PublicKey:
		return "EDWARDS25519"
	case *secp256k1.PublicKey:
		return "P256K1"
	}
	return fmt.Sprintf("%T", public)
}
