package metadata_test

import (
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/policy"
)

func TestInsertKeyIsReadBackWhole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, m := newKey(account)
	tags := []metadata.Tag{{Key: "b", Value: "2"}, {Key: "a", Value: ""}}
	document := policy.DefaultKeyPolicy(account)
	bindings := map[string]string{"arn:aws:iam::" + account + ":user/u": "AIDAEXAMPLE"}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: document, Bindings: bindings}, tags)
	})
	f.insertAlias(t, account, "alias/b", k.ID)
	f.insertAlias(t, account, "alias/a", k.ID)
	k.Version += 2 // with each alias

	got := key(t, f.Store, k.ID)
	want := &metadata.KeyEntry{
		Key: k, Materials: []metadata.Material{m}, PolicyDocument: document, PolicyBindings: bindings,
		Tags: []metadata.Tag{{Key: "a"}, {Key: "b", Value: "2"}}, Aliases: []string{"alias/a", "alias/b"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(metadata.KeyEntry{}, "Policy")); diff != "" {
		t.Errorf("key differs (-want +got):\n%s", diff)
	}
	if got.Policy == nil {
		t.Error("Policy is nil")
	}
	if got.Current() == nil || got.Material(m.MaterialID) == nil || got.Material(hsm.MaterialID{9}) != nil {
		t.Errorf("Current() = %v, Material = %v", got.Current(), got.Material(m.MaterialID))
	}
	if want := "arn:aws:kms:" + region + ":" + account + ":key/" + k.ID; got.ARN() != want {
		t.Errorf("ARN() = %s, want %s", got.ARN(), want)
	}
	listed, err := f.ListTags(t.Context(), region, account, k.ID, "", 10)
	if err != nil || !slices.Equal(listed, []metadata.Tag{{Key: "a"}, {Key: "b", Value: "2"}}) {
		t.Errorf("ListTags = %v, %v", listed, err)
	}
}

func TestInsertKeyRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	there, m := newKey(account)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertKey(t.Context(), there, m, metadata.KeyPolicy{Document: "{}"}, nil)
	})
	other, otherMaterial := newKey(account)
	nobodys, noStore := other, other
	nobodys.Account, noStore.Store = "999999999999", "elsewhere"

	for name, c := range map[string]struct {
		k    metadata.Key
		m    metadata.Material
		tags []metadata.Tag
		want error
	}{
		"an id that is taken":            {k: there, m: m, want: metadata.ErrExists},
		"an account that does not exist": {k: nobodys, m: otherMaterial, want: metadata.ErrNotFound},
		"a store that does not exist":    {k: noStore, m: otherMaterial, want: metadata.ErrNotFound},
		"too many tags":                  {k: other, m: otherMaterial, tags: make([]metadata.Tag, 51), want: metadata.ErrLimit},
	} {
		err := f.try(t.Context(), func(tx *metadata.Tx) error {
			return tx.InsertKey(t.Context(), c.k, c.m, metadata.KeyPolicy{Document: "{}"}, c.tags)
		})
		if !errors.Is(err, c.want) {
			t.Errorf("InsertKey with %s = %v, want %v", name, err, c.want)
		}
	}
}

func TestKeyStateChangesOnlyFromListedStates(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	set := func(owner string, way metadata.Transition) error {
		return f.try(t.Context(), func(tx *metadata.Tx) error { return tx.SetKeyState(t.Context(), region, owner, id, way) })
	}
	if err := set(account, metadata.Disabling); err != nil {
		t.Fatalf("disable: %v", err)
	}
	if got := key(t, f.Store, id); got.State != metadata.Disabled || got.Version != 2 {
		t.Errorf("State, Version = %s, %d, want Disabled, 2", got.State, got.Version)
	}
	err := set(account, metadata.Losing)
	wrong, ok := errors.AsType[*metadata.StateError](err)
	if !errors.Is(err, metadata.ErrState) || !ok || wrong.State != metadata.Disabled {
		t.Errorf("from a state not listed: %v, want StateError Disabled", err)
	}
	if err := set(stranger, metadata.Enabling); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("by another account: %v, want ErrNotFound", err)
	}
}

func TestChangesOfPendingKeysAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetKeyState(t.Context(), region, account, id, metadata.Transition{From: metadata.AllStates, To: metadata.PendingReplicaDeletion})
	})
	ctx := t.Context()
	for name, change := range map[string]func(*metadata.Tx) error{
		"SetDescription": func(tx *metadata.Tx) error { return tx.SetDescription(ctx, region, account, id, "x") },
		"UpsertTags": func(tx *metadata.Tx) error {
			return tx.UpsertTags(ctx, region, account, id, []metadata.Tag{{Key: "k"}})
		},
		"DeleteTags": func(tx *metadata.Tx) error { return tx.DeleteTags(ctx, region, account, id, []string{"k"}) },
		"InsertAlias": func(tx *metadata.Tx) error {
			return tx.InsertAlias(ctx, metadata.Alias{Account: account, Region: region, Name: "alias/x", KeyID: id, CreatedAt: noon}, metadata.MaxAliases)
		},
	} {
		if err := f.try(ctx, change); !errors.Is(err, metadata.ErrState) {
			t.Errorf("%s = %v, want ErrState", name, err)
		}
	}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.PutPolicy(ctx, region, account, id, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(stranger)})
	})
	if got, want := key(t, f.Store, id).PolicyDocument, policy.DefaultKeyPolicy(stranger); got != want {
		t.Errorf("PutPolicy left %s, want %s", got, want)
	}
}

func TestNothingOfAnotherAccountOrRegionIsReached(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	id := f.insertKey(t, account, metadata.Tag{Key: "k", Value: "v"})
	f.insertAlias(t, account, "alias/a", id)
	f.insertAccessKey(t, account, accessKey)
	for _, who := range []struct{ account, region string }{{stranger, region}, {account, "us-east-1"}} {
		if keys, err := f.ListKeys(ctx, who.account, who.region, "", 10); err != nil || len(keys) != 0 {
			t.Errorf("%v: ListKeys = %v, %v, want none", who, keys, err)
		}
		if aliases, err := f.ListAliases(ctx, who.account, who.region, "", "", 10); err != nil || len(aliases) != 0 {
			t.Errorf("%v: ListAliases = %v, %v, want none", who, aliases, err)
		}
		if tags, err := f.ListTags(ctx, who.region, who.account, id, "", 10); err != nil || len(tags) != 0 {
			t.Errorf("%v: ListTags = %v, %v, want none", who, tags, err)
		}
		if _, err := f.View().Alias(ctx, who.account, who.region, "alias/a"); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("%v: Alias: %v, want ErrNotFound", who, err)
		}
		for name, change := range map[string]func(*metadata.Tx) error{
			"SetDescription": func(tx *metadata.Tx) error { return tx.SetDescription(ctx, who.region, who.account, id, "x") },
			"PutPolicy": func(tx *metadata.Tx) error {
				return tx.PutPolicy(ctx, who.region, who.account, id, metadata.KeyPolicy{Document: "{}"})
			},
			"UpsertTags": func(tx *metadata.Tx) error {
				return tx.UpsertTags(ctx, who.region, who.account, id, []metadata.Tag{{Key: "x"}})
			},
			"DeleteTags": func(tx *metadata.Tx) error { return tx.DeleteTags(ctx, who.region, who.account, id, []string{"k"}) },
			"DeleteAlias": func(tx *metadata.Tx) error {
				_, err := tx.DeleteAlias(ctx, who.account, who.region, "alias/a")
				return err
			},
			"InsertAlias": func(tx *metadata.Tx) error {
				return tx.InsertAlias(ctx, metadata.Alias{Account: who.account, Region: who.region, Name: "alias/b", KeyID: id, CreatedAt: noon}, metadata.MaxAliases)
			},
		} {
			if err := f.try(ctx, change); !errors.Is(err, metadata.ErrNotFound) {
				t.Errorf("%v: %s = %v, want ErrNotFound", who, name, err)
			}
		}
	}
	if keys, err := f.AccessKeysOf(ctx, stranger, "", "", 10); err != nil || len(keys) != 0 {
		t.Errorf("AccessKeysOf = %v, %v, want none", keys, err)
	}
	if _, err := f.View().Key(ctx, "us-east-1", id); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Key in another region: %v, want ErrNotFound", err)
	}
}

