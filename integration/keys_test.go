package integration_test

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// metadataMembers are those of a symmetric single-Region key, exactly.
var metadataMembers = []string{
	"AWSAccountId", "Arn", "CreationDate", "CurrentKeyMaterialId", "CustomerMasterKeySpec", "Description", "Enabled",
	"EncryptionAlgorithms", "KeyId", "KeyManager", "KeySpec", "KeyState", "KeyUsage", "MultiRegion", "Origin",
}

var (
	uuidPattern     = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	materialPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func TestCreateAndDescribeKey(t *testing.T) {
	t.Parallel()
	c := gateway(t).newClient(own)
	before := time.Now().Truncate(time.Millisecond)
	created, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{
		Description: aws.String("fünf"), Tags: []types.Tag{{TagKey: aws.String("k"), TagValue: aws.String("")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.wantMembers(t, "KeyMetadata")
	wantMembers(t, "KeyMetadata", c.last.object(t)["KeyMetadata"].(m), metadataMembers...)
	got := created.KeyMetadata
	if !uuidPattern.MatchString(*got.KeyId) || !materialPattern.MatchString(*got.CurrentKeyMaterialId) {
		t.Errorf("KeyId %s, CurrentKeyMaterialId %s: want a UUID and 64 hexadecimal digits", *got.KeyId, *got.CurrentKeyMaterialId)
	}
	if at := *got.CreationDate; at.Before(before) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("CreationDate %v, want one since %v", at, before)
	}
	want := &types.KeyMetadata{
		AWSAccountId: aws.String(own), KeyId: got.KeyId, Arn: aws.String(keyARN(own, *got.KeyId)), CreationDate: got.CreationDate,
		CurrentKeyMaterialId: got.CurrentKeyMaterialId,
		Description:          aws.String("fünf"), Enabled: true, EncryptionAlgorithms: []types.EncryptionAlgorithmSpec{types.EncryptionAlgorithmSpecSymmetricDefault},
		KeyManager: types.KeyManagerTypeCustomer, KeySpec: types.KeySpecSymmetricDefault, KeyState: types.KeyStateEnabled,
		KeyUsage: types.KeyUsageTypeEncryptDecrypt, MultiRegion: aws.Bool(false), Origin: types.OriginTypeAwsKms,
	}
	// The old name of KeySpec, which the SDK no longer wants to be asked for.
	if old := c.last.object(t)["KeyMetadata"].(m)["CustomerMasterKeySpec"]; old != "SYMMETRIC_DEFAULT" {
		t.Errorf("CustomerMasterKeySpec %v, want SYMMETRIC_DEFAULT", old)
	}
	ignore := cmp.Options{cmpopts.IgnoreUnexported(types.KeyMetadata{}), cmpopts.IgnoreFields(types.KeyMetadata{}, "CustomerMasterKeySpec")}
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("KeyMetadata (-want +got):\n%s", diff)
	}

	alias := "alias/describe-" + *got.KeyId
	if _, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: got.KeyId}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{*got.KeyId, *got.Arn, alias, aliasARN(own, alias)} {
		described, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
		if err != nil {
			t.Fatalf("DescribeKey(%s): %v", id, err)
		}
		c.wantMembers(t, "KeyMetadata")
		wantMembers(t, "KeyMetadata", c.last.object(t)["KeyMetadata"].(m), metadataMembers...)
		if diff := cmp.Diff(want, described.KeyMetadata, ignore); diff != "" {
			t.Errorf("DescribeKey(%s) (-want +got):\n%s", id, diff)
		}
	}
}

func TestCreateKeyRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	const specUsage = "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
	for _, tc := range []struct {
		name          string
		in            m
		code, message string
	}{
		{"usage of another spec", m{"KeyUsage": "SIGN_VERIFY"}, "ValidationException", "KeyUsage SIGN_VERIFY is not compatible with KeySpec SYMMETRIC_DEFAULT"},
		{"spec without usage", m{"KeySpec": "RSA_2048"}, "ValidationException", specUsage},
		{"spec without usage, old name", m{"CustomerMasterKeySpec": "RSA_2048"}, "ValidationException", specUsage},
		{"SM2", m{"KeySpec": "SM2", "KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException", "KeySpec SM2 is not supported in this Region"},
		{"spec under both names", m{"KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT"}, "ValidationException", "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated."},
		{"imported", m{"Origin": "EXTERNAL", "KeySpec": "ML_DSA_44", "KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException", "KeySpec ML_DSA_44 is not supported for Origin EXTERNAL"},
		{"XksKeyId without its store", m{"XksKeyId": "a"}, "ValidationException", "XksKeyId can be specified only if Origin is EXTERNAL_KEY_STORE."},
		{"description too long", m{"Description": strings.Repeat("d", 8193)}, "ValidationException", "1 validation error detected: Value '" + strings.Repeat("d", 8193) + "' at 'description' failed to satisfy constraint: Member must have length less than or equal to 8192"},
		{"duplicate tag", m{"Tags": []m{{"TagKey": "a", "TagValue": "1"}, {"TagKey": "a", "TagValue": "2"}}}, "TagException", "Duplicate tag keys"},
		{"reserved tag", m{"Tags": []m{{"TagKey": "AWS:a", "TagValue": "1"}}}, "TagException", "Tags beginning with aws: are reserved"},
		{"too many tags", m{"Tags": manyTags(51)}, "TagException", "Too many tags"},
		{"tag without value", m{"Tags": []m{{"TagKey": "a"}}}, "ValidationException", "1 validation error detected: Value null at 'tags.1.member.tagValue' failed to satisfy constraint: Member must not be null"},
		{"tag key too long", m{"Tags": []m{{"TagKey": strings.Repeat("a", 129), "TagValue": ""}}}, "ValidationException", "1 validation error detected: Value '" + strings.Repeat("a", 129) + "' at 'tags.1.member.tagKey' failed to satisfy constraint: Member must have length less than or equal to 128"},
		{"custom key store", m{"CustomKeyStoreId": "cks-1"}, "CustomKeyStoreNotFoundException", "The request was rejected because KMS cannot find a custom key store with the specified key store name or ID."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g.refused(t, own, "CreateKey", tc.in, tc.code, tc.message)
		})
	}
	// The order of enum values is the service's own.
	answer := string(g.call(t, own, "CreateKey", m{"KeyUsage": "INVALID"}).body)
	set := regexp.MustCompile(`^\{"__type":"ValidationException","message":"1 validation error detected: Value 'INVALID' at 'keyUsage' failed to satisfy constraint: Member must satisfy enum value set: \[([A-Z_, ]+)\]"\}$`).FindStringSubmatch(answer)
	if set == nil || !slices.Contains(strings.Split(set[1], ", "), "ENCRYPT_DECRYPT") {
		t.Errorf("unknown KeyUsage: %s", answer)
	}
}

func manyTags(n int) (tags []m) {
	for i := range n {
		tags = append(tags, m{"TagKey": "key" + string(rune('A'+i/26)) + string(rune('a'+i%26)), "TagValue": "v"})
	}
	return tags
}

// aForms and kForms are what takes which forms of identifiers.
var (
	aForms = []string{"DescribeKey", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"}
	kForms = []string{
		"CancelKeyDeletion", "ScheduleKeyDeletion", "DisableKey", "EnableKey", "GetKeyPolicy", "ListKeyPolicies", "ListResourceTags", "PutKeyPolicy", "TagResource", "UntagResource",
		"UpdateKeyDescription",
	}
)

// minimal is a request of an operation on a key that has nothing wrong but
// perhaps the key.
func minimal(operation, key string) m {
	in := map[string]m{
		"Encrypt": {"Plaintext": "AA=="}, "GenerateDataKey": {"NumberOfBytes": 1}, "GenerateDataKeyWithoutPlaintext": {"NumberOfBytes": 1},
		"PutKeyPolicy": {"Policy": "{}"}, "TagResource": {"Tags": []m{}}, "UntagResource": {"TagKeys": []string{}},
		"UpdateKeyDescription": {"Description": ""},
	}[operation]
	if in == nil {
		in = m{}
	}
	in["KeyId"] = key
	return in
}

func TestKeyIdentifiers(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	const id = "1234abcd-12ab-34cd-56ef-1234567890ab"
	const aliasText = "Key Aliases are not supported for this operation."
	for _, operation := range slices.Concat(aForms, kForms) {
		t.Run(operation, func(t *testing.T) {
			t.Parallel()
			for key, want := range map[string]string{
				"fake-key-id":                    "Invalid keyId 'fake-key-id'",
				strings.ReplaceAll(id, "-", ""):  "Invalid keyId '" + strings.ReplaceAll(id, "-", "") + "'",
				"mrk-fake-key-id":                "Invalid keyId 'mrk-fake-key-id'",
				id:                               "Key '" + keyARN(own, id) + "' does not exist",
				strings.ToUpper(id):              "Key '" + keyARN(own, strings.ToUpper(id)) + "' does not exist",
				"mrk-" + strings.Repeat("0", 32): "Key '" + keyARN(own, "mrk-"+strings.Repeat("0", 32)) + "' does not exist",
				keyARN(own, id):                  "Key '" + keyARN(own, id) + "' does not exist",
				keyARN(own, "foo"):               "Invalid keyId foo",
				"arn:aws:kms:eu-west-1:" + own + ":key/" + id: "Invalid arn eu-west-1",
				"arn:aws:kms:eu-west-1:" + own + ":alias/x":   "Invalid arn eu-west-1",
			} {
				g.refused(t, own, operation, minimal(operation, key), "NotFoundException", want)
			}
			for key, shown := range map[string]string{"alias/not-there": "alias/not-there", aliasARN(own, "alias/not-there"): "alias/not-there"} {
				if slices.Contains(kForms, operation) {
					g.refused(t, own, operation, minimal(operation, key), "InvalidArnException", aliasText)
					continue
				}
				g.refused(t, own, operation, minimal(operation, key), "NotFoundException", "Alias "+aliasARN(own, shown)+" is not found.")
			}
			g.refused(t, own, operation, minimal(operation, ""), "ValidationException", `2 validation errors detected: Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1; Value '' at 'keyId' failed to satisfy constraint: Member must satisfy regular expression pattern: ^\p{ASCII}+$`)
			g.refused(t, own, operation, minimal(operation, "ä"), "ValidationException", `1 validation error detected: Value 'ä' at 'keyId' failed to satisfy constraint: Member must satisfy regular expression pattern: ^\p{ASCII}+$`)
			without := minimal(operation, "")
			delete(without, "KeyId")
			g.refused(t, own, operation, without, "ValidationException", "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null")
			without["KeyId"] = nil
			g.refused(t, own, operation, without, "ValidationException", "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null")
		})
	}
}

func TestStatesOfAKey(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	arn := g.createKey(t, own)
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": arn, "Plaintext": "c2VjcmV0"})["CiphertextBlob"]
	for range 2 { // again changes nothing and succeeds
		_, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws.String(idOf(arn))})
		c.wantEmpty(t, err)
	}
	described := g.mustCall(t, own, "DescribeKey", m{"KeyId": arn})["KeyMetadata"].(m)
	if described["KeyState"] != "Disabled" || described["Enabled"] != false {
		t.Errorf("KeyState %v, Enabled %v, want Disabled and false", described["KeyState"], described["Enabled"])
	}
	wantMembers(t, "KeyMetadata", described, metadataMembers...)
	disabled := arn + " is disabled."
	otherKey := g.createKey(t, own)
	otherBlob := g.mustCall(t, own, "Encrypt", m{"KeyId": otherKey, "Plaintext": "c2VjcmV0"})["CiphertextBlob"]
	for _, tc := range []struct {
		operation string
		in        m
	}{
		{"Encrypt", m{"KeyId": arn, "Plaintext": "AA=="}},
		{"Encrypt", m{"KeyId": arn, "Plaintext": "AA==", "DryRun": true}},
		{"Encrypt", m{"KeyId": arn, "Plaintext": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}},
		{"Decrypt", m{"CiphertextBlob": blob}},
		{"Decrypt", m{"CiphertextBlob": blob, "KeyId": arn}},
		{"Decrypt", m{"CiphertextBlob": blob, "EncryptionContext": m{"a": "b"}}},
		{"Decrypt", m{"KeyId": arn, "DryRun": true, "DryRunModifiers": []string{"IGNORE_CIPHERTEXT"}}},
		{"GenerateDataKey", m{"KeyId": arn, "NumberOfBytes": 1}},
		{"GenerateDataKeyWithoutPlaintext", m{"KeyId": arn, "KeySpec": "AES_256"}},
		{"ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": otherKey}},
		{"ReEncrypt", m{"CiphertextBlob": otherBlob, "DestinationKeyId": arn}},
	} {
		g.refused(t, own, tc.operation, tc.in, "DisabledException", disabled)
	}
	// A key that is not the ciphertext's is told before its state.
	const incorrect = "The key ID in the request does not identify a CMK that can perform this operation."
	g.refused(t, own, "Decrypt", m{"CiphertextBlob": otherBlob, "KeyId": arn}, "IncorrectKeyException", incorrect)
	g.refused(t, own, "ReEncrypt", m{"CiphertextBlob": otherBlob, "SourceKeyId": arn, "DestinationKeyId": arn}, "IncorrectKeyException", incorrect)
	// What does not use the key goes on.
	g.mustCall(t, own, "UpdateKeyDescription", m{"KeyId": arn, "Description": "off"})
	g.mustCall(t, own, "GetKeyPolicy", m{"KeyId": arn})
	g.mustCall(t, own, "TagResource", m{"KeyId": arn, "Tags": []m{{"TagKey": "a", "TagValue": "b"}}})
	for range 2 {
		_, err := c.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &arn})
		c.wantEmpty(t, err)
	}
	if got := g.mustCall(t, own, "Decrypt", m{"CiphertextBlob": blob})["Plaintext"]; got != base64.StdEncoding.EncodeToString([]byte("secret")) {
		t.Errorf("Plaintext %v after EnableKey, want that of before", got)
	}
}

