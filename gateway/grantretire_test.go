package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
)

const (
	allowsRetiring  = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:RetireGrant","Resource":"*"}}`
	forbidsRetiring = `{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"kms:RetireGrant","Resource":"*"}}`
)

func TestGrantsAreRetiredByThoseTheyNameOnly(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	users := map[string]string{}
	for name, document := range map[string]string{
		"grantee": "", "retirer": "", "nobody": "", "delegate": allowsRetiring, "forbidden": forbidsRetiring,
	} {
		users[name] = f.addUser(t, account1, name, document)
	}
	users["stranger"], users["foreigner"] = f.addUser(t, account2, "stranger", ""), f.addUser(t, account2, "foreigner", allowsRetiring)
	f.ask(t, account1, "PutKeyPolicy", object{"KeyId": key, "Policy": `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"` + account1 + `"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Principal":"*","Action":"kms:RetireGrant","Resource":"*"}]}`}, "")
	retiring := func(name string) object { return object{"RetiringPrincipal": users[name]} }
	for _, c := range []struct {
		more       object
		operations []string
		caller     string
		code       kmsapi.Code
	}{
		{nil, nil, "nobody", denied},
		{nil, nil, account1, ""}, // made the grant
		{nil, nil, "delegate", ""},
		{nil, nil, account2, denied},
		{nil, nil, "foreigner", denied},
		{nil, nil, "grantee", denied},
		{nil, []string{"RetireGrant"}, "grantee", ""},
		{retiring("retirer"), nil, "retirer", ""},
		{retiring("retirer"), nil, "grantee", denied},
		{retiring("stranger"), nil, "stranger", ""}, // of another account
		{retiring("stranger"), nil, account2, denied},
		{retiring("stranger"), nil, "foreigner", denied},
		{retiring("forbidden"), nil, "forbidden", denied},
		{object{"RetiringPrincipal": arn.Root(account2)}, nil, account2, ""},
		{object{"RetiringPrincipal": arn.Root(account2)}, nil, "foreigner", ""},
		{object{"RetiringPrincipal": arn.Root(account2)}, nil, "stranger", denied},
	} {
		byToken := object{}
		id, token := f.grant(t, account1, key, users["grantee"], c.more, append(c.operations, "Encrypt")...)
		byToken["GrantToken"], byToken["DryRun"] = token, true
		dry := c.code
		if dry == "" {
			dry = kmsapi.DryRunOperationException
		}
		f.ask(t, c.caller, "RetireGrant", byToken, dry)
		f.ask(t, c.caller, "RetireGrant", object{"KeyId": key, "GrantId": id}, c.code)
		left, _ := f.ask(t, account1, "ListGrants", object{"KeyId": key, "GrantId": id}, "")["Grants"].([]any)
		if (len(left) == 0) != (c.code == "") {
			t.Errorf("retired by %s: %v is left, want code %q", c.caller, left, c.code)
		}
		if c.code == "" {
			f.ask(t, c.caller, "RetireGrant", object{"GrantToken": token}, kmsapi.NotFoundException)
		}
	}
}

// TestGrantsMadeByAnotherAccountAreItsToRetire has the root of an account make a
// grant on the key of another.
func TestGrantsMadeByAnotherAccountAreItsToRetire(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	f.grant(t, account1, key, arn.Root(account2), nil, "CreateGrant", "Decrypt", "Encrypt")
	id, token := f.grant(t, account2, key, arn.Root(account2), nil, "Decrypt")
	entry := f.ask(t, account1, "ListGrants", object{"KeyId": key, "GrantId": id}, "")["Grants"].([]any)[0].(object)
	if got, want := entry["IssuingAccount"], arn.Root(account2); got != want {
		t.Errorf("IssuingAccount = %v, want %s", got, want)
	}
	f.ask(t, account2, "ListGrants", object{"KeyId": key}, denied)
	f.ask(t, account2, "RevokeGrant", object{"KeyId": key, "GrantId": id}, denied)
	f.ask(t, account1, "RetireGrant", object{"GrantToken": token}, denied) // it may revoke it
	f.ask(t, account2, "RetireGrant", object{"GrantToken": token}, "")
	again, _ := f.grant(t, account2, key, arn.Root(account2), nil, "Decrypt")
	f.ask(t, account1, "RevokeGrant", object{"KeyId": key, "GrantId": again}, "")
}

// TestRetiringTellsNothingOfKeys names grants that do not exist.
func TestRetiringTellsNothingOfKeys(t *testing.T) {
	f := newFixture(t, nil)
	foreign, id := f.createKey(t, account2, "{}"), newGrantID()
	gone := arn.KeyARNOf(testRegion, account2, "1234abcd-12ab-34cd-56ef-1234567890ab")
	f.addUser(t, account1, "alice", "")
	for _, caller := range []string{account1, "alice"} {
		var texts []any
		for _, in := range []object{
			{"KeyId": foreign, "GrantId": id},
			{"KeyId": gone, "GrantId": id},
			{"GrantToken": newGrantToken(foreign, id)},
			{"KeyId": strings.Replace(gone, account2, account1, 1), "GrantId": id},
		} {
			texts = append(texts, f.ask(t, caller, "RetireGrant", in, kmsapi.NotFoundException)["message"])
		}
		for _, text := range texts {
			if text != "Grant ID "+id+" not found" {
				t.Errorf("texts %v, want them equal", texts)
			}
		}
	}
	for _, e := range f.events(t) {
		if e.EventName == "RetireGrant" && e.RecipientAccountID == account2 {
			t.Errorf("record %+v in the log of an account that it does not concern", e)
		}
	}
}

// TestGrantsAreRecorded looks at what the records of changes of grants have.
func TestGrantsAreRecorded(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	alice := f.addUser(t, account1, "alice", "")
	in := object{
		"KeyId": key, "GranteePrincipal": alice, "Operations": []string{"Decrypt"}, "Name": "n",
		"Constraints": object{"EncryptionContextSubset": object{"a": "1"}},
	}
	made := f.ask(t, account1, "CreateGrant", in, "")
	f.ask(t, account1, "RetireGrant", object{"GrantToken": made["GrantToken"]}, "")
	records, err := f.store.AuditLog().Outbox(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	log, _, err := f.store.AuditLog().Last(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"CreateGrant": `"requestParameters":{"keyId":"` + key + `","granteePrincipal":"` + alice + `","operations":["Decrypt"],` +
			`"constraints":{"encryptionContextSubset":{"a":"1"}},"name":"n"},"responseElements":{"grantId":"` + made["GrantId"].(string) + `"}`,
		"RetireGrant": `"requestParameters":null,"responseElements":null,"additionalEventData":{"grantId":"` + made["GrantId"].(string) + `"}`,
	}
	for _, r := range append(records, log...) {
		var e event
		if err := json.Unmarshal(r.Event, &e); err != nil {
			t.Fatal(err)
		}
		text := string(r.Event)
		if strings.Contains(text, made["GrantToken"].(string)) {
			t.Errorf("a record has the token: %s", text)
		}
		if part, ok := want[e.EventName]; ok && strings.Contains(text, part) && strings.Contains(text, `"ARN":"`+key+`"`) {
			delete(want, e.EventName)
		}
	}
	if len(want) > 0 {
		t.Errorf("no record with %v", want)
	}
}
