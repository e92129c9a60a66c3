package gateway

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// TestGrantOperationsOfKeys holds the table against the one in the KMS Developer
// Guide, "Grant operations".
func TestGrantOperationsOfKeys(t *testing.T) {
	t.Parallel()
	always := "CreateGrant DescribeKey RetireGrant "
	pair := always + "Decrypt Encrypt GetPublicKey ReEncryptFrom ReEncryptTo"
	for _, c := range []struct {
		spec  keyspec.Spec
		usage keyspec.Usage
		want  string
	}{
		{keyspec.SymmetricDefault, keyspec.EncryptDecrypt, always + "Decrypt Encrypt GenerateDataKey GenerateDataKeyPair " +
			"GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext ReEncryptFrom ReEncryptTo"},
		{keyspec.RSA2048, keyspec.EncryptDecrypt, pair},
		{keyspec.SM2, keyspec.EncryptDecrypt, pair},
		{keyspec.RSA2048, keyspec.SignVerify, always + "GetPublicKey Sign Verify"},
		{keyspec.MLDSA44, keyspec.SignVerify, always + "GetPublicKey Sign Verify"},
		{keyspec.ECCNISTP256, keyspec.KeyAgreement, always + "DeriveSharedSecret GetPublicKey"},
		{keyspec.HMAC256, keyspec.GenerateVerifyMAC, always + "GenerateMac VerifyMac"},
		{keyspec.MLKEM512, keyspec.EncapsulateDecapsulate, always + "Decapsulate Encapsulate GetPublicKey"},
	} {
		key := &metadata.KeyEntry{Key: metadata.Key{Spec: c.spec, Usage: c.usage}}
		var got []string
		for _, of := range append(slices.Collect(maps.Values(grantedByUsage)), grantedToSymmetric, grantedAlways) {
			for _, operation := range of {
				if grantable(key, operation) && !slices.Contains(got, string(operation)) {
					got = append(got, string(operation))
				}
			}
		}
		want := strings.Fields(c.want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("grant operations of %s for %s:\n%v, want\n%v", c.spec, c.usage, got, want)
		}
	}
}

