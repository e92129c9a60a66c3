package gateway

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/metadata"
)

// must calls an operation as account1, which must succeed. The clock moves on, so that
// no rate is passed.
func (f *fixture) must(t *testing.T, operation string, in object) object {
	t.Helper()
	a := f.try(t, operation, in)
	if a.status != http.StatusOK {
		t.Fatalf("%s %v: %d %s", operation, in, a.status, a.body)
	}
	out := object{}
	if len(a.body) > 0 {
		if err := json.Unmarshal([]byte(a.body), &out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func (f *fixture) try(t *testing.T, operation string, in object) answer {
	t.Helper()
	f.skew.Add(int64(2 * time.Second))
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	a, err := f.call(t.Context(), account1, operation, string(body))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// refuses calls an operation that must be refused.
func (f *fixture) refuses(t *testing.T, what, operation string, in object, code kmsapi.Code) {
	t.Helper()
	if a := f.try(t, operation, in); a.code != string(code) {
		t.Errorf("%s: %d %s, want %s", what, a.status, a.body, code)
	}
}

// external makes a key that waits for its material.
func (f *fixture) external(t *testing.T) string {
	t.Helper()
	m, _ := f.must(t, "CreateKey", object{"Origin": "EXTERNAL"})["KeyMetadata"].(map[string]any)
	if m["KeyState"] != "PendingImport" || m["Enabled"] != false || m["ExpirationModel"] != nil || m["CurrentKeyMaterialId"] != nil {
		t.Fatalf("a key of origin EXTERNAL begins as %v", m)
	}
	return m["Arn"].(string)
}

// wrapped is a request that imports material.
func (f *fixture) wrapped(t *testing.T, key string, material []byte, more object) object {
	t.Helper()
	return wrappedFor(t, f.must(t, "GetParametersForImport", parametersFor(key)), material, more)
}

// parametersFor asks for the parameters of an import.
func parametersFor(key string) object {
	return object{"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
}

// wrappedFor is a request that imports material by parameters.
func wrappedFor(t *testing.T, p object, material []byte, more object) object {
	t.Helper()
	var spki kmsapi.Blob
	if err := spki.UnmarshalJSON([]byte(`"` + p["PublicKey"].(string) + `"`)); err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), material, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := object{"KeyId": p["KeyId"], "ImportToken": p["ImportToken"], "EncryptedKeyMaterial": sealed, "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
	for name, value := range more {
		if value == nil {
			delete(in, name)
		} else {
			in[name] = value
		}
	}
	return in
}

func (f *fixture) describe(t *testing.T, key string) object {
	t.Helper()
	m, _ := f.must(t, "DescribeKey", object{"KeyId": key})["KeyMetadata"].(map[string]any)
	return m
}

func TestImportedKeysLive(t *testing.T) {
	f := newFixture(t, nil)
	key, material := f.external(t), bytes.Repeat([]byte{7}, 32)
	f.refuses(t, "a key without material", "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")}, kmsapi.KMSInvalidStateException)
	expires := f.now().Add(200 * 24 * time.Hour).Truncate(time.Second)
	in := f.wrapped(t, key, material, object{"ExpirationModel": nil, "ValidTo": expires.Unix(), "KeyMaterialDescription": "mine"})
	id := f.must(t, "ImportKeyMaterial", in)["KeyMaterialId"]
	if m := f.describe(t, key); m["KeyState"] != "Enabled" || m["ExpirationModel"] != "KEY_MATERIAL_EXPIRES" || m["ValidTo"] != float64(expires.Unix()) || m["CurrentKeyMaterialId"] != id {
		t.Errorf("after the import: %v", m)
	}
	sealed := f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")})["CiphertextBlob"]
	f.refuses(t, "a token that was used", "ImportKeyMaterial", in, kmsapi.InvalidImportTokenException)
	if again := f.must(t, "ImportKeyMaterial", f.wrapped(t, key, material, nil))["KeyMaterialId"]; again != id {
		t.Errorf("the same material has the ids %v and %v", id, again)
	}
	if m := f.describe(t, key); m["ExpirationModel"] != "KEY_MATERIAL_DOES_NOT_EXPIRE" || m["ValidTo"] != nil {
		t.Errorf("after another import: %v", m)
	}
	for range 2 { // again changes nothing
		if out := f.must(t, "DeleteImportedKeyMaterial", object{"KeyId": key}); out["KeyId"] != key || out["KeyMaterialId"] != id {
			t.Errorf("DeleteImportedKeyMaterial: %v", out)
		}
		if m := f.describe(t, key); m["KeyState"] != "PendingImport" || m["ExpirationModel"] != nil || m["CurrentKeyMaterialId"] != id {
			t.Errorf("after the material was deleted: %v", m)
		}
	}
	f.refuses(t, "a key without its material", "Decrypt", object{"CiphertextBlob": sealed}, kmsapi.KMSInvalidStateException)
	f.refuses(t, "other material", "ImportKeyMaterial", f.wrapped(t, key, bytes.Repeat([]byte{8}, 32), nil), kmsapi.IncorrectKeyMaterialException)
	f.must(t, "ImportKeyMaterial", f.wrapped(t, key, material, nil))
	if out := f.must(t, "Decrypt", object{"CiphertextBlob": sealed}); out["Plaintext"] != "cA==" || out["KeyMaterialId"] != id {
		t.Errorf("Decrypt after the material came back: %v", out)
	}
	other := f.external(t)
	if theirs := f.must(t, "ImportKeyMaterial", f.wrapped(t, other, material, nil))["KeyMaterialId"]; theirs == id {
		t.Error("the same material has one id in two keys")
	}
}

func TestExpiredMaterialIsNotUsed(t *testing.T) {
	f := newFixture(t, nil)
	key := f.external(t)
	f.must(t, "ImportKeyMaterial", f.wrapped(t, key, make([]byte, 32), object{"ExpirationModel": nil, "ValidTo": f.now().Add(time.Hour).Unix()}))
	f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")})
	f.skew.Add(int64(time.Hour)) // and no job has run
	f.refuses(t, "expired material", "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")}, kmsapi.KMSInvalidStateException)
	// Cancelled deletion leaves a key disabled, whatever it was: it is not enabled without its material.
	f.must(t, "DisableKey", object{"KeyId": key})
	f.refuses(t, "a key without its material", "EnableKey", object{"KeyId": key}, kmsapi.KMSInvalidStateException)
}

func TestImportRefusals(t *testing.T) {
	f := newFixture(t, nil)
	key, other, made := f.external(t), f.external(t), f.createKey(t, account1, "{}")
	good := f.wrapped(t, key, make([]byte, 32), nil)
	with := func(more object) object {
		in := object{}
		for _, m := range []object{good, more} {
			for name, value := range m {
				in[name] = value
			}
		}
		return in
	}
	parameters := object{"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
	ec, _ := f.must(t, "CreateKey", object{"Origin": "EXTERNAL", "KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"})["KeyMetadata"].(map[string]any)
	day := 24 * time.Hour
	for what, c := range map[string]struct {
		operation string
		in        object
		code      kmsapi.Code
	}{
		"a key that is made here":           {"GetParametersForImport", object{"KeyId": made, "WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}, kmsapi.UnsupportedOperationException},
		"material of a key made here":       {"DeleteImportedKeyMaterial", object{"KeyId": made}, kmsapi.UnsupportedOperationException},
		"PKCS #1":                           {"GetParametersForImport", object{"KeyId": key, "WrappingAlgorithm": "RSAES_PKCS1_V1_5", "WrappingKeySpec": "RSA_2048"}, kmsapi.UnsupportedOperationException},
		"an unknown algorithm":              {"GetParametersForImport", object{"KeyId": key, "WrappingAlgorithm": "X", "WrappingKeySpec": "RSA_2048"}, kmsapi.ValidationException},
		"an RSA key by OAEP":                {"GetParametersForImport", object{"KeyId": ec["Arn"], "WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}, kmsapi.ValidationException},
		"an alias":                          {"GetParametersForImport", object{"KeyId": "alias/x", "WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}, kmsapi.InvalidArnException},
		"ML-DSA":                            {"CreateKey", object{"Origin": "EXTERNAL", "KeySpec": "ML_DSA_44", "KeyUsage": "SIGN_VERIFY"}, kmsapi.UnsupportedOperationException},
		"a foreign token":                   {"ImportKeyMaterial", with(object{"ImportToken": []byte("token")}), kmsapi.InvalidImportTokenException},
		"a token of another key":            {"ImportKeyMaterial", with(object{"KeyId": other}), kmsapi.InvalidImportTokenException},
		"a sealed value that is no token":   {"ImportKeyMaterial", with(object{"ImportToken": good["EncryptedKeyMaterial"]}), kmsapi.InvalidImportTokenException},
		"damaged material":                  {"ImportKeyMaterial", with(object{"EncryptedKeyMaterial": make([]byte, 256)}), kmsapi.InvalidCiphertextException},
		"material of another length":        {"ImportKeyMaterial", f.wrapped(t, key, make([]byte, 31), nil), kmsapi.IncorrectKeyMaterialException},
		"no time of expiry":                 {"ImportKeyMaterial", with(object{"ExpirationModel": "KEY_MATERIAL_EXPIRES"}), kmsapi.ValidationException},
		"a time of expiry too many":         {"ImportKeyMaterial", with(object{"ValidTo": f.now().Add(day).Unix()}), kmsapi.ValidationException},
		"a time that is past":               {"ImportKeyMaterial", with(object{"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": f.now().Add(-day).Unix()}), kmsapi.ValidationException},
		"a time that is far":                {"ImportKeyMaterial", with(object{"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": f.now().Add(367 * day).Unix()}), kmsapi.ValidationException},
		"existing material of an empty key": {"ImportKeyMaterial", with(object{"ImportType": "EXISTING_KEY_MATERIAL"}), kmsapi.IncorrectKeyMaterialException},
		"an id of new material":             {"ImportKeyMaterial", with(object{"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialId": string(bytes.Repeat([]byte("0"), 64))}), kmsapi.ValidationException},
		"an id that is not its own":         {"ImportKeyMaterial", with(object{"KeyMaterialId": string(bytes.Repeat([]byte("0"), 64))}), kmsapi.IncorrectKeyMaterialException},
		"a description with odd characters": {"ImportKeyMaterial", with(object{"KeyMaterialDescription": "?"}), kmsapi.ValidationException},
		"a material that is not there":      {"DeleteImportedKeyMaterial", object{"KeyId": key, "KeyMaterialId": string(bytes.Repeat([]byte("0"), 64))}, kmsapi.NotFoundException},
	} {
		f.refuses(t, what, c.operation, c.in, c.code)
	}
	if m := f.describe(t, key); m["KeyState"] != "PendingImport" || m["CurrentKeyMaterialId"] != nil {
		t.Errorf("after refusals: %v", m)
	}
	f.must(t, "ImportKeyMaterial", good) // which outlived them all
	f.refuses(t, "new material that is there", "ImportKeyMaterial",
		f.wrapped(t, key, make([]byte, 32), object{"ImportType": "NEW_KEY_MATERIAL"}), kmsapi.IncorrectKeyMaterialException)
	late := f.wrapped(t, other, make([]byte, 32), nil)
	f.skew.Add(int64(day))
	f.refuses(t, "an expired token", "ImportKeyMaterial", late, kmsapi.ExpiredImportTokenException)
	f.must(t, "GetParametersForImport", parameters)
	if state := metadata.State(f.describe(t, other)["KeyState"].(string)); state != metadata.PendingImport {
		t.Errorf("the other key is %s", state)
	}
}

// TestImportsAreDecidedAnew when the caller's account changes while the token works:
// with the pair that was made, and the material that was opened once more.
func TestImportsAreDecidedAnew(t *testing.T) {
	var f *fixture
	token := &busyToken{then: func() {}}
	f = newFixture(t, func(c *Config) {
		token.Token, c.Tokens = c.Tokens[testStore], map[string]hsm.Token{testStore: token}
	})
	key := f.external(t)
	token.then = func() {
		if err := f.move(t.Context(), account1); err != nil {
			t.Error(err)
		}
	}
	token.made = 0
	in := f.wrapped(t, key, make([]byte, 32), nil)
	if token.made != 1 {
		t.Errorf("%d pairs were made, want one", token.made)
	}
	f.must(t, "ImportKeyMaterial", in)
	if m := f.describe(t, key); m["KeyState"] != "Enabled" {
		t.Errorf("after the import: %v", m)
	}
}
