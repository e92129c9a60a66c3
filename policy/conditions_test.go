package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/policy"
)

func TestConditionsAreShownAsWritten(t *testing.T) {
	t.Parallel()
	p, err := policy.ParseIdentity(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{"StringLike":{"kms:RequestAlias":["alias/a*","alias/b"]}}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.ConditionTrace{{Operator: "StringLike", Key: "kms:RequestAlias", Wanted: []string{"alias/a*", "alias/b"}}}
	if diff := cmp.Diff(want, p.Conditions(1)); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	for _, i := range []int{-1, 0, 2} {
		if got := p.Conditions(i); got != nil {
			t.Errorf("conditions of statement %d: %v, want none", i, got)
		}
	}
}
