package integration_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// served are the operations that are served. TestEverySDKOperationAnswers shows
// that all others are refused.
var served = []string{
	"CancelKeyDeletion", "CreateAlias", "CreateGrant", "CreateKey", "Decapsulate", "Decrypt", "DeleteAlias", "DeleteImportedKeyMaterial", "DeriveSharedSecret", "DescribeKey", "DisableKey", "EnableKey",
	"Encapsulate", "Encrypt", "GenerateDataKey", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
	"GenerateDataKeyWithoutPlaintext", "GenerateMac", "GenerateRandom", "GetKeyLastUsage", "GetKeyPolicy", "GetParametersForImport", "GetPublicKey", "ImportKeyMaterial", "ListAliases", "ListGrants", "ListKeyPolicies",
	"ListKeys", "ListResourceTags", "ListRetirableGrants", "PutKeyPolicy", "ReEncrypt", "ReplicateKey", "RetireGrant", "RevokeGrant", "ScheduleKeyDeletion", "Sign", "TagResource", "UntagResource", "UpdateAlias",
	"UpdateKeyDescription", "Verify", "VerifyMac",
	"DisableKeyRotation", "EnableKeyRotation", "GetKeyRotationStatus", "ListKeyRotations", "RotateKeyOnDemand", "UpdatePrimaryRegion",
}

// sdkOperations are the names of all operations of the SDK.
func sdkOperations() (names []string) {
	client := reflect.TypeFor[*kms.Client]()
	for i := range client.NumMethod() {
		method := client.Method(i)
		if method.Type.NumIn() == 4 && method.Type.In(2).String() == "*kms."+method.Name+"Input" {
			names = append(names, method.Name)
		}
	}
	return names
}

func TestEverySDKOperationAnswers(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	names := sdkOperations()
	if len(names) < 50 {
		t.Fatalf("the SDK has %d operations, want all", len(names))
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "CreateKey" {
				return // needs nothing, and would make a key
			}
			a := g.call(t, own, name, m{})
			var body m
			if len(a.body) > 0 {
				body = a.object(t)
			}
			refusal := body["__type"] == "UnsupportedOperationException" || body["__type"] == "UnknownOperationException"
			if refusal == slices.Contains(served, name) {
				t.Errorf("%s: %d %s; served %v", name, a.status, a.body, slices.Contains(served, name))
			}
			if refusal && (a.status != 400 || body["__type"] == "UnsupportedOperationException" && body["message"] == "") {
				t.Errorf("%s: %d %s, want 400 and a reason", name, a.status, a.body)
			}
			if a.requestID() == "" {
				t.Errorf("%s: no request id", name)
			}
		})
	}
	for _, name := range served {
		if !slices.Contains(names, name) {
			t.Errorf("%s is not an operation of the SDK", name)
		}
	}
	for _, name := range []string{"", "createKey", "CreateKey,CreateKey", "Nothing", strings.Repeat("x", 5000)} {
		g.refused(t, own, name, m{}, "UnknownOperationException", "")
	}
}

// everywhere are the codes that every operation may answer.
var everywhere = []string{
	"AccessDenied", "ThrottlingException", "ValidationException", "SerializationException", "KMSInternalException", "DependencyTimeoutException",
	"UnknownOperationException", "UnsupportedOperationException", "MissingAuthenticationTokenException", "IncompleteSignatureException",
	"InvalidSignatureException", "UnrecognizedClientException", "RequestEntityTooLargeException",
}

// Errors that several operations have.
var (
	managing   = []string{"InvalidArnException", "KMSInvalidStateException", "NotFoundException"}
	encrypting = []string{
		"DisabledException", "DryRunOperationException", "InvalidGrantTokenException", "InvalidKeyUsageException", "KeyUnavailableException",
		"KMSInvalidStateException", "NotFoundException",
	}
	decrypting = append([]string{"IncorrectKeyException", "InvalidCiphertextException"}, encrypting...)
)

