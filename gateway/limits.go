package gateway

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// bucket names a request rate: operations with the same bucket share it.
type bucket string

// symmetricCrypto is the bucket that symmetric cryptographic operations share.
const symmetricCrypto bucket = "symmetric cryptographic operations"

// unknownOperations is the bucket of requests that name no operation.
const unknownOperations bucket = "unknown operations"

// otherRate is the rate of every bucket without a row.
const otherRate = 5

// rates are requests a second per account and region (KMS Developer Guide,
// "Request quotas"). A bucket may burst to one second's worth.
var rates = map[bucket]rate.Limit{
	symmetricCrypto:     10000,
	"DescribeKey":       2000,
	"ListResourceTags":  2000,
	"GetKeyPolicy":      1000,
	"ListAliases":       500,
	"ListKeys":          500,
	"ListKeyPolicies":   100,
	"DeleteAlias":       15,
	"PutKeyPolicy":      15,
	"TagResource":       10,
	"GetCallerIdentity": 1000,
}

// throttle holds the callers' rates. Safe for concurrent use.
type throttle struct {
	mu       sync.Mutex
	limiters map[throttleKey]*rate.Limiter // guarded by mu
}

// throttleKey is what a rate is counted by: the caller's account is charged,
// across accounts too.
type throttleKey struct {
	account string
	region  string
	bucket  bucket
}

func newThrottle() *throttle {
	return &throttle{limiters: map[throttleKey]*rate.Limiter{}}
}

// allow takes one request from the caller's rate. A nil throttle allows all.
func (t *throttle) allow(now time.Time, key throttleKey) bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	limiter, ok := t.limiters[key]
	if !ok {
		// Accounts, regions and buckets are few and known: no bound is needed.
		limit, known := rates[key.bucket]
		if !known {
			limit = otherRate
		}
		limiter = rate.NewLimiter(limit, max(1, int(limit)))
		t.limiters[key] = limiter
	}
	t.mu.Unlock()
	return limiter.AllowN(now, 1)
}
