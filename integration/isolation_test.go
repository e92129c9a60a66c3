package integration_test

import (
	"bytes"
	"encoding/base64"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
)

// nowhere is a key id that no key has.
const nowhere = "1234abcd-12ab-34cd-56ef-1234567890ab"

// TestForeignRootGetsNothing asks for everything of another account's key and for
// the same of a key that is not there, and compares the answers byte by byte.
func TestForeignRootGetsNothing(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	theirs := g.createKey(t, other)
	theirAlias := "alias/theirs-" + idOf(theirs)
	g.mustCall(t, other, "CreateAlias", m{"AliasName": theirAlias, "TargetKeyId": theirs})
	mine := g.createKey(t, own)
	blob := g.mustCall(t, other, "Encrypt", m{"KeyId": theirs, "Plaintext": "AA=="})["CiphertextBlob"].(string)
	myBlob := g.mustCall(t, own, "Encrypt", m{"KeyId": mine, "Plaintext": "AA=="})["CiphertextBlob"].(string)
	forged := withKey(t, blob, theirs, keyARN(other, nowhere))
	disabled := g.createKey(t, other)
	g.mustCall(t, other, "DisableKey", m{"KeyId": disabled})

	const garbage = "Z2FyYmFnZQ=="
	absent := keyARN(other, nowhere)
	type request struct {
		operation string
		in        func(key, blob string) m
		action    string // that is refused; empty for the operation's name
		where     string // empty: "this resource"
	}
	var requests []request
	for _, operation := range slices.Concat(aForms, kForms) {
		requests = append(requests, request{operation, func(key, _ string) m { return minimal(operation, key) }, "", ""})
	}
	const byCiphertext = "the resource associated with this ciphertext"
	requests = append(requests,
		request{"CreateAlias", func(key, _ string) m { return m{"AliasName": "alias/mine", "TargetKeyId": key} }, "", ""},
		request{"Decrypt", func(key, blob string) m { return m{"KeyId": key, "CiphertextBlob": blob} }, "", ""},
		request{"Decrypt", func(key, _ string) m { return m{"KeyId": key, "CiphertextBlob": myBlob} }, "", ""},
		request{"Decrypt", func(key, _ string) m { return m{"KeyId": key, "CiphertextBlob": garbage} }, "", ""},
		request{"Decrypt", func(key, _ string) m { return m{"KeyId": key, "CiphertextBlob": garbage, "DryRun": true} }, "", ""},
		request{"Decrypt", func(key, _ string) m {
			return m{"KeyId": key, "DryRun": true, "DryRunModifiers": []string{"IGNORE_CIPHERTEXT"}}
		}, "", ""},
		request{"Decrypt", func(_, blob string) m { return m{"CiphertextBlob": blob} }, "", byCiphertext},
		request{"Decrypt", func(key, blob string) m { return m{"CiphertextBlob": blob, "KeyId": idOf(key)} }, "", ""},
		request{"ReEncrypt", func(_, blob string) m { return m{"CiphertextBlob": blob, "DestinationKeyId": mine} }, "ReEncryptFrom", byCiphertext},
		request{"ReEncrypt", func(key, _ string) m {
			return m{"CiphertextBlob": garbage, "SourceKeyId": key, "DestinationKeyId": mine}
		}, "ReEncryptFrom", ""},
		request{"ReEncrypt", func(key, _ string) m { return m{"CiphertextBlob": myBlob, "DestinationKeyId": key} }, "ReEncryptTo", ""},
	)
	for _, r := range requests {
		t.Run(r.operation, func(t *testing.T) {
			t.Parallel()
			action, where := r.action, r.where
			if action == "" {
				action = r.operation
			}
			if where == "" {
				where = "this resource"
			}
			there := g.refused(t, own, r.operation, r.in(theirs, blob), "AccessDeniedException", denied(own, action, where)+hidden)
			gone := g.refused(t, own, r.operation, r.in(absent, forged), "AccessDeniedException", denied(own, action, where)+hidden)
			off := g.refused(t, own, r.operation, r.in(disabled, withKey(t, blob, theirs, disabled)), "AccessDeniedException", denied(own, action, where)+hidden)
			if !bytes.Equal(there.body, gone.body) || !bytes.Equal(there.body, off.body) {
				t.Errorf("a key that is there: %s\none that is not: %s\none that is off: %s\nwant the same", there.body, gone.body, off.body)
			}
		})
	}
	for _, operation := range aForms {
		there := g.call(t, own, operation, minimal(operation, aliasARN(other, theirAlias)))
		gone := g.call(t, own, operation, minimal(operation, aliasARN(other, "alias/not-theirs")))
		if !bytes.Equal(there.body, gone.body) || !strings.Contains(string(there.body), "AccessDeniedException") {
			t.Errorf("%s: an alias that is there: %s\none that is not: %s\nwant the same denial", operation, there.body, gone.body)
		}
	}
	// Bare ids and names are looked up in the caller's own account, and a list is of it.
	for _, id := range []string{idOf(theirs), nowhere} {
		g.refused(t, own, "DescribeKey", m{"KeyId": id}, "NotFoundException", "Key '"+keyARN(own, id)+"' does not exist")
		g.refused(t, own, "CreateAlias", m{"AliasName": "alias/mine", "TargetKeyId": id}, "NotFoundException", "Key '"+keyARN(own, id)+"' does not exist")
		g.refused(t, own, "ListAliases", m{"KeyId": id}, "NotFoundException", "Key '"+keyARN(own, id)+"' does not exist")
		g.refused(t, own, "ListAliases", m{"KeyId": keyARN(other, id)}, "NotFoundException", "Key '"+keyARN(other, id)+"' does not exist")
		g.refused(t, own, "Decrypt", m{"KeyId": id, "CiphertextBlob": myBlob}, "NotFoundException", "Key '"+keyARN(own, id)+"' does not exist")
		g.refused(t, own, "Decrypt", m{"KeyId": id, "CiphertextBlob": garbage}, "NotFoundException", "Key '"+keyARN(own, id)+"' does not exist")
	}
	g.refused(t, own, "DescribeKey", m{"KeyId": theirAlias}, "NotFoundException", "Alias "+aliasARN(own, theirAlias)+" is not found.")
	// Nor does an ARN help that puts their key into the caller's account.
	g.refused(t, own, "Encrypt", m{"KeyId": keyARN(own, idOf(theirs)), "Plaintext": "AA=="}, "NotFoundException", "Key '"+keyARN(own, idOf(theirs))+"' does not exist")
	g.refused(t, own, "DeleteAlias", m{"AliasName": theirAlias}, "NotFoundException", "Alias "+aliasARN(own, theirAlias)+" is not found.")
}

