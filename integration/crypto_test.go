package integration_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

const (
	dryRunText    = "The request would have succeeded, but the DryRun option is set."
	incorrectText = "The key ID in the request does not identify a CMK that can perform this operation."
	dataKeyText   = "Please specify either number of bytes or key spec."
)

// material is the id of a key's current material.
func (i *instance) material(t testing.TB, account, key string) string {
	t.Helper()
	return i.mustCall(t, account, "DescribeKey", m{"KeyId": key})["KeyMetadata"].(m)["CurrentKeyMaterialId"].(string)
}

// fourForms are all identifiers of a key, with an alias made for it.
func (i *instance) fourForms(t testing.TB, account, key string) []string {
	t.Helper()
	alias := "alias/forms-" + idOf(key)
	i.mustCall(t, account, "CreateAlias", m{"AliasName": alias, "TargetKeyId": key})
	return []string{idOf(key), key, alias, aliasARN(account, alias)}
}

func TestEncryptAndDecrypt(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	key := g.createKey(t, own)
	material := g.material(t, own, key)
	forms := g.fourForms(t, own, key)
	contexts := []map[string]string{nil, {}, {"a": "b"}, {"": ""}, {"purpose": "Ümlaut \u2028", "a": "", "\x00": "\U0001F511"}}
	seen := map[string]bool{}
	for n, context := range contexts {
		form := forms[n%len(forms)]
		for _, plaintext := range [][]byte{{0}, hide([]byte("some secret plaintext")), bytes.Repeat([]byte("x"), 4096)} {
			encrypted, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &form, Plaintext: plaintext, EncryptionContext: context})
			if err != nil {
				t.Fatal(err)
			}
			c.wantMembers(t, "CiphertextBlob", "KeyId", "EncryptionAlgorithm") // and no KeyMaterialId
			if *encrypted.KeyId != key || encrypted.EncryptionAlgorithm != types.EncryptionAlgorithmSpecSymmetricDefault {
				t.Errorf("Encrypt under %s: KeyId %s, EncryptionAlgorithm %s; want %s, SYMMETRIC_DEFAULT", form, *encrypted.KeyId, encrypted.EncryptionAlgorithm, key)
			}
			if len(encrypted.CiphertextBlob) > 6144 || seen[string(encrypted.CiphertextBlob)] {
				t.Errorf("ciphertext of %d bytes, seen before: %v; want a new one of at most 6144", len(encrypted.CiphertextBlob), seen[string(encrypted.CiphertextBlob)])
			}
			seen[string(encrypted.CiphertextBlob)] = true
			for _, id := range append(forms, "") {
				in := &kms.DecryptInput{CiphertextBlob: encrypted.CiphertextBlob, EncryptionContext: context}
				if id != "" {
					in.KeyId = &id
				}
				decrypted, err := c.Decrypt(t.Context(), in)
				if err != nil {
					t.Fatalf("Decrypt with KeyId %q: %v", id, err)
				}
				c.wantMembers(t, "KeyId", "Plaintext", "EncryptionAlgorithm", "KeyMaterialId")
				if *decrypted.KeyId != key || *decrypted.KeyMaterialId != material || !bytes.Equal(decrypted.Plaintext, plaintext) {
					t.Errorf("Decrypt with KeyId %q: %s, %s, %d bytes; want %s, %s and the plaintext", id, *decrypted.KeyId, *decrypted.KeyMaterialId, len(decrypted.Plaintext), key, material)
				}
			}
		}
	}
}

func TestEncryptionContextIsBound(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	contexts := []m{{}, {"a": "b"}, {"a": "B"}, {"A": "b"}, {"a": "b", "c": ""}, {"ab": ""}, {"": "ab"}, {"a": "", "b": ""}, {"é": "x"}, {"e\u0301": "x"}}
	for made, context := range contexts {
		blob := g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "AA==", "EncryptionContext": context})["CiphertextBlob"]
		for used, context := range contexts {
			if in := (m{"CiphertextBlob": blob, "EncryptionContext": context}); made == used {
				g.mustCall(t, own, "Decrypt", in)
			} else {
				g.refused(t, own, "Decrypt", in, "InvalidCiphertextException", "")
			}
		}
		if made > 0 {
			g.refused(t, own, "Decrypt", m{"CiphertextBlob": blob}, "InvalidCiphertextException", "")
		}
	}
}

