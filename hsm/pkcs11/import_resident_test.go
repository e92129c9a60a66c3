package pkcs11

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// importToStay imports a key that stays in the token, as the gateway does: it learns
// the material's id first.
func importToStay(t *testing.T, e *Engine, wrapping *hsm.Key, a keyspec.WrappingAlgorithm, material []byte, k hsm.Key) hsm.Key {
	t.Helper()
	must(t, e.Imports(testStore, k.Spec, k.Usage, a))
	before := len(residentsOf(t, e))
	wrapped := wrapForImport(t, wrapping, a, material)
	known, err := e.Import(t.Context(), client, wrapping, a, wrapped, k)
	must(t, err)
	if after := len(residentsOf(t, e)); known.Residency != hsm.Absent || known.MaterialID == (hsm.MaterialID{}) || len(known.Blob)+len(known.Binding) > 0 || after != before {
		t.Fatalf("Import without a material id = %+v, and made %d objects", known, after-before)
	}
	k.MaterialID = known.MaterialID
	made, err := e.Import(t.Context(), client, wrapping, a, wrapped, k)
	must(t, err)
	if made.Residency != hsm.Resident || made.MaterialID != known.MaterialID {
		t.Fatalf("Import = %+v, want a key that stays", made)
	}
	return made
}

// TestImportedKeysThatStay: their objects come and go with the material, each under
// one CKA_ID.
func TestImportedKeysThatStay(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.Resident = []string{testStore} })
	wrapping, a := wrappingKey(t, e, keyspec.RSA2048), keyspec.WrapRSAAESSHA256
	for _, of := range []keyID{
		{keyspec.SymmetricDefault, keyspec.EncryptDecrypt},
		{keyspec.HMAC384, keyspec.GenerateVerifyMAC},
		{keyspec.RSA2048, keyspec.EncryptDecrypt},
		{keyspec.ECCNISTP256, keyspec.KeyAgreement},
		{keyspec.ECCSECGP256K1, keyspec.SignVerify},
		{keyspec.ECCNISTEdwards25519, keyspec.SignVerify},
	} {
		t.Run(fmt.Sprint(of.spec, of.usage), func(t *testing.T) {
			k, material := externalKey(of.spec, of.usage), materialFor(t, of.spec)
			first := importToStay(t, e, wrapping, a, material, k)
			usesResident(t, e, &first, material)
			again := importToStay(t, e, wrapping, a, material, k)                           // as after a crash before there was a row
			if !again.Equal(&first) && !t.Failed() && of.spec != keyspec.SymmetricDefault { // whose check value has an IV
				t.Errorf("Import of the same = %+v, want %+v", again, first)
			}
			found := residentsOf(t, e)
			if len(found) != 1 || !bytes.Equal(found[0].ID, first.Blob) || found[0].Label != residentLabel+k.KeyID {
				t.Errorf("the token has %+v, want one object of key %s", found, k.KeyID)
			}
			k.MaterialID = first.MaterialID
			_, err := e.Import(t.Context(), client, wrapping, a, wrapForImport(t, wrapping, a, materialFor(t, of.spec)), k)
			refusedWith(t, "Import of other material than is expected", nil, err, hsm.ErrIncorrectMaterial)
			usesResident(t, e, &first, material)
			must(t, e.Destroy(t.Context(), client, &first))
			if found := residentsOf(t, e); len(found) != 0 {
				t.Errorf("the token has %+v after Destroy", found)
			}
			back := importToStay(t, e, wrapping, a, material, externalKey(of.spec, of.usage))
			usesResident(t, e, &back, material)
			must(t, e.Destroy(t.Context(), client, &back))
		})
	}
	if n := sessionObjects(t, e); n > 12 { // the pair to wrap to, and public keys that the cache has
		t.Errorf("%d session objects are left in the token", n)
	}
}

// usesResident uses a key as its material says.
func usesResident(t *testing.T, e *Engine, k *hsm.Key, material []byte) {
	t.Helper()
	if k.Spec != keyspec.ECCNISTEdwards25519 {
		usesImported(t, e, k, material)
		return
	}
	signature, err := e.Sign(t.Context(), client, k, keyspec.Ed25519SHA512, keyspec.Raw, []byte("message"))
	must(t, err)
	private, err := x509.ParsePKCS8PrivateKey(material)
	must(t, err)
	if signer, ok := private.(ed25519.PrivateKey); !ok || !bytes.Equal(signature, ed25519.Sign(signer, []byte("message"))) {
		t.Errorf("Sign with imported material = %x", signature)
	}
}

// TestImportedObjectOfAnother: an object that has the CKA_ID of a material and is
// labelled as another key's, or holds another key, is left alone and not used.
func TestImportedObjectOfAnother(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.Resident = []string{testStore} })
	wrapping, a := wrappingKey(t, e, keyspec.RSA2048), keyspec.WrapOAEPSHA256
	k, material := externalKey(keyspec.HMAC256, keyspec.GenerateVerifyMAC), materialFor(t, keyspec.HMAC256)
	wrapped := wrapForImport(t, wrapping, a, material)
	known, err := e.Import(t.Context(), client, wrapping, a, wrapped, k)
	must(t, err)
	k.MaterialID = known.MaterialID
	s := ownSession(t, e)
	ours := valueAttr{pkcs11.CKA_LABEL, []byte(residentLabel + k.KeyID)}
	for what, more := range map[string][]valueAttr{
		"another's label": {{pkcs11.CKA_VALUE, material}, {pkcs11.CKA_LABEL, []byte("another")}},
		"another's value": {{pkcs11.CKA_VALUE, make([]byte, 32)}, ours},
	} {
		making := keyTypes[k.Spec][k.Usage].template
		making.valueLen, making.may = 0, making.may|mayStay|mayBeCopied
		making.more = append(more, valueAttr{pkcs11.CKA_ID, importedID(&k)})
		object, err := e.module.lib.create(s.handle, making)
		must(t, err)
		if _, err = e.Import(t.Context(), client, wrapping, a, wrapped, k); !errors.Is(err, hsm.ErrWrongMaterial) {
			t.Errorf("Import where an object has %s = %v, want %v", what, err, hsm.ErrWrongMaterial)
		}
		must(t, e.module.lib.destroy(s.handle, object)) // it is there still
	}
}
