package gateway

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// identityPolicy is a policy of a user with one statement.
func identityPolicy(effect, action, resource string) string {
	return `{"Version":"2012-10-17","Statement":{"Effect":"` + effect + `","Action":"` + action + `","Resource":"` + resource + `"}}`
}

// conditionalPolicy allows a user an action on everything under a condition.
func conditionalPolicy(action, condition string) string {
	return `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"` + action + `","Resource":"*","Condition":` + condition + `}}`
}

// putKeyPolicy replaces the policy of a key by its account's root; statements come
// besides one that lets the account do everything.
func (f *fixture) putKeyPolicy(t *testing.T, account, key string, statements ...string) {
	t.Helper()
	all := append([]string{`{"Effect":"Allow","Principal":{"AWS":"` + account + `"},"Action":"kms:*","Resource":"*"}`}, statements...)
	document := `{"Version":"2012-10-17","Statement":[` + strings.Join(all, ",") + `]}`
	f.ask(t, account, "PutKeyPolicy", object{"KeyId": key, "Policy": document}, "")
}

// encrypts asks for Encrypt and returns the text of the refusal; empty for none.
func (f *fixture) encrypts(t *testing.T, caller, key string) string {
	t.Helper()
	a, err := f.call(t.Context(), caller, "Encrypt", `{"KeyId":"`+key+`","Plaintext":"AA=="}`)
	if err != nil {
		t.Fatal(err)
	}
	if a.code == "" {
		return ""
	}
	if a.code != string(denied) {
		t.Errorf("Encrypt by %s: %d %s, want %s", caller, a.status, a.body, denied)
	}
	return a.body
}

const (
	noIdentity = "because no identity-based policy allows the kms:Encrypt action"
	noResource = "because no resource-based policy allows the kms:Encrypt action"
	byIdentity = "with an explicit deny in an identity-based policy"
	noBoundary = "because no permissions boundary allows the kms:Encrypt action"
	invisible  = "on this resource because the resource does not exist in this Region"
)

