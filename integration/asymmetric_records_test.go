package integration_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// TestRecordsOfPairs makes every call on pairs and MAC keys, and looks at its
// record, member by member: nothing of messages, signatures, MACs and keys.
func TestRecordsOfPairs(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	pair, symmetric := g.ready(t, types.KeySpecRsa2048, encrypts), g.ready(t, types.KeySpecSymmetricDefault, encrypts)
	signing, mac, agreeing := g.ready(t, types.KeySpecEccNistP256, signs), g.ready(t, types.KeySpecHmac256, macs), g.ready(t, types.KeySpecEccNistP256, agrees)
	material := m{"keyMaterialId": g.material(t, own, symmetric)}
	message := hide([]byte("a message that no record has"))
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := hide(spki(t, peer.PublicKey()))
	const with256, ecdsa, hmac = "RSAES_OAEP_SHA_256", "ECDSA_SHA_256", "HMAC_SHA_256"
	signature := g.mustCall(t, own, "Sign", m{"KeyId": signing, "Message": message, "SigningAlgorithm": ecdsa})["Signature"]
	code := g.mustCall(t, own, "GenerateMac", m{"KeyId": mac, "Message": message, "MacAlgorithm": hmac})["Mac"]
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": pair, "Plaintext": message, "EncryptionAlgorithm": with256})["CiphertextBlob"]
	for _, secret := range []any{signature, code, blob} {
		hideText(secret.(string))
	}
	context := m{"purpose": "pairs"}
	calls := []recorded{
		{operation: "Sign", in: m{"KeyId": signing, "Message": message, "SigningAlgorithm": ecdsa}, parameters: m{"keyId": signing, "signingAlgorithm": ecdsa, "messageType": "RAW"}, resources: []string{signing}, readOnly: true},
		{operation: "Sign", in: m{"KeyId": idOf(signing), "Message": make([]byte, 32), "SigningAlgorithm": ecdsa, "MessageType": "DIGEST"}, parameters: m{"keyId": idOf(signing), "signingAlgorithm": ecdsa, "messageType": "DIGEST"}, resources: []string{signing}, readOnly: true},
		{operation: "Verify", in: m{"KeyId": signing, "Message": message, "SigningAlgorithm": ecdsa, "Signature": signature}, parameters: m{"keyId": signing, "signingAlgorithm": ecdsa, "messageType": "RAW"}, resources: []string{signing}, readOnly: true},
		{operation: "Verify", in: m{"KeyId": signing, "Message": message, "SigningAlgorithm": ecdsa, "Signature": code}, parameters: m{"keyId": signing, "signingAlgorithm": ecdsa, "messageType": "RAW"}, resources: []string{signing}, readOnly: true, code: "KMSInvalidSignatureException"},
		{operation: "GenerateMac", in: m{"KeyId": mac, "Message": message, "MacAlgorithm": hmac}, parameters: m{"keyId": mac, "macAlgorithm": hmac}, resources: []string{mac}, readOnly: true},
		{operation: "VerifyMac", in: m{"KeyId": mac, "Message": message, "MacAlgorithm": hmac, "Mac": code}, parameters: m{"keyId": mac, "macAlgorithm": hmac}, resources: []string{mac}, readOnly: true},
		{operation: "VerifyMac", in: m{"KeyId": mac, "Message": message, "MacAlgorithm": hmac, "Mac": code, "DryRun": true}, parameters: m{"keyId": mac, "macAlgorithm": hmac, "dryRun": true}, resources: []string{mac}, readOnly: true, code: "DryRunOperationException", message: dryRunText},
		{operation: "DeriveSharedSecret", in: m{"KeyId": agreeing, "KeyAgreementAlgorithm": "ECDH", "PublicKey": public}, parameters: m{"keyId": agreeing, "keyAgreementAlgorithm": "ECDH"}, resources: []string{agreeing}, readOnly: true},
		{operation: "DeriveSharedSecret", in: m{"KeyId": agreeing, "KeyAgreementAlgorithm": "ECDH", "PublicKey": public[:10]}, parameters: m{"keyId": agreeing, "keyAgreementAlgorithm": "ECDH"}, resources: []string{agreeing}, readOnly: true, code: "ValidationException"},
		{operation: "GetPublicKey", in: m{"KeyId": pair}, parameters: m{"keyId": pair}, resources: []string{pair}, readOnly: true},
		{operation: "Encrypt", in: m{"KeyId": pair, "Plaintext": message, "EncryptionAlgorithm": with256}, parameters: m{"keyId": pair, "encryptionAlgorithm": with256}, resources: []string{pair}, readOnly: true},
		{operation: "Decrypt", in: m{"KeyId": pair, "CiphertextBlob": blob, "EncryptionAlgorithm": with256}, parameters: m{"keyId": pair, "encryptionAlgorithm": with256}, resources: []string{pair}, readOnly: true},
		{
			operation:  "ReEncrypt",
			in:         m{"SourceKeyId": pair, "CiphertextBlob": blob, "SourceEncryptionAlgorithm": with256, "DestinationKeyId": symmetric},
			parameters: m{"sourceKeyId": pair, "sourceEncryptionAlgorithm": with256, "destinationKeyId": symmetric, "destinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT"},
			resources:  []string{pair, symmetric}, additional: m{"destinationKeyMaterialId": material["keyMaterialId"]}, readOnly: true,
		},
		{operation: "GenerateDataKeyPair", in: m{"KeyId": symmetric, "KeyPairSpec": "ECC_NIST_P256", "EncryptionContext": context}, parameters: m{"keyId": symmetric, "keyPairSpec": "ECC_NIST_P256", "encryptionContext": context}, resources: []string{symmetric}, additional: material, readOnly: true},
		{operation: "GenerateDataKeyPairWithoutPlaintext", in: m{"KeyId": symmetric, "KeyPairSpec": "ECC_NIST_P256"}, parameters: m{"keyId": symmetric, "keyPairSpec": "ECC_NIST_P256"}, resources: []string{symmetric}, additional: material, readOnly: true},
		{operation: "Encapsulate", in: m{"KeyId": pair, "EncapsulationAlgorithm": "ML_KEM"}, parameters: m{"keyId": pair, "encapsulationAlgorithm": "ML_KEM"}, resources: []string{pair}, readOnly: true, code: "InvalidKeyUsageException", message: pair + " key usage is ENCRYPT_DECRYPT which is not valid for Encapsulate."},
		{operation: "Decapsulate", in: m{"KeyId": nowhere, "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": blob}, parameters: m{"keyId": nowhere, "encapsulationAlgorithm": "ML_KEM"}, readOnly: true, code: "NotFoundException", message: "Key '" + keyARN(own, nowhere) + "' does not exist"},
	}
	ids := make([]string, len(calls))
	for n, c := range calls {
		a := g.call(t, own, c.operation, c.in)
		if (a.status == 200) != (c.code == "") {
			t.Errorf("%s %v: %d %s", c.operation, c.in, a.status, a.body)
		}
		ids[n] = a.requestID()
		if a.status == 200 {
			for _, member := range []string{"SharedSecret", "PrivateKeyPlaintext", "Signature", "Mac"} {
				if secret, ok := a.object(t)[member].(string); ok {
					hide(unbase64(t, secret))
				}
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

// TestRecordOfCreatedPairs: the record of CreateKey lists what the key can do.
func TestRecordOfCreatedPairs(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, k := range []kind{
		{types.KeySpecEccNistP256, agrees, []string{"ECDH"}},
		{types.KeySpecHmac512, macs, []string{"HMAC_SHA_512"}},
		{types.KeySpecEccNistEdwards25519, signs, []string{"ED25519_SHA_512", "ED25519_PH_SHA_512"}},
	} {
		a := g.call(t, own, "CreateKey", m{"KeySpec": k.spec, "KeyUsage": k.usage})
		found := eventsOf(g.audit(t), a.requestID())
		if len(found) != 1 {
			t.Fatalf("%d records of %s, want one", len(found), a.body)
		}
		elements := found[0].ResponseElements["keyMetadata"].(m)
		member := map[types.KeyUsageType]string{agrees: "keyAgreementAlgorithms", macs: "macAlgorithms", signs: "signingAlgorithms"}[k.usage]
		if fmt.Sprint(elements[member]) != fmt.Sprint(k.algorithms) || elements["keySpec"] != string(k.spec) || elements["currentKeyMaterialId"] != nil {
			t.Errorf("keyMetadata %v, want the algorithms %v in %s", elements, k.algorithms, member)
		}
	}
}

// TestConditionsOfPairs: policies judge by algorithm, message type and pair spec,
// the defaults included.
func TestConditionsOfPairs(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	signing, mac := g.createPair(t, own, types.KeySpecEccNistP256, signs), g.createPair(t, own, types.KeySpecHmac256, macs)
	agreeing, symmetric := g.createPair(t, own, types.KeySpecEccNistP256, agrees), g.createKey(t, own)
	pair := g.createPair(t, own, types.KeySpecRsa2048, encrypts)
	peer := g.publicKey(t, g.ready(t, types.KeySpecEccNistP256, agrees))
	for _, tc := range []struct {
		operation, key   string
		condition, value string
		denied, allowed  m // nil for none
	}{
		{"Sign", signing, "kms:MessageType", "RAW", m{"Message": make([]byte, 32), "SigningAlgorithm": "ECDSA_SHA_256"}, m{"Message": make([]byte, 32), "SigningAlgorithm": "ECDSA_SHA_256", "MessageType": "DIGEST"}},
		{"Sign", signing, "kms:SigningAlgorithm", "ECDSA_SHA_256", m{"Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256"}, nil},
		{"Sign", signing, "kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT", nil, m{"Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256"}},
		{"Sign", signing, "kms:KeySpec", "ECC_NIST_P256", m{"Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256"}, nil},
		{"GenerateMac", mac, "kms:MacAlgorithm", "HMAC_SHA_256", m{"Message": "AA==", "MacAlgorithm": "HMAC_SHA_256"}, nil},
		{"DeriveSharedSecret", agreeing, "kms:KeyAgreementAlgorithm", "ECDH", m{"KeyAgreementAlgorithm": "ECDH", "PublicKey": peer}, nil},
		{"GenerateDataKeyPair", symmetric, "kms:DataKeyPairSpec", "ECC_NIST_P384", m{"KeyPairSpec": "ECC_NIST_P384"}, m{"KeyPairSpec": "ECC_NIST_P256"}},
		{"GenerateDataKeyPairWithoutPlaintext", symmetric, "kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT", m{"KeyPairSpec": "ECC_NIST_P256"}, nil},
		{"Encrypt", pair, "kms:EncryptionAlgorithm", "RSAES_OAEP_SHA_1", m{"Plaintext": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}, m{"Plaintext": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}},
		{"GetPublicKey", pair, "kms:KeyUsage", "ENCRYPT_DECRYPT", m{}, nil},
	} {
		deny := statement("Deny", own, "kms:"+tc.operation)
		deny["Condition"] = m{"StringEquals": m{tc.condition: tc.value}}
		g.putPolicy(t, own, tc.key, statement("Allow", own, "kms:*"), deny)
		if tc.denied != nil {
			g.refused(t, own, tc.operation, with(tc.denied, m{"KeyId": tc.key}), "AccessDeniedException", denied(own, tc.operation, "resource: "+tc.key)+policyDenies)
		}
		if tc.allowed != nil {
			g.mustCall(t, own, tc.operation, with(tc.allowed, m{"KeyId": tc.key}))
		}
	}
}

// TestPairsOfOtherAccounts: who may use a key of another account may use a pair,
// named by ARN; who may not learns nothing of it.
func TestPairsOfOtherAccounts(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	signing, pair := g.createPair(t, own, types.KeySpecEccNistP256, signs), g.createPair(t, own, types.KeySpecRsa2048, encrypts)
	sign := m{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256"}
	decrypt := m{"KeyId": pair, "CiphertextBlob": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
	for operation, in := range map[string]m{"Sign": sign, "Verify": with(sign, m{"Signature": "AA=="}), "Decrypt": decrypt, "GetPublicKey": {"KeyId": pair}} {
		g.refused(t, other, operation, in, "AccessDeniedException", denied(other, operation, "this resource")+hidden)
	}
	for _, key := range []string{signing, pair} {
		g.putPolicy(t, own, key, statement("Allow", own, "kms:*"), statement("Allow", other, "kms:*"))
	}
	signature := g.mustCall(t, other, "Sign", sign)["Signature"]
	g.mustCall(t, own, "Verify", with(sign, m{"Signature": signature}))
	blob := g.mustCall(t, other, "Encrypt", m{"KeyId": pair, "Plaintext": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"})["CiphertextBlob"]
	g.mustCall(t, other, "Decrypt", with(decrypt, m{"CiphertextBlob": blob}))
	g.refused(t, other, "Decrypt", decrypt, "InvalidCiphertextException", "")
	g.refused(t, other, "Decrypt", with(decrypt, m{"KeyId": idOf(pair)}), "NotFoundException", "Key '"+keyARN(other, idOf(pair))+"' does not exist")
}
