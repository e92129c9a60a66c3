package integration_test

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// dateText is how CloudTrail writes a date in responseElements.
var dateText = regexp.MustCompile(`^[A-Z][a-z]{2} \d{1,2}, \d{4}, \d{1,2}:\d{2}:\d{2} [AP]M$`)

// A recorded call is a request and the record that it must leave.
type recorded struct {
	operation  string
	in         m
	parameters m
	resources  []string // ARNs, in order
	additional m
	readOnly   bool
	code       string // of a refusal; empty for a success
	message    string
}

// TestRecordsOfCalls makes every call and looks at its record, member by member.
func TestRecordsOfCalls(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key, second := g.createKey(t, own), g.createKey(t, own)
	material, secondMaterial := g.material(t, own, key), g.material(t, own, second)
	plaintext := base64.StdEncoding.EncodeToString(hide([]byte("a plaintext that nobody records")))
	context := m{"purpose": "in clear", "ü": ""}
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": plaintext, "EncryptionContext": context})["CiphertextBlob"]
	alias := "alias/recorded-" + idOf(key)
	aliasAt := aliasARN(own, alias)
	tags := []any{m{"tagKey": "k", "tagValue": "v"}}
	newPolicy := document(t, statement("Allow", own, "kms:*"))
	const algorithm = "SYMMETRIC_DEFAULT"
	used, both := m{"keyMaterialId": material}, m{"sourceKeyMaterialId": material, "destinationKeyMaterialId": secondMaterial}
	calls := []recorded{
		{operation: "CreateAlias", in: m{"AliasName": alias, "TargetKeyId": key}, parameters: m{"aliasName": alias, "targetKeyId": key}, resources: []string{key, aliasAt}},
		{operation: "Encrypt", in: m{"KeyId": alias, "Plaintext": plaintext, "EncryptionContext": context}, parameters: m{"keyId": alias, "encryptionAlgorithm": algorithm, "encryptionContext": context}, resources: []string{key}, additional: used, readOnly: true},
		{operation: "Decrypt", in: m{"CiphertextBlob": blob, "EncryptionContext": context}, parameters: m{"encryptionAlgorithm": algorithm, "encryptionContext": context}, resources: []string{key}, additional: used, readOnly: true},
		{operation: "Decrypt", in: m{"CiphertextBlob": blob, "EncryptionContext": context, "KeyId": idOf(key)}, parameters: m{"keyId": idOf(key), "encryptionAlgorithm": algorithm, "encryptionContext": context}, resources: []string{key}, additional: used, readOnly: true},
		{operation: "GenerateDataKey", in: m{"KeyId": key, "KeySpec": "AES_256"}, parameters: m{"keyId": key, "keySpec": "AES_256"}, resources: []string{key}, additional: used, readOnly: true},
		{operation: "GenerateDataKeyWithoutPlaintext", in: m{"KeyId": key, "NumberOfBytes": 24}, parameters: m{"keyId": key, "numberOfBytes": 24.0}, resources: []string{key}, additional: used, readOnly: true},
		{operation: "GenerateRandom", in: m{"NumberOfBytes": 24}, parameters: m{"numberOfBytes": 24.0}, readOnly: true},
		{
			operation:  "ReEncrypt",
			in:         m{"CiphertextBlob": blob, "SourceEncryptionContext": context, "DestinationKeyId": second, "DestinationEncryptionContext": m{"a": "b"}},
			parameters: m{"sourceEncryptionAlgorithm": algorithm, "sourceEncryptionContext": context, "destinationKeyId": second, "destinationEncryptionAlgorithm": algorithm, "destinationEncryptionContext": m{"a": "b"}},
			resources:  []string{key, second}, additional: both, readOnly: true,
		},
		{operation: "DescribeKey", in: m{"KeyId": key}, parameters: m{"keyId": key}, resources: []string{key}, readOnly: true},
		{operation: "GetKeyPolicy", in: m{"KeyId": key, "PolicyName": "default"}, parameters: m{"keyId": key, "policyName": "default"}, resources: []string{key}, readOnly: true},
		{operation: "ListKeyPolicies", in: m{"KeyId": key, "Limit": 5}, parameters: m{"keyId": key, "limit": 5.0}, resources: []string{key}, readOnly: true},
		{operation: "ListKeys", in: m{}, readOnly: true},
		{operation: "ListAliases", in: m{"Limit": 3}, parameters: m{"limit": 3.0}, readOnly: true},
		{operation: "ListResourceTags", in: m{"KeyId": key}, parameters: m{"keyId": key}, resources: []string{key}, readOnly: true},
		{operation: "PutKeyPolicy", in: m{"KeyId": key, "Policy": newPolicy, "BypassPolicyLockoutSafetyCheck": true}, parameters: m{"keyId": key, "policy": newPolicy, "bypassPolicyLockoutSafetyCheck": true}, resources: []string{key}},
		{operation: "TagResource", in: m{"KeyId": key, "Tags": []m{{"TagKey": "k", "TagValue": "v"}}}, parameters: m{"keyId": key, "tags": tags}, resources: []string{key}},
		{operation: "UntagResource", in: m{"KeyId": key, "TagKeys": []string{"k", "l"}}, parameters: m{"keyId": key, "tagKeys": []any{"k", "l"}}, resources: []string{key}},
		{operation: "UpdateKeyDescription", in: m{"KeyId": idOf(key), "Description": "new"}, parameters: m{"keyId": idOf(key), "description": "new"}, resources: []string{key}},
		{operation: "UpdateAlias", in: m{"AliasName": alias, "TargetKeyId": second}, parameters: m{"aliasName": alias, "targetKeyId": second}, resources: []string{key, second, aliasAt}},
		{operation: "DeleteAlias", in: m{"AliasName": alias}, parameters: m{"aliasName": alias}, resources: []string{second, aliasAt}},
		{operation: "DisableKey", in: m{"KeyId": second}, parameters: m{"keyId": second}, resources: []string{second}},

		// Refused, at each step of the way.
		{operation: "Encrypt", in: m{"KeyId": second, "Plaintext": plaintext}, parameters: m{"keyId": second, "encryptionAlgorithm": algorithm}, resources: []string{second}, readOnly: true, code: "DisabledException", message: second + " is disabled."},
		{operation: "EnableKey", in: m{"KeyId": second}, parameters: m{"keyId": second}, resources: []string{second}},
		{operation: "Encrypt", in: m{"KeyId": key}, parameters: m{"keyId": key}, readOnly: true, code: "ValidationException", message: "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must not be null"},
		{operation: "Encrypt", in: m{"KeyId": nowhere, "Plaintext": plaintext}, parameters: m{"keyId": nowhere, "encryptionAlgorithm": algorithm}, readOnly: true, code: "NotFoundException", message: "Key '" + keyARN(own, nowhere) + "' does not exist"},
		{operation: "Encrypt", in: m{"KeyId": 1, "Plaintext": plaintext}, readOnly: true, code: "SerializationException", message: "class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to an String"},
		{operation: "Decrypt", in: m{"CiphertextBlob": blob}, parameters: m{"encryptionAlgorithm": algorithm}, resources: []string{key}, readOnly: true, code: "InvalidCiphertextException"},
		{operation: "Decrypt", in: m{"CiphertextBlob": blob, "EncryptionContext": context, "DryRun": true}, parameters: m{"encryptionAlgorithm": algorithm, "encryptionContext": context, "dryRun": true}, resources: []string{key}, readOnly: true, code: "DryRunOperationException", message: dryRunText},
		{operation: "Decrypt", in: m{"CiphertextBlob": blob, "KeyId": second}, parameters: m{"keyId": second, "encryptionAlgorithm": algorithm}, resources: []string{second}, readOnly: true, code: "IncorrectKeyException", message: incorrectText},
		{operation: "Encrypt", in: m{"KeyId": keyARN(other, nowhere), "Plaintext": plaintext}, parameters: m{"keyId": keyARN(other, nowhere), "encryptionAlgorithm": algorithm}, readOnly: true, code: "AccessDenied", message: denied(own, "Encrypt", "this resource") + hidden},
		{operation: "ReplicateKey", in: m{"KeyId": key, "ReplicaRegion": "eu-west-1"}, parameters: m{"keyId": key, "replicaRegion": "eu-west-1"}, resources: []string{key}, code: "UnsupportedOperationException", message: key + " is not a multi-region primary key."},
		{operation: "Decrypt", in: m{"CiphertextBlob": "not base64, but " + hideText("a secret in its place")}, readOnly: true, code: "SerializationException", message: "Value can not be converted to a Blob: Base64 encoded length is expected a multiple of 4 bytes but found: 37"},
		{operation: "GenerateDataKey", in: m{"KeyId": key, "NumberOfBytes": 1, "GrantTokens": []string{hideText("a grant token of somebody")}}, parameters: m{"keyId": key, "numberOfBytes": 1.0}, readOnly: true, code: "InvalidGrantTokenException", message: "The request was rejected because the specified grant token is not valid."},
	}
	ids := make([]string, len(calls))
	for n, c := range calls {
		a := g.call(t, own, c.operation, c.in)
		if (a.status == 200) != (c.code == "") {
			t.Errorf("%s %v: %d %s", c.operation, c.in, a.status, a.body)
		}
		ids[n] = a.requestID()
		if a.status == 200 && len(a.body) > 0 && a.object(t)["Plaintext"] != nil {
			if secret, err := base64.StdEncoding.DecodeString(a.object(t)["Plaintext"].(string)); err != nil || len(secret) > 16 {
				hide(secret)
			}
		}
	}
	events := g.audit(t)
	for n, c := range calls {
		found := eventsOf(events, ids[n])
		if len(found) != 1 {
			t.Errorf("%s: %d records, want one", c.operation, len(found))
			continue
		}
		c.check(t, found[0], g.keys[own].accessKey)
	}
}