func TestDataKeys(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	key := g.createKey(t, own)
	material := g.material(t, own, key)
	forms := g.fourForms(t, own, key)
	context := map[string]string{"purpose": "data key"}
	decrypt := func(blob []byte) []byte {
		t.Helper()
		g.refused(t, own, "Decrypt", m{"CiphertextBlob": blob}, "InvalidCiphertextException", "")
		out, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: context})
		if err != nil {
			t.Fatal(err)
		}
		return out.Plaintext
	}
	for n, tc := range []struct {
		spec  types.DataKeySpec
		bytes *int32
		size  int
	}{
		{types.DataKeySpecAes128, nil, 16},
		{types.DataKeySpecAes256, nil, 32},
		{"", aws.Int32(1), 1},
		{"", aws.Int32(1024), 1024},
	} {
		form := forms[n%len(forms)]
		with, err := c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &form, KeySpec: tc.spec, NumberOfBytes: tc.bytes, EncryptionContext: context})
		if err != nil {
			t.Fatal(err)
		}
		c.wantMembers(t, "CiphertextBlob", "Plaintext", "KeyId", "KeyMaterialId")
		if tc.size >= 16 {
			hide(with.Plaintext)
		}
		if *with.KeyId != key || *with.KeyMaterialId != material || len(with.Plaintext) != tc.size {
			t.Errorf("GenerateDataKey: %s, %s, %d bytes; want %s, %s, %d", *with.KeyId, *with.KeyMaterialId, len(with.Plaintext), key, material, tc.size)
		}
		if got := decrypt(with.CiphertextBlob); !bytes.Equal(got, with.Plaintext) {
			t.Error("the ciphertext of a data key does not decrypt to it")
		}
		without, err := c.GenerateDataKeyWithoutPlaintext(t.Context(), &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: &form, KeySpec: tc.spec, NumberOfBytes: tc.bytes, EncryptionContext: context})
		if err != nil {
			t.Fatal(err)
		}
		c.wantMembers(t, "CiphertextBlob", "KeyId", "KeyMaterialId")
		if *without.KeyId != key || *without.KeyMaterialId != material {
			t.Errorf("GenerateDataKeyWithoutPlaintext: %s, %s; want %s, %s", *without.KeyId, *without.KeyMaterialId, key, material)
		}
		if got := decrypt(without.CiphertextBlob); len(got) != tc.size {
			t.Errorf("data key of %d bytes, want %d", len(got), tc.size)
		}
	}
}

func TestGenerateRandom(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	for _, size := range []int32{1, 32, 1024} {
		out, err := c.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: &size})
		if err != nil {
			t.Fatal(err)
		}
		c.wantMembers(t, "Plaintext")
		if size >= 16 {
			hide(out.Plaintext)
		}
		if len(out.Plaintext) != int(size) || size > 1 && bytes.Equal(out.Plaintext, make([]byte, size)) {
			t.Errorf("GenerateRandom(%d) made %d bytes, all zero or too few", size, len(out.Plaintext))
		}
	}
	g.refused(t, own, "GenerateRandom", m{}, "ValidationException", "NumberOfBytes is required.")
	g.refused(t, own, "GenerateRandom", m{"NumberOfBytes": 1, "CustomKeyStoreId": "cks-1"}, "CustomKeyStoreNotFoundException", "The request was rejected because KMS cannot find a custom key store with the specified key store name or ID.")
}

