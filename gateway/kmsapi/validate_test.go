package kmsapi_test

import (
	"fmt"
	"strings"
	"testing"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
)

const (
	failed  = " failed to satisfy constraint: "
	keySpec = "[RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, ECC_SECG_P256K1, ECC_NIST_EDWARDS25519, " +
		"SYMMETRIC_DEFAULT, HMAC_224, HMAC_256, HMAC_384, HMAC_512, SM2, ML_DSA_44, ML_DSA_65, ML_DSA_87, ML_KEM_512, ML_KEM_768, ML_KEM_1024]"
)

func TestValidateSaysWhatAWSSays(t *testing.T) {
	t.Parallel()
	key, alias := new("k"), new("alias/a")
	long := func(n int) *string { return new(strings.Repeat("x", n)) }
	for name, test := range map[string]struct {
		in   any
		want string // without the prefix if it is one error
	}{
		"required": {&kmsapi.EnableKeyRequest{}, `Value null at 'keyId'` + failed + `Member must not be null`},
		"empty key id": {
			&kmsapi.EnableKeyRequest{KeyID: new("")},
			`2 validation errors detected: Value '' at 'keyId'` + failed + `Member must have length greater than or equal to 1; ` +
				`Value '' at 'keyId'` + failed + `Member must satisfy regular expression pattern: ^\p{ASCII}+$`,
		},
		"key id beyond ASCII": {
			&kmsapi.DescribeKeyRequest{KeyID: new("schlüssel")},
			`Value 'schlüssel' at 'keyId'` + failed + `Member must satisfy regular expression pattern: ^\p{ASCII}+$`,
		},
		"long key id": {
			&kmsapi.EnableKeyRequest{KeyID: long(2049)},
			`Value '` + *long(2049) + `' at 'keyId'` + failed + `Member must have length less than or equal to 2048`,
		},
		"secret is missing":   {&kmsapi.EncryptRequest{KeyID: key}, `Value at 'plaintext'` + failed + `Member must not be null`},
		"secret is empty":     {&kmsapi.EncryptRequest{KeyID: key, Plaintext: kmsapi.Secret{}}, `Value at 'plaintext'` + failed + `Member must have length greater than or equal to 1`},
		"secret is long":      {&kmsapi.EncryptRequest{KeyID: key, Plaintext: make([]byte, 4097)}, `Value at 'plaintext'` + failed + `Member must have length less than or equal to 4096`},
		"ciphertext missing":  {&kmsapi.DecryptRequest{}, `Value null at 'ciphertextBlob'` + failed + `Member must not be null`},
		"ciphertext is empty": {&kmsapi.DecryptRequest{CiphertextBlob: kmsapi.Blob{}}, `Value at 'ciphertextBlob'` + failed + `Member must have length greater than or equal to 1`},
		"ciphertext is long":  {&kmsapi.DecryptRequest{CiphertextBlob: make([]byte, 6145)}, `Value at 'ciphertextBlob'` + failed + `Member must have length less than or equal to 6144`},
		"re-encrypt nothing": {
			&kmsapi.ReEncryptRequest{},
			`2 validation errors detected: Value null at 'ciphertextBlob'` + failed + `Member must not be null; ` +
				`Value null at 'destinationKeyId'` + failed + `Member must not be null`,
		},
		"source key id": {
			&kmsapi.ReEncryptRequest{CiphertextBlob: []byte("c"), DestinationKeyID: key, SourceKeyID: new("é")},
			`Value 'é' at 'sourceKeyId'` + failed + `Member must satisfy regular expression pattern: ^\p{ASCII}+$`,
		},
		"too few bytes":  {&kmsapi.GenerateRandomRequest{NumberOfBytes: new(int32(0))}, `Value '0' at 'numberOfBytes'` + failed + `Member must have value greater than or equal to 1`},
		"too many bytes": {&kmsapi.GenerateRandomRequest{NumberOfBytes: new(int32(1025))}, `Value '1025' at 'numberOfBytes'` + failed + `Member must have value less than or equal to 1024`},
		"data key spec": {
			&kmsapi.GenerateDataKeyRequest{KeyID: key, KeySpec: new(kmsapi.DataKeySpec("RSA_2048"))},
			`Value 'RSA_2048' at 'keySpec'` + failed + `Member must satisfy enum value set: ` + keySpec,
		},
		"key spec": {&kmsapi.CreateKeyRequest{KeySpec: new(keyspec.Spec("AES"))}, `Value 'AES' at 'keySpec'` + failed + `Member must satisfy enum value set: ` + keySpec},
		"key usage": {
			&kmsapi.CreateKeyRequest{KeyUsage: new(keyspec.Usage(""))},
			`Value '' at 'keyUsage'` + failed + `Member must satisfy enum value set: [ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC, KEY_AGREEMENT, ENCAPSULATE_DECAPSULATE]`,
		},
		"origin": {
			&kmsapi.CreateKeyRequest{Origin: new(keyspec.Origin("x"))},
			`Value 'x' at 'origin'` + failed + `Member must satisfy enum value set: [AWS_KMS, EXTERNAL, AWS_CLOUDHSM, EXTERNAL_KEY_STORE]`,
		},
		"newer spec by the old name": {
			&kmsapi.CreateKeyRequest{CustomerMasterKeySpec: new(keyspec.MLDSA44)},
			`Value 'ML_DSA_44' at 'customerMasterKeySpec'` + failed + `Member must satisfy enum value set: ` +
				`[RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, ECC_SECG_P256K1, SYMMETRIC_DEFAULT, HMAC_224, HMAC_256, HMAC_384, HMAC_512, SM2]`,
		},
		"encryption algorithm": {
			&kmsapi.EncryptRequest{KeyID: key, Plaintext: []byte("p"), EncryptionAlgorithm: new(keyspec.Algorithm("x"))},
			`Value 'x' at 'encryptionAlgorithm'` + failed + `Member must satisfy enum value set: [RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, SM2PKE, SYMMETRIC_DEFAULT]`,
		},
		"modifiers": {
			&kmsapi.DecryptRequest{DryRunModifiers: []kmsapi.DryRunModifier{"IGNORE_CIPHERTEXT", "x"}},
			`Value '[IGNORE_CIPHERTEXT, x]' at 'dryRunModifiers'` + failed + `Member must satisfy constraint: [Member must satisfy enum value set: [IGNORE_CIPHERTEXT]]`,
		},
		"recipient": {
			&kmsapi.DecryptRequest{CiphertextBlob: []byte("c"), Recipient: &kmsapi.RecipientInfo{KeyEncryptionAlgorithm: new(kmsapi.KeyEncryptionMechanism("x")), AttestationDocument: kmsapi.Blob{}}},
			`2 validation errors detected: Value 'x' at 'recipient.keyEncryptionAlgorithm'` + failed + `Member must satisfy enum value set: [RSAES_OAEP_SHA_256]; ` +
				`Value at 'recipient.attestationDocument'` + failed + `Member must have length greater than or equal to 1`,
		},
		"grant tokens": {
			&kmsapi.DescribeKeyRequest{KeyID: key, GrantTokens: strings.Split("abcdefghijk", "")},
			`Value at 'grantTokens'` + failed + `Member must have length less than or equal to 10`,
		},
		"empty grant token": {
			&kmsapi.DescribeKeyRequest{KeyID: key, GrantTokens: []string{""}},
			`Value at 'grantTokens'` + failed + `Member must satisfy constraint: [Member must have length less than or equal to 8192, Member must have length greater than or equal to 1]`,
		},
		"alias characters": {
			&kmsapi.CreateAliasRequest{AliasName: new("alias/a b"), TargetKeyID: key},
			`Value 'alias/a b' at 'aliasName'` + failed + `Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$`,
		},
		"long alias": {
			&kmsapi.DeleteAliasRequest{AliasName: long(257)},
			`Value '` + *long(257) + `' at 'aliasName'` + failed + `Member must have length less than or equal to 256`,
		},
		"alias without target": {&kmsapi.UpdateAliasRequest{AliasName: alias}, `Value null at 'targetKeyId'` + failed + `Member must not be null`},
		"tags are missing":     {&kmsapi.TagResourceRequest{KeyID: key}, `Value null at 'tags'` + failed + `Member must not be null`},
		"long tag key": {
			&kmsapi.TagResourceRequest{KeyID: key, Tags: []kmsapi.Tag{{TagKey: long(129), TagValue: new("")}}},
			`Value '` + *long(129) + `' at 'tags.1.member.tagKey'` + failed + `Member must have length less than or equal to 128`,
		},
		"tag without value": {
			&kmsapi.CreateKeyRequest{Tags: []kmsapi.Tag{{TagKey: key, TagValue: new("")}, {TagKey: key}}},
			`Value null at 'tags.2.member.tagValue'` + failed + `Member must not be null`,
		},
		"long tag value": {
			&kmsapi.CreateKeyRequest{Tags: []kmsapi.Tag{{TagKey: key, TagValue: long(257)}}},
			`Value '` + *long(257) + `' at 'tags.1.member.tagValue'` + failed + `Member must have length less than or equal to 256`,
		},
		"tag keys": {
			&kmsapi.UntagResourceRequest{KeyID: key, TagKeys: []string{"a", ""}},
			`Value '[a, ]' at 'tagKeys'` + failed + `Member must satisfy constraint: [Member must have length less than or equal to 128, Member must have length greater than or equal to 1]`,
		},
		"sign nothing": {
			&kmsapi.SignRequest{},
			`3 validation errors detected: Value null at 'keyId'` + failed + `Member must not be null; ` +
				`Value at 'message'` + failed + `Member must not be null; Value null at 'signingAlgorithm'` + failed + `Member must not be null`,
		},
		"long message": {
			&kmsapi.VerifyRequest{KeyID: key, Message: make([]byte, 4097), Signature: []byte("s"), SigningAlgorithm: new(keyspec.ECDSASHA256)},
			`Value at 'message'` + failed + `Member must have length less than or equal to 4096`,
		},
		"signature is missing": {
			&kmsapi.VerifyRequest{KeyID: key, Message: []byte("m"), SigningAlgorithm: new(keyspec.ECDSASHA256)},
			`Value null at 'signature'` + failed + `Member must not be null`,
		},
		"long signature": {
			&kmsapi.VerifyRequest{KeyID: key, Message: []byte("m"), Signature: make([]byte, 6145), SigningAlgorithm: new(keyspec.ECDSASHA256)},
			`Value at 'signature'` + failed + `Member must have length less than or equal to 6144`,
		},
		"message type": {
			&kmsapi.SignRequest{KeyID: key, Message: []byte("m"), MessageType: new(keyspec.MessageType("x")), SigningAlgorithm: new(keyspec.ECDSASHA256)},
			`Value 'x' at 'messageType'` + failed + `Member must satisfy enum value set: [RAW, DIGEST, EXTERNAL_MU]`,
		},
		"MAC algorithm": {
			&kmsapi.GenerateMacRequest{KeyID: key, Message: []byte("m"), MacAlgorithm: new(keyspec.Algorithm("INVALID"))},
			`Value 'INVALID' at 'macAlgorithm'` + failed + `Member must satisfy enum value set: [HMAC_SHA_384, HMAC_SHA_256, HMAC_SHA_224, HMAC_SHA_512]`,
		},
		"MAC is missing": {
			&kmsapi.VerifyMacRequest{KeyID: key, Message: []byte("m"), MacAlgorithm: new(keyspec.HMACSHA256)},
			`Value null at 'mac'` + failed + `Member must not be null`,
		},
		"long public key": {
			&kmsapi.DeriveSharedSecretRequest{KeyID: key, KeyAgreementAlgorithm: new(keyspec.ECDH), PublicKey: make([]byte, 8193)},
			`Value at 'publicKey'` + failed + `Member must have length less than or equal to 8192`,
		},
		"empty encapsulation": {
			&kmsapi.DecapsulateRequest{KeyID: key, EncapsulationAlgorithm: new(keyspec.MLKEM), SharedSecretCiphertextBlob: kmsapi.Blob{}},
			`Value at 'sharedSecretCiphertextBlob'` + failed + `Member must have length greater than or equal to 1`,
		},
		"data key pair spec": {
			&kmsapi.GenerateDataKeyPairRequest{KeyID: key, KeyPairSpec: new(keyspec.MLDSA44)},
			`Value 'ML_DSA_44' at 'keyPairSpec'` + failed + `Member must satisfy enum value set: ` +
				`[RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, ECC_SECG_P256K1, ECC_NIST_EDWARDS25519, SM2, ML_KEM_512, ML_KEM_768, ML_KEM_1024]`,
		},
		"limit of keys":     {&kmsapi.ListKeysRequest{Limit: new(int32(1001))}, `Value '1001' at 'limit'` + failed + `Member must have value less than or equal to 1000`},
		"limit of aliases":  {&kmsapi.ListAliasesRequest{Limit: new(int32(101))}, `Value '101' at 'limit'` + failed + `Member must have value less than or equal to 100`},
		"limit of tags":     {&kmsapi.ListResourceTagsRequest{KeyID: key, Limit: new(int32(51))}, `Value '51' at 'limit'` + failed + `Member must have value less than or equal to 50`},
		"limit of policies": {&kmsapi.ListKeyPoliciesRequest{KeyID: key, Limit: new(int32(-1))}, `Value '-1' at 'limit'` + failed + `Member must have value greater than or equal to 1`},
		"empty marker":      {&kmsapi.ListKeysRequest{Marker: new("")}, `Value '' at 'marker'` + failed + `Member must have length greater than or equal to 1`},
		"marker characters": {&kmsapi.ListKeysRequest{Marker: new("a\nb")}, "Value 'a\nb' at 'marker'" + failed + `Member must satisfy regular expression pattern: [\u0020-\u00FF]*`},
		"policy name": {
			&kmsapi.GetKeyPolicyRequest{KeyID: key, PolicyName: new("a-b")},
			`Value 'a-b' at 'policyName'` + failed + `Member must satisfy regular expression pattern: [\w]+`,
		},
		"policy characters": {
			&kmsapi.PutKeyPolicyRequest{KeyID: key, Policy: new("{Ā}")},
			`Value '{Ā}' at 'policy'` + failed + `Member must satisfy regular expression pattern: [\u0009\u000A\u000D\u0020-\u00FF]+`,
		},
		"long policy": {
			&kmsapi.PutKeyPolicyRequest{KeyID: key, Policy: long(131073)},
			`Value '` + *long(131073) + `' at 'policy'` + failed + `Member must have length less than or equal to 131072`,
		},
		"description missing": {&kmsapi.UpdateKeyDescriptionRequest{KeyID: key}, `Value null at 'description'` + failed + `Member must not be null`},
		"long description": {
			&kmsapi.CreateKeyRequest{Description: new(strings.Repeat("ä", 8193))},
			`Value '` + strings.Repeat("ä", 8193) + `' at 'description'` + failed + `Member must have length less than or equal to 8192`,
		},
		"key store": {
			&kmsapi.CreateKeyRequest{CustomKeyStoreID: new(""), XksKeyID: new("a/b")},
			`2 validation errors detected: Value '' at 'customKeyStoreId'` + failed + `Member must have length greater than or equal to 1; ` +
				`Value 'a/b' at 'xksKeyId'` + failed + `Member must satisfy regular expression pattern: ^[a-zA-Z0-9-_.]+$`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := test.want
			if !strings.Contains(want, " validation errors detected: ") {
				want = "1 validation error detected: " + want
			}
			got := kmsapi.Validate(test.in)
			if got == nil || got.Code != kmsapi.ValidationException || got.Message != want {
				t.Errorf("Validate = %.600v\nwant ValidationException: %.600s", got, want)
			}
		})
	}
}

