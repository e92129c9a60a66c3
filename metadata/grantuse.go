package metadata

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"kmsgate/policy"
)

// GrantUse is what grants on a key are asked for.
type GrantUse struct {
	Grantee   string // ARN of a principal, or the name of a service
	GranteeID string // unique id of a user or role, of a session that of its role; empty for an account
	// Operations are what a grant must have all of: the one that it is asked for, such
	// as "Decrypt"; of a request for a grant, those of that grant too.
	Operations []string
	// Context is the request's encryption context; of a request for a grant, its
	// constraint.
	Context map[string]string
	// AnyContext: the operation has no encryption context, and constraints on it do
	// not count.
	AnyContext bool
	SourceARN  string // aws:SourceArn of the request; empty for none
}

// Grants are the grants on a key to a grantee, in no order; none is an answer too.
// Of grants that allow the same there is one. They are shared: nobody writes to them.
// A grant whose GranteeID is not the caller's is not the caller's. Of a grantee with
// many different grants there is but one that allows the use, if there is any, and it
// is read from Postgres every time. ErrNotFound if there is no such key.
func (v *View) Grants(ctx context.Context, region, keyID string, use GrantUse) ([]*Grant, error) {
	value, err := v.read(ctx, grantsKey(region, keyID, use.Grantee))
	if err != nil {
		return nil, wrap(err, "grants on key %s", keyID)
	}
	if its := value.(granteeGrants); !its.more {
		return its.grants, nil
	}
	value, err = v.load(v.store.cache.accept, func(fill) (loaded, error) { return loadUsableGrant(ctx, v.store, region, keyID, use) })
	if err != nil {
		return nil, wrap(err, "grants on key %s", keyID)
	}
	return value.(granteeGrants).grants, nil
}

// maxCachedGrants is how many different grants of a grantee on a key are kept in the
// cache. Beyond, as of a service with a grant for each of its volumes, a change
// would have them all read again.
const maxCachedGrants = 100

// granteeGrants are grants to one grantee.
type granteeGrants struct {
	grants []*Grant
	more   bool // than are kept; grants is nil then
}

const selectGrants = grantColumns + `
LEFT JOIN LATERAL (
	SELECT DISTINCT ON (effect) *
	FROM grants
	WHERE account = k.account AND region = k.region AND key_id = k.id AND grantee = @grantee
	ORDER BY effect, id
	LIMIT @limit
) AS g ON true
WHERE k.region = @region AND k.id = @keyID`

func loadGrants(ctx context.Context, s *Store, key cacheKey) (loaded, error) {
	keyID, grantee, _ := strings.Cut(key.id, " ")
	args := pgx.StrictNamedArgs{"region": key.region, "keyID": keyID, "grantee": grantee, "limit": maxCachedGrants + 1}
	l, err := loadGranteeGrants(ctx, s, selectGrants, args)
	if err != nil {
		return loaded{}, err
	}
	l.size = 256 + len(key.id)
	its := l.value.(granteeGrants)
	if len(its.grants) > maxCachedGrants {
		its = granteeGrants{more: true}
	}
	for _, g := range its.grants {
		l.size += g.size()
	}
	l.value = its
	return l, nil
}

func loadGranteeGrants(ctx context.Context, s *Store, sql string, args pgx.StrictNamedArgs) (loaded, error) {
	rows, err := list(ctx, s, "select", sql, args, pgx.RowToStructByName[grantRow])
	if err != nil {
		return loaded{}, err
	}
	if len(rows) == 0 {
		return loaded{}, ErrNotFound
	}
	l := loaded{account: rows[0].Account, version: rows[0].AccountVersion, value: granteeGrants{}}
	if rows[0].ID != nil {
		l.value = granteeGrants{grants: grantsOf(rows)}
	}
	return l, nil
}

