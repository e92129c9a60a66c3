package keyspec_test

import (
	"testing"

	"kmsgate/hsm/keyspec"
)

func TestWrappingAlgorithms(t *testing.T) {
	t.Parallel()
	for a, want := range map[keyspec.WrappingAlgorithm]map[keyspec.Spec]bool{
		keyspec.WrapOAEPSHA256: {
			keyspec.SymmetricDefault: true, keyspec.HMAC512: true, keyspec.ECCNISTP521: true, keyspec.ECCNISTEdwards25519: true,
			keyspec.RSA2048: false, keyspec.MLDSA44: false, keyspec.MLKEM512: false, keyspec.SM2: false, "X": false,
		},
		keyspec.WrapRSAAESSHA1: {keyspec.SymmetricDefault: true, keyspec.RSA4096: true, keyspec.ECCSECGP256K1: true, keyspec.MLDSA87: false},
	} {
		row, ok := keyspec.LookupWrapping(a)
		if !ok || row.Algorithm != a {
			t.Fatalf("LookupWrapping(%s) = %+v, %v", a, row, ok)
		}
		for spec, wraps := range want {
			if got := row.WrapsSpec(spec); got != wraps {
				t.Errorf("%s wraps %s: %v, want %v", a, spec, got, wraps)
			}
		}
	}
	for _, a := range []keyspec.WrappingAlgorithm{keyspec.WrapRSAPKCS1V15, keyspec.WrapSM2PKE, ""} {
		if _, ok := keyspec.LookupWrapping(a); ok {
			t.Errorf("%q is served", a)
		}
	}
}

func TestImportedBytes(t *testing.T) {
	t.Parallel()
	for spec, want := range map[keyspec.Spec][2]int{
		keyspec.SymmetricDefault: {32, 32}, keyspec.HMAC224: {28, 128}, keyspec.HMAC512: {64, 128}, keyspec.RSA2048: {},
	} {
		row, _ := keyspec.Lookup(spec)
		if least, most := row.ImportedBytes(); [2]int{least, most} != want {
			t.Errorf("%s: %d to %d bytes, want %v", spec, least, most, want)
		}
	}
}
