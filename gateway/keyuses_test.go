package gateway

import (
	"context"
	"fmt"
	"testing"
	"time"

	"kmsgate/metadata"
)

func TestLastUsesOfAccessKeysAreBounded(t *testing.T) {
	t.Parallel()
	var k keyUses
	at := time.Unix(1_800_000_000, 0)
	for i := range maxKeyUses + 10 {
		k.note(metadata.AccessKeyUse{AccessKeyID: fmt.Sprint(i), At: at})
	}
	k.note(metadata.AccessKeyUse{AccessKeyID: "0", At: at.Add(time.Second)}, metadata.AccessKeyUse{AccessKeyID: "0", At: at})
	uses := k.cut()
	if len(uses) != maxKeyUses {
		t.Errorf("%d uses are kept, want %d", len(uses), maxKeyUses)
	}
	for _, use := range uses {
		if use.AccessKeyID == "0" && !use.At.Equal(at.Add(time.Second)) {
			t.Errorf("the last use is of %v, want the newest", use.At)
		}
	}
	if rest := k.cut(); len(rest) != 0 {
		t.Errorf("%d uses after they were taken, want none", len(rest))
	}
}

func TestLastUseIsStoredWhenTheGatewayStops(t *testing.T) {
	f := newFixture(t, nil)
	f.want(t, account1, "ListKeys", 200, "")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	f.Run(ctx)
	use, err := f.store.AccessKeyUse(t.Context(), f.keys[account1].AccessKeyID)
	if err != nil || use.Service != "kms" || use.Region != testRegion || time.Since(use.At).Abs() > time.Hour {
		t.Errorf("AccessKeyUse = %+v, %v, want one of kms in %s just now", use, err, testRegion)
	}
}

func TestLastUseThatCannotBeStoredIsKept(t *testing.T) {
	f := newFixture(t, nil)
	f.want(t, account1, "ListKeys", 200, "")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	f.flushKeyUses(ctx)
	if uses := f.keyUses.cut(); len(uses) != 1 || uses[0].AccessKeyID != f.keys[account1].AccessKeyID {
		t.Errorf("kept %v, want the use of the one key", uses)
	}
}
