package pkcs11

import (
	"testing"

	"github.com/miekg/pkcs11"
)

// TestTemplateIsEncodedOnce: only the one copy of a secret value is made that is
// cleared, however long the value is.
func TestTemplateIsEncodedOnce(t *testing.T) {
	for _, permissions := range []uint{0, maySign | mayBeExtracted, mayStay | mayEncrypt | maySign | mayWrap | mayDerive | mayDecapsulate} {
		made := template{class: pkcs11.CKO_PRIVATE_KEY, keyType: pkcs11.CKK_RSA, may: permissions, valueLen: 32}
		plain := testing.AllocsPerRun(100, func() { _ = made.encode() })
		for _, bytes := range []int{1, 32, 513, 4096} {
			made.more = []valueAttr{{pkcs11.CKA_PRIVATE_EXPONENT, make([]byte, bytes)}, {pkcs11.CKA_PRIME_1, make([]byte, bytes)}}
			if got := testing.AllocsPerRun(100, func() { _ = made.encode() }); got > plain {
				t.Errorf("values of %d bytes, permissions %b: %v allocations, want %v", bytes, permissions, got, plain)
			}
		}
	}
}
