package pkcs11

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// openssl runs the command of that name and returns what it writes. It is what
// material is made and wrapped with, as a customer would.
func openssl(t *testing.T, in []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Stdin = bytes.NewReader(in)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("openssl %v = %v: %s", args, err, problem.Bytes())
	}
	return out.Bytes()
}

func inFile(t *testing.T, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(name, content, 0o600))
	return name
}

// wrapForImport wraps material for a wrapping key by openssl.
func wrapForImport(t *testing.T, wrapping *hsm.Key, a keyspec.WrappingAlgorithm, material []byte) []byte {
	t.Helper()
	row, _ := keyspec.LookupWrapping(a)
	direct, rest := material, []byte(nil)
	if row.Hybrid {
		direct = make([]byte, 32)
		rand.Read(direct)
		rest = openssl(t, material, "enc", "-id-aes256-wrap-pad", "-K", hex.EncodeToString(direct), "-iv", "A65959A6")
	}
	digest := map[int]string{20: "sha1", 32: "sha256"}[row.Hash.Size()]
	rsa := openssl(t, direct, "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", inFile(t, wrapping.PublicKey),
		"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:"+digest, "-pkeyopt", "rsa_mgf1_md:"+digest)
	return slices.Concat(rsa, rest)
}

// materialFor makes material of a spec by openssl.
func materialFor(t *testing.T, spec keyspec.Spec) []byte {
	t.Helper()
	if args, ok := opensslKeys[spec]; ok {
		return openssl(t, openssl(t, nil, append([]string{"genpkey"}, args...)...), "pkcs8", "-topk8", "-nocrypt", "-outform", "DER")
	}
	row, _ := keyspec.Lookup(spec)
	least, _ := row.ImportedBytes()
	return openssl(t, nil, "rand", fmt.Sprint(least))
}