func TestAliasLifecycle(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	first, second := f.insertKey(t, account), f.insertKey(t, account)
	f.insertAlias(t, account, "alias/a", first)
	f.insertAlias(t, account, "alias/b", first)
	again := metadata.Alias{Account: account, Region: region, Name: "alias/a", KeyID: second, CreatedAt: noon}
	if err := f.try(ctx, func(tx *metadata.Tx) error { return tx.InsertAlias(ctx, again, metadata.MaxAliases) }); !errors.Is(err, metadata.ErrExists) {
		t.Errorf("InsertAlias again = %v, want ErrExists", err)
	}
	later := noon.AddDate(0, 0, 1)
	moved := metadata.Alias{Account: account, Region: region, Name: "alias/a", KeyID: second, CreatedAt: noon, UpdatedAt: later}
	f.change(t, func(tx *metadata.Tx) error { return tx.UpdateAlias(ctx, moved, metadata.MaxAliases) })
	got, err := f.View().Alias(ctx, account, region, "alias/a")
	if diff := cmp.Diff(&moved, got); err != nil || diff != "" {
		t.Errorf("Alias after UpdateAlias: %v (-want +got):\n%s", err, diff)
	}
	missing := moved
	missing.Name = "alias/none"
	if err := f.try(ctx, func(tx *metadata.Tx) error { return tx.UpdateAlias(ctx, missing, metadata.MaxAliases) }); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("UpdateAlias of none = %v, want ErrNotFound", err)
	}
	for keyID, want := range map[string][]string{"": {"alias/a", "alias/b"}, first: {"alias/b"}, second: {"alias/a"}} {
		aliases, err := f.ListAliases(ctx, account, region, keyID, "", 10)
		if names := names(aliases); err != nil || !slices.Equal(names, want) {
			t.Errorf("ListAliases of %q = %v, %v, want %v", keyID, names, err, want)
		}
	}
	f.change(t, func(tx *metadata.Tx) error {
		deleted, err := tx.DeleteAlias(ctx, account, region, "alias/a")
		if diff := cmp.Diff(moved, deleted); diff != "" {
			t.Errorf("DeleteAlias (-want +got):\n%s", diff)
		}
		return err
	})
	if _, err := f.View().Alias(ctx, account, region, "alias/a"); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Alias after DeleteAlias: %v, want ErrNotFound", err)
	}
}

func names(aliases []metadata.Alias) []string {
	var names []string
	for _, a := range aliases {
		names = append(names, a.Name)
	}
	return names
}

func TestTagsReplaceAndRemove(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	id := f.insertKey(t, account, metadata.Tag{Key: "a", Value: "1"}, metadata.Tag{Key: "b", Value: "1"})
	f.change(t, func(tx *metadata.Tx) error {
		return tx.UpsertTags(ctx, region, account, id, []metadata.Tag{{Key: "a", Value: "2"}, {Key: "c", Value: "3"}})
	})
	f.change(t, func(tx *metadata.Tx) error { return tx.DeleteTags(ctx, region, account, id, []string{"b", "never"}) })
	got, err := f.ListTags(ctx, region, account, id, "", 10)
	if want := []metadata.Tag{{Key: "a", Value: "2"}, {Key: "c", Value: "3"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("ListTags = %v, %v, want %v", got, err, want)
	}
}

func TestDescriptionIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	f.change(t, func(tx *metadata.Tx) error { return tx.SetDescription(t.Context(), region, account, id, "ü") })
	if got := key(t, f.Store, id).Description; got != "ü" {
		t.Errorf("Description = %q, want ü", got)
	}
}

