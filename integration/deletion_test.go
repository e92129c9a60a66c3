package integration_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

func TestScheduleAndCancelKeyDeletion(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	key := g.createKey(t, own)
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "c2VjcmV0"})["CiphertextBlob"]
	_, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &key})
	wantError(t, err, "KMSInvalidStateException", key+" is not pending deletion.")

	for _, window := range []int32{0, 7, 30} { // the first leaves it out
		before := time.Now().Truncate(time.Millisecond)
		in := &kms.ScheduleKeyDeletionInput{KeyId: aws.String(idOf(key))}
		days := int32(30)
		if window != 0 {
			in.PendingWindowInDays, days = &window, window
		}
		out, err := c.ScheduleKeyDeletion(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		c.wantMembers(t, "KeyId", "DeletionDate", "KeyState", "PendingWindowInDays")
		if *out.KeyId != key || out.KeyState != types.KeyStatePendingDeletion || *out.PendingWindowInDays != days {
			t.Errorf("ScheduleKeyDeletion = %s", c.last.body)
		}
		if early, late := before.AddDate(0, 0, int(days)), time.Now().AddDate(0, 0, int(days)); out.DeletionDate.Before(early) || out.DeletionDate.After(late) {
			t.Errorf("DeletionDate %v, want one between %v and %v", out.DeletionDate, early, late)
		}
		wantPending(t, g, key, blob, *out.DeletionDate)
		cancelled, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &key})
		if err != nil {
			t.Fatal(err)
		}
		c.wantMembers(t, "KeyId")
		if *cancelled.KeyId != key {
			t.Errorf("CancelKeyDeletion = %s, want %s", *cancelled.KeyId, key)
		}
		described := g.mustCall(t, own, "DescribeKey", m{"KeyId": key})["KeyMetadata"].(m)
		wantMembers(t, "KeyMetadata", described, metadataMembers...)
		if described["KeyState"] != "Disabled" || described["Enabled"] != false {
			t.Errorf("after CancelKeyDeletion: %v, want Disabled", described)
		}
	}
	g.mustCall(t, own, "EnableKey", m{"KeyId": key})
	if got := g.mustCall(t, own, "Decrypt", m{"CiphertextBlob": blob})["Plaintext"]; got != base64.StdEncoding.EncodeToString([]byte("secret")) {
		t.Errorf("Plaintext %v after all that, want that of before", got)
	}
}

// wantPending checks what can be done with a key that is pending deletion.
func wantPending(t *testing.T, g *instance, key string, blob any, at time.Time) {
	t.Helper()
	described := g.mustCall(t, own, "DescribeKey", m{"KeyId": key})["KeyMetadata"].(m)
	wantMembers(t, "KeyMetadata", described, append([]string{"DeletionDate"}, metadataMembers...)...)
	date, _ := described["DeletionDate"].(float64)
	if described["KeyState"] != "PendingDeletion" || described["Enabled"] != false || time.UnixMilli(int64(date*1000+.5)).Sub(at).Abs() > time.Millisecond {
		t.Errorf("KeyMetadata %v, want the deletion at %v", described, at)
	}
	otherKey := g.createKey(t, own)
	for operation, in := range map[string]m{
		"Encrypt": {"KeyId": key, "Plaintext": "AA=="}, "Decrypt": {"CiphertextBlob": blob}, "GenerateDataKey": {"KeyId": key, "NumberOfBytes": 1},
		"ReEncrypt": {"CiphertextBlob": blob, "DestinationKeyId": otherKey}, "EnableKey": {"KeyId": key}, "DisableKey": {"KeyId": key},
		"ScheduleKeyDeletion": {"KeyId": key}, "UpdateKeyDescription": {"KeyId": key, "Description": "d"},
		"TagResource": {"KeyId": key, "Tags": []m{{"TagKey": "a", "TagValue": "b"}}}, "CreateAlias": {"AliasName": "alias/pending-" + idOf(key), "TargetKeyId": key},
		"CreateGrant": {"KeyId": key, "GranteePrincipal": rootOf(own), "Operations": []string{"Decrypt"}},
	} {
		g.refused(t, own, operation, in, "KMSInvalidStateException", key+" is pending deletion.")
	}
	for operation, in := range map[string]m{"GetKeyPolicy": {}, "ListResourceTags": {}, "ListGrants": {}, "ListAliases": {}} {
		in["KeyId"] = key
		g.mustCall(t, own, operation, in)
	}
}

func TestScheduleKeyDeletionRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	const text = "1 validation error detected: Value '%' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value "
	for window, rule := range map[string]string{"6": "greater than or equal to 7", "0": "greater than or equal to 7", "-1": "greater than or equal to 7", "31": "less than or equal to 30"} {
		g.refused(t, own, "ScheduleKeyDeletion", m{"KeyId": key, "PendingWindowInDays": json.Number(window)}, "ValidationException",
			strings.Replace(text, "%", window, 1)+rule)
	}
	for _, operation := range []string{"ScheduleKeyDeletion", "CancelKeyDeletion"} {
		g.refused(t, other, operation, m{"KeyId": key}, "AccessDeniedException", denied(other, operation, "this resource")+hidden)
	}
	if state := g.mustCall(t, own, "DescribeKey", m{"KeyId": key})["KeyMetadata"].(m)["KeyState"]; state != "Enabled" {
		t.Errorf("KeyState %v after refusals, want Enabled", state)
	}
}