func TestUsersAreDecidedByTheirPolicies(t *testing.T) {
	f := newFixture(t, nil)
	key, locked := f.createKey(t, account1, "{}"), f.createKey(t, account1, "{}")
	allow := identityPolicy("Allow", "kms:Encrypt", "*")
	nobody := f.addUser(t, account1, "nobody", "")
	f.addUser(t, account1, "allowed", allow)
	f.addUser(t, account1, "denied", identityPolicy("Deny", "kms:*", "*"))
	f.addUser(t, account1, "elsewhere", identityPolicy("Allow", "kms:Encrypt", "arn:aws:kms:*:*:key/mrk-*"))
	f.addUser(t, account1, "member", "")
	f.addUser(t, account1, "bounded", allow)
	named := f.addUser(t, account1, "named", "")
	f.addUser(t, account2, "stranger", allow)
	friend := f.addUser(t, account2, "friend", "")
	f.addUser(t, account2, "trusted", allow)
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		group := metadata.Principal{Account: account1, Kind: metadata.Group, Name: "g", Path: "/", ID: "AGPA1", CreatedAt: f.now()}
		boundary := metadata.ManagedPolicy{
			Account: account1, Name: "b", Path: "/", ID: "ANPA1", Document: identityPolicy("Allow", "kms:Decrypt", "*"), CreatedAt: f.now(),
		}
		for _, step := range []func() error{
			func() error { return tx.InsertPrincipal(ctx, group, nil) },
			func() error { return tx.PutPrincipalPolicy(ctx, account1, metadata.Group, "g", "p", allow) },
			func() error { return tx.InsertMember(ctx, account1, "g", "member") },
			func() error { return tx.InsertManagedPolicy(ctx, boundary) },
			func() error { return tx.SetBoundary(ctx, account1, metadata.User, "bounded", boundary.ARN()) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	f.putKeyPolicy(t, account1, key,
		`{"Effect":"Allow","Principal":{"AWS":"`+named+`"},"Action":"kms:Encrypt","Resource":"*"}`,
		`{"Effect":"Allow","Principal":{"AWS":["`+friend+`","arn:aws:iam::`+account2+`:user/trusted"]},"Action":"kms:Encrypt","Resource":"*"}`)
	f.ask(t, account1, "PutKeyPolicy", object{"KeyId": locked, "BypassPolicyLockoutSafetyCheck": true, "Policy": `{"Statement":{
		"Effect":"Allow","Principal":{"AWS":"` + account1 + `"},"Action":"kms:PutKeyPolicy","Resource":"*"}}`}, "")
	for _, tc := range []struct{ caller, key, want string }{
		{"nobody", key, noIdentity},
		{"allowed", key, ""},
		{"allowed", locked, noResource},
		{"denied", key, byIdentity},
		{"elsewhere", key, noIdentity},
		{"member", key, ""},
		{"bounded", key, noBoundary},
		{"named", key, ""},
		{"stranger", key, invisible},
		{"friend", key, noIdentity},
		{"trusted", key, ""},
		{account1, key, ""},
		{account2, key, invisible},
	} {
		if got := f.encrypts(t, tc.caller, tc.key); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("Encrypt by %s: %q, want %q", tc.caller, got, tc.want)
		}
	}
	if got := f.encrypts(t, "nobody", key); !strings.Contains(got, "User: "+nobody+" is not authorized to perform: kms:Encrypt on resource: "+key+" ") {
		t.Errorf("%q names neither caller nor key", got)
	}
}

// TestMissingKeysLookLikeForbiddenOnes: whoever may not use a key cannot tell whether
// there is one.
func TestMissingKeysLookLikeForbiddenOnes(t *testing.T) {
	f := newFixture(t, nil)
	f.addUser(t, account1, "nobody", "")
	f.addUser(t, account2, "stranger", identityPolicy("Allow", "kms:*", "*"))
	f.addUser(t, account2, "denied", identityPolicy("Deny", "kms:*", "*"))
	f.addUser(t, account1, "everything", identityPolicy("Allow", "kms:*", "*"))
	key := f.createKey(t, account1, "{}")
	missing := key[:len(key)-36] + uuid.NewString()
	for _, operation := range []string{"Encrypt", "DescribeKey", "DisableKey", "GetKeyPolicy", "GenerateMac", "CreateGrant"} {
		for _, caller := range []string{"nobody", "stranger", "denied", account2} {
			body := map[string]string{
				"Encrypt": `,"Plaintext":"AA=="`, "GenerateMac": `,"Message":"AA==","MacAlgorithm":"HMAC_SHA_256"`,
				"CreateGrant": `,"GranteePrincipal":"` + account1 + `","Operations":["Encrypt"]`,
			}[operation]
			texts := [2]string{}
			for i, id := range []string{key, missing} {
				a, err := f.call(t.Context(), caller, operation, `{"KeyId":"`+id+`"`+body+`}`)
				if err != nil || a.code != string(denied) {
					t.Fatalf("%s by %s: %d %s, %v, want %s", operation, caller, a.status, a.body, err, denied)
				}
				texts[i] = strings.ReplaceAll(a.body, id, "KEY")
			}
			if texts[0] != texts[1] {
				t.Errorf("%s by %s: of a key\n%s\nof none\n%s", operation, caller, texts[0], texts[1])
			}
		}
	}
	f.ask(t, "everything", "DescribeKey", object{"KeyId": missing}, kmsapi.NotFoundException)

	// Nor by a ciphertext that another key has made.
	blob := f.ask(t, account1, "Encrypt", object{"KeyId": f.createKey(t, account1, "{}"), "Plaintext": "AA=="}, "")["CiphertextBlob"]
	for _, id := range []string{key, missing} {
		f.ask(t, "nobody", "Decrypt", object{"KeyId": id, "CiphertextBlob": blob}, denied)
	}
	f.ask(t, "everything", "Decrypt", object{"KeyId": key, "CiphertextBlob": blob}, kmsapi.IncorrectKeyException)
}

// TestMissingAliasesLookLikeForbiddenOnes to those whose own policies do not allow it,
// and who do not learn either which key an alias points to.
func TestMissingAliasesLookLikeForbiddenOnes(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	f.ask(t, account1, "CreateAlias", object{"AliasName": "alias/there", "TargetKeyId": key}, "")
	onKeys := "arn:aws:kms:*:" + account1 + ":key/*"
	f.addUser(t, account1, "nobody", "")
	f.addUser(t, account1, "aliases", identityPolicy("Allow", "kms:*", "arn:aws:kms:*:*:alias/*"))
	f.addUser(t, account1, "denied", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"},
		{"Effect":"Deny","Action":"kms:*","Resource":"`+onKeys+`"}]}`)
	f.addUser(t, account1, "keys", identityPolicy("Allow", "kms:*", onKeys))
	f.addUser(t, account2, "stranger", identityPolicy("Allow", "kms:*", "*"))
	prefix := "arn:aws:kms:" + testRegion + ":" + account1 + ":"
	body := map[string]string{
		"Encrypt": `"KeyId":"%s","Plaintext":"AA=="`, "DescribeKey": `"KeyId":"%s"`, "DeleteAlias": `"AliasName":"%s"`,
		"UpdateAlias": `"AliasName":"%s","TargetKeyId":"` + key + `"`,
	}
	for operation, in := range body {
		for _, caller := range []string{"nobody", "aliases", "denied", "stranger"} {
			names := [2]string{"alias/there", "alias/missing"}
			switch {
			case caller == "stranger" && strings.HasSuffix(operation, "Alias"):
				continue // there it means its own
			case caller == "stranger":
				names = [2]string{prefix + names[0], prefix + names[1]}
			}
			texts := [2]string{}
			for i, name := range names {
				a, err := f.call(t.Context(), caller, operation, "{"+strings.ReplaceAll(in, "%s", name)+"}")
				if err != nil || a.code != string(denied) {
					t.Fatalf("%s by %s: %d %s, %v, want %s", operation, caller, a.status, a.body, err, denied)
				}
				texts[i] = strings.ReplaceAll(a.body, name, "ALIAS")
			}
			if texts[0] != texts[1] || strings.Contains(texts[0], key) && !strings.Contains(in, key) {
				t.Errorf("%s by %s: of an alias\n%s\nof none\n%s", operation, caller, texts[0], texts[1])
			}
		}
	}
	f.ask(t, "keys", "DescribeKey", object{"KeyId": "alias/there"}, "")
	f.ask(t, "keys", "DescribeKey", object{"KeyId": "alias/missing"}, kmsapi.NotFoundException)
}

// TestDeniesOfOnesOwnTellNothingOfOthersKeys: whoever writes the Denies can't read in
// the refusals what there is in another account, not even by conditions that hold of
// keys that exist alone.
func TestDeniesOfOnesOwnTellNothingOfOthersKeys(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	f.ask(t, account1, "CreateAlias", object{"AliasName": "alias/there", "TargetKeyId": key}, "")
	alias := "arn:aws:kms:" + testRegion + ":" + account1 + ":alias/"
	missing := key[:len(key)-36] + uuid.NewString()
	f.addUser(t, account2, "denied", identityPolicy("Deny", "kms:*", "*"))
	f.addUser(t, account2, "curious", `{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"kms:*","Resource":"*","Condition":{"Null":{"kms:KeySpec":"false"}}}}`)
	f.addUser(t, account2, "guessing", identityPolicy("Deny", "kms:*", key))
	for _, caller := range []string{"denied", "curious", "guessing"} {
		for _, names := range [][2]string{{key, missing}, {alias + "there", alias + "missing"}} {
			texts := [2]string{}
			for i, id := range names {
				texts[i] = strings.ReplaceAll(f.encrypts(t, caller, id), id, "KEY")
			}
			if texts[0] != texts[1] {
				t.Errorf("%s of what is there\n%s\nof what is not\n%s", caller, texts[0], texts[1])
			}
		}
	}
}

// TestUsersCannotComeBack: what names a user means that user, and not the next one of
// that name; and its access key ends with it.
func TestUsersCannotComeBack(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	user := f.addUser(t, account1, "user", "")
	statement := `{"Effect":"Allow","Principal":{"AWS":"` + user + `"},"Action":"kms:Encrypt","Resource":"*"}`
	f.putKeyPolicy(t, account1, key, statement)
	if got := f.encrypts(t, "user", key); got != "" {
		t.Fatal(got)
	}
	if out := f.ask(t, account1, "GetKeyPolicy", object{"KeyId": key}, ""); !strings.Contains(out["Policy"].(string), user) {
		t.Errorf("the policy does not name %s:\n%s", user, out["Policy"])
	}
	id := f.idOf(t, "user")
	f.deleteUser(t, account1, "user")
	f.ask(t, "user", "Encrypt", object{"KeyId": key, "Plaintext": "AA=="}, kmsapi.UnrecognizedClientException)
	f.addUser(t, account1, "user", "")
	if got := f.encrypts(t, "user", key); !strings.Contains(got, noIdentity) {
		t.Errorf("a new user of the name: %q, want a refusal", got)
	}
	out := f.ask(t, account1, "GetKeyPolicy", object{"KeyId": key}, "")
	if shown := out["Policy"].(string); strings.Contains(shown, user) || !strings.Contains(shown, id) {
		t.Errorf("the policy names %s, want %s:\n%s", user, id, shown)
	}
	f.ask(t, account1, "PutKeyPolicy", out2policy(key, out), kmsapi.MalformedPolicyDocumentException)
	f.putKeyPolicy(t, account1, key, statement)
	if got := f.encrypts(t, "user", key); got != "" {
		t.Errorf("named anew: %s", got)
	}
}

// out2policy puts back what GetKeyPolicy has answered.
func out2policy(key string, out object) object { return object{"KeyId": key, "Policy": out["Policy"]} }

// idOf is the unique id of a user of the first account.
func (f *fixture) idOf(t *testing.T, name string) string {
	t.Helper()
	entry, err := f.store.View().Principal(t.Context(), account1, metadata.User, name)
	if err != nil {
		t.Fatal(err)
	}
	return entry.ID
}

// TestKeyPoliciesNameWhomThereIs refuses principals that nobody knows.
func TestKeyPoliciesNameWhomThereIs(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	user := f.addUser(t, account2, "there", "")
	f.addPrincipals(t, account1, metadata.Role, map[string]string{"role": ""})
	in := "arn:aws:iam::" + account1
	for principal, code := range map[string]kmsapi.Code{
		user:              "",
		in + ":role/role": "",
		"arn:aws:sts::" + account1 + ":assumed-role/role/session": "",
		in + ":user/there":      kmsapi.MalformedPolicyDocumentException, // of the other account
		in + ":user/path/there": kmsapi.MalformedPolicyDocumentException,
		in + ":role/none":       kmsapi.MalformedPolicyDocumentException,
		"arn:aws:sts::" + account1 + ":assumed-role/none/session": kmsapi.MalformedPolicyDocumentException,
		"arn:aws:sts::" + account1 + ":federated-user/there":      kmsapi.MalformedPolicyDocumentException,
		"arn:aws:iam::999999999999:root":                          kmsapi.MalformedPolicyDocumentException,
	} {
		document := `{"Statement":[{"Effect":"Allow","Principal":{"AWS":"` + account1 + `"},"Action":"kms:*","Resource":"*"},
			{"Effect":"Allow","Principal":{"AWS":"` + principal + `"},"Action":"kms:Encrypt","Resource":"*"}]}`
		f.ask(t, account1, "PutKeyPolicy", object{"KeyId": key, "Policy": document}, code)
		f.ask(t, account1, "CreateKey", object{"Policy": document}, code)
	}
}

// TestLockoutIsCheckedForTheUser who puts the policy.
func TestLockoutIsCheckedForTheUser(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	user := f.addUser(t, account1, "user", conditionalPolicy("kms:*", `{"Null":{"kms:BypassPolicyLockoutSafetyCheck":"true"}}`))
	other := f.addUser(t, account1, "other", "")
	policy := func(who string) string {
		return `{"Statement":{"Effect":"Allow","Principal":{"AWS":"` + who + `"},"Action":"kms:*","Resource":"*"}}`
	}
	f.ask(t, "user", "PutKeyPolicy", object{"KeyId": key, "Policy": policy(other)}, kmsapi.MalformedPolicyDocumentException)
	f.ask(t, "user", "PutKeyPolicy", object{"KeyId": key, "Policy": policy(other), "BypassPolicyLockoutSafetyCheck": true}, denied)
	f.ask(t, "user", "PutKeyPolicy", object{"KeyId": key, "Policy": policy(user), "BypassPolicyLockoutSafetyCheck": false}, denied) // it is not left out
	f.ask(t, "user", "PutKeyPolicy", object{"KeyId": key, "Policy": policy(user)}, "")
	f.ask(t, account1, "PutKeyPolicy", object{"KeyId": key, "Policy": policy(account1)}, denied)
	f.ask(t, "user", "PutKeyPolicy", object{"KeyId": key, "Policy": policy(other), "BypassPolicyLockoutSafetyCheck": true}, "")

	// A key that is being made is one of the account's keys.
	onKeys := strings.Replace(policy(account1), `"*"}`, `"arn:aws:kms:*:`+account1+`:key/*"}`, 1)
	f.ask(t, account1, "CreateKey", object{"Policy": onKeys}, "")
	f.ask(t, account1, "CreateKey", object{"Policy": strings.Replace(onKeys, ":key/*", ":alias/*", 1)}, kmsapi.MalformedPolicyDocumentException)
}

// TestTagsDecide is attribute-based access: tags of the caller against the key's.
func TestTagsDecide(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, `{"Tags":[{"TagKey":"Team","TagValue":"red"}]}`)
	f.addUser(t, account1, "user", conditionalPolicy("kms:Encrypt", `{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}`))
	f.addUser(t, account1, "byalias", conditionalPolicy("kms:Encrypt", `{"ForAnyValue:StringLike":{"kms:ResourceAliases":"alias/red/*"}}`))
	set := func(value string) {
		f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.UpsertPrincipalTags(ctx, account1, metadata.User, "user", []metadata.Tag{{Key: "team", Value: value}})
		})
	}
	decide := func(what, caller string, allowed bool) {
		t.Helper()
		if got := f.encrypts(t, caller, key); (got == "") != allowed {
			t.Errorf("%s: %q, want allowed %t", what, got, allowed)
		}
	}
	decide("no tag", "user", false)
	set("red")
	decide("the same tag", "user", true)
	set("blue")
	decide("another tag", "user", false)
	f.ask(t, account1, "TagResource", object{"KeyId": key, "Tags": []object{{"TagKey": "Team", "TagValue": "blue"}}}, "")
	decide("the key's tag changed", "user", true)
	f.ask(t, account1, "UntagResource", object{"KeyId": key, "TagKeys": []string{"Team"}}, "")
	decide("the key's tag is gone", "user", false)

	decide("no alias", "byalias", false)
	f.ask(t, account1, "CreateAlias", object{"AliasName": "alias/red/1", "TargetKeyId": key}, "")
	decide("an alias", "byalias", true)
	f.ask(t, account1, "UpdateAlias", object{"AliasName": "alias/red/1", "TargetKeyId": f.createKey(t, account1, "{}")}, "")
	decide("the alias went away", "byalias", false)
}

// TestUsersOfKeysDoNotTouchPostgres but for their records: a user's Encrypt rests on
// the access key, the user, the key and its grants, all of them cached.
func TestUsersOfKeysDoNotTouchPostgres(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	f.addUser(t, account1, "user", identityPolicy("Allow", "kms:Encrypt", "*"))
	grantee := f.addUser(t, account1, "grantee", "")
	f.grant(t, account1, key, grantee, nil, "Encrypt")
	use := func() {
		for _, caller := range []string{"user", "grantee"} {
			if got := f.encrypts(t, caller, key); got != "" {
				t.Fatal(got)
			}
		}
	}
	leased := func() bool { return f.gathered(t, "kmsgate_metadata_lease", "") == 1 }
	for deadline := time.Now().Add(time.Minute); !leased(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no lease")
		}
	}
	const lookups = "kmsgate_metadata_cache_lookups_total"
	use()
	misses, hits := f.gathered(t, lookups, "miss"), f.gathered(t, lookups, "hit")
	for range 50 {
		use()
	}
	if made := f.gathered(t, lookups, "miss") - misses; made != 0 {
		t.Errorf("100 requests made %v look-ups that the cache could not answer, want none", made)
	}
	if f.gathered(t, lookups, "hit") == hits {
		t.Error("the cache was not asked")
	}
}

// gathered is the value of one of the store's numbers, by the value of its label;
// empty for none.
func (f *fixture) gathered(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := f.numbers.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no number %s of %s", name, label)
	return 0
}

// TestChangesOfAnothersKeyAreRecordedForBoth: for the caller and, by account only,
// for the key's owner.
func TestChangesOfAnothersKeyAreRecordedForBoth(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	f.putKeyPolicy(t, account1, key, `{"Effect":"Allow","Principal":{"AWS":"`+account2+`"},"Action":"kms:CreateGrant","Resource":"*"}`)
	a, err := f.call(t.Context(), account2, "CreateGrant", `{"KeyId":"`+key+`","GranteePrincipal":"arn:aws:iam::`+account2+`:root","Operations":["Encrypt"]}`)
	if err != nil || a.code != "" {
		t.Fatalf("CreateGrant: %d %s, %v", a.status, a.body, err)
	}
	keys := map[string]string{}
	for _, e := range f.events(t) {
		if e.RequestID == a.requestID {
			keys[e.RecipientAccountID] = e.UserIdentity.AccessKeyID
		}
	}
	if want := map[string]string{account1: "", account2: f.keys[account2].AccessKeyID}; !maps.Equal(keys, want) {
		t.Errorf("recorded for accounts with access keys %v, want %v", keys, want)
	}
}

// TestUserWhoIsDeletedMeanwhileIsRefused: what a call rests on is looked at again
// before it is answered, if others have changed it.
func TestUserWhoIsDeletedMeanwhileIsRefused(t *testing.T) {
	f := newFixture(t, nil)
	runs := 0
	f.handle("Slow", func(c *call) (work[kmsapi.Empty], error) {
		if runs++; runs == 1 {
			f.deleteUser(t, account1, "user")
			if err := f.move(c.ctx, account1); err != nil {
				t.Error(err)
			}
		}
		return nothing(c)
	})
	f.addUser(t, account1, "user", "")
	a := f.want(t, "user", "Slow", http.StatusBadRequest, kmsapi.UnrecognizedClientException)
	f.wantRecord(t, a, kmsapi.UnrecognizedClientException)
	if runs != 1 {
		t.Errorf("the handler ran %d times, want once: nobody calls any more", runs)
	}
}

// TestRefusalsForLoadAreCountedForTheUser and not for the account's root.
func TestRefusalsForLoadAreCountedForTheUser(t *testing.T) {
	var f *fixture
	f = newFixture(t, func(c *Config) {
		c.Throttling, c.Clock = true, func() time.Time { return f.standstill() }
	})
	f.handle("Often", nothing)
	user := f.addUser(t, account1, "user", "")
	for range otherRate + 3 {
		if _, err := f.call(t.Context(), "user", "Often", "{}"); err != nil {
			t.Fatal(err)
		}
	}
	f.flushNoise(t.Context(), f.standstill().Add(time.Second))
	counts := f.throttled(t)
	if len(counts) != 1 {
		t.Fatalf("%d records of refusals for load, want one", len(counts))
	}
	for _, e := range counts {
		if e.AdditionalEventData.Count != 3 || e.UserIdentity.ARN != user || e.UserIdentity.Type != "IAMUser" {
			t.Errorf("counted %+v, want 3 of %s", e, user)
		}
	}
}
