package integration_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// createPair makes a key that the test may change.
func (i *instance) createPair(t testing.TB, account string, spec types.KeySpec, usage types.KeyUsageType) string {
	t.Helper()
	return i.mustCall(t, account, "CreateKey", m{"KeySpec": spec, "KeyUsage": usage})["KeyMetadata"].(m)["Arn"].(string)
}

// TestEncryptionRefusalsWithPairs: what Encrypt, Decrypt and ReEncrypt refuse of
// pairs, and of ciphertexts that are not theirs.
func TestEncryptionRefusalsWithPairs(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	pair, symmetric := g.ready(t, types.KeySpecRsa2048, encrypts), g.ready(t, types.KeySpecSymmetricDefault, encrypts)
	signing, mac := g.ready(t, types.KeySpecRsa2048, signs), g.ready(t, types.KeySpecHmac256, macs)
	const with256, with1 = "RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1"
	const incompatible = "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048."
	const noContext = "EncryptionContext can be specified only with a symmetric encryption key."
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": pair, "Plaintext": "AA==", "EncryptionAlgorithm": with256})["CiphertextBlob"]
	foreign := g.mustCall(t, own, "Encrypt", m{"KeyId": symmetric, "Plaintext": "AA=="})["CiphertextBlob"]
	for _, tc := range []struct {
		name, operation string
		in              m
		code, message   string
	}{
		{"no algorithm", "Encrypt", m{"KeyId": pair, "Plaintext": "AA=="}, "InvalidKeyUsageException", incompatible},
		{"algorithm of SM2", "Encrypt", m{"KeyId": pair, "Plaintext": "AA==", "EncryptionAlgorithm": "SM2PKE"}, "InvalidKeyUsageException", "Algorithm SM2PKE is incompatible with key spec RSA_2048."},
		{"algorithm before size", "Encrypt", m{"KeyId": pair, "Plaintext": make([]byte, 4096)}, "InvalidKeyUsageException", incompatible},
		{"beyond every size", "Encrypt", m{"KeyId": pair, "Plaintext": make([]byte, 4097), "EncryptionAlgorithm": with256}, "ValidationException", "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		{"context", "Encrypt", m{"KeyId": pair, "Plaintext": "AA==", "EncryptionAlgorithm": with256, "EncryptionContext": m{"a": "b"}}, "ValidationException", noContext},
		{"key that signs", "Encrypt", m{"KeyId": signing, "Plaintext": "AA==", "EncryptionAlgorithm": with256}, "InvalidKeyUsageException", signing + " key usage is SIGN_VERIFY which is not valid for Encrypt."},
		{"trial", "Encrypt", m{"KeyId": pair, "Plaintext": "AA==", "EncryptionAlgorithm": with256, "DryRun": true}, "DryRunOperationException", dryRunText},
		{"trial of too much", "Encrypt", m{"KeyId": pair, "Plaintext": make([]byte, 191), "EncryptionAlgorithm": with256, "DryRun": true}, "ValidationException", "Algorithm RSAES_OAEP_SHA_256 and key spec RSA_2048 cannot encrypt data larger than 190 bytes."},

		{"no algorithm", "Decrypt", m{"KeyId": pair, "CiphertextBlob": blob}, "InvalidKeyUsageException", incompatible},
		{"context", "Decrypt", m{"KeyId": pair, "CiphertextBlob": blob, "EncryptionAlgorithm": with256, "EncryptionContext": m{"a": "b"}}, "ValidationException", noContext},
		{"no key", "Decrypt", m{"CiphertextBlob": blob, "EncryptionAlgorithm": with256}, "InvalidCiphertextException", ""},
		{"another's ciphertext", "Decrypt", m{"KeyId": pair, "CiphertextBlob": foreign}, "IncorrectKeyException", incorrectText},
		{"another's ciphertext, by a pair's algorithm", "Decrypt", m{"KeyId": pair, "CiphertextBlob": foreign, "EncryptionAlgorithm": with256}, "InvalidCiphertextException", ""},
		{"another's ciphertext before usage", "Decrypt", m{"KeyId": signing, "CiphertextBlob": foreign}, "IncorrectKeyException", incorrectText},
		{"another's ciphertext, MAC key", "Decrypt", m{"KeyId": mac, "CiphertextBlob": foreign}, "IncorrectKeyException", incorrectText},
		{"garbage, MAC key", "Decrypt", m{"KeyId": mac, "CiphertextBlob": blob}, "InvalidCiphertextException", ""},
		{"garbage, key that signs", "Decrypt", m{"KeyId": signing, "CiphertextBlob": blob, "EncryptionAlgorithm": with256}, "InvalidKeyUsageException", signing + " key usage is SIGN_VERIFY which is not valid for Decrypt."},
		{"recipient", "Decrypt", m{"KeyId": pair, "CiphertextBlob": blob, "EncryptionAlgorithm": with256, "Recipient": m{"KeyEncryptionAlgorithm": with256, "AttestationDocument": "AA=="}}, "UnsupportedOperationException", recipientText},
		{"recipient", "GenerateRandom", m{"NumberOfBytes": 1, "Recipient": m{}}, "UnsupportedOperationException", recipientText},
		{"recipient", "GenerateDataKey", m{"KeyId": symmetric, "NumberOfBytes": 1, "Recipient": m{}}, "UnsupportedOperationException", recipientText},
		{"trial that ignores", "Decrypt", m{"KeyId": pair, "EncryptionAlgorithm": with1, "DryRun": true, "DryRunModifiers": []string{"IGNORE_CIPHERTEXT"}}, "DryRunOperationException", dryRunText},

		{"no source algorithm", "ReEncrypt", m{"CiphertextBlob": blob, "SourceKeyId": pair, "DestinationKeyId": symmetric}, "InvalidKeyUsageException", incompatible},
		{"no destination algorithm", "ReEncrypt", m{"CiphertextBlob": foreign, "DestinationKeyId": pair}, "InvalidKeyUsageException", incompatible},
		{"no source", "ReEncrypt", m{"CiphertextBlob": blob, "SourceEncryptionAlgorithm": with256, "DestinationKeyId": symmetric}, "InvalidCiphertextException", ""},
		{"source context", "ReEncrypt", m{"CiphertextBlob": blob, "SourceKeyId": pair, "SourceEncryptionAlgorithm": with256, "SourceEncryptionContext": m{"a": "b"}, "DestinationKeyId": symmetric}, "ValidationException", noContext},
		{"destination context", "ReEncrypt", m{"CiphertextBlob": foreign, "DestinationKeyId": pair, "DestinationEncryptionAlgorithm": with256, "DestinationEncryptionContext": m{"a": "b"}}, "ValidationException", noContext},
		{"destination that signs", "ReEncrypt", m{"CiphertextBlob": foreign, "DestinationKeyId": signing, "DestinationEncryptionAlgorithm": with256}, "InvalidKeyUsageException", signing + " key usage is SIGN_VERIFY which is not valid for ReEncrypt."},
		{"source of another", "ReEncrypt", m{"CiphertextBlob": foreign, "SourceKeyId": pair, "DestinationKeyId": symmetric}, "IncorrectKeyException", incorrectText},
		{"trial", "ReEncrypt", m{"CiphertextBlob": blob, "SourceKeyId": pair, "SourceEncryptionAlgorithm": with256, "DestinationKeyId": pair, "DestinationEncryptionAlgorithm": with1, "DryRun": true}, "DryRunOperationException", dryRunText},
	} {
		t.Run(tc.operation+"/"+tc.name, func(t *testing.T) {
			t.Parallel()
			g.refused(t, own, tc.operation, tc.in, tc.code, tc.message)
		})
	}
	// An empty context is none.
	g.mustCall(t, own, "Encrypt", m{"KeyId": pair, "Plaintext": "AA==", "EncryptionAlgorithm": with1, "EncryptionContext": m{}})
}

// TestDisabledPairs: a key that is switched off does nothing but show its public
// key; its usage is told first, everything else after its state.
func TestDisabledPairs(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	pair, mac := g.createPair(t, own, types.KeySpecRsa2048, encrypts), g.createPair(t, own, types.KeySpecHmac384, macs)
	signing, agreeing := g.createPair(t, own, types.KeySpecEccNistP384, signs), g.createPair(t, own, types.KeySpecEccNistP384, agrees)
	const with256 = "RSAES_OAEP_SHA_256"
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": pair, "Plaintext": "AA==", "EncryptionAlgorithm": with256})["CiphertextBlob"]
	signature := g.mustCall(t, own, "Sign", m{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_384"})["Signature"]
	code := g.mustCall(t, own, "GenerateMac", m{"KeyId": mac, "Message": "AA==", "MacAlgorithm": "HMAC_SHA_384"})["Mac"]
	symmetric := g.ready(t, types.KeySpecSymmetricDefault, encrypts)
	sealed := g.mustCall(t, own, "Encrypt", m{"KeyId": symmetric, "Plaintext": "AA=="})["CiphertextBlob"]
	public := g.publicKey(t, agreeing)
	for _, key := range []string{pair, mac, signing, agreeing} {
		g.mustCall(t, own, "DisableKey", m{"KeyId": key})
	}
	for _, tc := range []struct {
		operation, key string
		in             m
	}{
		{"Encrypt", pair, m{"KeyId": pair, "Plaintext": "AA==", "EncryptionAlgorithm": with256}},
		{"Encrypt", pair, m{"KeyId": pair, "Plaintext": make([]byte, 4096), "EncryptionAlgorithm": with256, "EncryptionContext": m{"a": "b"}}},
		{"Encrypt", pair, m{"KeyId": pair, "Plaintext": "AA=="}},
		{"Decrypt", pair, m{"KeyId": pair, "CiphertextBlob": blob, "EncryptionAlgorithm": with256}},
		{"Decrypt", pair, m{"KeyId": pair, "CiphertextBlob": "AA==", "EncryptionAlgorithm": with256, "DryRun": true}},
		{"ReEncrypt", pair, m{"SourceKeyId": pair, "CiphertextBlob": blob, "SourceEncryptionAlgorithm": with256, "DestinationKeyId": symmetric}},
		{"ReEncrypt", pair, m{"CiphertextBlob": sealed, "DestinationKeyId": pair, "DestinationEncryptionAlgorithm": with256}},
		{"Sign", signing, m{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_384"}},
		{"Sign", signing, m{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256", "MessageType": "DIGEST", "DryRun": true}},
		{"Verify", signing, m{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_384", "Signature": signature}},
		{"Verify", signing, m{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_384", "Signature": "AA=="}},
		{"GenerateMac", mac, m{"KeyId": mac, "Message": "AA==", "MacAlgorithm": "HMAC_SHA_384"}},
		{"GenerateMac", mac, m{"KeyId": mac, "Message": "AA==", "MacAlgorithm": "HMAC_SHA_256"}},
		{"VerifyMac", mac, m{"KeyId": mac, "Message": "AA==", "MacAlgorithm": "HMAC_SHA_384", "Mac": code}},
		{"VerifyMac", mac, m{"KeyId": mac, "Message": "AA==", "MacAlgorithm": "HMAC_SHA_384", "Mac": "AA=="}},
		{"DeriveSharedSecret", agreeing, m{"KeyId": agreeing, "KeyAgreementAlgorithm": "ECDH", "PublicKey": public}},
		{"DeriveSharedSecret", agreeing, m{"KeyId": agreeing, "KeyAgreementAlgorithm": "ECDH", "PublicKey": "AA=="}},
	} {
		g.refused(t, own, tc.operation, tc.in, "DisabledException", tc.key+" is disabled.")
	}
	g.refused(t, own, "Sign", m{"KeyId": pair, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_384"}, "InvalidKeyUsageException", pair+" key usage is ENCRYPT_DECRYPT which is not valid for Sign.")
	g.refused(t, own, "GetPublicKey", m{"KeyId": mac}, "UnsupportedOperationException", "")
	for _, key := range []string{pair, signing, agreeing} {
		g.publicKey(t, key)
	}
	for _, key := range []string{pair, mac, signing, agreeing} {
		g.mustCall(t, own, "EnableKey", m{"KeyId": key})
	}
	g.mustCall(t, own, "Decrypt", m{"KeyId": pair, "CiphertextBlob": blob, "EncryptionAlgorithm": with256})
	g.mustCall(t, own, "Verify", m{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_384", "Signature": signature})
	g.mustCall(t, own, "VerifyMac", m{"KeyId": mac, "Message": "AA==", "MacAlgorithm": "HMAC_SHA_384", "Mac": code})
}

// TestAliasesKeepTheirKind: an alias moves between keys of one kind only; all forms
// of identifier do for pairs.
func TestAliasesKeepTheirKind(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	symmetric, pair := g.ready(t, types.KeySpecSymmetricDefault, encrypts), g.ready(t, types.KeySpecRsa2048, encrypts)
	signing, mac := g.ready(t, types.KeySpecEccNistP256, signs), g.ready(t, types.KeySpecHmac256, macs)
	alias := "alias/kind-" + idOf(g.createKey(t, own))
	g.mustCall(t, own, "CreateAlias", m{"AliasName": alias, "TargetKeyId": pair})
	usage := func(from, to string) string {
		return "Alias " + alias + " cannot be changed from a CMK with key usage " + from + " to a CMK with key usage " + to + ". The key usage of the current CMK and the new CMK must be the same."
	}
	g.refused(t, own, "UpdateAlias", m{"AliasName": alias, "TargetKeyId": symmetric}, "ValidationException", "Alias "+alias+" cannot be changed from a CMK with key type ASYMMETRIC to a CMK with key type SYMMETRIC. The key type of the current CMK and the new CMK must be the same.")
	g.refused(t, own, "UpdateAlias", m{"AliasName": alias, "TargetKeyId": signing}, "ValidationException", usage("ENCRYPT_DECRYPT", "SIGN_VERIFY"))
	g.refused(t, own, "UpdateAlias", m{"AliasName": alias, "TargetKeyId": mac}, "ValidationException", usage("ENCRYPT_DECRYPT", "GENERATE_VERIFY_MAC"))
	in := m{"Plaintext": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
	for _, form := range []string{idOf(pair), pair, alias, aliasARN(own, alias)} {
		made := g.mustCall(t, own, "Encrypt", with(in, m{"KeyId": form}))
		if made["KeyId"] != pair {
			t.Errorf("Encrypt under %s says %v, want %s", form, made["KeyId"], pair)
		}
		g.mustCall(t, own, "Decrypt", m{"KeyId": form, "CiphertextBlob": made["CiphertextBlob"], "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"})
		g.mustCall(t, own, "GetPublicKey", m{"KeyId": form})
	}
	larger := g.ready(t, types.KeySpecRsa3072, encrypts)
	g.mustCall(t, own, "UpdateAlias", m{"AliasName": alias, "TargetKeyId": larger})
	if made := g.mustCall(t, own, "Encrypt", with(in, m{"KeyId": alias})); made["KeyId"] != larger {
		t.Errorf("Encrypt under the moved alias says %v, want %s", made["KeyId"], larger)
	}
	g.mustCall(t, own, "DeleteAlias", m{"AliasName": alias})
}
