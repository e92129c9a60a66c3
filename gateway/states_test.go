package gateway

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// stateColumns are the states of the table below.
var stateColumns = []metadata.State{
	metadata.Enabled, metadata.Disabled, metadata.PendingDeletion, metadata.PendingReplicaDeletion,
	metadata.PendingImport, metadata.Unavailable, metadata.Creating, metadata.Updating,
}

// stateRefusals are what its cells mean, after the key's ARN.
var stateRefusals = map[string]struct {
	code kmsapi.Code
	text string
}{
	"ok":        {},
	"disabled":  {kmsapi.DisabledException, " is disabled."},
	"deletion":  {kmsapi.KMSInvalidStateException, " is pending deletion."},
	"replicas":  {kmsapi.KMSInvalidStateException, " is pending replica deletion."},
	"import":    {kmsapi.KMSInvalidStateException, " is pending import."},
	"lost":      {kmsapi.KMSInvalidStateException, " is unavailable."},
	"creating":  {kmsapi.KMSInvalidStateException, " is creating."},
	"updating":  {kmsapi.KMSInvalidStateException, " is updating."},
	"unpending": {kmsapi.KMSInvalidStateException, " is not pending deletion."},
}

// Rows that several operations have (KMS Developer Guide, "Key states of AWS KMS
// keys", with the exceptions that AWS was seen to answer).
//
// Enabled, Disabled, PendingDeletion, PendingReplicaDeletion, PendingImport, Unavailable, Creating, Updating.
const (
	always      = "ok ok        ok        ok        ok        ok        ok        ok"
	usesTheKey  = "ok disabled  deletion  replicas  import    lost      creating  ok"
	readsPublic = "ok ok        deletion  replicas  import    lost      creating  ok"
	switches    = "ok ok        deletion  replicas  import    ok        creating  updating"
	tends       = "ok ok        deletion  replicas  ok        ok        ok        ok"
	schedules   = "ok disabled  deletion  replicas  ok        ok        creating  ok" // the origin is what is refused
)

// stateTable is every operation on a key by every state. A key of a target by
// another name than KeyId has a row of its own.
var stateTable = map[string]string{
	"Encrypt": usesTheKey, "Decrypt": usesTheKey, "ReEncrypt SourceKeyId": usesTheKey, "ReEncrypt DestinationKeyId": usesTheKey,
	"GenerateDataKey": usesTheKey, "GenerateDataKeyWithoutPlaintext": usesTheKey,
	"GenerateDataKeyPair": usesTheKey, "GenerateDataKeyPairWithoutPlaintext": usesTheKey,
	"GenerateMac": usesTheKey, "VerifyMac": usesTheKey, "Sign": usesTheKey, "Verify": usesTheKey, "DeriveSharedSecret": usesTheKey,
	"Encapsulate": usesTheKey, "Decapsulate": usesTheKey,

	"GetPublicKey": readsPublic,
	"DisableKey":   switches, "EnableKey": switches,
	"TagResource": tends, "UntagResource": tends, "UpdateKeyDescription": tends,
	"CreateAlias TargetKeyId": tends, "UpdateAlias TargetKeyId": tends, "UpdateAlias AliasName": always, "DeleteAlias AliasName": always,

	"DescribeKey": always, "GetKeyPolicy": always, "PutKeyPolicy": always, "ListKeyPolicies": always, "ListResourceTags": always,
	"ListGrants": always, "RevokeGrant": always, "GetKeyLastUsage": always,
	"CreateGrant": "ok disabled  deletion  replicas  import    ok        creating  ok",

	// AWS has no imported keys that are unavailable.
	"DeleteImportedKeyMaterial": "ok ok     ok        ok        ok        any       creating  updating",
	"GetParametersForImport":    "ok ok     deletion  replicas  ok        any       creating  updating",
	"ImportKeyMaterial":         "ok ok     deletion  replicas  ok        any       creating  ok",

	"ScheduleKeyDeletion": "ok ok        deletion  replicas  ok        ok        ok        updating",
	"EnableKeyRotation":   schedules, "DisableKeyRotation": schedules, "GetKeyRotationStatus": always, "ListKeyRotations": always,
	"ReplicateKey":      "ok disabled  deletion  replicas  import    lost      creating  updating",
	"RotateKeyOnDemand": "ok disabled  deletion  replicas  import    ok        creating  ok",

	"UpdatePrimaryRegion": usesTheKey, "UpdatePrimaryRegion PrimaryRegion": usesTheKey,

	"CancelKeyDeletion": "unpending unpending ok ok unpending unpending unpending unpending",
}

// TestStatesOfEveryOperation holds the table of operations against that of states.
func TestStatesOfEveryOperation(t *testing.T) {
	t.Parallel()
	missing := maps.Clone(stateTable)
	for _, o := range operations {
		for i := range o.targets {
			at := &o.targets[i]
			if o.service != serviceKMS || !holdsKey[at.kind] {
				continue
			}
			name := o.name
			if at.member != "KeyId" {
				name += " " + at.member
			}
			row, ok := stateTable[name]
			if !ok {
				t.Errorf("%s: not in the table of states", name)
				continue
			}
			delete(missing, name)
			wantStates(t, name, at, strings.Fields(row))
		}
	}
	for _, r := range refusals {
		delete(missing, r.operation)
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		t.Errorf("%s: in the table of states, and no such target", name)
	}
}

// wantStates checks what is said of a key in each state.
func wantStates(t *testing.T, name string, at *target, row []string) {
	t.Helper()
	if len(row) != len(stateColumns) {
		t.Fatalf("%s: the row %q has %d cells, want %d", name, row, len(row), len(stateColumns))
	}
	for i, state := range stateColumns {
		if row[i] == "any" {
			continue
		}
		key := &metadata.KeyEntry{Key: metadata.Key{Region: testRegion, Account: account1, ID: "k", State: state}}
		want, ok := stateRefusals[row[i]]
		if !ok {
			t.Fatalf("%s: the cell %q means nothing", name, row[i])
		}
		var got kmsapi.Error
		if err := at.checkState(key); err != nil {
			got = *err
		}
		expected := kmsapi.Error{Code: want.code}
		if want.code != "" {
			expected.Message = key.ARN() + want.text
		}
		if got != expected {
			t.Errorf("%s of a key in state %s: %+v, want %+v", name, state, got, expected)
		}
	}
}