// What the following find allows the use, so one is enough.
const (
	// selectFiledGrant looks by the hash alone, which no index for anything else
	// serves: the planner has no choice, whatever it knows of the table.
	selectFiledGrant = grantColumns + `
LEFT JOIN LATERAL (
	SELECT found.*
	FROM unnest(@filed::text[]) AS asked (filed)
	CROSS JOIN LATERAL (
		SELECT *
		FROM grants
		WHERE filed = asked.filed AND operations @> @operations AND source_arn IN ('', @sourceARN)
		LIMIT 1
	) AS found
	WHERE found.account = k.account AND found.region = k.region AND found.key_id = k.id
	  AND found.grantee = @grantee AND found.grantee_id = @granteeID
	LIMIT 1
) AS g ON true
WHERE k.region = @region AND k.id = @keyID`

	// selectUsableGrant looks at the grantee's grants. For a context that is nil every
	// constraint does.
	selectUsableGrant = grantColumns + `
LEFT JOIN LATERAL (
	SELECT *
	FROM grants
	WHERE account = k.account AND region = k.region AND key_id = k.id AND grantee = @grantee AND grantee_id = @granteeID
	  AND operations @> @operations AND source_arn IN ('', @sourceARN)
	  AND (@pairs::text[] IS NULL OR pairs <@ @pairs AND (encryption_context_equals IS NULL OR cardinality(pairs) = cardinality(@pairs)))
	LIMIT 1
) AS g ON true
WHERE k.region = @region AND k.id = @keyID`
)

func loadUsableGrant(ctx context.Context, s *Store, region, keyID string, use GrantUse) (loaded, error) {
	args := pgx.StrictNamedArgs{
		"region": region, "keyID": keyID, "grantee": use.Grantee, "granteeID": use.GranteeID, "operations": use.Operations,
		"sourceARN": use.SourceARN,
	}
	var pairs []string
	if !use.AnyContext {
		pairs = pairsOf(use.Context)
	}
	if use.AnyContext || len(pairs) > maxEnumeratedPairs {
		args["pairs"] = pairs
		return loadGranteeGrants(ctx, s, selectUsableGrant, args)
	}
	var filed []string
	for _, constraint := range constraintsWithin(pairs) {
		filed = append(filed, filedUnder(region, keyID, use.Grantee, use.GranteeID, constraint))
	}
	args["filed"] = filed
	return loadGranteeGrants(ctx, s, selectFiledGrant, args)
}

// filedUnder is what a grant is found by if its constraint on the encryption context
// is known.
func filedUnder(region, keyID, grantee, granteeID, constraint string) string {
	return shortHash([]byte(strings.Join([]string{region, keyID, grantee, granteeID, constraint}, "\x00")))
}

// constrainedBy is a name of a grant's constraint on the encryption context, empty
// for none, and its pairs, each as a hash.
func constrainedBy(c policy.GrantConstraints) (name string, pairs []string) {
	switch {
	case c.EncryptionContextEquals != nil:
		pairs = pairsOf(c.EncryptionContextEquals)
		return equalsPrefix + hashOfPairs(pairs), pairs
	case len(c.EncryptionContextSubset) > 0:
		pairs = pairsOf(c.EncryptionContextSubset)
		return subsetPrefix + hashOfPairs(pairs), pairs
	}
	return "", []string{}
}

const (
	equalsPrefix = "e"
	subsetPrefix = "s"
	// maxEnumeratedPairs is how large an encryption context may be for its subsets
	// to be counted up.
	maxEnumeratedPairs = 6
)

// constraintsWithin are the names of all constraints that an encryption context of
// these pairs is within.
func constraintsWithin(pairs []string) []string {
	names := []string{"", equalsPrefix + hashOfPairs(pairs)}
	for chosen := 1; chosen < 1<<len(pairs); chosen++ {
		var subset []string
		for i, pair := range pairs {
			if chosen&(1<<i) != 0 {
				subset = append(subset, pair)
			}
		}
		names = append(names, subsetPrefix+hashOfPairs(subset))
	}
	return names
}

// pairsOf are the pairs of an encryption context as hashes, in their order.
func pairsOf(context map[string]string) []string {
	pairs := make([]string, 0, len(context))
	for k, v := range context {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(k)))
		pairs = append(pairs, shortHash(append(append(b, k...), v...)))
	}
	slices.Sort(pairs)
	return pairs
}

func hashOfPairs(pairs []string) string { return shortHash([]byte(strings.Join(pairs, ""))) }

// shortHash is 16 bytes of a hash, in hexadecimal digits.
func shortHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// effectOf is a hash of all that decides what a grant allows its grantee.
func effectOf(g *Grant, constraint string) [sha256.Size]byte {
	parts := append([]string{g.GranteeID, constraint, g.Constraints.SourceARN}, slices.Sorted(slices.Values(g.Operations))...)
	return sha256.Sum256([]byte(strings.Join(parts, "\x00")))
}