func TestUpdateKeyDescription(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	arn := g.createKey(t, own)
	for _, text := range []string{"first", "", strings.Repeat("ü", 8192), "\u2028 \x00 <&>"} {
		_, err := c.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &arn, Description: &text})
		if strings.Contains(text, "\x00") {
			// Postgres's text has no NUL; it must be refused as the caller's fault.
			if c.last.status != 400 {
				t.Errorf("a NUL in a description: %d %s", c.last.status, c.last.body)
			}
			continue
		}
		c.wantEmpty(t, err)
		if got := g.mustCall(t, own, "DescribeKey", m{"KeyId": arn})["KeyMetadata"].(m)["Description"]; got != text {
			t.Errorf("Description %.40q, want %.40q", got, text)
		}
	}
	g.refused(t, own, "UpdateKeyDescription", m{"KeyId": arn}, "ValidationException",
		"1 validation error detected: Value null at 'description' failed to satisfy constraint: Member must not be null")
}

func TestCallerIdentity(t *testing.T) {
	t.Parallel()
	for _, account := range []string{own, other} {
		got, err := gateway(t).newClient(account).sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		if err != nil {
			t.Fatal(err)
		}
		if *got.Account != account || *got.Arn != rootOf(account) || *got.UserId != account {
			t.Errorf("GetCallerIdentity = %s, %s, %s; want %s and its root", *got.Account, *got.Arn, *got.UserId, account)
		}
	}
}
