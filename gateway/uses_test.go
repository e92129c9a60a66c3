package gateway

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kmsgate/metadata/audit"
)

// TestUsesAreWhatRecordsTell makes every cryptographic call and compares the uses
// that it counts with those that others will read from its record: they must not
// differ, since whoever takes up the log counts from there.
func TestUsesAreWhatRecordsTell(t *testing.T) {
	f := newFixture(t, nil)
	var counted []audit.Use
	symmetric, second := f.createKey(t, account1, "{}"), f.createKey(t, account1, "{}")
	signing := f.createKey(t, account1, ofPair)
	mac := f.createKey(t, account1, ofSecret)
	agreeing := f.createKey(t, account1, `{"KeySpec":"ECC_NIST_P256","KeyUsage":"KEY_AGREEMENT"}`)
	pair := f.createKey(t, account1, `{"KeySpec":"RSA_2048","KeyUsage":"ENCRYPT_DECRYPT"}`)
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	const oaep = "RSAES_OAEP_SHA_256"
	members := map[string]any{} // of answers
	steps := []struct {
		operation string
		in        map[string]any
		take      string // member of the answer that a later call takes
		keys      int    // that it uses
	}{
		{"Encrypt", map[string]any{"KeyId": symmetric, "Plaintext": "AA=="}, "CiphertextBlob", 1},
		{"Decrypt", map[string]any{}, "", 1},
		{"ReEncrypt", map[string]any{"DestinationKeyId": second}, "", 2},
		{"ReEncrypt", map[string]any{"DestinationKeyId": pair, "DestinationEncryptionAlgorithm": oaep}, "CiphertextBlob", 2},
		{"Decrypt", map[string]any{"KeyId": pair, "EncryptionAlgorithm": oaep}, "", 1},
		{"ReEncrypt", map[string]any{"SourceKeyId": pair, "SourceEncryptionAlgorithm": oaep, "DestinationKeyId": symmetric}, "", 2},
		{"Encrypt", map[string]any{"KeyId": pair, "Plaintext": "AA==", "EncryptionAlgorithm": oaep}, "", 1},
		{"GenerateDataKey", map[string]any{"KeyId": symmetric, "NumberOfBytes": 1}, "", 1},
		{"GenerateDataKeyWithoutPlaintext", map[string]any{"KeyId": symmetric, "NumberOfBytes": 1}, "", 1},
		{"GenerateDataKeyPair", map[string]any{"KeyId": symmetric, "KeyPairSpec": "ECC_NIST_P256"}, "", 1},
		{"GenerateDataKeyPairWithoutPlaintext", map[string]any{"KeyId": symmetric, "KeyPairSpec": "ECC_NIST_P256"}, "", 1},
		{"Sign", map[string]any{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256"}, "Signature", 1},
		{"Verify", map[string]any{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256"}, "", 1},
		{"GenerateMac", map[string]any{"KeyId": mac, "Message": "AA==", "MacAlgorithm": "HMAC_SHA_256"}, "Mac", 1},
		{"VerifyMac", map[string]any{"KeyId": mac, "Message": "AA==", "MacAlgorithm": "HMAC_SHA_256"}, "", 1},
		{"DeriveSharedSecret", map[string]any{"KeyId": agreeing, "KeyAgreementAlgorithm": "ECDH", "PublicKey": base64.StdEncoding.EncodeToString(public)}, "", 1},
		{"GetPublicKey", map[string]any{"KeyId": signing}, "", 0},
		{"DescribeKey", map[string]any{"KeyId": signing}, "", 0},
	}
	taken := map[string]string{"Decrypt": "CiphertextBlob", "ReEncrypt": "CiphertextBlob", "Verify": "Signature", "VerifyMac": "Mac"}
	for _, step := range steps {
		f.watchUses(step.operation, &counted)
		if member := taken[step.operation]; member != "" {
			step.in[member] = members[member]
		}
		counted = nil
		a := f.mustCall(t, step.operation, step.in)
		if step.take != "" {
			var out map[string]any
			if err := json.Unmarshal([]byte(a.body), &out); err != nil {
				t.Fatal(err)
			}
			members[step.take] = out[step.take]
		}
		told, err := audit.UsesOf(f.recordOf(t, a))
		if err != nil {
			t.Fatalf("%s: %v", step.operation, err)
		}
		for i := range counted {
			counted[i].Time = counted[i].Time.UTC().Truncate(time.Second) // as in the record
		}
		slices.SortFunc(counted, byMaterial)
		slices.SortFunc(told, byMaterial)
		if diff := cmp.Diff(told, counted); diff != "" || len(counted) != step.keys {
			t.Errorf("%s of %d keys: uses (-record +counted)\n%s", step.operation, step.keys, diff)
		}
	}
}

func byMaterial(a, b audit.Use) int { return slices.Compare(a.MaterialID[:], b.MaterialID[:]) }

// watchUses copies what calls of an operation count, once their work is done.
func (f *fixture) watchUses(name string, counted *[]audit.Use) {
	op := *f.routes[route{serviceKMS, name}]
	check := op.check
	op.check = func(c *call, in any) (erased, error) {
		w, err := check(c, in)
		do := w.do
		w.do = func(ctx context.Context) (any, error) {
			out, err := do(ctx)
			*counted = c.usesOf(c.caller.Account)
			return out, err
		}
		return w, err
	}
	f.routes[route{serviceKMS, name}] = &op
}

// mustCall calls an operation as the first account's root, for a success.
func (f *fixture) mustCall(t *testing.T, operation string, in any) answer {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	a, err := f.call(t.Context(), account1, operation, string(body))
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("%s %s: %d %s, %v\n%s", operation, body, a.status, a.body, err, f.log)
	}
	return a
}

// recordOf is the exact record of a request.
func (f *fixture) recordOf(t *testing.T, a answer) []byte {
	t.Helper()
	records, _, err := f.store.AuditLog().Last(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		var e event
		if err := json.Unmarshal(r.Event, &e); err != nil {
			t.Fatal(err)
		}
		if e.RequestID == a.requestID {
			return r.Event
		}
	}
	t.Fatalf("request %s has no record", a.requestID)
	return nil
}
