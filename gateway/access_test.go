package gateway

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/gateway/arn"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// whoCan asks who can do what with a key, and returns it by principal.
func (f *fixture) whoCan(t *testing.T, q AccessQuery) map[string][]ActionAccess {
	t.Helper()
	found, err := WhoCan(t.Context(), f.store, q)
	if err != nil {
		t.Fatal(err)
	}
	byARN := map[string][]ActionAccess{}
	for _, p := range found.Principals {
		byARN[p.ARN] = p.Access
	}
	return byARN
}

// addPrincipals makes users and roles with inline policies; an empty one is none.
func (f *fixture) addPrincipals(t *testing.T, account string, kind metadata.PrincipalKind, policies map[string]string) {
	t.Helper()
	err := f.store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		for name, document := range policies {
			p := metadata.Principal{Account: account, Kind: kind, Name: name, Path: "/", ID: "AID" + account + strings.ToUpper(name), CreatedAt: f.now()}
			if kind == metadata.Role {
				p.Trust = `{"Statement":{"Effect":"Allow","Principal":{"AWS":"` + account + `"},"Action":"sts:AssumeRole"}}`
				p.MaxSession = 3600e9
			}
			if err := tx.InsertPrincipal(t.Context(), p, nil); err != nil {
				return nil, err
			}
			if document == "" {
				continue
			}
			if err := tx.PutPrincipalPolicy(t.Context(), account, kind, name, "inline", document); err != nil {
				return nil, err
			}
		}
		return []byte(`{}`), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

const allowsDecrypt = `{"Version":"2012-10-17","Statement":[
	{"Effect":"Deny","Action":"kms:Encrypt","Resource":"*"},
	{"Sid":"read","Effect":"Allow","Action":["kms:Decrypt","kms:Encrypt"],"Resource":"*"}]}`

func TestAccessListsWhoCanDoWhat(t *testing.T) {
	f := newFixture(t, nil)
	f.addPrincipals(t, account1, metadata.User, map[string]string{"reader": allowsDecrypt, "named": "", "granted": "", "nobody": ""})
	f.addPrincipals(t, account1, metadata.Role, map[string]string{"worker": allowsDecrypt})
	f.addPrincipals(t, account2, metadata.User, map[string]string{"partner": allowsDecrypt})
	key := f.keyWith(t, account1, `{"Version":"2012-10-17","Statement":[
		{"Sid":"iam","Effect":"Allow","Principal":{"AWS":"`+arn.Root(account1)+`"},"Action":["kms:Decrypt","kms:Encrypt","kms:PutKeyPolicy"],"Resource":"*"},
		{"Sid":"named","Effect":"Allow","Principal":{"AWS":"`+arn.User(account1, "/", "named")+`"},"Action":"kms:DescribeKey","Resource":"*",
		 "Condition":{"StringEquals":{"kms:RequestAlias":["alias/a","alias/b"]}}},
		{"Sid":"partners","Effect":"Allow","Principal":{"AWS":"`+account2+`"},"Action":["kms:Decrypt","kms:PutKeyPolicy"],"Resource":"*"}]}`)
	grant := f.addGrant(t, key, arn.User(account1, "/", "granted"))
	of := "policy of " + key
	iam := `statement 1 "iam" of the ` + of
	reads := func(holder string) string { return `statement 2 "read" of the policy inline of ` + holder }
	want := map[string][]ActionAccess{
		arn.Root(account1): {{Actions: []string{"kms:Decrypt", "kms:Encrypt", "kms:PutKeyPolicy"}, Through: iam}},
		arn.User(account1, "/", "reader"): {
			{Actions: []string{"kms:Decrypt"}, Through: iam, And: reads(arn.User(account1, "/", "reader"))},
		},
		arn.Role(account1, "/", "worker"): {
			{Actions: []string{"kms:Decrypt"}, Through: iam, And: reads(arn.Role(account1, "/", "worker"))},
		},
		arn.User(account1, "/", "named"): {{
			Actions: []string{"kms:DescribeKey"}, Conditional: true, Through: `statement 2 "named" of the ` + of,
			Conditions: []string{"StringEquals kms:RequestAlias: alias/a, alias/b"},
		}},
		arn.User(account1, "/", "granted"): {{
			Actions: []string{"kms:GenerateDataKey"}, Conditional: true, Through: "grant " + grant,
			Conditions: []string{"the encryption context has team=red"},
		}},
		arn.Root(account2): {{Actions: []string{"kms:Decrypt"}, Through: `statement 3 "partners" of the ` + of}},
		arn.User(account2, "/", "partner"): {{
			Actions: []string{"kms:Decrypt"}, Through: `statement 3 "partners" of the ` + of, And: reads(arn.User(account2, "/", "partner")),
		}},
	}
	got := f.whoCan(t, AccessQuery{Key: key})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("access (-want +got):\n%s", diff)
	}
}

