package pkcs11

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"
)

// TestFingerprintTellsUpdates: a token of another firmware is told from what it was,
// in words, and one that is the same is not.
func TestFingerprintTellsUpdates(t *testing.T) {
	e, shim := openWithShim(t, nil)
	was, err := e.Fingerprint(t.Context())
	must(t, err)
	document, err := json.Marshal(was)
	must(t, err)
	var remembered Fingerprint
	must(t, json.Unmarshal(document, &remembered))
	for _, c := range []struct {
		versions, without uint
		want              []string
	}{
		{0, 0, nil},
		{1, 0, []string{"firmware: "}},
		{0, pkcs11.CKM_AES_GCM, []string{"mechanisms gone: CKM_AES_GCM"}},
		{2, pkcs11.CKM_AES_GCM, []string{"firmware: ", "mechanisms gone: CKM_AES_GCM"}},
	} {
		shim.Update(c.versions, c.without)
		is, err := e.Fingerprint(t.Context())
		must(t, err)
		changes := is.Changes(&remembered)
		if len(changes) != len(c.want) {
			t.Errorf("Update(%d, %d): changes %q, want %q", c.versions, c.without, changes, c.want)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(changes[i], want) {
				t.Errorf("Update(%d, %d): changes %q, want %q", c.versions, c.without, changes, c.want)
			}
		}
	}
}

func TestFingerprintNamesEveryChange(t *testing.T) {
	was := Fingerprint{
		Library: "a", Model: "b", Firmware: "1.2", Hardware: "3.4",
		Mechanisms: map[string]string{"CKM_AES_GCM": "one", "CKM_ECDSA": "two", "CKM_RSA_PKCS": "three"},
	}
	is := Fingerprint{
		Library: "A", Model: "B", Firmware: "1.3", Hardware: "3.5",
		Mechanisms: map[string]string{"CKM_AES_GCM": "one", "CKM_ECDSA": "other", "CKM_ML_DSA": "four"},
	}
	want := []string{
		`library: "a" is now "A"`, `model: "b" is now "B"`, `firmware: "1.2" is now "1.3"`, `hardware: "3.4" is now "3.5"`,
		"mechanisms gone: CKM_RSA_PKCS", "mechanisms new: CKM_ML_DSA", "mechanisms other: CKM_ECDSA (two is now other)",
	}
	if diff := cmp.Diff(want, is.Changes(&was)); diff != "" {
		t.Errorf("Changes (-want +got):\n%s", diff)
	}
}