// modelled are the errors of each operation beyond those of everywhere (KMS API
// Reference, "Errors" of each action).
var modelled = map[string][]string{
	"CancelKeyDeletion":                   managing,
	"ScheduleKeyDeletion":                 managing,
	"CreateAlias":                         {"AlreadyExistsException", "InvalidAliasNameException", "KMSInvalidStateException", "LimitExceededException", "NotFoundException"},
	"CreateGrant":                         {"DisabledException", "DryRunOperationException", "InvalidArnException", "InvalidGrantTokenException", "KMSInvalidStateException", "LimitExceededException", "NotFoundException"},
	"ListGrants":                          {"InvalidArnException", "InvalidGrantIdException", "InvalidMarkerException", "KMSInvalidStateException", "NotFoundException"},
	"ListRetirableGrants":                 {"InvalidArnException", "InvalidMarkerException", "NotFoundException"},
	"RetireGrant":                         {"DryRunOperationException", "InvalidArnException", "InvalidGrantIdException", "InvalidGrantTokenException", "KMSInvalidStateException", "NotFoundException"},
	"RevokeGrant":                         {"DryRunOperationException", "InvalidArnException", "InvalidGrantIdException", "KMSInvalidStateException", "NotFoundException"},
	"CreateKey":                           {"CustomKeyStoreNotFoundException", "InvalidArnException", "LimitExceededException", "MalformedPolicyDocumentException", "TagException"},
	"Decapsulate":                         append([]string{"InvalidCiphertextException"}, encrypting...),
	"Decrypt":                             decrypting,
	"DeleteAlias":                         {"KMSInvalidStateException", "NotFoundException"},
	"DeriveSharedSecret":                  encrypting,
	"DescribeKey":                         {"InvalidArnException", "NotFoundException"},
	"DisableKey":                          managing,
	"EnableKey":                           append([]string{"LimitExceededException"}, managing...),
	"Encapsulate":                         encrypting,
	"Encrypt":                             encrypting,
	"GenerateDataKey":                     encrypting,
	"GenerateDataKeyPair":                 encrypting,
	"GenerateDataKeyPairWithoutPlaintext": encrypting,
	"GenerateDataKeyWithoutPlaintext":     encrypting,
	"GenerateMac":                         encrypting,
	"GenerateRandom":                      {"CustomKeyStoreNotFoundException", "CustomKeyStoreInvalidStateException"},
	"GetKeyLastUsage":                     managing,
	"GetKeyPolicy":                        managing,
	"GetPublicKey":                        append([]string{"DisabledException", "InvalidGrantTokenException", "InvalidKeyUsageException", "KeyUnavailableException"}, managing...),
	"ListAliases":                         {"InvalidArnException", "InvalidMarkerException", "NotFoundException"},
	"ListKeyPolicies":                     managing,
	"ListKeys":                            {"InvalidMarkerException"},
	"ListResourceTags":                    {"InvalidArnException", "InvalidMarkerException", "NotFoundException"},
	"PutKeyPolicy":                        append([]string{"LimitExceededException", "MalformedPolicyDocumentException"}, managing...),
	"ReEncrypt":                           decrypting,
	"ReplicateKey": append([]string{
		"AlreadyExistsException", "DisabledException", "LimitExceededException", "MalformedPolicyDocumentException", "TagException",
	}, managing...),
	"Sign":                 encrypting,
	"TagResource":          append([]string{"LimitExceededException", "TagException"}, managing...),
	"UntagResource":        append([]string{"TagException"}, managing...),
	"UpdateAlias":          {"KMSInvalidStateException", "LimitExceededException", "NotFoundException"},
	"UpdateKeyDescription": managing,
	"Verify":               append([]string{"KMSInvalidSignatureException"}, encrypting...),
	"VerifyMac":            append([]string{"KMSInvalidMacException"}, encrypting...),

	"DeleteImportedKeyMaterial": managing,
	"GetParametersForImport":    managing,
	"ImportKeyMaterial": append([]string{
		"ExpiredImportTokenException", "IncorrectKeyMaterialException", "InvalidCiphertextException", "InvalidImportTokenException",
	}, managing...),

	"UpdatePrimaryRegion":  append([]string{"DisabledException"}, managing...),
	"DisableKeyRotation":   append([]string{"DisabledException"}, managing...),
	"EnableKeyRotation":    append([]string{"DisabledException"}, managing...),
	"GetKeyRotationStatus": managing,
	"ListKeyRotations":     append([]string{"InvalidMarkerException"}, managing...),
	"RotateKeyOnDemand":    append([]string{"ConflictException", "DisabledException", "LimitExceededException"}, managing...),
}