// opensslKeys are the arguments with which openssl makes pairs.
var opensslKeys = map[keyspec.Spec][]string{
	keyspec.RSA2048:             {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
	keyspec.RSA3072:             {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"},
	keyspec.RSA4096:             {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"},
	keyspec.ECCNISTP256:         {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
	keyspec.ECCNISTP384:         {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
	keyspec.ECCNISTP521:         {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"},
	keyspec.ECCSECGP256K1:       {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"},
	keyspec.ECCNISTEdwards25519: {"-algorithm", "ED25519"},
}

func wrappingKey(t *testing.T, e *Engine, spec keyspec.Spec) *hsm.Key {
	t.Helper()
	return makeKey(t, e, spec, keyspec.ImportWrapping)
}

func externalKey(spec keyspec.Spec, usage keyspec.Usage) hsm.Key {
	k := newKey("imported-" + string(spec))
	k.Spec, k.Usage, k.Origin, k.MaterialID = spec, usage, keyspec.External, hsm.MaterialID{}
	return k
}

// TestImportedMaterialIsUsed brings in what openssl made and wrapped, of every spec
// and under every wrapping algorithm, and does with it what openssl and the
// standard library do.
func TestImportedMaterialIsUsed(t *testing.T) {
	e := openWithKeys(t, nil)
	wrapping := wrappingKey(t, e, keyspec.RSA4096)
	for _, row := range keyspec.Specs {
		if !row.Importable() || row.Spec == keyspec.ECCNISTEdwards25519 { // which SoftHSM does not wrap
			continue
		}
		for _, usage := range row.Usages() {
			material := materialFor(t, row.Spec)
			var ids []hsm.MaterialID
			for _, a := range keyspec.WrappingAlgorithms {
				if !a.WrapsSpec(row.Spec) {
					continue
				}
				t.Run(fmt.Sprint(row.Spec, usage, a.Algorithm), func(t *testing.T) {
					k, err := e.Import(t.Context(), client, wrapping, a.Algorithm, wrapForImport(t, wrapping, a.Algorithm, material), externalKey(row.Spec, usage))
					if err != nil {
						t.Fatalf("Import = %v", err)
					}
					ids = append(ids, k.MaterialID)
					usesImported(t, e, &k, material)
				})
			}
			if len(slices.Compact(ids)) > 1 {
				t.Errorf("%s: one material has the ids %v", row.Spec, ids)
			}
		}
	}
}

// usesImported uses a key as the material says.
func usesImported(t *testing.T, e *Engine, k *hsm.Key, material []byte) {
	t.Helper()
	row, _ := keyspec.Lookup(k.Spec)
	a := row.Algorithms[k.Usage][0]
	algorithm, _ := keyspec.LookupAlgorithm(a)
	if opensslKeys[k.Spec] != nil {
		if want := openssl(t, material, "pkey", "-inform", "DER", "-pubout", "-outform", "DER"); !bytes.Equal(k.PublicKey, want) {
			t.Errorf("public key %x, want %x", k.PublicKey, want)
		}
		_, err := e.PublicKey(t.Context(), client, k) // the private key is proved to be its own
		must(t, err)
		return
	}
	if k.Usage == keyspec.GenerateVerifyMAC {
		got, err := e.GenerateMAC(t.Context(), client, k, a, []byte("message"))
		must(t, err)
		want := hmac.New(algorithm.Hash.New, material)
		want.Write([]byte("message"))
		if !hmac.Equal(got, want.Sum(nil)) {
			t.Errorf("MAC = %x, want %x", got, want.Sum(nil))
		}
		return
	}
	sealed, err := e.Encrypt(t.Context(), client, k, []byte("plaintext"), []byte("aad"))
	must(t, err)
	block, err := aes.NewCipher(material)
	must(t, err)
	gcm, err := cipher.NewGCM(block)
	must(t, err)
	if got, err := gcm.Open(nil, sealed.IV, sealed.Data, []byte("aad")); err != nil || string(got) != "plaintext" {
		t.Errorf("what was encrypted opens to %q, %v", got, err)
	}
}

// TestImportTakesEveryWrappingKey: of each size, and each HMAC length.
func TestImportTakesEveryWrappingKey(t *testing.T) {
	e := openWithKeys(t, nil)
	for _, spec := range []keyspec.Spec{keyspec.RSA2048, keyspec.RSA3072} {
		wrapping := wrappingKey(t, e, spec)
		for _, n := range []int{28, 29, 64, 128} {
			material := openssl(t, nil, "rand", fmt.Sprint(n))
			k, err := e.Import(t.Context(), client, wrapping, keyspec.WrapOAEPSHA1, wrapForImport(t, wrapping, keyspec.WrapOAEPSHA1, material),
				externalKey(keyspec.HMAC224, keyspec.GenerateVerifyMAC))
			if err != nil {
				t.Fatalf("Import of %d bytes under %s = %v", n, spec, err)
			}
			usesImported(t, e, &k, material)
		}
	}
}

// TestImportFindsThePublicKey of an EC key that comes without it.
func TestImportFindsThePublicKey(t *testing.T) {
	e := openWithKeys(t, nil)
	wrapping := wrappingKey(t, e, keyspec.RSA2048)
	for _, spec := range []keyspec.Spec{keyspec.ECCNISTP256, keyspec.ECCNISTP384, keyspec.ECCNISTP521, keyspec.ECCSECGP256K1} {
		for _, form := range [][]string{{"-no_public"}, {"-conv_form", "compressed"}} {
			material := materialFor(t, spec)
			short := openssl(t, material, append([]string{"ec", "-inform", "DER", "-outform", "DER"}, form...)...)
			short = openssl(t, short, "pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-outform", "DER")
			if len(short) >= len(material) {
				t.Fatalf("%s: openssl leaves nothing out", spec)
			}
			k, err := e.Import(t.Context(), client, wrapping, keyspec.WrapRSAAESSHA256, wrapForImport(t, wrapping, keyspec.WrapRSAAESSHA256, short),
				externalKey(spec, keyspec.SignVerify))
			if err != nil {
				t.Fatalf("Import of %s with %v = %v", spec, form, err)
			}
			usesImported(t, e, &k, material)
		}
	}
}

// TestImportReadsBER: a key of indefinite length is the one that openssl reads.
func TestImportReadsBER(t *testing.T) {
	e := openWithKeys(t, nil)
	wrapping := wrappingKey(t, e, keyspec.RSA2048)
	for spec, usage := range map[keyspec.Spec]keyspec.Usage{keyspec.ECCNISTP256: keyspec.SignVerify, keyspec.RSA2048: keyspec.EncryptDecrypt} {
		material := materialFor(t, spec)
		head := 2 + int(material[1]&0x7f) // both are longer than 127 bytes
		ber := slices.Concat([]byte{0x30, 0x80}, material[head:], []byte{0, 0})
		for _, c := range []struct {
			material []byte
			want     error
		}{{ber, nil}, {ber[:len(ber)-1], hsm.ErrIncorrectMaterial}, {append(bytes.Clone(ber), 0, 0), hsm.ErrIncorrectMaterial}} {
			k, err := e.Import(t.Context(), client, wrapping, keyspec.WrapRSAAESSHA256, wrapForImport(t, wrapping, keyspec.WrapRSAAESSHA256, c.material),
				externalKey(spec, usage))
			if !errors.Is(err, c.want) {
				t.Fatalf("Import of %s in %x = %v, want %v", spec, c.material, err, c.want)
			}
			if err == nil {
				usesImported(t, e, &k, ber)
			}
		}
	}
}

// TestImportRefusesOtherMaterial: of the wrong size or kind, or wrapped wrongly.
func TestImportRefusesOtherMaterial(t *testing.T) {
	e := openWithKeys(t, nil)
	wrapping, other := wrappingKey(t, e, keyspec.RSA2048), wrappingKey(t, e, keyspec.RSA2048)
	oaep, hybrid := keyspec.WrapOAEPSHA256, keyspec.WrapRSAAESSHA256
	symmetric, p256 := externalKey(keyspec.SymmetricDefault, keyspec.EncryptDecrypt), externalKey(keyspec.ECCNISTP256, keyspec.SignVerify)
	secret, ec := make([]byte, 32), materialFor(t, keyspec.ECCNISTP256)
	bad := func(material []byte, change func([]byte) []byte) []byte { return change(bytes.Clone(material)) }
	pointOff := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	for _, c := range []struct {
		what    string
		k       hsm.Key
		a       keyspec.WrappingAlgorithm
		wrapped []byte
		want    error
	}{
		{"31 bytes", symmetric, oaep, wrapForImport(t, wrapping, oaep, secret[:31]), hsm.ErrIncorrectMaterial},
		{"33 bytes", symmetric, oaep, wrapForImport(t, wrapping, oaep, append(secret, 1)), hsm.ErrIncorrectMaterial},
		{"16 bytes, SHA-1", symmetric, keyspec.WrapOAEPSHA1, wrapForImport(t, wrapping, keyspec.WrapOAEPSHA1, secret[:16]), hsm.ErrIncorrectMaterial},
		{"31 bytes, hybrid, SHA-1", symmetric, keyspec.WrapRSAAESSHA1, wrapForImport(t, wrapping, keyspec.WrapRSAAESSHA1, secret[:31]), hsm.ErrIncorrectMaterial},
		{"27 bytes for HMAC", externalKey(keyspec.HMAC224, keyspec.GenerateVerifyMAC), oaep, wrapForImport(t, wrapping, oaep, secret[:27]), hsm.ErrIncorrectMaterial},
		{"129 bytes for HMAC", externalKey(keyspec.HMAC512, keyspec.GenerateVerifyMAC), hybrid, wrapForImport(t, wrapping, hybrid, make([]byte, 129)), hsm.ErrIncorrectMaterial},
		{"another wrapping key", symmetric, oaep, wrapForImport(t, other, oaep, secret), hsm.ErrInvalidCiphertext},
		{"another wrapping key, SHA-1", symmetric, keyspec.WrapOAEPSHA1, wrapForImport(t, other, keyspec.WrapOAEPSHA1, secret), hsm.ErrInvalidCiphertext},
		{"another hash", symmetric, oaep, wrapForImport(t, wrapping, keyspec.WrapOAEPSHA1, secret), hsm.ErrInvalidCiphertext},
		{"another hash, SHA-1", symmetric, keyspec.WrapOAEPSHA1, wrapForImport(t, wrapping, oaep, secret), hsm.ErrInvalidCiphertext},
		{"cut off", p256, hybrid, wrapForImport(t, wrapping, hybrid, ec)[:256], hsm.ErrInvalidCiphertext},
		{"flipped", p256, hybrid, bad(wrapForImport(t, wrapping, hybrid, ec), pointOff), hsm.ErrInvalidCiphertext},
		{"flipped, SHA-1", symmetric, keyspec.WrapRSAAESSHA1, bad(wrapForImport(t, wrapping, keyspec.WrapRSAAESSHA1, secret), pointOff), hsm.ErrInvalidCiphertext},
		{"cut off, SHA-1", symmetric, keyspec.WrapRSAAESSHA1, wrapForImport(t, wrapping, keyspec.WrapRSAAESSHA1, secret)[:256], hsm.ErrInvalidCiphertext},
		{"too short", symmetric, oaep, secret, hsm.ErrInvalidCiphertext},
		{"too long", symmetric, oaep, append(wrapForImport(t, wrapping, oaep, secret), 0), hsm.ErrInvalidCiphertext},
		{"no PKCS#8", p256, hybrid, wrapForImport(t, wrapping, hybrid, secret), hsm.ErrIncorrectMaterial},
		{"bytes behind PKCS#8", p256, hybrid, wrapForImport(t, wrapping, hybrid, append(bytes.Clone(ec), 0)), hsm.ErrIncorrectMaterial},
		{"a point off the curve", p256, hybrid, wrapForImport(t, wrapping, hybrid, bad(ec, pointOff)), hsm.ErrIncorrectMaterial},
		{"another curve", externalKey(keyspec.ECCSECGP256K1, keyspec.SignVerify), hybrid, wrapForImport(t, wrapping, hybrid, ec), hsm.ErrIncorrectMaterial},
		{"another kind", externalKey(keyspec.RSA2048, keyspec.SignVerify), hybrid, wrapForImport(t, wrapping, hybrid, ec), hsm.ErrIncorrectMaterial},
		{"another RSA size", externalKey(keyspec.RSA3072, keyspec.SignVerify), hybrid, wrapForImport(t, wrapping, hybrid, materialFor(t, keyspec.RSA2048)), hsm.ErrIncorrectMaterial},
		{"RSA by OAEP", externalKey(keyspec.RSA2048, keyspec.SignVerify), oaep, make([]byte, 256), hsm.ErrUnsupported},
		{"PKCS#1", externalKey(keyspec.RSA2048, keyspec.SignVerify), keyspec.WrapRSAPKCS1V15, make([]byte, 256), hsm.ErrUnsupported},
		{"a key that is made here", newKey("made"), oaep, wrapForImport(t, wrapping, oaep, secret), hsm.ErrUnsupported},
	} {
		k, err := e.Import(t.Context(), client, wrapping, c.a, c.wrapped, c.k)
		if !errors.Is(err, c.want) || len(k.Blob) != 0 {
			t.Errorf("Import of %s = %v, want %v", c.what, err, c.want)
		}
	}
	mixed := bad(ec, func(b []byte) []byte { // the public key of another private key
		theirs := materialFor(t, keyspec.ECCNISTP256)
		return append(b[:len(b)-64], theirs[len(theirs)-64:]...)
	})
	if _, err := e.Import(t.Context(), client, wrapping, hybrid, wrapForImport(t, wrapping, hybrid, mixed), p256); !errors.Is(err, hsm.ErrIncorrectMaterial) {
		t.Errorf("Import of another's public key = %v, want %v", err, hsm.ErrIncorrectMaterial)
	}
}

// TestImportUnderStrict takes only what never leaves the token.
func TestImportUnderStrict(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.Strict = true })
	wrapping := wrappingKey(t, e, keyspec.RSA2048)
	secret := make([]byte, 32)
	for _, row := range keyspec.WrappingAlgorithms {
		a := row.Algorithm
		_, err := e.Import(t.Context(), client, wrapping, a, wrapForImport(t, wrapping, a, secret), externalKey(keyspec.SymmetricDefault, keyspec.EncryptDecrypt))
		if !errors.Is(err, hsm.ErrUnsupported) { // SoftHSM does not tell the length of what it unwraps
			t.Errorf("Import under %s = %v, want %v", a, err, hsm.ErrUnsupported)
		}
	}
}

// TestImportInTheToken: NSS unwraps secrets and tells their length, so that they
// come in under strict, too.
func TestImportInTheToken(t *testing.T) {
	cfg := newNSSToken(t)
	cfg.Strict = true
	e := open(t, cfg)
	if _, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 1)); err != nil {
		t.Fatal(err)
	}
	wrapping := wrappingKey(t, e, keyspec.RSA2048)
	for _, row := range keyspec.WrappingAlgorithms {
		a := row.Algorithm
		t.Logf("%+v", e.findings.importing[a])
		for _, spec := range []keyspec.Spec{keyspec.SymmetricDefault, keyspec.HMAC384} {
			usages, _ := keyspec.Lookup(spec)
			material := materialFor(t, spec)
			k, err := e.Import(t.Context(), client, wrapping, a, wrapForImport(t, wrapping, a, material), externalKey(spec, usages.Usages()[0]))
			if err != nil {
				t.Errorf("Import of %s under %s = %v", spec, a, err)
				continue
			}
			usesImported(t, e, &k, material)
			_, err = e.Import(t.Context(), client, wrapping, a, wrapForImport(t, wrapping, a, material[1:]), externalKey(spec, usages.Usages()[0]))
			if !errors.Is(err, hsm.ErrIncorrectMaterial) {
				t.Errorf("Import of %s, one byte too short, under %s = %v", spec, a, err)
			}
			damaged := wrapForImport(t, wrapping, a, material)
			damaged[len(damaged)-1] ^= 1
			if _, err = e.Import(t.Context(), client, wrapping, a, damaged, externalKey(spec, usages.Usages()[0])); !errors.Is(err, hsm.ErrInvalidCiphertext) {
				t.Errorf("Import of %s, damaged, under %s = %v", spec, a, err)
			}
		}
	}
}
