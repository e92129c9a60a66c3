package metadata_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kmsgate/metadata"
)

func TestRoleChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertPrincipals(t, newRole(account, "r"), newUser(account, "u"))
	role := func() metadata.Principal { return principal(t, f.Store, metadata.Role, "r").Principal }
	want := role()

	want.Trust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/u"},"Action":"sts:AssumeRole"}]}`
	want.TrustBindings = map[string]string{"arn:aws:iam::111122223333:user/u": "AIDA"}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetTrust(t.Context(), account, "r", want.Trust, want.TrustBindings)
	})
	if diff := cmp.Diff(want, role()); diff != "" {
		t.Errorf("after SetTrust (-want +got):\n%s", diff)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.SetTrust(t.Context(), account, "r", trustAdmin, nil) })
	want.Trust, want.TrustBindings = trustAdmin, map[string]string{}
	if diff := cmp.Diff(want, role()); diff != "" {
		t.Errorf("after SetTrust without bindings (-want +got):\n%s", diff)
	}

	hours, text := 12*time.Hour, ""
	f.change(t, func(tx *metadata.Tx) error {
		return tx.UpdateRole(t.Context(), account, "r", metadata.RoleChange{MaxSession: &hours})
	})
	want.MaxSession = hours
	if diff := cmp.Diff(want, role()); diff != "" {
		t.Errorf("after UpdateRole of the session (-want +got):\n%s", diff)
	}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.UpdateRole(t.Context(), account, "r", metadata.RoleChange{Description: &text})
	})
	want.Description = ""
	if diff := cmp.Diff(want, role()); diff != "" {
		t.Errorf("after UpdateRole of the description (-want +got):\n%s", diff)
	}
	for name, change := range map[string]func(tx *metadata.Tx) error{
		"SetTrust":       func(tx *metadata.Tx) error { return tx.SetTrust(t.Context(), account, "u", trustAdmin, nil) },
		"UpdateRole":     func(tx *metadata.Tx) error { return tx.UpdateRole(t.Context(), stranger, "r", metadata.RoleChange{}) },
		"RevokeSessions": func(tx *metadata.Tx) error { return tx.RevokeSessions(t.Context(), stranger, "r", noon) },
	} {
		if err := f.try(t.Context(), change); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("%s of no role: %v, want ErrNotFound", name, err)
		}
	}
}

func TestRevocationOnlyMovesForward(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.database.Open(t, nil)
	f.insertPrincipals(t, newRole(account, "r"))
	principal(t, other, metadata.Role, "r") // cached
	for _, before := range []time.Time{noon, noon.Add(-time.Hour)} {
		f.change(t, func(tx *metadata.Tx) error { return tx.RevokeSessions(t.Context(), account, "r", before) })
		if got := principal(t, f.Store, metadata.Role, "r").RevokedBefore; !got.Equal(noon) {
			t.Errorf("after %v: RevokedBefore = %v, want %v", before, got, noon)
		}
	}
	eventually(t, "the revocation on the other store", func() bool {
		return principal(t, other, metadata.Role, "r").RevokedBefore.Equal(noon)
	})
}