// withKey makes a ciphertext of one key claim to be of another, with a header that
// is sound: version, kind of key id, 16 bytes of key id, 32 of material id, CRC-32C.
func withKey(t testing.TB, blob, from, to string) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(blob)
	if err != nil {
		t.Fatal(err)
	}
	const header = 2 + 16 + 32
	table := crc32.MakeTable(crc32.Castagnoli)
	id, claimed := unhex(t, idOf(from)), unhex(t, idOf(to))
	if !bytes.Equal(raw[2:18], id) {
		t.Fatalf("the ciphertext has key id %x, want %x", raw[2:18], id)
	}
	sum := func() []byte {
		s := crc32.Checksum(raw[:header], table)
		return []byte{byte(s >> 24), byte(s >> 16), byte(s >> 8), byte(s)}
	}
	if !bytes.Equal(raw[header:header+4], sum()) {
		t.Fatalf("the header's checksum is %x, want %x: the layout has changed", raw[header:header+4], sum())
	}
	copy(raw[2:18], claimed)
	copy(raw[header:], sum())
	return base64.StdEncoding.EncodeToString(raw)
}

// TestCiphertextOfAnotherKey moves a ciphertext to another key of the same owner.
func TestCiphertextOfAnotherKey(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key, second := g.createKey(t, own), g.createKey(t, own)
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "AA=="})["CiphertextBlob"].(string)
	moved := withKey(t, blob, key, second)
	g.refused(t, own, "Decrypt", m{"CiphertextBlob": moved}, "InvalidCiphertextException", "")
	g.refused(t, own, "Decrypt", m{"CiphertextBlob": moved, "KeyId": second}, "InvalidCiphertextException", "")
	g.refused(t, own, "Decrypt", m{"CiphertextBlob": moved, "KeyId": key}, "IncorrectKeyException", incorrectText)
	unknown := withKey(t, blob, key, keyARN(own, nowhere))
	const where = "the resource associated with this ciphertext"
	g.refused(t, own, "Decrypt", m{"CiphertextBlob": unknown}, "AccessDeniedException", denied(own, "Decrypt", where)+hidden)
}