// addGrant grants a user GenerateDataKey on a key, and returns the grant's id.
func (f *fixture) addGrant(t *testing.T, key, grantee string) string {
	t.Helper()
	ref, err := arn.Parse(key)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := f.store.PrincipalIDs(t.Context(), []string{grantee})
	if err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("0123456789abcdef", 4)
	err = f.store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		_, err := tx.InsertGrant(t.Context(), metadata.Grant{
			Account: ref.Account, Region: ref.Region, KeyID: ref.ID, ID: id, Grantee: grantee, GranteeID: ids[grantee],
			IssuingAccount: ref.Account, Operations: []string{"GenerateDataKey"}, CreatedAt: f.now(),
			Constraints: policy.GrantConstraints{EncryptionContextSubset: map[string]string{"team": "red"}},
		}, [32]byte{1}, 10)
		return []byte(`{}`), err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestAccessOfEverybody looks at a key that everybody may use.
func TestAccessOfEverybody(t *testing.T) {
	f := newFixture(t, nil)
	key := f.keyWith(t, account1, `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"kms:Verify*","Resource":"*"}}`)
	if got := f.whoCan(t, AccessQuery{Key: key}); len(got) != 0 {
		t.Errorf("access to a key that is not for MACs: %v, want none", got)
	}
	key = f.keyWith(t, account1, `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"kms:Enc*","Resource":"*"}}`)
	got := f.whoCan(t, AccessQuery{Key: key})
	for _, who := range []string{"*", arn.Root(account1)} {
		if len(got[who]) != 1 || !slices.Equal(got[who][0].Actions, []string{"kms:Encrypt"}) {
			t.Errorf("access of %s: %v, want kms:Encrypt", who, got[who])
		}
	}
}

// TestAccessFindsTheKey names it in every way, and wrongly.
func TestAccessFindsTheKey(t *testing.T) {
	f := newFixture(t, storageService)
	key := f.createKey(t, account1, "{}")
	ref, err := arn.Parse(key)
	if err != nil {
		t.Fatal(err)
	}
	f.mustCall(t, "CreateAlias", map[string]any{"AliasName": "alias/mine", "TargetKeyId": key})
	for _, q := range []AccessQuery{
		{Key: key},
		{Key: ref.ID, Region: testRegion},
		{Key: ref.ID, Region: testRegion, Account: account1},
		{Key: "alias/mine", Region: testRegion, Account: account1},
		{Key: arn.AliasARNOf(testRegion, account1, "alias/mine")},
	} {
		if got, err := WhoCan(t.Context(), f.store, q); err != nil || got.KeyARN != key {
			t.Errorf("%+v: %v, %v; want %s", q, got, err, key)
		}
	}
	for _, q := range []AccessQuery{
		{Key: ref.ID, Region: "eu-west-1"},
		{Key: ref.ID, Region: testRegion, Account: account2},
		{Key: "alias/mine", Region: testRegion, Account: account2},
	} {
		if got, err := WhoCan(t.Context(), f.store, q); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("%+v: %v, %v; want ErrNotFound", q, got, err)
		}
	}
	for _, q := range []AccessQuery{{Key: "key", Region: testRegion}, {Key: "alias/mine", Region: testRegion}} {
		got, err := WhoCan(t.Context(), f.store, q)
		if _, wrong := errors.AsType[*QuestionError](err); !wrong {
			t.Errorf("%+v: %v, %v; want a QuestionError", q, got, err)
		}
	}
}

// TestAccessToAServicesKey names the service and what it calls with.
func TestAccessToAServicesKey(t *testing.T) {
	f := newFixture(t, storageService)
	f.addPrincipals(t, account1, metadata.User, map[string]string{"storage": ""})
	f.described(t, storageAlias)
	callers := []string{arn.User(account1, "/", "storage")}
	got, err := WhoCan(t.Context(), f.store, AccessQuery{
		Key: storageAlias, Region: testRegion, Account: account1, Services: []Service{{Name: "storage", Callers: callers}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Service != "storage" || !slices.Equal(got.Callers, callers) {
		t.Errorf("service %q with %q, want storage with %q", got.Service, got.Callers, callers)
	}
	i := slices.IndexFunc(got.Principals, func(p PrincipalAccess) bool { return p.ARN == callers[0] })
	if i < 0 || !got.Principals[i].Access[0].Conditional || len(got.Principals[i].Access[0].Conditions) != 2 {
		t.Errorf("access %+v, want that of %s under two conditions", got.Principals, callers[0])
	}
}