func TestValidateAccepts(t *testing.T) {
	t.Parallel()
	key := new("k")
	for name, in := range map[string]any{
		"key by default":      &kmsapi.CreateKeyRequest{},
		"empty description":   &kmsapi.UpdateKeyDescriptionRequest{KeyID: key, Description: new("")},
		"longest description": &kmsapi.UpdateKeyDescriptionRequest{KeyID: key, Description: new(strings.Repeat("ä", 8192))},
		"policy of all kinds": &kmsapi.PutKeyPolicyRequest{KeyID: key, Policy: new("\t\n\r ÿ")},
		"alias with a colon":  &kmsapi.CreateAliasRequest{AliasName: new("alias/a:b_c-D9"), TargetKeyID: key},
		"alias by prefix":     &kmsapi.CreateAliasRequest{AliasName: new("a"), TargetKeyID: key},
		"ten grant tokens":    &kmsapi.DescribeKeyRequest{KeyID: key, GrantTokens: strings.Split("abcdefghij", "")},
		"no ciphertext": &kmsapi.DecryptRequest{
			KeyID: key, Trial: kmsapi.Trial{DryRun: new(true)}, DryRunModifiers: []kmsapi.DryRunModifier{kmsapi.IgnoreCiphertext},
		},
		"algorithm of no pair":  &kmsapi.SignRequest{KeyID: key, Message: []byte("m"), SigningAlgorithm: new(keyspec.AlgorithmSymmetricDefault)},
		"random without size":   &kmsapi.GenerateRandomRequest{},
		"data key without size": &kmsapi.GenerateDataKeyRequest{KeyID: key},
		"no tags":               &kmsapi.TagResourceRequest{KeyID: key, Tags: []kmsapi.Tag{}},
		"empty context":         &kmsapi.EncryptRequest{KeyID: key, Plaintext: []byte("p"), EncryptionContext: map[string]string{"": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := kmsapi.Validate(in); err != nil {
				t.Errorf("Validate = %v, want nil", err)
			}
		})
	}
}

