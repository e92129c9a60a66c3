package integration_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// listed are all materials of a key, page by page.
func (c *client) listed(t *testing.T, key string) (all []types.RotationsListEntry) {
	t.Helper()
	pages := kms.NewListKeyRotationsPaginator(c.Client, &kms.ListKeyRotationsInput{
		KeyId: &key, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial, Limit: aws.Int32(1),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Rotations...)
	}
	return all
}

// TestRotateKeyOnDemand by the SDK, from the request to the record of the rotation.
func TestRotateKeyOnDemand(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	id := g.createKey(t, own)
	key := keyARN(own, idOf(id))
	before, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &key})
	if err != nil {
		t.Fatal(err)
	}
	if *rotated.KeyId != key {
		t.Errorf("KeyId %s, want %s", *rotated.KeyId, key)
	}
	c.wantMembers(t, "KeyId")
	deadline := time.Now().Add(2 * time.Minute)
	for len(c.listed(t, key)) < 2 && time.Now().Before(deadline) {
		time.Sleep(200 * time.Millisecond)
	}
	materials := c.listed(t, key)
	if len(materials) != 2 {
		t.Fatalf("the materials are %+v, want two", materials)
	}
	first, second := materials[0], materials[1]
	if first.KeyMaterialState != types.KeyMaterialStateNonCurrent || first.RotationDate != nil || first.RotationType != "" {
		t.Errorf("the first material is %+v", first)
	}
	if second.KeyMaterialState != types.KeyMaterialStateCurrent || second.RotationDate == nil || second.RotationType != types.RotationTypeOnDemand {
		t.Errorf("the second material is %+v", second)
	}
	for blob, material := range map[*[]byte]string{&before.CiphertextBlob: *first.KeyMaterialId, c.seal(t, key): *second.KeyMaterialId} {
		opened, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: *blob})
		if err != nil || !bytes.Equal(opened.Plaintext, []byte("secret")) || *opened.KeyMaterialId != material {
			t.Errorf("Decrypt: %+v, %v; want secret by %s", opened, err, material)
		}
	}
	described, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
	if err != nil || *described.KeyMetadata.CurrentKeyMaterialId != *second.KeyMaterialId {
		t.Errorf("DescribeKey: %+v, %v; want %s current", described, err, *second.KeyMaterialId)
	}
	found := false
	for _, e := range g.audit(t) {
		if e.EventName == "RotateKey" && len(e.Resources) == 1 && e.Resources[0].ARN == key {
			found = e.EventType == "AwsServiceEvent"
		}
	}
	if !found {
		t.Error("the rotation has no record")
	}
}

// seal encrypts the secret once more.
func (c *client) seal(t *testing.T, key string) *[]byte {
	t.Helper()
	sealed, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	return &sealed.CiphertextBlob
}

func TestKeyRotationStatus(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	key := keyARN(own, idOf(g.createKey(t, own)))
	status := func() *kms.GetKeyRotationStatusOutput {
		t.Helper()
		out, err := c.GetKeyRotationStatus(t.Context(), &kms.GetKeyRotationStatusInput{KeyId: &key})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if s := status(); s.KeyRotationEnabled || *s.KeyId != key {
		t.Errorf("at first %+v, want no rotation", s)
	}
	c.wantMembers(t, "KeyId", "KeyRotationEnabled")
	_, err := c.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &key, RotationPeriodInDays: aws.Int32(180)})
	c.wantEmpty(t, err)
	s := status()
	if off := time.Until(*s.NextRotationDate) - 180*24*time.Hour; !s.KeyRotationEnabled || *s.RotationPeriodInDays != 180 || off.Abs() > time.Hour {
		t.Errorf("afterwards %+v, want a rotation in 180 days", s)
	}
	c.wantMembers(t, "KeyId", "KeyRotationEnabled", "RotationPeriodInDays", "NextRotationDate")
	_, err = c.DisableKeyRotation(t.Context(), &kms.DisableKeyRotationInput{KeyId: &key})
	c.wantEmpty(t, err)
	if s := status(); s.KeyRotationEnabled {
		t.Errorf("at last %+v, want no rotation", s)
	}
	_, err = c.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &key, RotationPeriodInDays: aws.Int32(89)})
	wantError(t, err, "ValidationException",
		"1 validation error detected: Value '89' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value greater than or equal to 90")
}
