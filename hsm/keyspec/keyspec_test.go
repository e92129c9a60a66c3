package keyspec_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/hsm/keyspec"
)

// What the KMS Developer Guide's "Key spec reference" says, by spec: usage and
// algorithms.
var reference = map[keyspec.Spec]map[keyspec.Usage][]keyspec.Algorithm{
	keyspec.SymmetricDefault: {keyspec.EncryptDecrypt: {"SYMMETRIC_DEFAULT"}},
	keyspec.RSA2048:          rsaReference,
	keyspec.RSA3072:          rsaReference,
	keyspec.RSA4096:          rsaReference,
	keyspec.ECCNISTP256:      {keyspec.SignVerify: {"ECDSA_SHA_256"}, keyspec.KeyAgreement: {"ECDH"}},
	keyspec.ECCNISTP384:      {keyspec.SignVerify: {"ECDSA_SHA_384"}, keyspec.KeyAgreement: {"ECDH"}},
	keyspec.ECCNISTP521:      {keyspec.SignVerify: {"ECDSA_SHA_512"}, keyspec.KeyAgreement: {"ECDH"}},
	keyspec.ECCSECGP256K1:    {keyspec.SignVerify: {"ECDSA_SHA_256"}},
	keyspec.ECCNISTEdwards25519: {
		keyspec.SignVerify: {"ED25519_SHA_512", "ED25519_PH_SHA_512"},
	},
	keyspec.HMAC224: {keyspec.GenerateVerifyMAC: {"HMAC_SHA_224"}},
	keyspec.HMAC256: {keyspec.GenerateVerifyMAC: {"HMAC_SHA_256"}},
	keyspec.HMAC384: {keyspec.GenerateVerifyMAC: {"HMAC_SHA_384"}},
	keyspec.HMAC512: {keyspec.GenerateVerifyMAC: {"HMAC_SHA_512"}},
	keyspec.SM2: {
		keyspec.EncryptDecrypt: {"SM2PKE"}, keyspec.SignVerify: {"SM2DSA"}, keyspec.KeyAgreement: {"ECDH"},
	},
	keyspec.MLDSA44:   {keyspec.SignVerify: {"ML_DSA_SHAKE_256"}},
	keyspec.MLDSA65:   {keyspec.SignVerify: {"ML_DSA_SHAKE_256"}},
	keyspec.MLDSA87:   {keyspec.SignVerify: {"ML_DSA_SHAKE_256"}},
	keyspec.MLKEM512:  {keyspec.EncapsulateDecapsulate: {"ML_KEM"}},
	keyspec.MLKEM768:  {keyspec.EncapsulateDecapsulate: {"ML_KEM"}},
	keyspec.MLKEM1024: {keyspec.EncapsulateDecapsulate: {"ML_KEM"}},
}

var rsaReference = map[keyspec.Usage][]keyspec.Algorithm{
	keyspec.EncryptDecrypt: {"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"},
	keyspec.SignVerify: {
		"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
		"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
	},
}

func TestSpecsAreTheReference(t *testing.T) {
	t.Parallel()
	if got, want := len(keyspec.Specs), len(reference); got != want {
		t.Errorf("%d specs, want %d", got, want)
	}
	for spec, want := range reference {
		row, ok := keyspec.Lookup(spec)
		if !ok || row.Spec != spec {
			t.Errorf("Lookup(%s) = %v, %t, want its row", spec, row, ok)
			continue
		}
		if diff := cmp.Diff(want, row.Algorithms); diff != "" {
			t.Errorf("algorithms of %s differ (-want +got):\n%s", spec, diff)
		}
	}
}

func TestLookupKnowsNoOtherSpec(t *testing.T) {
	t.Parallel()
	for _, spec := range []keyspec.Spec{"", "AES_256", "symmetric_default", "RSA_1024"} {
		if row, ok := keyspec.Lookup(spec); ok {
			t.Errorf("Lookup(%q) = %v, want none", spec, row)
		}
	}
}