// unmodelled are codes beyond the model, each with its operations.
var unmodelled = map[string][]string{
	"NotAuthorizedException":     {"CreateAlias", "UpdateAlias", "DeleteAlias"}, // names that are AWS's own
	"InvalidGrantTokenException": {"DescribeKey"},                               // takes grant tokens and has no word for a wrong one
	"InvalidMarkerException":     {"ListKeyPolicies"},                           // takes markers and has no word for a wrong one
}

// unexpectedErrors are the records whose code is none of their operation's: callers
// could not tell what to make of it.
func unexpectedErrors(events []event) (found problems) {
	seen := map[string]bool{}
	for _, e := range events {
		if e.ErrorCode == "" || e.EventSource != "kms.amazonaws.com" || slices.Contains(everywhere, e.ErrorCode) ||
			slices.Contains(modelled[e.EventName], e.ErrorCode) || slices.Contains(unmodelled[e.ErrorCode], e.EventName) {
			continue
		}
		if key := e.EventName + " " + e.ErrorCode; !seen[key] {
			seen[key] = true
			found.add("%s answered %s, which is not among its errors %q", e.EventName, e.ErrorCode, modelled[e.EventName])
		}
	}
	return found
}

func TestUnexpectedErrorsAreFound(t *testing.T) {
	t.Parallel()
	for _, name := range served {
		if modelled[name] == nil {
			t.Errorf("the errors of %s are not known", name)
		}
	}
	refusal := func(name, code string) event {
		return event{EventSource: "kms.amazonaws.com", EventName: name, ErrorCode: code}
	}
	got := unexpectedErrors([]event{
		refusal("Decrypt", "InvalidCiphertextException"), refusal("Decrypt", "AccessDenied"), refusal("ListKeys", "InvalidCiphertextException"),
	})
	if len(got) != 1 || !strings.HasPrefix(got[0], "ListKeys answered InvalidCiphertextException") {
		t.Errorf("found %q, want ListKeys alone", got)
	}
}

// TestSDKKnowsTheErrors shows that clients get the types that they test for, not
// only texts.
func TestSDKKnowsTheErrors(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	key, id := g.createKey(t, own), nowhere
	_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	wantError(t, err, "NotFoundException", "Key '"+keyARN(own, id)+"' does not exist")
	if _, ok := errors.AsType[*types.NotFoundException](err); !ok {
		t.Errorf("error %T, want a NotFoundException", err)
	}
	_, err = c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: []byte("garbage")})
	wantError(t, err, "InvalidCiphertextException", "")
	if _, ok := errors.AsType[*types.InvalidCiphertextException](err); !ok {
		t.Errorf("error %T, want an InvalidCiphertextException", err)
	}
	_, err = c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte{0}, DryRun: aws.Bool(true)})
	wantError(t, err, "DryRunOperationException", dryRunText)
	if _, ok := errors.AsType[*types.DryRunOperationException](err); !ok {
		t.Errorf("error %T, want a DryRunOperationException", err)
	}
	_, err = g.newClient(other).Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte{0}})
	wantError(t, err, "AccessDeniedException", denied(other, "Encrypt", "this resource")+hidden)
	_, err = c.CreateGrant(t.Context(), &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: aws.String(rootOf("999999999999")), Operations: []types.GrantOperation{types.GrantOperationDecrypt}})
	wantError(t, err, "InvalidArnException", "ARN does not refer to a valid principal: "+rootOf("999999999999"))
	_, err = c.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("eu-west-1")})
	wantError(t, err, "UnsupportedOperationException", key+" is not a multi-region primary key.")
}
