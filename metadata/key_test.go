package metadata_test

import (
	"fmt"
	"testing"

	"kmsgate/metadata"
)

// TestTagsAndAliasesOfAKeyReachTheOtherStore: decisions about the key rest on them.
func TestTagsAndAliasesOfAKeyReachTheOtherStore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	other := f.database.Open(t, nil)
	first, second := f.insertKey(t, account), f.insertKey(t, account)
	eventually(t, "a lease", other.Leased)
	see := func(what string, of1, of2 string) {
		t.Helper()
		eventually(t, what+" is seen", func() bool {
			a, b := key(t, other, first), key(t, other, second)
			return fmt.Sprint(a.Tags, a.Aliases) == of1 && fmt.Sprint(b.Tags, b.Aliases) == of2
		})
	}
	see("nothing", "[] []", "[] []")
	f.insertAlias(t, account, "alias/a", first)
	see("CreateAlias", "[] [alias/a]", "[] []")
	f.change(t, func(tx *metadata.Tx) error {
		return tx.UpdateAlias(ctx, metadata.Alias{Account: account, Region: region, Name: "alias/a", KeyID: second, UpdatedAt: noon}, metadata.MaxAliases)
	})
	see("UpdateAlias", "[] []", "[] [alias/a]")
	f.change(t, func(tx *metadata.Tx) error {
		_, err := tx.DeleteAlias(ctx, account, region, "alias/a")
		return err
	})
	see("DeleteAlias", "[] []", "[] []")
	f.change(t, func(tx *metadata.Tx) error {
		return tx.UpsertTags(ctx, region, account, first, []metadata.Tag{{Key: "k", Value: "v"}})
	})
	see("TagResource", "[{k v}] []", "[] []")
	f.change(t, func(tx *metadata.Tx) error { return tx.DeleteTags(ctx, region, account, first, []string{"k"}) })
	see("UntagResource", "[] []", "[] []")
}
