package metadata_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kmsgate/metadata"
)

// newUserKey is an access key of a user of account; of its root for no name.
func newUserKey(user, id string) metadata.AccessKey {
	k := newAccessKey(account, id)
	if user != "" {
		k.User, k.Principal = user, "arn:aws:iam::"+account+":user/"+user
	}
	return k
}

func TestAccessKeysAreTheirUsers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.insertPrincipals(t, newUser(account, "ann"), newUser(account, "bob"))
	f.insertAccessKey(t, account, "AKIAIOSFODNN7ROOTKEY")
	want := newUserKey("ann", accessKey)
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertAccessKey(ctx, want) })
	got, err := f.View().AccessKey(ctx, accessKey)
	if diff := cmp.Diff(&want, got); err != nil || diff != "" {
		t.Errorf("AccessKey: %v (-want +got):\n%s", err, diff)
	}
	for user, ids := range map[string][]string{"ann": {accessKey}, "": {"AKIAIOSFODNN7ROOTKEY"}, "bob": nil} {
		var listed []string
		keys, err := f.AccessKeysOf(ctx, account, user, "", 10)
		for _, k := range keys {
			listed = append(listed, k.ID)
		}
		if diff := cmp.Diff(ids, listed); err != nil || diff != "" {
			t.Errorf("AccessKeysOf(%q): %v (-want +got):\n%s", user, err, diff)
		}
	}
	for _, who := range []struct{ account, user string }{{account, "bob"}, {account, ""}, {stranger, "ann"}} {
		for name, change := range map[string]func(*metadata.Tx) error{
			"SetAccessKeyStatus": func(tx *metadata.Tx) error {
				return tx.SetAccessKeyStatus(ctx, who.account, who.user, accessKey, metadata.AccessKeyInactive)
			},
			"DeleteAccessKey": func(tx *metadata.Tx) error { return tx.DeleteAccessKey(ctx, who.account, who.user, accessKey) },
		} {
			if err := f.try(ctx, change); !errors.Is(err, metadata.ErrNotFound) {
				t.Errorf("%s by %v = %v, want ErrNotFound", name, who, err)
			}
		}
	}
	f.StopListening() // what follows holds at once
	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetAccessKeyStatus(ctx, account, "ann", accessKey, metadata.AccessKeyInactive)
	})
	if got, err := f.View().AccessKey(ctx, accessKey); err != nil || got.Status != metadata.AccessKeyInactive {
		t.Errorf("AccessKey = %v, %v, want it inactive", got, err)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.DeleteAccessKey(ctx, account, "ann", accessKey) })
	if _, err := f.View().AccessKey(ctx, accessKey); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("AccessKey = %v, want ErrNotFound", err)
	}
}

func TestAccessKeyOfNoUserIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	err := f.try(ctx, func(tx *metadata.Tx) error { return tx.InsertAccessKey(ctx, newUserKey("nobody", accessKey)) })
	if err == nil {
		t.Error("an access key of a user that is not there was inserted")
	}
	err = f.try(ctx, func(tx *metadata.Tx) error { return tx.RoomForAccessKey(ctx, account, "nobody") })
	if !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("RoomForAccessKey = %v, want ErrNotFound", err)
	}
}

func TestLastUseOfAnAccessKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.insertAccessKey(t, account, accessKey)
	if _, err := f.AccessKeyUse(ctx, accessKey); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("AccessKeyUse before any = %v, want ErrNotFound", err)
	}
	use := metadata.AccessKeyUse{AccessKeyID: accessKey, At: noon.Add(time.Hour), Region: region, Service: "kms"}
	note := func(region string, at time.Time) {
		t.Helper()
		gone := metadata.AccessKeyUse{AccessKeyID: "AKIAIOSFODNN7GONEAAA", At: at, Region: region, Service: "kms"}
		u := use
		u.At, u.Region = at, region
		if err := f.NoteAccessKeyUses(ctx, []metadata.AccessKeyUse{u, gone}); err != nil {
			t.Fatal(err)
		}
	}
	note("older", noon)
	note(region, use.At)
	note("older", noon.Add(time.Minute))
	if got, err := f.AccessKeyUse(ctx, accessKey); err != nil || got != use {
		t.Errorf("AccessKeyUse = %v, %v, want %v", got, err, use)
	}
	if err := f.NoteAccessKeyUses(ctx, nil); err != nil {
		t.Errorf("NoteAccessKeyUses of none = %v", err)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.DeleteAccessKey(ctx, account, "", accessKey) })
}
