package integration_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// replicaRegion is where the tests replicate keys to.
const replicaRegion = "eu-west-1"

// replicated makes a primary key of a spec and a replica of it, and waits until that
// is enabled. It returns their id.
func replicated(t *testing.T, here, there *client, spec types.KeySpec, usage types.KeyUsageType) string {
	t.Helper()
	made, err := here.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage, MultiRegion: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	id := made.KeyMetadata.KeyId
	replica, err := here.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: id, ReplicaRegion: aws.String(replicaRegion)})
	if err != nil {
		t.Fatal(err)
	}
	if m := replica.ReplicaKeyMetadata; m.KeyState != types.KeyStateCreating || m.Enabled || *m.KeyId != *id || m.CurrentKeyMaterialId != nil {
		t.Errorf("the replica of %s begins as %+v", spec, m)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		is, err := there.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: id})
		if err != nil {
			t.Fatal(err)
		}
		if is.KeyMetadata.KeyState == types.KeyStateEnabled {
			return *id
		}
		if time.Now().After(deadline) {
			t.Fatalf("the replica of %s is still %s", spec, is.KeyMetadata.KeyState)
		}
	}
}

// TestReplicasAreTheSameKey: each type of key does in one region what was begun in the
// other, where another token has it.
func TestReplicasAreTheSameKey(t *testing.T) {
	t.Parallel()
	l := launch{dir: newPlace(t), arguments: []string{"-regions", region + "," + replicaRegion}}
	i := l.start(t)
	here, there := i.clientIn(region, i.keys[own]), i.clientIn(replicaRegion, i.keys[own])
	ctx, message := t.Context(), []byte("of one region")

	key := aws.String(replicated(t, here, there, types.KeySpecSymmetricDefault, types.KeyUsageTypeEncryptDecrypt))
	sealed, err := here.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: message, EncryptionContext: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := there.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: map[string]string{"a": "b"}})
	if err != nil || !bytes.Equal(opened.Plaintext, message) || *opened.KeyId == *sealed.KeyId {
		t.Errorf("Decrypt in %s = %+v, %v", replicaRegion, opened, err)
	}
	// A rotation is one of both, and what either has encrypted before stays open in both.
	if _, err := here.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: key}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); len(there.listed(t, *key)) < 2 && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	if n, m := len(here.listed(t, *key)), len(there.listed(t, *key)); n != 2 || m != 2 {
		t.Errorf("%d materials here and %d there, want two", n, m)
	}
	again, err := there.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: sealed.CiphertextBlob, SourceEncryptionContext: map[string]string{"a": "b"}, DestinationKeyId: key})
	if err != nil {
		t.Fatal(err)
	}
	opened, err = here.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: again.CiphertextBlob})
	if err != nil || !bytes.Equal(opened.Plaintext, message) || *opened.KeyMaterialId == *again.SourceKeyMaterialId {
		t.Errorf("Decrypt of what %s has encrypted = %+v, %v", replicaRegion, opened, err)
	}
	_, err = there.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: key, ReplicaRegion: aws.String(region)})
	wantError(t, err, "UnsupportedOperationException", *again.KeyId+" is not a multi-region primary key.")

	key = aws.String(replicated(t, here, there, types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac))
	in := &kms.GenerateMacInput{KeyId: key, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: message}
	first, err := here.GenerateMac(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := there.GenerateMac(ctx, in); err != nil || !bytes.Equal(first.Mac, second.Mac) {
		t.Errorf("GenerateMac in both regions: %x and %+v, %v", first.Mac, second, err)
	}
	wantOnePair(t, here, there, types.KeySpecRsa2048, types.SigningAlgorithmSpecRsassaPssSha256)
	wantOnePair(t, here, there, types.KeySpecEccNistP256, types.SigningAlgorithmSpecEcdsaSha256)
}

// wantOnePair signs in one region and verifies in the other.
func wantOnePair(t *testing.T, here, there *client, spec types.KeySpec, algorithm types.SigningAlgorithmSpec) {
	t.Helper()
	key, message := aws.String(replicated(t, here, there, spec, types.KeyUsageTypeSignVerify)), []byte("signed")
	for _, c := range [][2]*client{{here, there}, {there, here}} {
		signed, err := c[0].Sign(t.Context(), &kms.SignInput{KeyId: key, SigningAlgorithm: algorithm, Message: message})
		if err != nil {
			t.Fatal(err)
		}
		verified, err := c[1].Verify(t.Context(), &kms.VerifyInput{KeyId: key, SigningAlgorithm: algorithm, Message: message, Signature: signed.Signature})
		if err != nil || !verified.SignatureValid {
			t.Errorf("Verify with the other %s = %+v, %v", spec, verified, err)
		}
	}
	public, err := here.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: key})
	if err != nil {
		t.Fatal(err)
	}
	if other, err := there.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: key}); err != nil || !bytes.Equal(public.PublicKey, other.PublicKey) {
		t.Errorf("the public keys of %s differ, %v", spec, err)
	}
}
