package gateway

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// TestEverySpecHasItsRates: no kind of key falls to the rate of the rest.
func TestEverySpecHasItsRates(t *testing.T) {
	t.Parallel()
	sum := rates[symmetricCrypto]
	for _, b := range []bucket{rsaCrypto, eccCrypto, mlDSACrypto, mlKEMCrypto} {
		sum += rates[b]
	}
	if rates[anyCrypto] != sum {
		t.Errorf("rate of %s %v, want that of all kinds of keys together, %v", anyCrypto, rates[anyCrypto], sum)
	}
	for _, row := range keyspec.Specs {
		if b := cryptoBuckets[row.Spec]; b == "" || rates[b] == 0 {
			t.Errorf("%s draws on %q with the rate %v", row.Spec, b, rates[b])
		}
		in := &kmsapi.GenerateDataKeyPairRequest{KeyID: new("k"), KeyPairSpec: new(row.Spec)}
		if kmsapi.Validate(in) == nil && rates[pairBucket(row.Spec)] == 0 && row.Spec != keyspec.SM2 {
			t.Errorf("data key pairs of %s have no rate", row.Spec)
		}
	}
}

func TestCallsDrawOnTheRatesOfTheirKeys(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		specs []keyspec.Spec
		want  []bucket
	}{
		{nil, nil},
		{[]keyspec.Spec{keyspec.RSA4096}, []bucket{rsaCrypto}},
		{[]keyspec.Spec{keyspec.ECCSECGP256K1}, []bucket{eccCrypto}},
		{[]keyspec.Spec{keyspec.SymmetricDefault, keyspec.SymmetricDefault}, []bucket{symmetricCrypto}},
		{[]keyspec.Spec{keyspec.RSA2048, keyspec.SymmetricDefault}, []bucket{rsaCrypto, symmetricCrypto}},
	} {
		c := &call{}
		for _, spec := range tc.specs {
			c.resources = append(c.resources, resource{target: &target{kind: onKey}, key: &metadata.KeyEntry{Key: metadata.Key{Spec: spec}}})
		}
		if got := byKeys(c, nil); !slices.Equal(got, tc.want) {
			t.Errorf("keys of %v draw on %q, want %q", tc.specs, got, tc.want)
		}
	}
}

// TestPairsAreThrottledBySpec asks for more data key pairs within one moment than
// the rate of their spec; trials count.
func TestPairsAreThrottledBySpec(t *testing.T) {
	var f *fixture
	f = newFixture(t, func(c *Config) {
		c.Throttling, c.Clock = true, func() time.Time { return f.standstill() }
	})
	key := f.createKey(t, account1, "{}")
	ask := func(account, spec string, want kmsapi.Code) {
		t.Helper()
		a, err := f.call(t.Context(), account, "GenerateDataKeyPair", `{"DryRun":true,"KeyPairSpec":"`+spec+`","KeyId":"`+key+`"}`)
		if err != nil || a.status != http.StatusBadRequest || a.code != string(want) {
			t.Errorf("%s by %s: %d %s, %v; want %s", spec, account, a.status, a.body, err, want)
		}
	}
	ask(account1, "RSA_4096", kmsapi.DryRunOperationException)
	ask(account1, "RSA_4096", kmsapi.ThrottlingException)
	for n := range 5 { // other specs have rates of their own
		ask(account1, "RSA_3072", map[bool]kmsapi.Code{true: kmsapi.DryRunOperationException, false: kmsapi.ThrottlingException}[n < 4])
		ask(account1, "ECC_NIST_P256", kmsapi.DryRunOperationException)
	}
	for range 3 { // who may not use the key hears nothing else
		ask(account2, "RSA_4096", kmsapi.AccessDeniedException)
	}
	f.wantIdle(t)
}

// createKey makes a key and returns its ARN.
func (f *fixture) createKey(t *testing.T, account, body string) string {
	t.Helper()
	a, err := f.call(t.Context(), account, "CreateKey", body)
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("CreateKey %s: %d %s, %v\n%s", body, a.status, a.body, err, f.log)
	}
	_, rest, _ := strings.Cut(a.body, `"Arn":"`)
	arn, _, _ := strings.Cut(rest, `"`)
	return arn
}