func TestListsGoOnWhereTheLastPageEnded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	tags := make([]metadata.Tag, 7)
	for i := range tags {
		tags[i] = metadata.Tag{Key: "t" + strconv.Itoa(i)}
	}
	id := f.insertKey(t, account, tags...)
	ids := []string{id}
	for range 6 {
		ids = append(ids, f.insertKey(t, account))
	}
	slices.Sort(ids)
	f.insertKey(t, stranger)
	for i := range 7 {
		f.insertAlias(t, account, aliasName(i), id)
		f.insertAccessKey(t, account, "AKIAIOSFODNN7EXAMPL"+strconv.Itoa(i))
	}
	walk := func(what string, want int, page func(after string) ([]string, error)) []string {
		var all []string
		for after := ""; ; {
			got, err := page(after)
			if err != nil || len(got) > 3 {
				t.Fatalf("%s after %q = %v, %v", what, after, got, err)
			}
			if len(got) == 0 {
				break
			}
			all, after = append(all, got...), got[len(got)-1]
		}
		if len(all) != want || !slices.IsSorted(all) {
			t.Errorf("%s: pages make %v, want %d in order", what, all, want)
		}
		return all
	}
	got := walk("ListKeys", 7, func(after string) ([]string, error) { return f.ListKeys(ctx, account, region, after, 3) })
	if !slices.Equal(got, ids) {
		t.Errorf("ListKeys = %v, want %v", got, ids)
	}
	walk("ListAliases", 7, func(after string) ([]string, error) {
		page, err := f.ListAliases(ctx, account, region, id, after, 3)
		return names(page), err
	})
	walk("ListTags", 7, func(after string) (keys []string, err error) {
		page, err := f.ListTags(ctx, region, account, id, after, 3)
		for _, tag := range page {
			keys = append(keys, tag.Key)
		}
		return keys, err
	})
	walk("AccessKeysOf", 7, func(after string) (ids []string, err error) {
		page, err := f.AccessKeysOf(ctx, account, "", after, 3)
		for _, k := range page {
			ids = append(ids, k.ID)
		}
		return ids, err
	})
	walk("ListAccounts", 2, func(after string) (ids []string, err error) {
		page, err := f.ListAccounts(ctx, after, 1)
		for _, a := range page {
			ids = append(ids, a.ID)
		}
		return ids, err
	})
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	err := f.try(t.Context(), func(tx *metadata.Tx) error {
		return tx.InsertAccount(t.Context(), metadata.Account{ID: account, CreatedAt: noon})
	})
	if !errors.Is(err, metadata.ErrExists) {
		t.Errorf("InsertAccount again = %v, want ErrExists", err)
	}
	for _, c := range []struct {
		ids  []string
		want bool
	}{
		{nil, true},
		{[]string{account, stranger, account}, true},
		{[]string{account, "000000000000"}, false},
	} {
		if got, err := f.AccountsExist(t.Context(), c.ids); err != nil || got != c.want {
			t.Errorf("AccountsExist(%v) = %v, %v, want %v", c.ids, got, err, c.want)
		}
	}
}

func TestAccessKeyIsReadBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertAccessKey(t, account, accessKey)
	want := newAccessKey(account, accessKey)
	got, err := f.View().AccessKey(t.Context(), accessKey)
	if diff := cmp.Diff(&want, got); err != nil || diff != "" {
		t.Errorf("AccessKey: %v (-want +got):\n%s", err, diff)
	}
	err = f.try(t.Context(), func(tx *metadata.Tx) error { return tx.InsertAccessKey(t.Context(), newAccessKey(stranger, accessKey)) })
	if !errors.Is(err, metadata.ErrExists) {
		t.Errorf("InsertAccessKey again = %v, want ErrExists", err)
	}
}

func TestKeyStoresAndServiceKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	want := metadata.KeyStore{ID: keyStore, Region: region, Type: metadata.DefaultKeyStore, State: metadata.Connected, CreatedAt: noon}
	f.change(t, func(tx *metadata.Tx) error { return tx.EnsureKeyStore(ctx, want) }) // again: nothing
	f.change(t, func(tx *metadata.Tx) error {
		return tx.EnsureRegion(ctx, metadata.Region{Name: region, CreatedAt: noon.AddDate(1, 0, 0)})
	})
	stores, err := f.KeyStores(ctx, region, "", 10)
	if diff := cmp.Diff([]metadata.KeyStore{want}, stores); err != nil || diff != "" {
		t.Errorf("KeyStores: %v (-want +got):\n%s", err, diff)
	}
	second := want
	second.ID = "second"
	if err := f.try(ctx, func(tx *metadata.Tx) error { return tx.EnsureKeyStore(ctx, second) }); !errors.Is(err, metadata.ErrExists) {
		t.Errorf("a second default store: %v, want ErrExists", err)
	}

	k := hsm.ServiceKey{Store: keyStore, Kind: hsm.DomainKey, Generation: 1, ID: []byte("0123456789abcdef")}
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertServiceKey(ctx, k, noon) })
	created := metadata.ServiceKey{ServiceKey: k, State: metadata.ServiceKeyCreating, Tokens: []string{}, CreatedAt: noon}
	keys, err := f.ServiceKeys(ctx, keyStore)
	if diff := cmp.Diff([]metadata.ServiceKey{created}, keys); err != nil || diff != "" {
		t.Errorf("ServiceKeys: %v (-want +got):\n%s", err, diff)
	}
	k.CheckValue = []byte{7}
	activate := func(tx *metadata.Tx) error { return tx.ActivateServiceKey(ctx, k, []string{"serial"}) }
	f.change(t, activate)
	active := metadata.ServiceKey{ServiceKey: k, State: metadata.ServiceKeyActive, Tokens: []string{"serial"}, CreatedAt: noon}
	keys, err = f.ServiceKeys(ctx, keyStore)
	if diff := cmp.Diff([]metadata.ServiceKey{active}, keys); err != nil || diff != "" {
		t.Errorf("ServiceKeys: %v (-want +got):\n%s", err, diff)
	}
	if err := f.try(ctx, activate); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("ActivateServiceKey again = %v, want ErrNotFound", err)
	}
	if err := f.try(ctx, func(tx *metadata.Tx) error { return tx.InsertServiceKey(ctx, k, noon) }); !errors.Is(err, metadata.ErrExists) {
		t.Errorf("InsertServiceKey again = %v, want ErrExists", err)
	}
}

func TestLoginMarkOfAnyInstanceStands(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	other := f.database.Open(t, nil)
	refused := func(serial string) bool {
		got, err := f.LoginRefused(ctx, serial)
		if err != nil {
			t.Fatalf("LoginRefused: %v", err)
		}
		return got
	}
	if refused("serial") {
		t.Error("LoginRefused before any mark")
	}
	for range 2 {
		if err := other.MarkLoginRefused(ctx, "serial"); err != nil {
			t.Fatalf("MarkLoginRefused: %v", err)
		}
	}
	if !refused("serial") || refused("another") {
		t.Error("the mark of another instance does not stand, or stands for another token")
	}
	if err := f.ClearLoginMark(ctx, "serial"); err != nil {
		t.Fatalf("ClearLoginMark: %v", err)
	}
	if refused("serial") {
		t.Error("LoginRefused after ClearLoginMark")
	}
}

func TestTokenIsRememberedAsItWasAcceptedLast(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	if document, err := f.TokenFingerprint(ctx, "serial"); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("TokenFingerprint of a token that was never accepted = %s, %v; want ErrNotFound", document, err)
	}
	for _, document := range []string{`{"firmware": "1.0"}`, `{"firmware": "1.1"}`} {
		accept := func(tx *metadata.Tx) error { return tx.AcceptToken(ctx, "serial", []byte(document), noon) }
		if err := f.try(ctx, accept); err != nil {
			t.Fatalf("AcceptToken: %v", err)
		}
		if got, err := f.TokenFingerprint(ctx, "serial"); err != nil || string(got) != document {
			t.Errorf("TokenFingerprint = %s, %v; want %s", got, err, document)
		}
	}
	if document, err := f.TokenFingerprint(ctx, "another"); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("TokenFingerprint of another token = %s, %v; want ErrNotFound", document, err)
	}
}
