package gateway

import (
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
)

// TestReplicasDrawOnTheRatesOfTheirRegion: each as much as two keys that are made there,
// and as one ReplicateKey here. Who may not make one draws on nothing there.
func TestReplicasDrawOnTheRatesOfTheirRegion(t *testing.T) {
	var f *fixture
	f = newRegions(t, func(c *Config) {
		c.Throttling, c.Clock = true, func() time.Time { return f.standstill() }
	})
	key := f.primary(t, nil)
	f.addUser(t, account1, "nobody", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:ReplicateKey","Resource":"*"}}`)
	in := object{"KeyId": key, "ReplicaRegion": farRegion}
	f.ask(t, "nobody", "ReplicateKey", in, kmsapi.AccessDeniedException)
	f.must(t, "ReplicateKey", in)                                                       // two of five
	f.refuses(t, "a second replica", "ReplicateKey", in, kmsapi.AlreadyExistsException) // two more
	f.far(t, "CreateKey", object{}, "")
	f.far(t, "CreateKey", object{}, kmsapi.ThrottlingException)
	f.refuses(t, "a replica beyond the rate there", "ReplicateKey", in, kmsapi.ThrottlingException)
	f.must(t, "CreateKey", object{}) // this region's rate is another
}