func TestCreateGrantRefuses(t *testing.T) {
	f := newFixture(t, nil)
	key, pair, disabled := f.createKey(t, account1, "{}"), f.createKey(t, account1, ofPair), f.createKey(t, account1, "{}")
	f.ask(t, account1, "DisableKey", object{"KeyId": disabled}, "")
	alice := f.addUser(t, account1, "alice", "")
	long := object{"k": strings.Repeat("ü", 385)}
	many := object{}
	for i := range 9 {
		many[strconv.Itoa(i)] = ""
	}
	const invalid, unknown = kmsapi.ValidationException, kmsapi.InvalidArnException
	constraint := func(c object) object { return object{"Constraints": c} }
	for _, c := range []struct {
		change  object
		code    kmsapi.Code
		message string
	}{
		{object{"GranteePrincipal": nil}, invalid, "1 validation error detected: Value null at 'granteePrincipal' failed to satisfy constraint: Member must not be null"},
		{object{"GranteeServicePrincipal": "logs.example.com"}, invalid, "You cannot specify both GranteePrincipal and GranteeServicePrincipal."},
		{object{"RetiringPrincipal": alice, "RetiringServicePrincipal": "logs.example.com"}, invalid, "You cannot specify both"},
		{object{"GranteePrincipal": nil, "GranteeServicePrincipal": "logs.example.com"}, invalid, "A grant to a GranteeServicePrincipal must"},
		{object{"RetiringServicePrincipal": "logs.example.com"}, unknown, "ARN does not refer to a valid principal: logs.example.com"},
		{object{"Operations": nil}, invalid, "Value null at 'operations'"},
		{object{"Operations": []string{}}, invalid, "Member must have length greater than or equal to 1"},
		{object{"Operations": []string{"DisableKey"}}, invalid, "Value '[DisableKey]' at 'operations' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [Decrypt, "},
		{object{"Operations": []string{"decrypt"}}, invalid, "enum value set"},
		{object{"Operations": []string{"Sign"}}, invalid, "Grant operation Sign is not supported for key spec SYMMETRIC_DEFAULT and key usage ENCRYPT_DECRYPT."},
		{object{"Operations": []string{"GetPublicKey"}}, invalid, "Grant operation GetPublicKey"},
		{object{"KeyId": pair}, invalid, "Grant operation Encrypt is not supported for key spec ECC_NIST_P256"},
		{object{"KeyId": pair, "Operations": []string{"Sign"}, "Constraints": object{"EncryptionContextEquals": object{"a": "1"}}}, invalid, "Encryption context grant constraints are not supported"},
		{constraint(object{"EncryptionContextEquals": object{"a": "1"}, "EncryptionContextSubset": object{"a": "1"}}), invalid, "More than one constraint supplied"},
		{constraint(object{"EncryptionContextEquals": object{}}), invalid, "A grant constraint must have at least one encryption context pair."},
		{constraint(object{"EncryptionContextSubset": object{}}), invalid, "A grant constraint must have at least one encryption context pair."},
		{constraint(object{"EncryptionContextEquals": many}), invalid, "A grant constraint must not have more than 8 encryption context pairs."},
		{constraint(object{"EncryptionContextSubset": long}), invalid, "must not be longer than 384 characters"},
		{constraint(object{"EncryptionContextSubset": object{strings.Repeat("k", 8192): "v"}}), invalid, "EncryptionContext must not be larger than 8192 bytes."},
		{object{"Name": "a b"}, invalid, "regular expression pattern: ^[a-zA-Z0-9:/_-]+$"},
		{object{"GranteePrincipal": "a b"}, invalid, "'granteePrincipal'"},
		{object{"GranteePrincipal": "alice"}, unknown, "ARN does not refer to a valid principal: alice"},
		{object{"GranteePrincipal": account1}, unknown, account1},
		{object{"GranteePrincipal": arn.Root("999999999999")}, unknown, "999999999999"},
		{object{"GranteePrincipal": strings.Replace(alice, "alice", "bob", 1)}, unknown, "bob"},
		{object{"GranteePrincipal": arn.Group(account1, "/", "alice")}, unknown, "group"},
		{object{"GranteePrincipal": "arn:aws:sts::" + account1 + ":federated-user/alice"}, unknown, "federated"},
		{object{"GranteePrincipal": arn.RoleSession(account1, "no-role", "s")}, unknown, "no-role"},
		{object{"RetiringPrincipal": arn.Role(account1, "/", "alice")}, unknown, "role/alice"},
		{object{"GrantTokens": []string{"token"}}, kmsapi.InvalidGrantTokenException, ""},
		{object{"GrantTokens": []string{newGrantToken(strings.Replace(key, testRegion, "eu-west-1", 1), newGrantID())}}, kmsapi.InvalidGrantTokenException, ""},
		{object{"GrantTokens": slices.Repeat([]string{newGrantToken(key, newGrantID())}, 11)}, invalid, "'grantTokens'"},
		{object{"KeyId": "alias/a"}, unknown, "Key Aliases are not supported"},
		{object{"KeyId": disabled}, kmsapi.DisabledException, disabled + " is disabled."},
		{object{"DryRun": true}, kmsapi.DryRunOperationException, ""},
	} {
		in := object{"KeyId": key, "GranteePrincipal": alice, "Operations": []string{"Encrypt"}}
		maps.Copy(in, c.change)
		if message, _ := f.ask(t, account1, "CreateGrant", in, c.code)["message"].(string); !strings.Contains(message, c.message) {
			t.Errorf("CreateGrant with %v: %q, want %q in it", c.change, message, c.message)
		}
	}
	if left := f.ask(t, account1, "ListGrants", object{"KeyId": key}, "")["Grants"].([]any); len(left) != 0 {
		t.Errorf("refused requests left the grants %v", left)
	}
}

func TestGrantIdentifiersAreRefused(t *testing.T) {
	f := newFixture(t, nil)
	key, id := f.createKey(t, account1, "{}"), newGrantID()
	for _, bad := range []string{"x", id[1:], id + "0", strings.ToUpper("a" + id[1:]), "g" + id[1:]} {
		f.ask(t, account1, "RevokeGrant", object{"KeyId": key, "GrantId": bad}, kmsapi.InvalidGrantIdException)
		f.ask(t, account1, "RetireGrant", object{"KeyId": key, "GrantId": bad}, kmsapi.InvalidGrantIdException)
		f.ask(t, account1, "ListGrants", object{"KeyId": key, "GrantId": bad}, kmsapi.InvalidGrantIdException)
	}
	token := newGrantToken(key, id)
	for _, in := range []object{
		{}, {"KeyId": key}, {"GrantId": id}, {"GrantToken": token, "GrantId": id}, {"GrantToken": token, "KeyId": key},
	} {
		f.ask(t, account1, "RetireGrant", in, kmsapi.ValidationException)
	}
	f.ask(t, account1, "RetireGrant", object{"GrantToken": "token"}, kmsapi.InvalidGrantTokenException)
	elsewhere := newGrantToken(strings.Replace(key, testRegion, "eu-west-1", 1), id)
	f.ask(t, account1, "RetireGrant", object{"GrantToken": elsewhere}, kmsapi.InvalidGrantTokenException)
	f.ask(t, account1, "RevokeGrant", object{"KeyId": key, "GrantId": id}, kmsapi.NotFoundException)
	f.ask(t, account1, "RevokeGrant", object{"KeyId": key, "GrantId": id, "DryRun": true}, kmsapi.NotFoundException)
	f.ask(t, account1, "ListGrants", object{"KeyId": key, "GranteePrincipal": arn.Root(account1), "GranteeServicePrincipal": "s"}, kmsapi.ValidationException)
	f.ask(t, account1, "ListGrants", object{"KeyId": key, "GranteeServicePrincipal": "s"}, kmsapi.ValidationException)
	for _, in := range []object{
		{}, {"RetiringServicePrincipal": "s"}, {"RetiringPrincipal": arn.Root(account1), "RetiringServicePrincipal": "s"},
	} {
		f.ask(t, account1, "ListRetirableGrants", in, kmsapi.ValidationException)
	}
	f.ask(t, account1, "ListRetirableGrants", object{"RetiringPrincipal": "alice"}, kmsapi.InvalidArnException)
	f.ask(t, account1, "ListRetirableGrants", object{"RetiringPrincipal": arn.User(account1, "/", "nobody")}, kmsapi.InvalidArnException)
	f.ask(t, account1, "ListRetirableGrants", object{"RetiringPrincipal": arn.Root(account2)}, denied)
	f.addUser(t, account1, "alice", "")
	f.ask(t, "alice", "ListRetirableGrants", object{"RetiringPrincipal": arn.User(account1, "/", "alice")}, denied)
}