func TestRecordsOfKeyDeletion(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	scheduled := g.call(t, own, "ScheduleKeyDeletion", m{"KeyId": key})
	cancelled := g.call(t, own, "CancelKeyDeletion", m{"KeyId": key})
	events := g.audit(t)
	for _, c := range []struct {
		answer     answer
		parameters m
		elements   []string
	}{
		{scheduled, m{"keyId": key, "pendingWindowInDays": 30.0}, []string{"keyId", "deletionDate", "keyState", "pendingWindowInDays"}},
		{cancelled, m{"keyId": key}, []string{"keyId"}},
	} {
		found := eventsOf(events, c.answer.requestID())
		if len(found) != 1 {
			t.Fatalf("%d %s: %d records, want one", c.answer.status, c.answer.body, len(found))
		}
		e := found[0]
		wantMembers(t, "responseElements", e.ResponseElements, c.elements...)
		for name, value := range c.parameters {
			if e.RequestParameters[name] != value {
				t.Errorf("%s: %s is %v, want %v", e.EventName, name, e.RequestParameters[name], value)
			}
		}
		if e.ReadOnly || e.ResponseElements["keyId"] != key || len(e.Resources) != 1 {
			t.Errorf("record %s", e.text)
		}
	}
}

// TestKeysAreDeletedWhenTheirTimeHasCome moves the dates of two keys in the database
// to the past: what serves deletes them, with all that hangs on them, and nobody finds
// out more than that there are no such keys.
func TestKeysAreDeletedWhenTheirTimeHasCome(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	root := s.prepare(t)
	i := s.serve(t, map[string]credentials{own: root})
	client := i.clientWith(root).Client
	resident, wrapped := s.pairs(t, client)
	kept, _ := s.pairs(t, client)
	message := make([]byte, 32)
	for _, key := range []string{resident, wrapped} {
		i.mustCall(t, own, "CreateAlias", m{"AliasName": "alias/of-" + key, "TargetKeyId": key})
		i.mustCall(t, own, "CreateGrant", m{"KeyId": key, "GranteePrincipal": rootOf(own), "Operations": []string{"Sign"}})
		i.mustCall(t, own, "GetPublicKey", m{"KeyId": key})
		i.mustCall(t, own, "ScheduleKeyDeletion", m{"KeyId": key, "PendingWindowInDays": 7})
	}
	s.kmsgate(t, "doctor", "-all").wantSuccess(t, "doctor with keys that are pending deletion")
	s.exec(t, `UPDATE keys SET deletion_at = created_at WHERE state = 'PendingDeletion'`)
	for _, key := range []string{resident, wrapped} {
		eventually(t, "the key is deleted", func() bool {
			_, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
			_, gone := errors.AsType[*types.NotFoundException](err)
			return gone
		})
		missing := "Key '" + keyARN(own, key) + "' does not exist"
		for _, operation := range []string{"EnableKey", "GetKeyPolicy", "ScheduleKeyDeletion", "CancelKeyDeletion", "GetPublicKey", "ListGrants"} {
			i.refused(t, own, operation, m{"KeyId": key}, "NotFoundException", missing)
		}
		i.refused(t, own, "DescribeKey", m{"KeyId": "alias/of-" + key}, "NotFoundException", "Alias "+aliasARN(own, "alias/of-"+key)+" is not found.")
		eventually(t, "its end is recorded", func() bool { return s.count(t, key, "DeleteKey") == 1 })
		if n := s.one(t, `SELECT count(*) FROM materials WHERE key_id = '`+key+`' AND (blob IS NOT NULL OR residency <> 'absent')`); n != 0 {
			t.Errorf("%d materials of a deleted key are left", n)
		}
	}
	if _, err := client.Sign(t.Context(), &kms.SignInput{KeyId: &kept, Message: message, SigningAlgorithm: types.SigningAlgorithmSpecEd25519Sha512}); err != nil {
		t.Errorf("Sign with the key that nobody has deleted: %v", err)
	}
	r := s.kmsgate(t, "doctor", "-all")
	r.wantSuccess(t, "doctor with deleted keys")
	wantLine(t, r, "1 KMS key lives in it")
}

// count is how many service events of a name the log has about a key.
func (s *site) count(t testing.TB, key, name string) (n int) {
	t.Helper()
	r := s.kmsgate(t, "audit", "tail", "-n", "0")
	r.wantSuccess(t, "audit tail")
	for line := range strings.Lines(r.stdout) {
		if strings.Contains(line, `"eventName":"`+name+`"`) && strings.Contains(line, key) && strings.Contains(line, "keyMaterialIds") {
			n++
		}
	}
	return n
}
