package kmsapi_test

import (
	"net/http"
	"slices"
	"testing"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
)

const (
	arn      = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	aliasARN = "arn:aws:kms:us-east-1:111122223333:alias/x"
	user     = "arn:aws:iam::111122223333:user/u"
)

// Every text, letter by letter; clients match on those that are KMS's own.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	sentence := func(rest string) string {
		return "AccessDeniedException: User: " + user + " is not authorized to perform: kms:Decrypt on " + rest
	}
	for want, err := range map[string]*kmsapi.Error{
		"KMSInternalException: The request was rejected because an internal exception occurred. The request can be retried.": kmsapi.Internal(),
		"DependencyTimeoutException: The system timed out while trying to fulfill the request. You can retry the request.":   kmsapi.DependencyTimeout(),
		"ThrottlingException: You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.":     kmsapi.Throttled(),
		"SerializationException":    kmsapi.Serialization(""),
		"UnknownOperationException": kmsapi.UnknownOperation(),
		"RequestEntityTooLargeException: Request body must not be larger than 9 bytes.":                                                                                               kmsapi.BodyTooLarge(9),
		"UnrecognizedClientException: The security token included in the request is invalid.":                                                                                         kmsapi.UnrecognizedClient(),
		"NotFoundException: Key '" + arn + "' does not exist":                                                                                                                         kmsapi.NotFoundKey(arn),
		"NotFoundException: Invalid keyId 'fake-key-id'":                                                                                                                              kmsapi.InvalidKeyID("fake-key-id"),
		"NotFoundException: Invalid keyId foo":                                                                                                                                        kmsapi.InvalidKeyIDInARN("foo"),
		"NotFoundException: Invalid arn eu-west-1":                                                                                                                                    kmsapi.InvalidARNRegion("eu-west-1"),
		"NotFoundException: Alias " + aliasARN + " is not found.":                                                                                                                     kmsapi.AliasNotFound(aliasARN),
		"InvalidArnException: Key Aliases are not supported for this operation.":                                                                                                      kmsapi.AliasNotSupported(),
		"DisabledException: " + arn + " is disabled.":                                                                                                                                 kmsapi.WrongState(arn, kmsapi.Disabled),
		"KMSInvalidStateException: " + arn + " is pending deletion.":                                                                                                                  kmsapi.WrongState(arn, kmsapi.PendingDeletion),
		"KMSInvalidStateException: " + arn + " is pending import.":                                                                                                                    kmsapi.WrongState(arn, kmsapi.PendingImport),
		"InvalidKeyUsageException: " + arn + " key usage is SIGN_VERIFY which is not valid for Encrypt.":                                                                              kmsapi.KeyUsageInvalid(arn, keyspec.SignVerify, "Encrypt"),
		"InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048.":                                                                               kmsapi.AlgorithmIncompatible(keyspec.AlgorithmSymmetricDefault, keyspec.RSA2048),
		"InvalidKeyUsageException: You cannot generate a data key with an asymmetric CMK":                                                                                             kmsapi.DataKeyUnderKeyPair(),
		"IncorrectKeyException: The key ID in the request does not identify a CMK that can perform this operation.":                                                                   kmsapi.IncorrectKey(),
		"InvalidCiphertextException":                                                                                                                                                  kmsapi.InvalidCiphertext(),
		"DryRunOperationException: The request would have succeeded, but the DryRun option is set.":                                                                                   kmsapi.DryRunSucceeded(),
		"ValidationException: 1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null":                                               kmsapi.MissingMember("keyId"),
		"ValidationException: Please specify either number of bytes or key spec.":                                                                                                     kmsapi.KeySpecOrNumberOfBytes(),
		"ValidationException: NumberOfBytes is required.":                                                                                                                             kmsapi.NumberOfBytesRequired(),
		"ValidationException: EncryptionContext must not be larger than 8192 bytes.":                                                                                                  kmsapi.EncryptionContextTooLarge(8192),
		"UnsupportedOperationException: Recipient is not supported: attestation documents are not verified here.":                                                                     kmsapi.RecipientUnsupported(),
		"ValidationException: DryRunModifiers can be specified only if DryRun is true.":                                                                                               kmsapi.ModifiersWithoutDryRun(),
		"ValidationException: You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.":                                                               kmsapi.KeyUsageRequired(),
		"ValidationException: KeyUsage SIGN_VERIFY is not compatible with KeySpec SYMMETRIC_DEFAULT":                                                                                  kmsapi.KeyUsageIncompatible(keyspec.SignVerify, keyspec.SymmetricDefault),
		"ValidationException: You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.":                                         kmsapi.BothKeySpecs(),
		"UnsupportedOperationException: KeySpec SM2 is not supported in this Region":                                                                                                  kmsapi.KeySpecNotServed(keyspec.SM2),
		"UnsupportedOperationException: Origin EXTERNAL is not supported in this Region":                                                                                              kmsapi.OriginNotServed(keyspec.External),
		"UnsupportedOperationException: Multi-Region keys of KeySpec RSA_2048 are not supported in this Region: their material is kept in the token itself and cannot be replicated.": kmsapi.ResidentNotMultiRegion(keyspec.RSA2048),
		"CustomKeyStoreNotFoundException: The request was rejected because KMS cannot find a custom key store with the specified key store name or ID.":                               kmsapi.CustomKeyStoreNotFound(),
		"ValidationException: XksKeyId can be specified only if Origin is EXTERNAL_KEY_STORE.":                                                                                        kmsapi.XksKeyIDUnsupported(),
		`ValidationException: Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`:                             kmsapi.AliasPrefix(),
		"NotAuthorizedException": kmsapi.AliasReserved(),
		"ValidationException: alias/a:b contains invalid characters for an alias":        kmsapi.AliasCharacters("alias/a:b"),
		"ValidationException: Invalid identifier":                                        kmsapi.AliasWithoutName(),
		"AlreadyExistsException: An alias with the name " + aliasARN + " already exists": kmsapi.AliasExists(aliasARN),
		"ValidationException: Aliases must refer to keys. Not aliases":                   kmsapi.AliasOfAlias(),
		"ValidationException: Alias alias/x cannot be changed from a CMK with key usage SIGN_VERIFY to a CMK with key usage ENCRYPT_DECRYPT. The key usage of the current CMK and the new CMK must be the same.": kmsapi.AliasUsageChange("alias/x", keyspec.SignVerify, keyspec.EncryptDecrypt),
		"ValidationException: Alias alias/x cannot be changed from a CMK with key type SYMMETRIC to a CMK with key type ASYMMETRIC. The key type of the current CMK and the new CMK must be the same.":           kmsapi.AliasTypeChange("alias/x", kmsapi.Symmetric, kmsapi.Asymmetric),
		"KMSInvalidSignatureException":  kmsapi.InvalidSignature(),
		"KMSInvalidMacException":        kmsapi.InvalidMac(),
		"ValidationException":           kmsapi.InvalidPublicKey(),
		"UnsupportedOperationException": kmsapi.NoPublicKey(),
		"ValidationException: Message type DIGEST is incompatible with key spec ML_DSA_44.":                                                                             kmsapi.MessageTypeOfOtherSpec(keyspec.Digest, keyspec.MLDSA44),
		"ValidationException: Message type RAW is incompatible with algorithm ED25519_PH_SHA_512.":                                                                      kmsapi.MessageTypeOfOtherAlgorithm(keyspec.Raw, keyspec.Ed25519PHSHA512),
		"ValidationException: Digest is invalid length for algorithm ECDSA_SHA_256.":                                                                                    kmsapi.DigestLength(keyspec.ECDSASHA256),
		"ValidationException: Algorithm RSAES_OAEP_SHA_256 and key spec RSA_2048 cannot encrypt data larger than 190 bytes.":                                            kmsapi.PlaintextTooLarge(keyspec.RSAESOAEPSHA256, keyspec.RSA2048, 190),
		"ValidationException: EncryptionContext can be specified only with a symmetric encryption key.":                                                                 kmsapi.EncryptionContextOfKeyPair(),
		"UnsupportedOperationException: KeyPairSpec SM2 is not supported in this Region":                                                                                kmsapi.KeyPairSpecNotServed(keyspec.SM2),
		"UnsupportedOperationException: KeySpec ML_DSA_44 is not supported by this key store: its HSM has no mechanism for it. kmsgate hsm probe shows what it can do.": kmsapi.NoMechanism("KeySpec ML_DSA_44"),
		"TagException: Duplicate tag keys":                    kmsapi.DuplicateTagKeys(),
		"TagException: Too many tags":                         kmsapi.TooManyTags(),
		"TagException: Tags beginning with aws: are reserved": kmsapi.ReservedTag(),
		"NotFoundException: No such policy exists":            kmsapi.NoSuchPolicy(),
		"MalformedPolicyDocumentException: The new key policy will not allow you to update the key policy in the future.":                     kmsapi.PolicyLockout(),
		"MalformedPolicyDocumentException: Policy contains a statement with one or more invalid principals.":                                  kmsapi.PolicyPrincipals(),
		"MalformedPolicyDocumentException: Statement[0].Effect: neither Allow nor Deny":                                                       kmsapi.PolicyMalformed("Statement[0].Effect: neither Allow nor Deny"),
		"LimitExceededException: The key policy must not be larger than 32768 bytes.":                                                         kmsapi.PolicyTooLarge(),
		"LimitExceededException: The quota of aliases has been reached for the key: " + arn:                                                   kmsapi.TooManyAliases(arn),
		"LimitExceededException: The quota of keys has been reached for the account: 111122223333":                                            kmsapi.TooManyKeys("111122223333"),
		"InvalidMarkerException: The request was rejected because the marker that specifies where pagination should next begin is not valid.": kmsapi.InvalidMarker(),
		"InvalidGrantTokenException: The request was rejected because the specified grant token is not valid.":                                kmsapi.InvalidGrantToken(),
		"InvalidArnException: ARN does not refer to a valid principal: arn:aws:iam::111122223333:user/x":                                      kmsapi.PrincipalNotFound("arn:aws:iam::111122223333:user/x"),
		"ValidationException: More than one constraint supplied":                                                                              kmsapi.MoreThanOneConstraint(),
		"NotFoundException: Grant ID 0a not found":                                                                                            kmsapi.GrantNotFound("0a"),
		"InvalidGrantIdException: The request was rejected because the specified GrantId is not valid.":                                       kmsapi.InvalidGrantID(),
		"LimitExceededException: The quota of grants has been reached for the key: " + arn:                                                    kmsapi.TooManyGrants(arn),
		"SerializationException: Member 'Foo' is not recognized":                                                                              kmsapi.UnknownMember("Foo"),
		"SerializationException: Member 'Foo' is given more than once":                                                                        kmsapi.DuplicateMember("Foo"),

		sentence("resource: " + arn + " because no identity-based policy allows the kms:Decrypt action"):                                                                                                          kmsapi.Denied(user, "kms:Decrypt", kmsapi.ResourceTarget(arn), kmsapi.IdentityBasedPolicy),
		sentence("resource: " + arn + " because no resource-based policy allows the kms:Decrypt action"):                                                                                                          kmsapi.Denied(user, "kms:Decrypt", kmsapi.ResourceTarget(arn), kmsapi.ResourceBasedPolicy),
		sentence("resource: " + arn + " because no permissions boundary allows the kms:Decrypt action"):                                                                                                           kmsapi.Denied(user, "kms:Decrypt", kmsapi.ResourceTarget(arn), kmsapi.PermissionsBoundary),
		sentence("resource: * because no session policy allows the kms:Decrypt action"):                                                                                                                           kmsapi.Denied(user, "kms:Decrypt", kmsapi.ResourceTarget("*"), kmsapi.SessionPolicy),
		sentence("the resource associated with this ciphertext because no identity-based policy allows the kms:Decrypt action"):                                                                                   kmsapi.Denied(user, "kms:Decrypt", kmsapi.CiphertextTarget, kmsapi.IdentityBasedPolicy),
		sentence("resource: " + arn + " because no VPC endpoint policy allows the kms:Decrypt action"):                                                                                                            kmsapi.Denied(user, "kms:Decrypt", kmsapi.ResourceTarget(arn), kmsapi.VPCEndpointPolicy),
		sentence("resource: " + arn + " because no resource control policy allows the kms:Decrypt action"):                                                                                                        kmsapi.Denied(user, "kms:Decrypt", kmsapi.ResourceTarget(arn), kmsapi.ResourceControlPolicy),
		sentence("resource: " + arn + " with an explicit deny in an identity-based policy"):                                                                                                                       kmsapi.DeniedExplicitly(user, "kms:Decrypt", kmsapi.ResourceTarget(arn), kmsapi.IdentityBasedPolicy),
		sentence("resource: " + arn + " with an explicit deny in a resource-based policy"):                                                                                                                        kmsapi.DeniedExplicitly(user, "kms:Decrypt", kmsapi.ResourceTarget(arn), kmsapi.ResourceBasedPolicy),
		sentence("resource: " + arn + " with an explicit deny in a service control policy"):                                                                                                                       kmsapi.DeniedExplicitly(user, "kms:Decrypt", kmsapi.ResourceTarget(arn), kmsapi.ServiceControlPolicy),
		sentence("this resource because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access"):                                kmsapi.DeniedBlindly(user, "kms:Decrypt", kmsapi.HiddenTarget),
		sentence("the resource associated with this ciphertext because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access"): kmsapi.DeniedBlindly(user, "kms:Decrypt", kmsapi.CiphertextTarget),
	} {
		if got := err.Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestWrongStateKnowsEveryState(t *testing.T) {
	t.Parallel()
	for _, state := range []kmsapi.KeyState{
		kmsapi.Creating, kmsapi.Enabled, kmsapi.Disabled, kmsapi.PendingDeletion,
		kmsapi.PendingImport, kmsapi.PendingReplicaDeletion, kmsapi.Unavailable, kmsapi.Updating,
	} {
		if err := kmsapi.WrongState(arn, state); err.Message == arn {
			t.Errorf("WrongState(%s) has no text", state)
		}
	}
}

func TestCodesAreATable(t *testing.T) {
	t.Parallel()
	seen := map[kmsapi.Code]bool{}
	for _, row := range kmsapi.Codes {
		if seen[row.Code] {
			t.Errorf("%s stands twice in Codes", row.Code)
		}
		seen[row.Code] = true
		if got := row.Code.Row(); got != row {
			t.Errorf("%s.Row() = %v, want %v", row.Code, got, row)
		}
	}
	for code, want := range map[kmsapi.Code]int{
		kmsapi.NotFoundException:          http.StatusBadRequest,
		kmsapi.AccessDeniedException:      http.StatusBadRequest,
		kmsapi.ThrottlingException:        http.StatusBadRequest,
		kmsapi.KMSInternalException:       http.StatusInternalServerError,
		kmsapi.KeyUnavailableException:    http.StatusInternalServerError,
		kmsapi.DependencyTimeoutException: http.StatusInternalServerError,
		kmsapi.InternalFailure:            http.StatusInternalServerError,
		"NoSuchCode":                      http.StatusInternalServerError,
	} {
		if got := code.Row().HTTPStatus; got != want {
			t.Errorf("status of %s = %d, want %d", code, got, want)
		}
	}
	capital := []kmsapi.Code{kmsapi.AccessDeniedException, kmsapi.SerializationException}
	for _, row := range kmsapi.Codes {
		if row.CapitalMessage != slices.Contains(capital, row.Code) {
			t.Errorf("%s: CapitalMessage = %v", row.Code, row.CapitalMessage)
		}
	}
}