func TestValidateReportsTenViolations(t *testing.T) {
	t.Parallel()
	err := kmsapi.Validate(&kmsapi.CreateKeyRequest{Tags: make([]kmsapi.Tag, 50)})
	if err == nil || !strings.HasPrefix(err.Message, "10 validation errors detected: ") {
		t.Fatalf("Validate of 50 bad tags = %.60v, want 10 validation errors", err)
	}
	if got := strings.Count(err.Message, "; ") + 1; got != 10 {
		t.Errorf("Validate of 50 bad tags lists %d texts, want 10", got)
	}
}

func TestValidateNeverShowsBlobs(t *testing.T) {
	t.Parallel()
	hush := strings.Repeat("hush", 80000)
	for _, in := range []any{
		&kmsapi.EncryptRequest{Plaintext: kmsapi.Secret(hush)},
		&kmsapi.DecryptRequest{CiphertextBlob: kmsapi.Blob(hush), Recipient: &kmsapi.RecipientInfo{AttestationDocument: kmsapi.Blob(hush)}},
		&kmsapi.VerifyRequest{Message: kmsapi.Secret(hush), Signature: kmsapi.Blob(hush)},
		&kmsapi.DeriveSharedSecretRequest{PublicKey: kmsapi.Blob(hush)},
	} {
		if err := kmsapi.Validate(in); err == nil || strings.Contains(err.Message, "hush") {
			t.Errorf("Validate(%T) = %.100v, want an error without the value", in, err)
		}
	}
}

