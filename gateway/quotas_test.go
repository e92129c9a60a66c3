package gateway

import (
	"sync"
	"testing"

	"kmsgate/gateway/kmsapi"
)

// TestQuotaOfKeys makes keys at once, and more than the account may have: those over
// the quota are refused, and nothing of another account is counted.
func TestQuotaOfKeys(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Quotas.Keys = 3 })
	var group sync.WaitGroup
	var mu sync.Mutex
	codes := map[string]int{}
	for range 8 {
		group.Go(func() {
			a, err := f.call(t.Context(), account1, "CreateKey", "{}")
			mu.Lock()
			defer mu.Unlock()
			if codes[a.code]++; err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if codes[""] != 3 || codes[string(kmsapi.LimitExceededException)] != 5 {
		t.Errorf("answers by code: %v, want 3 keys and 5 refusals", codes)
	}
	a, err := f.call(t.Context(), account1, "CreateKey", "{}")
	want := `{"__type":"LimitExceededException","message":"The quota of keys has been reached for the account: ` + account1 + `"}`
	if err != nil || a.body != want {
		t.Errorf("CreateKey over the quota: %s, %v; want %s", a.body, err, want)
	}
	f.wantRecord(t, a, kmsapi.LimitExceededException)
	f.createKey(t, account2, "{}")
}

func TestQuotaOfAliases(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Quotas.Aliases = 1 })
	key := f.createKey(t, account1, "{}")
	f.mustCall(t, "CreateAlias", map[string]any{"AliasName": "alias/a", "TargetKeyId": key})
	a, err := f.call(t.Context(), account1, "CreateAlias", `{"AliasName":"alias/b","TargetKeyId":"`+key+`"}`)
	if err != nil || a.code != string(kmsapi.LimitExceededException) {
		t.Errorf("a second alias: %d %s, %v; want LimitExceededException", a.status, a.body, err)
	}
}