func TestReEncrypt(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	keys := []string{g.createKey(t, own), g.createKey(t, own)}
	materials := []string{g.material(t, own, keys[0]), g.material(t, own, keys[1])}
	forms := [][]string{g.fourForms(t, own, keys[0]), g.fourForms(t, own, keys[1])}
	plaintext := hide([]byte("goes round and round"))
	blob, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &keys[0], Plaintext: plaintext})
	if err != nil {
		t.Fatal(err)
	}
	current, context := blob.CiphertextBlob, map[string]string(nil)
	steps := []struct {
		to      int
		context map[string]string
	}{{1, map[string]string{"step": "1"}}, {0, map[string]string{"step": "2"}}, {0, nil}, {1, nil}, {0, map[string]string{"step": "5"}}}
	from := 0
	for n, step := range steps {
		in := &kms.ReEncryptInput{
			CiphertextBlob: current, SourceEncryptionContext: context,
			DestinationKeyId: &forms[step.to][n%4], DestinationEncryptionContext: step.context,
		}
		if n > 0 {
			in.SourceKeyId = &forms[from][(n-1)%4]
		}
		out, err := c.ReEncrypt(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		c.wantMembers(t, "CiphertextBlob", "SourceKeyId", "KeyId", "SourceEncryptionAlgorithm", "DestinationEncryptionAlgorithm", "SourceKeyMaterialId", "DestinationKeyMaterialId")
		got := []string{*out.SourceKeyId, *out.KeyId, *out.SourceKeyMaterialId, *out.DestinationKeyMaterialId}
		want := []string{keys[from], keys[step.to], materials[from], materials[step.to]}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("step %d: %q, want %q", n, got, want)
		}
		current, context, from = out.CiphertextBlob, step.context, step.to
	}
	decrypted, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: current, EncryptionContext: context})
	if err != nil || !bytes.Equal(decrypted.Plaintext, plaintext) {
		t.Errorf("after all steps: %v, want the plaintext", err)
	}
	// A context is not inherited, and both sides have rules of their own.
	g.refused(t, own, "ReEncrypt", m{"CiphertextBlob": current, "DestinationKeyId": keys[1]}, "InvalidCiphertextException", "")
	g.refused(t, own, "ReEncrypt", m{"CiphertextBlob": current, "SourceKeyId": keys[1], "DestinationKeyId": keys[1], "SourceEncryptionContext": context}, "IncorrectKeyException", incorrectText)
	g.refused(t, own, "ReEncrypt", m{"CiphertextBlob": "Z2FyYmFnZQ==", "DestinationKeyId": keys[1]}, "InvalidCiphertextException", "")
	g.refused(t, own, "ReEncrypt", m{"CiphertextBlob": current, "DestinationKeyId": "fake"}, "NotFoundException", "Invalid keyId 'fake'")
}

