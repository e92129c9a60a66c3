package integration_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// operations are those of a grant.
func operations(names ...types.GrantOperation) []types.GrantOperation { return names }

// createGrant makes a grant to the root of an account and returns what CreateGrant says.
func (c *client) createGrant(t *testing.T, in kms.CreateGrantInput) *kms.CreateGrantOutput {
	t.Helper()
	out, err := c.CreateGrant(t.Context(), &in)
	if err != nil {
		t.Fatalf("CreateGrant: %v", err)
	}
	c.wantMembers(t, "GrantId", "GrantToken")
	hideText(*out.GrantToken)
	return out
}

// TestGrantToAnotherAccount follows a grant from its making to its end.
func TestGrantToAnotherAccount(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	owner, grantee := g.newClient(own), g.newClient(other)
	key := g.createKey(t, own)
	encrypt := &kms.EncryptInput{KeyId: &key, Plaintext: []byte("p"), EncryptionContext: map[string]string{"team": "a", "more": "b"}}
	blind := denied(other, "Encrypt", "this resource") + hidden
	_, err := grantee.Encrypt(t.Context(), encrypt)
	wantError(t, err, "AccessDeniedException", blind)

	in := kms.CreateGrantInput{
		KeyId: aws.String(idOf(key)), GranteePrincipal: aws.String(rootOf(other)), RetiringPrincipal: aws.String(rootOf(other)),
		Operations: operations(types.GrantOperationEncrypt, types.GrantOperationDecrypt), Name: aws.String("its/name"),
		Constraints: &types.GrantConstraints{EncryptionContextSubset: map[string]string{"team": "a"}},
	}
	made := owner.createGrant(t, in)
	made.GrantId = aws.String(strings.Clone(*made.GrantId))
	encrypt.GrantTokens = []string{*made.GrantToken}
	out, err := grantee.Encrypt(t.Context(), encrypt)
	if err != nil {
		t.Fatalf("Encrypt by the grantee: %v", err)
	}
	if _, err := grantee.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob, EncryptionContext: encrypt.EncryptionContext}); err != nil {
		t.Errorf("Decrypt by the grantee: %v", err)
	}
	encrypt.EncryptionContext = nil
	_, err = grantee.Encrypt(t.Context(), encrypt)
	wantError(t, err, "AccessDeniedException", blind)

	want := types.GrantListEntry{
		KeyId: &key, GrantId: made.GrantId, Name: in.Name, GranteePrincipal: in.GranteePrincipal, RetiringPrincipal: in.RetiringPrincipal,
		IssuingAccount: aws.String(rootOf(own)), Operations: in.Operations, Constraints: in.Constraints,
	}
	listed, err := owner.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: &key})
	if err != nil {
		t.Fatal(err)
	}
	owner.wantMembers(t, "Grants", "Truncated")
	retirable, err := grantee.ListRetirableGrants(t.Context(), &kms.ListRetirableGrantsInput{RetiringPrincipal: aws.String(rootOf(other))})
	if err != nil {
		t.Fatal(err)
	}
	mine := slices.DeleteFunc(retirable.Grants, func(e types.GrantListEntry) bool { return *e.KeyId != key })
	ignored := cmp.Options{cmpopts.IgnoreUnexported(types.GrantListEntry{}, types.GrantConstraints{}), cmpopts.IgnoreFields(types.GrantListEntry{}, "CreationDate")}
	for name, got := range map[string][]types.GrantListEntry{"ListGrants": listed.Grants, "ListRetirableGrants": mine} {
		if diff := cmp.Diff([]types.GrantListEntry{want}, got, ignored); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if age := time.Since(*listed.Grants[0].CreationDate); age.Abs() > time.Hour {
		t.Errorf("made %s ago, want just now", age)
	}

	_, err = grantee.RetireGrant(t.Context(), &kms.RetireGrantInput{GrantToken: made.GrantToken})
	grantee.wantEmpty(t, err)
	encrypt.EncryptionContext = map[string]string{"team": "a"}
	_, err = grantee.Encrypt(t.Context(), encrypt)
	wantError(t, err, "AccessDeniedException", blind)
	_, err = grantee.RetireGrant(t.Context(), &kms.RetireGrantInput{KeyId: &key, GrantId: made.GrantId})
	wantError(t, err, "NotFoundException", "Grant ID "+*made.GrantId+" not found")

	in.Name, in.RetiringPrincipal, in.Constraints = nil, nil, nil
	revoked := owner.createGrant(t, in)
	g.refused(t, other, "RevokeGrant", m{"KeyId": key, "GrantId": revoked.GrantId}, "AccessDeniedException", denied(other, "RevokeGrant", "this resource")+hidden)
	entry := g.mustCall(t, own, "ListGrants", m{"KeyId": key})["Grants"].([]any)[0].(m)
	wantMembers(t, "a plain grant", entry, "KeyId", "GrantId", "Name", "CreationDate", "GranteePrincipal", "IssuingAccount", "Operations")
	_, err = owner.RevokeGrant(t.Context(), &kms.RevokeGrantInput{KeyId: &key, GrantId: revoked.GrantId, DryRun: aws.Bool(true)})
	wantError(t, err, "DryRunOperationException", dryRunText)
	_, err = owner.RevokeGrant(t.Context(), &kms.RevokeGrantInput{KeyId: &key, GrantId: revoked.GrantId})
	owner.wantEmpty(t, err)
	_, err = grantee.Encrypt(t.Context(), encrypt)
	wantError(t, err, "AccessDeniedException", blind)
}

