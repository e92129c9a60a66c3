package gateway

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
)

// bucket names a request rate: operations with the same bucket share it.
type bucket string

// Buckets that cryptographic operations share, by the type of their key. AWS has
// no quota of its own for ML-KEM; it is held like the other pairs.
const (
	symmetricCrypto bucket = "symmetric cryptographic operations"
	rsaCrypto       bucket = "RSA cryptographic operations"
	eccCrypto       bucket = "ECC cryptographic operations"
	mlDSACrypto     bucket = "ML-DSA cryptographic operations"
	mlKEMCrypto     bucket = "ML-KEM cryptographic operations"
	// anyCrypto is what operations draw on whose key is not known yet: as much as
	// all of the above have together.
	anyCrypto bucket = "cryptographic operations"
)

// cryptoBuckets are the buckets of key specs.
var cryptoBuckets = map[keyspec.Spec]bucket{
	keyspec.SymmetricDefault: symmetricCrypto,
	keyspec.HMAC224:          symmetricCrypto, keyspec.HMAC256: symmetricCrypto,
	keyspec.HMAC384: symmetricCrypto, keyspec.HMAC512: symmetricCrypto,
	keyspec.RSA2048: rsaCrypto, keyspec.RSA3072: rsaCrypto, keyspec.RSA4096: rsaCrypto,
	keyspec.ECCNISTP256: eccCrypto, keyspec.ECCNISTP384: eccCrypto, keyspec.ECCNISTP521: eccCrypto,
	keyspec.ECCSECGP256K1: eccCrypto, keyspec.ECCNISTEdwards25519: eccCrypto, keyspec.SM2: eccCrypto,
	keyspec.MLDSA44: mlDSACrypto, keyspec.MLDSA65: mlDSACrypto, keyspec.MLDSA87: mlDSACrypto,
	keyspec.MLKEM512: mlKEMCrypto, keyspec.MLKEM768: mlKEMCrypto, keyspec.MLKEM1024: mlKEMCrypto,
}

// pairBucket is the bucket of the making of data key pairs of a spec.
func pairBucket(s keyspec.Spec) bucket { return "data key pairs " + bucket(s) }

// byKeys are the buckets of a call's keys, each once.
func byKeys(c *call, _ any) (drawnOn []bucket) {
	for i := 0; c.key(i) != nil; i++ {
		if b := cryptoBuckets[c.key(i).Spec]; !slices.Contains(drawnOn, b) {
			drawnOn = append(drawnOn, b)
		}
	}
	return drawnOn
}

// byPairSpec is the bucket of the data key pair that is asked for.
func byPairSpec(c *call, in any) []bucket {
	return []bucket{pairBucket(keyspec.Spec(c.op.text(in, "KeyPairSpec")))}
}

// draw charges the caller for what the call does, once the keys are known and
// the caller may use them: who may not learns nothing of a key from being
// throttled. What is done to a key of another region, and what is made there, counts
// there, too.
func (c *call) draw(in any) error {
	if c.drawn {
		return nil
	}
	c.drawn = true
	var drawnOn []bucket
	if c.op.draws != nil {
		drawnOn = c.op.draws(c, in)
	}
	for _, b := range drawnOn {
		if !c.charge(b) {
			return kmsapi.Throttled()
		}
	}
	for _, r := range c.resources {
		if r.key != nil && r.key.Region != c.region && !c.chargeIn(r.key.Region, c.op.bucket) {
			return kmsapi.Throttled()
		}
		for _, b := range r.target.draws {
			if !c.chargeIn(c.op.text(in, r.target.place), b) {
				return kmsapi.Throttled()
			}
		}
	}
	return nil
}

// unknownOperations is the bucket of requests that name no operation.
const unknownOperations bucket = "unknown operations"

// explanations is the bucket of refusals whose reasons are kept.
const explanations bucket = "explanations"

// otherRate is the rate of every bucket without a row.
const otherRate = 5

// rates are requests a second per account and region (KMS Developer Guide,
// "Request quotas"). A bucket may burst to one second's worth.
var rates = map[bucket]rate.Limit{
	symmetricCrypto: 10000,
	rsaCrypto:       1000,
	eccCrypto:       1000,
	mlDSACrypto:     1000,
	mlKEMCrypto:     1000,
	anyCrypto:       14000,
	explanations:    100,

	pairBucket(keyspec.ECCNISTP256):         100,
	pairBucket(keyspec.ECCNISTP384):         100,
	pairBucket(keyspec.ECCNISTP521):         100,
	pairBucket(keyspec.ECCSECGP256K1):       100,
	pairBucket(keyspec.ECCNISTEdwards25519): 100,
	pairBucket(keyspec.MLKEM512):            100,
	pairBucket(keyspec.MLKEM768):            100,
	pairBucket(keyspec.MLKEM1024):           100,
	pairBucket(keyspec.RSA2048):             20,
	pairBucket(keyspec.RSA3072):             4,
	pairBucket(keyspec.RSA4096):             1,

	"DescribeKey":               2000,
	"GetPublicKey":              2000,
	"ListResourceTags":          2000,
	"GetKeyPolicy":              1000,
	"ListAliases":               500,
	"ListKeys":                  500,
	"ListKeyPolicies":           100,
	"ListGrants":                100,
	"ListRetirableGrants":       100,
	"CreateGrant":               50,
	"RetireGrant":               50,
	"RevokeGrant":               50,
	"DeleteAlias":               15,
	"DeleteImportedKeyMaterial": 15,
	"ImportKeyMaterial":         15,
	"GetParametersForImport":    1,
	"PutKeyPolicy":              15,
	"ScheduleKeyDeletion":       15,
	"TagResource":               10,
	"GetCallerIdentity":         1000,
	"AssumeRole":                600,
	"GetSessionToken":           600,

	"AssumeRoleWithWebIdentity": 600,

	"GetKeyRotationStatus": 1000,
	"ListKeyRotations":     100,
	"EnableKeyRotation":    15,
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
