package audit

import (
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func materialID(t *testing.T, digits string) (id [32]byte) {
	t.Helper()
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestUsesOfOperations(t *testing.T) {
	t.Parallel()
	use := func(op, material string, encryptions, decryptions int64) Use {
		return Use{
			Region: "us-east-1", KeyID: "1234abcd-12ab-34cd-56ef-1234567890ab", MaterialID: materialID(t, material),
			Operation: op, Encryptions: encryptions, Decryptions: decryptions,
			Time: time.Date(2026, 11, 2, 22, 25, 25, 0, time.UTC), EventID: testEventID,
			RequestID: "f1d2a3b4-0000-4000-8000-00000000000a",
		}
	}
	reencrypt := func(e *Event) {
		e.Name = "ReEncrypt"
		e.AdditionalEventData = Members{String(SourceKeyMaterialID, testMaterial), String(DestinationKeyMaterialID, otherMaterial)}
		e.Resources = []Resource{KeyResource("111122223333", testKeyARN), KeyResource("111122223333", testOtherARN)}
	}
	destination := use("ReEncrypt", otherMaterial, 1, 0)
	destination.Region, destination.KeyID = "eu-west-1", "mrk-1234abcd12ab34cd56ef1234567890ab"
	noMaterial := use("Sign", strings.Repeat("00", 32), 0, 0)
	tests := map[string]struct {
		change func(*Event)
		want   []Use
	}{
		"Encrypt":         {func(*Event) {}, []Use{use("Encrypt", testMaterial, 1, 0)}},
		"Decrypt":         {func(e *Event) { e.Name = "Decrypt" }, []Use{use("Decrypt", testMaterial, 0, 1)}},
		"GenerateDataKey": {func(e *Event) { e.Name = "GenerateDataKey" }, []Use{use("GenerateDataKey", testMaterial, 1, 0)}},
		"without plaintext": {
			func(e *Event) { e.Name = "GenerateDataKeyWithoutPlaintext" },
			[]Use{use("GenerateDataKeyWithoutPlaintext", testMaterial, 1, 0)},
		},
		"ReEncrypt": {reencrypt, []Use{use("ReEncrypt", testMaterial, 0, 1), destination}},
		"ReEncrypt in the record of the destination's owner": {
			func(e *Event) { reencrypt(e); e.Resources[0].Account = "444455556666" },
			[]Use{destination},
		},
		"no material":      {func(e *Event) { e.Name, e.AdditionalEventData = "Sign", nil }, []Use{noMaterial}},
		"failure":          {func(e *Event) { e.ErrorCode = "DryRunOperationException" }, nil},
		"management":       {func(e *Event) { e.Name = "DescribeKey" }, nil},
		"service event":    {func(e *Event) { e.Type = ServiceEvent }, nil},
		"another service":  {func(e *Event) { e.Source = "sts.amazonaws.com" }, nil},
		"caller's record":  {func(e *Event) { e.RecipientAccount = "444455556666" }, []Use{}},
		"counted refusals": {func(e *Event) { r := Refusals{Operation: "Encrypt", ErrorCode: "x"}; *e = r.Event() }, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := encryptEvent()
			tt.change(e)
			got, err := UsesOf(e.AppendJSON(nil))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("UsesOf (-want +got):\n%s", diff)
			}
			if own, err := e.Uses(); err != nil || !cmp.Equal(tt.want, own) {
				t.Errorf("Uses = %v, %v, want %v", own, err, tt.want)
			}
		})
	}
}

func TestUsesOfRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*Event){
		"no resource":       func(e *Event) { e.Resources = nil },
		"an alias":          func(e *Event) { e.Resources[0].ARN = "arn:aws:kms:us-east-1:111122223333:alias/a" },
		"no ARN":            func(e *Event) { e.Resources[0].ARN = "x" },
		"short material id": func(e *Event) { e.AdditionalEventData = Members{String(KeyMaterialID, "ab")} },
		"bad material id": func(e *Event) {
			e.AdditionalEventData = Members{String(KeyMaterialID, strings.Repeat("x", 64))}
		},
	}
	for name, change := range tests {
		e := encryptEvent()
		change(e)
		if uses, err := e.Uses(); !errors.Is(err, ErrBadUse) {
			t.Errorf("%s: Uses = %v, %v, want ErrBadUse", name, uses, err)
		}
		if uses, err := UsesOf(e.AppendJSON(nil)); !errors.Is(err, ErrBadUse) {
			t.Errorf("%s: UsesOf = %v, %v, want ErrBadUse", name, uses, err)
		}
	}
	e := encryptEvent()
	e.AdditionalEventData = Members{Int(KeyMaterialID, 1)}
	for _, record := range []string{"", "[]", string(e.AppendJSON(nil))} {
		if uses, err := UsesOf([]byte(record)); !errors.Is(err, ErrBadUse) {
			t.Errorf("UsesOf(%s) = %v, %v, want ErrBadUse", record, uses, err)
		}
	}
}

func TestEventAndItsRecordTellTheSameUses(t *testing.T) {
	t.Parallel()
	names := append(slices.Sorted(maps.Keys(cryptographic)), "CreateKey", "")
	rapid.Check(t, func(t *rapid.T) {
		pick := func(label string, values ...string) string { return rapid.SampledFrom(values).Draw(t, label) }
		e := encryptEvent()
		e.Name = pick("name", names...)
		e.Time = time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "time"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanos"))
		e.ErrorCode = pick("error", "", "", "", "AccessDenied")
		e.RecipientAccount = pick("recipient", "", "111122223333", "444455556666")
		e.RequestID = rapid.String().Draw(t, "request id")
		e.AdditionalEventData = nil
		for _, m := range []string{KeyMaterialID, SourceKeyMaterialID, DestinationKeyMaterialID} {
			if rapid.Bool().Draw(t, m) {
				e.AdditionalEventData = append(e.AdditionalEventData, String(m, pick(m, testMaterial, otherMaterial, "ab")))
			}
		}
		e.Resources = nil
		for range rapid.IntRange(0, 3).Draw(t, "resources") {
			e.Resources = append(e.Resources, KeyResource(
				pick("account", "111122223333", "444455556666"),
				pick("arn", testKeyARN, testOtherARN, "arn:aws:kms:us-east-1:111122223333:alias/a")))
		}
		want, wantErr := e.Uses()
		got, err := UsesOf(e.AppendJSON(nil))
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("UsesOf: %v, Uses: %v", err, wantErr)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("UsesOf (-Uses +UsesOf):\n%s", diff)
		}
	})
}