func TestCrossAccountUse(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key, second := g.createKey(t, own), g.createKey(t, own)
	theirs := g.createKey(t, other)
	g.mustCall(t, own, "CreateAlias", m{"AliasName": "alias/cross-" + idOf(key), "TargetKeyId": key})
	alias := aliasARN(own, "alias/cross-"+idOf(key))
	all := statement("Allow", own, "kms:*")
	for _, k := range []string{key, second} {
		g.putPolicy(t, own, k, all, statement("Allow", other, "kms:*"))
	}
	material := g.material(t, own, key)

	encrypted := g.call(t, other, "Encrypt", m{"KeyId": alias, "Plaintext": "c2VjcmV0"})
	if encrypted.status != 200 || encrypted.object(t)["KeyId"] != key {
		t.Fatalf("Encrypt: %d %s", encrypted.status, encrypted.body)
	}
	blob := encrypted.object(t)["CiphertextBlob"]
	ids := map[string]answer{"Encrypt": encrypted}
	for operation, in := range map[string]m{
		"DescribeKey": {"KeyId": key}, "GenerateDataKey": {"KeyId": key, "NumberOfBytes": 8},
		"Decrypt": {"CiphertextBlob": blob},
	} {
		a := g.call(t, other, operation, in)
		if a.status != 200 {
			t.Errorf("%s: %d %s", operation, a.status, a.body)
		}
		ids[operation] = a
	}
	for _, id := range []string{key, idOf(key), alias} {
		if got := g.mustCall(t, other, "Decrypt", m{"CiphertextBlob": blob, "KeyId": id})["Plaintext"]; got != "c2VjcmV0" {
			t.Errorf("Decrypt with KeyId %s = %v", id, got)
		}
	}
	g.refused(t, other, "Decrypt", m{"CiphertextBlob": "Z2FyYmFnZQ==", "KeyId": key}, "InvalidCiphertextException", "")
	g.refused(t, other, "Decrypt", m{"CiphertextBlob": blob, "KeyId": second}, "IncorrectKeyException", incorrectText)
	g.refused(t, other, "Encrypt", m{"KeyId": keyARN(own, nowhere), "Plaintext": "AA=="}, "AccessDeniedException", denied(other, "Encrypt", "this resource")+hidden)
	for _, operation := range kForms { // management stays at home, whatever the policy says
		g.refused(t, other, operation, minimal(operation, key), "AccessDeniedException", denied(other, operation, "this resource")+hidden)
	}
	inward := g.call(t, other, "ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": theirs})
	around := g.call(t, other, "ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": second})
	for _, a := range []answer{inward, around} {
		if a.status != 200 {
			t.Fatalf("ReEncrypt: %d %s", a.status, a.body)
		}
	}
	g.putPolicy(t, own, key, all, statement("Allow", other, "kms:*"), statement("Deny", other, "kms:Decrypt"))
	refused := g.refused(t, other, "Decrypt", m{"CiphertextBlob": blob, "KeyId": key}, "AccessDeniedException", denied(other, "Decrypt", "this resource")+hidden)

	events := g.audit(t)
	for operation, a := range ids {
		wantBothAccounts(t, eventsOf(events, a.requestID()), operation, other, own)
	}
	wantBothAccounts(t, eventsOf(events, inward.requestID()), "ReEncrypt", other, own)
	wantBothAccounts(t, eventsOf(events, around.requestID()), "ReEncrypt", other, own)
	for _, e := range eventsOf(events, ids["Encrypt"].requestID()) {
		if e.AdditionalEventData["keyMaterialId"] != material || len(e.Resources) != 1 || e.Resources[0].ARN != key || e.Resources[0].AccountID != own {
			t.Errorf("record %s: want material %s and resource %s of %s", e.text, material, key, own)
		}
	}
	if got := eventsOf(events, refused.requestID()); len(got) != 1 || got[0].RecipientAccountID != other || got[0].ErrorCode != "AccessDenied" {
		t.Errorf("a denial across accounts is recorded as %v, want once, for the caller", got)
	}
}

// wantBothAccounts checks that a call is recorded once for its caller and once for
// the owner of the key, under one shared id.
func wantBothAccounts(t testing.TB, events []event, operation, caller, owner string) {
	t.Helper()
	if len(events) != 2 {
		t.Errorf("%s across accounts has %d records, want 2: %v", operation, len(events), events)
		return
	}
	recipients := []string{events[0].RecipientAccountID, events[1].RecipientAccountID}
	if slices.Sort(recipients); !slices.Equal(recipients, slices.Sorted(slices.Values([]string{caller, owner}))) {
		t.Errorf("%s is recorded for %v, want %s and %s", operation, recipients, caller, owner)
	}
	if events[0].SharedEventID == "" || events[0].SharedEventID != events[1].SharedEventID || events[0].EventID == events[1].EventID {
		t.Errorf("%s: shared ids %q, %q, ids %q, %q; want one shared id and two of their own", operation,
			events[0].SharedEventID, events[1].SharedEventID, events[0].EventID, events[1].EventID)
	}
	for _, e := range events {
		if e.EventName != operation || e.UserIdentity.AccountID != caller {
			t.Errorf("record %s, want %s by %s", e.text, operation, caller)
		}
	}
}
