package gateway

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
)

func TestCreateMultiRegionKey(t *testing.T) {
	f := newFixture(t, nil)
	made := f.must(t, "CreateKey", object{"MultiRegion": true})["KeyMetadata"].(object)
	id, name := made["KeyId"].(string), made["Arn"].(string)
	if !arn.IsKeyID(id) || !arn.IsMultiRegion(id) || name != arn.KeyARNOf(testRegion, account1, id) {
		t.Errorf("the key is %s of the id %s", name, id)
	}
	want := object{
		"MultiRegionKeyType": "PRIMARY", "PrimaryKey": object{"Arn": name, "Region": testRegion}, "ReplicaKeys": []any{},
	}
	for what, got := range map[string]object{"CreateKey": made, "DescribeKey": f.describe(t, id)} {
		if diff := cmp.Diff(want, got["MultiRegionConfiguration"]); diff != "" || got["MultiRegion"] != true {
			t.Errorf("%s: MultiRegion %v, the configuration (-want +got):\n%s", what, got["MultiRegion"], diff)
		}
	}
	if log := f.auditText(t); !strings.Contains(log, `"multiRegionConfiguration":{"multiRegionKeyType":"PRIMARY","primaryKey":{"arn":"`+name+`"`) {
		t.Errorf("the record of CreateKey has no configuration:\n%s", log)
	}
	single := f.describe(t, f.createKey(t, account1, "{}"))
	if _, there := single["MultiRegionConfiguration"]; there || single["MultiRegion"] != false {
		t.Errorf("a single-Region key is described as %v", single)
	}
}

// TestResidentKeysAreNotOfSeveralRegions: their material could not be replicated, and
// nothing of it stays.
func TestResidentKeysAreNotOfSeveralRegions(t *testing.T) {
	f := newFixtureOn(t, newEngine(t, testStore), nil)
	f.refuses(t, "a resident key", "CreateKey", object{"MultiRegion": true}, kmsapi.UnsupportedOperationException)
	if n := f.residents(t); n != 0 {
		t.Errorf("%d objects of keys are in the token, want none", n)
	}
	f.createKey(t, account1, "{}")
	if n := f.residents(t); n != 1 {
		t.Errorf("%d objects of keys are in the token, want that of a single-Region key", n)
	}
}

// residents are how many objects of keys are in the token.
func (f *fixture) residents(t *testing.T) (n int) {
	t.Helper()
	err := f.engine.Residents(t.Context(), hsm.Call{}, func(pkcs11.Resident) error {
		n++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