func TestGrantsOfAKeyAreLimited(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Quotas.Grants = 2 })
	key := f.createKey(t, account1, "{}")
	alice := f.addUser(t, account1, "alice", "")
	var calls sync.WaitGroup
	var mu sync.Mutex
	codes := map[string]int{}
	for range 8 {
		calls.Go(func() {
			a, err := f.call(t.Context(), account1, "CreateGrant", `{"KeyId":"`+key+`","GranteePrincipal":"`+alice+`","Operations":["Encrypt"]}`)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			codes[a.code]++
		})
	}
	calls.Wait()
	if codes[""] != 2 || codes[string(kmsapi.LimitExceededException)] != 6 {
		t.Errorf("8 grants at once: %v, want two made and the others over the limit", codes)
	}
}

// TestGrantsAreMadeOnceByName repeats requests, also on another instance, and all at once.
func TestGrantsAreMadeOnceByName(t *testing.T) {
	f := newFixture(t, nil)
	other := f.another(t, nil)
	key := f.createKey(t, account1, "{}")
	alice := f.addUser(t, account1, "alice", "")
	constraints := object{"EncryptionContextSubset": object{"a": "1", "b": "2"}}
	named := object{"Name": "a/name", "Constraints": constraints}
	first, token := f.grant(t, account1, key, alice, named, "Encrypt", "Decrypt")
	again, nextToken := f.grant(t, account1, key, alice, named, "Decrypt", "Encrypt", "Decrypt")
	if again != first || nextToken == token {
		t.Errorf("repeated: grant %s with token %s, want grant %s with another token than %s", again, nextToken, first, token)
	}
	ids := map[string]bool{}
	var mu sync.Mutex
	var calls sync.WaitGroup
	for i := range 10 {
		calls.Go(func() {
			at := []*fixture{f, other}[i%2]
			a, err := at.call(t.Context(), account1, "CreateGrant",
				`{"KeyId":"`+key+`","GranteePrincipal":"`+alice+`","Operations":["Encrypt"],"Name":"at-once"}`)
			_, id, _ := strings.Cut(a.body, `"GrantId":"`)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || len(id) < 64 {
				t.Errorf("CreateGrant: %s, %v", a.body, err)
				return
			}
			ids[id[:64]] = true
		})
	}
	calls.Wait()
	if len(ids) != 1 {
		t.Errorf("made at once: %d grants, want one", len(ids))
	}
	for name, different := range map[string]object{
		"no name":              {"Constraints": constraints},
		"another name":         {"Name": "another", "Constraints": constraints},
		"another constraint":   {"Name": "a/name", "Constraints": object{"EncryptionContextEquals": object{"a": "1", "b": "2"}}},
		"no constraint":        {"Name": "a/name"},
		"a retiring principal": {"Name": "a/name", "Constraints": constraints, "RetiringPrincipal": alice},
	} {
		if id, _ := f.grant(t, account1, key, alice, different, "Encrypt", "Decrypt"); id == first {
			t.Errorf("%s: the same grant", name)
		}
	}
	f.ask(t, account1, "RetireGrant", object{"GrantToken": token}, "") // any token of the grant will do
	if id, _ := f.grant(t, account1, key, alice, named, "Encrypt", "Decrypt"); id == first {
		t.Error("a grant that ended was given out again")
	}
}
