package integration_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// wantKey waits for a key to be in a role and in a state.
func (c *client) wantKey(t *testing.T, key string, role types.MultiRegionKeyType, state types.KeyState) *types.KeyMetadata {
	t.Helper()
	var is *types.KeyMetadata
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
		if err != nil {
			t.Fatal(err)
		}
		is = out.KeyMetadata
		if is.KeyState == state && is.MultiRegionConfiguration.MultiRegionKeyType == role {
			return is
		}
	}
	t.Fatalf("key %s is the %s %s, want the %s %s", *is.Arn, is.MultiRegionConfiguration.MultiRegionKeyType, is.KeyState, role, state)
	return nil
}

// TestPrimaryKeysMove moves a primary key between the tokens of two regions: whichever it
// is in decides about the rotation, and about replicas.
func TestPrimaryKeysMove(t *testing.T) {
	t.Parallel()
	i := (&launch{dir: newPlace(t), arguments: []string{"-regions", "us-east-1,eu-west-1"}}).start(t)
	ctx := t.Context()
	here, there := i.clientIn("us-east-1", i.keys[own]), i.clientIn("eu-west-1", i.keys[own])
	made, err := here.CreateKey(ctx, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	key := made.KeyMetadata.KeyId
	if _, err := here.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: key, ReplicaRegion: aws.String("eu-west-1")}); err != nil {
		t.Fatal(err)
	}
	there.wantKey(t, *key, types.MultiRegionKeyTypeReplica, types.KeyStateEnabled)
	if _, err := here.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: key}); err != nil {
		t.Fatal(err)
	}
	if _, err := here.UpdatePrimaryRegion(ctx, &kms.UpdatePrimaryRegionInput{KeyId: key, PrimaryRegion: aws.String("eu-west-1")}); err != nil {
		t.Fatal(err)
	}
	sealed, err := here.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("p")})
	if err != nil {
		t.Errorf("Encrypt while the primary key moves: %v", err)
	}
	here.wantKey(t, *key, types.MultiRegionKeyTypeReplica, types.KeyStateEnabled)
	is := there.wantKey(t, *key, types.MultiRegionKeyTypePrimary, types.KeyStateEnabled)
	if related := is.MultiRegionConfiguration; *related.PrimaryKey.Region != "eu-west-1" || len(related.ReplicaKeys) != 1 || *related.ReplicaKeys[0].Region != "us-east-1" {
		t.Errorf("MultiRegionConfiguration = %+v", related)
	}
	if out, err := there.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); err != nil || string(out.Plaintext) != "p" {
		t.Errorf("Decrypt in the other region = %+v, %v", out, err)
	}
	_, err = here.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: key})
	wantError(t, err, "UnsupportedOperationException", *made.KeyMetadata.Arn+" is not a multi-region primary key.")
	for _, c := range []*client{here, there} {
		if s, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: key}); err != nil || !s.KeyRotationEnabled {
			t.Errorf("GetKeyRotationStatus = %+v, %v, want it enabled in both regions", s, err)
		}
	}
	out, err := there.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: key, PendingWindowInDays: aws.Int32(7)})
	if err != nil || out.KeyState != types.KeyStatePendingReplicaDeletion || out.DeletionDate != nil {
		t.Errorf("ScheduleKeyDeletion of a primary key = %+v, %v, want it to wait for its replica", out, err)
	}
	is = there.wantKey(t, *key, types.MultiRegionKeyTypePrimary, types.KeyStatePendingReplicaDeletion)
	if aws.ToInt32(is.PendingDeletionWindowInDays) != 7 || is.DeletionDate != nil {
		t.Errorf("DescribeKey = %+v, want the window and no date", is)
	}
}