// Each refusal of the cryptographic operations, in the order in which KMS looks.
func TestCryptoRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key, second := g.createKey(t, own), g.createKey(t, own)
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "AA=="})["CiphertextBlob"]
	const missing = "1234abcd-12ab-34cd-56ef-1234567890ab"
	const failed = "1 validation error detected: Value "
	toolong := base64.StdEncoding.EncodeToString(make([]byte, 4097))
	ignore := []string{"IGNORE_CIPHERTEXT"}
	big := m{"k": strings.Repeat("v", 8192)}
	for _, tc := range []struct {
		name, operation string
		in              m
		code, message   string
	}{
		{"no plaintext", "Encrypt", m{"KeyId": key}, "ValidationException", failed + "at 'plaintext' failed to satisfy constraint: Member must not be null"},
		{"empty plaintext", "Encrypt", m{"KeyId": key, "Plaintext": ""}, "ValidationException", failed + "at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"plaintext too long", "Encrypt", m{"KeyId": key, "Plaintext": toolong}, "ValidationException", failed + "at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		{"constraints before the key", "Encrypt", m{"KeyId": missing, "Plaintext": ""}, "ValidationException", failed + "at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"nothing", "Encrypt", m{}, "ValidationException", "2 validation errors detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null; Value at 'plaintext' failed to satisfy constraint: Member must not be null"},
		{"algorithm of a pair", "Encrypt", m{"KeyId": key, "Plaintext": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}, "InvalidKeyUsageException", "Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT."},
		{"context too large", "Encrypt", m{"KeyId": key, "Plaintext": "AA==", "EncryptionContext": big}, "ValidationException", "EncryptionContext must not be larger than 8192 bytes."},
		{"grant token", "Encrypt", m{"KeyId": key, "Plaintext": "AA==", "GrantTokens": []string{"token"}}, "InvalidGrantTokenException", "The request was rejected because the specified grant token is not valid."},

		{"no ciphertext", "Decrypt", m{}, "ValidationException", failed + "null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null"},
		{"empty ciphertext", "Decrypt", m{"CiphertextBlob": ""}, "ValidationException", failed + "at 'ciphertextBlob' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"ciphertext too long", "Decrypt", m{"CiphertextBlob": base64.StdEncoding.EncodeToString(make([]byte, 6145))}, "ValidationException", failed + "at 'ciphertextBlob' failed to satisfy constraint: Member must have length less than or equal to 6144"},
		{"garbage", "Decrypt", m{"CiphertextBlob": "Z2FyYmFnZQ=="}, "InvalidCiphertextException", ""},
		{"garbage with KeyId", "Decrypt", m{"CiphertextBlob": "Z2FyYmFnZQ==", "KeyId": key}, "InvalidCiphertextException", ""},
		{"garbage of 6144 bytes", "Decrypt", m{"CiphertextBlob": base64.StdEncoding.EncodeToString(make([]byte, 6144)), "KeyId": key}, "InvalidCiphertextException", ""},
		{"the key comes before the ciphertext", "Decrypt", m{"CiphertextBlob": "Z2FyYmFnZQ==", "KeyId": missing}, "NotFoundException", "Key '" + keyARN(own, missing) + "' does not exist"},
		{"another key", "Decrypt", m{"CiphertextBlob": blob, "KeyId": second}, "IncorrectKeyException", incorrectText},
		{"another key's id", "Decrypt", m{"CiphertextBlob": blob, "KeyId": idOf(second)}, "IncorrectKeyException", incorrectText},
		{"another key before the algorithm", "Decrypt", m{"CiphertextBlob": blob, "KeyId": second, "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}, "IncorrectKeyException", incorrectText},
		{"algorithm of a pair", "Decrypt", m{"CiphertextBlob": blob, "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}, "InvalidKeyUsageException", "Algorithm RSAES_OAEP_SHA_1 is incompatible with key spec SYMMETRIC_DEFAULT."},
		{"recipient", "Decrypt", m{"CiphertextBlob": blob, "Recipient": m{"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": "AA=="}}, "UnsupportedOperationException", recipientText},
		{"modifiers without trial", "Decrypt", m{"KeyId": key, "DryRunModifiers": ignore}, "ValidationException", "DryRunModifiers can be specified only if DryRun is true."},
		{"ignored ciphertext without key", "Decrypt", m{"DryRun": true, "DryRunModifiers": ignore}, "ValidationException", failed + "null at 'keyId' failed to satisfy constraint: Member must not be null"},

		{"both sizes", "GenerateDataKey", m{"KeyId": key, "KeySpec": "AES_256", "NumberOfBytes": 32}, "ValidationException", dataKeyText},
		{"no size", "GenerateDataKey", m{"KeyId": key}, "ValidationException", dataKeyText},
		{"no size before the key", "GenerateDataKeyWithoutPlaintext", m{"KeyId": missing}, "ValidationException", dataKeyText},
		{"both sizes", "GenerateDataKeyWithoutPlaintext", m{"KeyId": key, "KeySpec": "AES_256", "NumberOfBytes": 32}, "ValidationException", dataKeyText},
		{"no bytes", "GenerateDataKey", m{"KeyId": key, "NumberOfBytes": 0}, "ValidationException", failed + "'0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		{"too many bytes", "GenerateRandom", m{"NumberOfBytes": 1025}, "ValidationException", failed + "'1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024"},
		{"no bytes", "GenerateRandom", m{"NumberOfBytes": 0}, "ValidationException", failed + "'0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		{"over-wide number", "GenerateRandom", m{"NumberOfBytes": 1e12}, "ValidationException", failed + "'2147483647' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024"},

		{"no destination", "ReEncrypt", m{"CiphertextBlob": blob}, "ValidationException", failed + "null at 'destinationKeyId' failed to satisfy constraint: Member must not be null"},
		{"algorithm of the source", "ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": key, "SourceEncryptionAlgorithm": "RSAES_OAEP_SHA_1"}, "InvalidKeyUsageException", "Algorithm RSAES_OAEP_SHA_1 is incompatible with key spec SYMMETRIC_DEFAULT."},
		{"algorithm of the destination", "ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": key, "DestinationEncryptionAlgorithm": "RSAES_OAEP_SHA_1"}, "InvalidKeyUsageException", "Algorithm RSAES_OAEP_SHA_1 is incompatible with key spec SYMMETRIC_DEFAULT."},

		// A trial always ends in an error, after everything else that could be one.
		{"trial", "Encrypt", m{"KeyId": key, "Plaintext": "AA==", "DryRun": true}, "DryRunOperationException", dryRunText},
		{"trial", "Decrypt", m{"CiphertextBlob": blob, "DryRun": true}, "DryRunOperationException", dryRunText},
		{"trial", "GenerateDataKey", m{"KeyId": key, "KeySpec": "AES_128", "DryRun": true}, "DryRunOperationException", dryRunText},
		{"trial", "GenerateDataKeyWithoutPlaintext", m{"KeyId": key, "KeySpec": "AES_128", "DryRun": true}, "DryRunOperationException", dryRunText},
		{"trial", "ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": second, "DryRun": true}, "DryRunOperationException", dryRunText},
		{"trial with the wrong context", "Decrypt", m{"CiphertextBlob": blob, "EncryptionContext": m{"a": "b"}, "DryRun": true}, "InvalidCiphertextException", ""},
		{"trial with the wrong context", "ReEncrypt", m{"CiphertextBlob": blob, "SourceEncryptionContext": m{"a": "b"}, "DestinationKeyId": key, "DryRun": true}, "InvalidCiphertextException", ""},
		{"trial with another key", "Decrypt", m{"CiphertextBlob": blob, "KeyId": second, "DryRun": true}, "IncorrectKeyException", incorrectText},
		{"trial with the wrong algorithm", "Encrypt", m{"KeyId": key, "Plaintext": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256", "DryRun": true}, "InvalidKeyUsageException", "Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT."},
		{"trial without ciphertext", "Decrypt", m{"KeyId": key, "DryRun": true, "DryRunModifiers": ignore}, "DryRunOperationException", dryRunText},
		{"trial with an ignored ciphertext", "Decrypt", m{"KeyId": key, "CiphertextBlob": "Z2FyYmFnZQ==", "DryRun": true, "DryRunModifiers": ignore}, "DryRunOperationException", dryRunText},
		{"trial with another key's ignored ciphertext", "Decrypt", m{"KeyId": second, "CiphertextBlob": blob, "EncryptionContext": m{"a": "b"}, "DryRun": true, "DryRunModifiers": ignore}, "DryRunOperationException", dryRunText},
		{"trial without ciphertext", "ReEncrypt", m{"SourceKeyId": key, "DestinationKeyId": second, "DryRun": true, "DryRunModifiers": ignore}, "DryRunOperationException", dryRunText},
		{"trial without ciphertext and source", "ReEncrypt", m{"DestinationKeyId": second, "DryRun": true, "DryRunModifiers": ignore}, "ValidationException", failed + "null at 'sourceKeyId' failed to satisfy constraint: Member must not be null"},
		{"trial without ciphertext of no key", "Decrypt", m{"KeyId": missing, "DryRun": true, "DryRunModifiers": ignore}, "NotFoundException", "Key '" + keyARN(own, missing) + "' does not exist"},
	} {
		t.Run(tc.operation+"/"+tc.name, func(t *testing.T) {
			t.Parallel()
			g.refused(t, own, tc.operation, tc.in, tc.code, tc.message)
		})
	}
	// No grant tokens are as good as none.
	g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "AA==", "GrantTokens": []string{}, "EncryptionContext": nil})
	enum := string(g.call(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "AA==", "EncryptionAlgorithm": "ROT13"}).body)
	if !strings.Contains(enum, failed+"'ROT13' at 'encryptionAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [") {
		t.Errorf("unknown algorithm: %s", enum)
	}
}