// TestGrantsInEveryState shows what may be done with grants on a key that is not enabled.
func TestGrantsInEveryState(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	in := m{"KeyId": key, "GranteePrincipal": rootOf(other), "Operations": []string{"Decrypt", "RetireGrant"}}
	var ids []string
	for range 2 {
		out := g.mustCall(t, own, "CreateGrant", in)
		hideText(out["GrantToken"].(string))
		ids = append(ids, out["GrantId"].(string))
	}
	g.mustCall(t, own, "DisableKey", m{"KeyId": key})
	g.refused(t, own, "CreateGrant", in, "DisabledException", key+" is disabled.")
	if grants := g.mustCall(t, own, "ListGrants", m{"KeyId": key})["Grants"].([]any); len(grants) != 2 {
		t.Errorf("%d grants on a disabled key, want 2", len(grants))
	}
	g.mustCall(t, other, "RetireGrant", m{"KeyId": key, "GrantId": ids[0]})
	g.mustCall(t, own, "RevokeGrant", m{"KeyId": key, "GrantId": ids[1]})
	if grants := g.mustCall(t, own, "ListGrants", m{"KeyId": key})["Grants"].([]any); len(grants) != 0 {
		t.Errorf("%d grants are left, want none", len(grants))
	}
}

func TestListGrants(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c, key, another := g.newClient(own), g.createKey(t, own), g.createKey(t, own)
	made := map[string]string{} // grantee by grant
	for i := range 7 {
		account := []string{other, third}[i%2]
		out := c.createGrant(t, kms.CreateGrantInput{
			KeyId: &key, GranteePrincipal: aws.String(rootOf(account)), Operations: operations(types.GrantOperationDescribeKey),
		})
		made[*out.GrantId] = account
	}
	ofOther := slices.DeleteFunc(slices.Sorted(maps.Keys(made)), func(id string) bool { return made[id] != other })
	single := slices.Sorted(maps.Keys(made))[3]
	for name, tc := range map[string]struct {
		in   kms.ListGrantsInput
		want []string
	}{
		"all":                  {kms.ListGrantsInput{KeyId: &key}, slices.Sorted(maps.Keys(made))},
		"two at a time":        {kms.ListGrantsInput{KeyId: &key, Limit: aws.Int32(2)}, slices.Sorted(maps.Keys(made))},
		"of a grantee":         {kms.ListGrantsInput{KeyId: &key, GranteePrincipal: aws.String(rootOf(other)), Limit: aws.Int32(3)}, ofOther},
		"one":                  {kms.ListGrantsInput{KeyId: &key, GrantId: &single}, []string{single}},
		"one, of its grantee":  {kms.ListGrantsInput{KeyId: &key, GrantId: &single, GranteePrincipal: aws.String(rootOf(made[single]))}, []string{single}},
		"one, of somebody":     {kms.ListGrantsInput{KeyId: &key, GrantId: &single, GranteePrincipal: aws.String(rootOf(own))}, nil},
		"one of another key":   {kms.ListGrantsInput{KeyId: &another, GrantId: &single}, nil},
		"none":                 {kms.ListGrantsInput{KeyId: &another}, nil},
		"of nobody in the key": {kms.ListGrantsInput{KeyId: &key, GranteePrincipal: aws.String("nobody")}, nil},
	} {
		var got []string
		pages := kms.NewListGrantsPaginator(c, &tc.in)
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, e := range page.Grants {
				got = append(got, *e.GrantId)
			}
		}
		if slices.Sort(got); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %d grants, want %d", name, len(got), len(tc.want))
		}
	}
	marker := g.mustCall(t, own, "ListGrants", m{"KeyId": key, "Limit": 2})["NextMarker"].(string)
	for name, in := range map[string]m{
		"another key": {"KeyId": another}, "another filter": {"KeyId": key, "GranteePrincipal": rootOf(other)}, "another list": {"RetiringPrincipal": rootOf(own)},
	} {
		operation := "ListGrants"
		if in["KeyId"] == nil {
			operation = "ListRetirableGrants"
		}
		in["Marker"] = marker
		t.Run(name, func(t *testing.T) { g.refused(t, own, operation, in, "InvalidMarkerException", markerText) })
	}
	g.refused(t, own, "ListGrants", m{"KeyId": key, "Limit": 101}, "ValidationException",
		"1 validation error detected: Value '101' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 100")
	gone := keyARN(own, nowhere)
	g.refused(t, own, "ListGrants", m{"KeyId": gone}, "NotFoundException", "Key '"+gone+"' does not exist")
	g.refused(t, own, "ListGrants", m{"KeyId": "alias/x"}, "InvalidArnException", "Key Aliases are not supported for this operation.")
	g.refused(t, other, "ListGrants", m{"KeyId": key}, "AccessDeniedException", denied(other, "ListGrants", "this resource")+hidden)
}