// check compares a record with what the call must leave.
func (c recorded) check(t *testing.T, e event, accessKey string) {
	t.Helper()
	got := recorded{
		operation: e.EventName, in: c.in, parameters: e.RequestParameters, additional: e.AdditionalEventData, readOnly: e.ReadOnly,
		code: e.ErrorCode, message: e.ErrorMessage,
	}
	for _, r := range e.Resources {
		got.resources = append(got.resources, r.ARN)
		if r.Type != "AWS::KMS::Key" || r.AccountID != own {
			t.Errorf("%s: resource %+v, want a key of %s", c.operation, r, own)
		}
	}
	if diff := cmp.Diff(c, got, cmp.AllowUnexported(recorded{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s\nrecord %s", c.operation, diff, e.text)
	}
	identity := e.UserIdentity
	if identity.Type != "Root" || identity.PrincipalID != own || identity.ARN != rootOf(own) || identity.AccountID != own || identity.AccessKeyID != accessKey {
		t.Errorf("%s: userIdentity %+v, want the root of %s", c.operation, identity, own)
	}
	if e.EventSource != "kms.amazonaws.com" || e.EventType != "AwsApiCall" || e.SourceIPAddress != "127.0.0.1" || !strings.HasPrefix(e.UserAgent, "Go-http-client") ||
		e.RecipientAccountID != own || e.SharedEventID != "" || e.ResponseElements != nil {
		t.Errorf("%s: record %s", c.operation, e.text)
	}
}

func TestRecordOfCreateKey(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	policy := document(t, statement("Allow", own, "kms:*"))
	a := g.call(t, own, "CreateKey", m{"Description": "d", "Policy": policy, "Tags": []m{{"TagKey": "k", "TagValue": ""}}})
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	made := a.object(t)["KeyMetadata"].(m)
	found := eventsOf(g.audit(t), a.requestID())
	if len(found) != 1 {
		t.Fatalf("%d records, want one", len(found))
	}
	e := found[0]
	parameters := m{
		"description": "d", "keyUsage": "ENCRYPT_DECRYPT", "keySpec": "SYMMETRIC_DEFAULT", "origin": "AWS_KMS", "policy": policy,
		"tags": []any{m{"tagKey": "k", "tagValue": ""}},
	}
	for name, value := range e.RequestParameters {
		if _, ok := parameters[name]; !ok && value != false { // flags that were left out may be shown
			t.Errorf("requestParameters has %s: %v", name, value)
		}
	}
	for name, want := range parameters {
		if diff := cmp.Diff(want, e.RequestParameters[name]); diff != "" {
			t.Errorf("requestParameters.%s (-want +got):\n%s", name, diff)
		}
	}
	if len(e.Resources) != 1 || e.Resources[0].ARN != made["Arn"] || e.ReadOnly {
		t.Errorf("resources %v, readOnly %v; want the new key and false", e.Resources, e.ReadOnly)
	}
	wantMembers(t, "responseElements", e.ResponseElements, "keyMetadata")
	elements := e.ResponseElements["keyMetadata"].(m)
	for member, want := range map[string]any{
		"aWSAccountId": own, "keyId": made["KeyId"], "arn": made["Arn"], "enabled": true, "description": "d", "keyUsage": "ENCRYPT_DECRYPT",
		"keyState": "Enabled", "origin": "AWS_KMS", "keyManager": "CUSTOMER", "keySpec": "SYMMETRIC_DEFAULT", "multiRegion": false,
		"customerMasterKeySpec": "SYMMETRIC_DEFAULT", "currentKeyMaterialId": made["CurrentKeyMaterialId"],
	} {
		if elements[member] != want {
			t.Errorf("keyMetadata.%s is %v, want %v", member, elements[member], want)
		}
	}
	if date, _ := elements["creationDate"].(string); !dateText.MatchString(date) {
		t.Errorf("keyMetadata.creationDate is %q, want it like Aug 10, 2022, 10:38:27 PM", date)
	}
}

// TestChainsVerify looks at the hashes while the log is being written; TestMain
// does again when all is over.
func TestChainsVerify(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	before := len(g.audit(t))
	if count, err := g.verifyChains(t.Context()); err != nil || count < before {
		t.Errorf("%d records verified, %v; want at least %d", count, err, before)
	}
	events := g.audit(t)
	first := events[0]
	if starts := slices.IndexFunc(events, func(e event) bool { return e.EventName == "StreamStarted" }); starts < 0 {
		t.Errorf("no stream says that it starts; the first record is %s", first.text)
	}
}