func TestValidateKnowsXMLNames(t *testing.T) {
	t.Parallel()
	type member struct {
		ARN *string `xml:"arn" kms:"len=20..2048"`
	}
	type request struct {
		RoleARN    *string  `xml:"RoleArn" kms:"required"`
		PolicyARNs []member `xml:"PolicyArns>member"`
	}
	got := kmsapi.Validate(&request{PolicyARNs: []member{{new("a")}}})
	want := `2 validation errors detected: Value null at 'roleArn'` + failed + `Member must not be null; ` +
		`Value 'a' at 'policyArns.1.member.arn'` + failed + `Member must have length greater than or equal to 20`
	if got == nil || got.Message != want {
		t.Errorf("Validate = %v, want %s", got, want)
	}
}

func TestValidateRefusesWrongTags(t *testing.T) {
	t.Parallel()
	for _, in := range []any{
		&struct {
			A string `kms:"require"`
		}{},
		&struct {
			A string `kms:"len=1-2"`
		}{},
		&struct {
			A string `kms:"enum=Unknown"`
		}{},
		&struct {
			A string `kms:"pattern=Unknown"`
		}{},
		&struct {
			A string `kms:"unless=B"`
		}{},
	} {
		t.Run(fmt.Sprintf("%T", in), func(t *testing.T) {
			t.Parallel()
			defer func() {
				if recover() == nil {
					t.Error("Validate did not panic")
				}
			}()
			kmsapi.Validate(in)
		})
	}
}

func BenchmarkValidate(b *testing.B) {
	in := &kmsapi.EncryptRequest{
		KeyID: new("arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"), Plaintext: make([]byte, 32),
		EncryptionAlgorithm: new(keyspec.AlgorithmSymmetricDefault),
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := kmsapi.Validate(in); err != nil {
			b.Fatal(err)
		}
	}
}