func TestUsagesKeepAWSOrder(t *testing.T) {
	t.Parallel()
	for spec, want := range map[keyspec.Spec][]keyspec.Usage{
		keyspec.SymmetricDefault: {keyspec.EncryptDecrypt},
		keyspec.RSA2048:          {keyspec.EncryptDecrypt, keyspec.SignVerify},
		keyspec.ECCNISTP256:      {keyspec.SignVerify, keyspec.KeyAgreement},
		keyspec.HMAC256:          {keyspec.GenerateVerifyMAC},
		keyspec.SM2:              {keyspec.EncryptDecrypt, keyspec.SignVerify, keyspec.KeyAgreement},
		keyspec.MLKEM768:         {keyspec.EncapsulateDecapsulate},
	} {
		row, _ := keyspec.Lookup(spec)
		if got := row.Usages(); !slices.Equal(got, want) {
			t.Errorf("usages of %s = %v, want %v", spec, got, want)
		}
	}
}

func TestSpecsAreWellFormed(t *testing.T) {
	t.Parallel()
	seen := map[keyspec.Spec]bool{}
	for _, row := range keyspec.Specs {
		if seen[row.Spec] {
			t.Errorf("%s stands twice", row.Spec)
		}
		seen[row.Spec] = true
		if row.Bits <= 0 {
			t.Errorf("%s has %d bits", row.Spec, row.Bits)
		}
		if got := len(row.Usages()); got != len(row.Algorithms) || got == 0 {
			t.Errorf("%s has %d usages that AWS knows, of %d", row.Spec, got, len(row.Algorithms))
		}
		for usage, algorithms := range row.Algorithms {
			if len(algorithms) == 0 || slices.Contains(algorithms, "") || len(slices.Compact(slices.Sorted(slices.Values(algorithms)))) != len(algorithms) {
				t.Errorf("%s, %s: algorithms %v, want some, each once", row.Spec, usage, algorithms)
			}
		}
	}
	for _, spec := range []string{"RSA_", "HMAC_", "ML_KEM_"} {
		for _, row := range keyspec.Specs {
			if digits, ok := strings.CutPrefix(string(row.Spec), spec); ok && digits != strconv.Itoa(row.Bits) {
				t.Errorf("%s has %d bits, want %s", row.Spec, row.Bits, digits)
			}
		}
	}
}

func TestAlgorithmsOfSpecsHaveTheirRow(t *testing.T) {
	t.Parallel()
	used := map[keyspec.Algorithm]bool{}
	for _, row := range keyspec.Specs {
		for usage, algorithms := range row.Algorithms {
			for _, a := range algorithms {
				used[a] = true
				got, ok := keyspec.LookupAlgorithm(a)
				if row.Spec == keyspec.SM2 {
					if ok && a != keyspec.ECDH {
						t.Errorf("%s has a row, want none", a)
					}
				} else if !ok || got.Usage != usage {
					t.Errorf("LookupAlgorithm(%s) = %v, %t, want a row of %s", a, got, ok, usage)
				}
			}
		}
	}
	for _, row := range keyspec.Algorithms {
		if !used[row.Algorithm] {
			t.Errorf("no spec has %s", row.Algorithm)
		}
		if (len(row.Messages) > 0) != (row.Usage == keyspec.SignVerify) {
			t.Errorf("%s takes messages %v", row.Algorithm, row.Messages)
		}
		if row.Hash != 0 && !row.Hash.Available() {
			t.Errorf("the hash of %s is not linked in", row.Algorithm)
		}
		if want, ok := row.Messages[keyspec.Digest]; ok && row.Hash != 0 && want != row.Hash.Size() {
			t.Errorf("digests of %s have %d bytes, want %d", row.Algorithm, want, row.Hash.Size())
		}
	}
}

func TestOriginsAreAWSOnes(t *testing.T) {
	t.Parallel()
	want := []keyspec.Origin{"AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"}
	if !slices.Equal(keyspec.Origins, want) {
		t.Errorf("Origins = %v, want %v", keyspec.Origins, want)
	}
}
