package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/gateway/arn"
)

// MaxProviders is how many OIDC providers an account can have (IAM User Guide,
// "IAM and AWS STS quotas").
const MaxProviders = 100

// Provider is an OIDC provider of an account.
type Provider struct {
	Account     string
	URL         string // of the issuer, without "https://"
	ClientIDs   []string
	Thumbprints []string
	JWKS        string // uploaded JWK set; empty: the issuer is asked
	CreatedAt   time.Time
}

// ARN is the provider's ARN.
func (p *Provider) ARN() string { return arn.Provider(p.Account, p.URL) }

// Provider returns an OIDC provider by its URL without "https://". ErrNotFound if
// the account has no such provider.
func (v *View) Provider(ctx context.Context, account, url string) (*Provider, error) {
	p, err := v.read(ctx, providerKey(account, url))
	if err != nil {
		return nil, wrap(err, "OIDC provider of %s", account)
	}
	return p.(*Provider), nil
}

func providerKey(account, url string) cacheKey {
	return cacheKey{kind: kindProvider, account: account, id: url}
}

const selectProvider = `
SELECT p.account, p.url, p.client_ids, p.thumbprints, coalesce(p.jwks, '') AS jwks, p.created_at, a.version
FROM oidc_providers p
JOIN accounts a ON a.id = p.account
WHERE p.account = @account AND p.url = @url`

func loadProvider(ctx context.Context, s *Store, key cacheKey) (loaded, error) {
	p := new(Provider)
	l := loaded{value: p, account: key.account}
	err := s.pool.QueryRow(ctx, selectProvider, pgx.StrictNamedArgs{"account": key.account, "url": key.id}).
		Scan(&p.Account, &p.URL, &p.ClientIDs, &p.Thumbprints, &p.JWKS, &p.CreatedAt, &l.version)
	if err != nil {
		return loaded{}, wrap(err, "select")
	}
	l.size = 1024 + len(p.JWKS)
	for _, id := range p.ClientIDs {
		l.size += 16 + len(id)
	}
	return l, nil
}

const listProviders = `
SELECT account, url, client_ids, thumbprints, coalesce(jwks, '') AS jwks, created_at
FROM oidc_providers
WHERE account = @account
ORDER BY url
LIMIT @limit`

// ListProviders returns the OIDC providers of an account in the order of their
// URLs.
func (s *Store) ListProviders(ctx context.Context, account string) ([]Provider, error) {
	return list(ctx, s, "list OIDC providers", listProviders, pgx.StrictNamedArgs{"account": account, "limit": MaxProviders},
		pgx.RowToStructByName[Provider])
}

const insertProvider = `
INSERT INTO oidc_providers (account, url, client_ids, thumbprints, created_at)
VALUES (@account, @url, @clientIDs, @thumbprints, @createdAt)`

const countProviders = `
SELECT count(*)
FROM oidc_providers
WHERE account = @account`

// InsertProvider adds an OIDC provider whose issuer is asked for its keys; p.JWKS
// is not read. ErrExists if the account has one of that URL, *LimitError if it has
// [MaxProviders], ErrNotFound if there is no such account.
func (tx *Tx) InsertProvider(ctx context.Context, p Provider) error {
	err := tx.insertOfAccount(ctx, p.Account, insertProvider, pgx.StrictNamedArgs{
		"account": p.Account, "url": p.URL, "clientIDs": nonNil(p.ClientIDs), "thumbprints": nonNil(p.Thumbprints), "createdAt": p.CreatedAt,
	}, countProviders, MaxProviders)
	tx.touch(p.Account, target{Kind: kindProvider, ID: p.URL})
	return wrap(err, "insert OIDC provider %s", p.URL)
}

// nonNil is the list for a column that is never NULL.
func nonNil(texts []string) []string {
	if texts == nil {
		return []string{}
	}
	return texts
}

const selectClientIDs = `
SELECT client_ids
FROM oidc_providers
WHERE account = @account AND url = @url
FOR UPDATE`

const updateClientIDs = `
UPDATE oidc_providers SET client_ids = @clientIDs
WHERE account = @account AND url = @url`

// SetClientIDs replaces the client ids of an OIDC provider by what edit makes of
// them; no other change comes between. An error of edit is returned wrapped.
// ErrNotFound if the account has no such provider.
func (tx *Tx) SetClientIDs(ctx context.Context, account, url string, edit func([]string) ([]string, error)) error {
	var ids []string
	args := pgx.StrictNamedArgs{"account": account, "url": url}
	err := tx.tx.QueryRow(ctx, selectClientIDs, args).Scan(&ids)
	if err == nil {
		ids, err = edit(ids)
	}
	if err != nil {
		return wrap(err, "set client ids of OIDC provider %s", url)
	}
	return tx.changeProvider(ctx, updateClientIDs, account, url, pgx.StrictNamedArgs{"clientIDs": nonNil(ids)})
}

const updateJWKS = `
UPDATE oidc_providers SET jwks = nullif(@jwks, '')
WHERE account = @account AND url = @url`

// SetJWKS stores the JWK set that tokens of an OIDC provider are verified with, which
// must have been checked; empty means that the issuer is asked again. ErrNotFound
// if the account has no such provider.
func (tx *Tx) SetJWKS(ctx context.Context, account, url, jwks string) error {
	return tx.changeProvider(ctx, updateJWKS, account, url, pgx.StrictNamedArgs{"jwks": jwks})
}

const deleteProvider = `
DELETE FROM oidc_providers
WHERE account = @account AND url = @url`

// DeleteProvider removes an OIDC provider; trust policies may name it still.
// ErrNotFound if the account has no such provider.
func (tx *Tx) DeleteProvider(ctx context.Context, account, url string) error {
	args := pgx.StrictNamedArgs{"account": account, "url": url}
	err := tx.tx.QueryRow(ctx, selectClientIDs, args).Scan(nil) // its row first, as every change of it does
	if err == nil {
		err = tx.lockAccount(ctx, account)
	}
	if err != nil {
		return wrap(err, "delete OIDC provider %s", url)
	}
	return tx.changeProvider(ctx, deleteProvider, account, url, pgx.StrictNamedArgs{})
}

func (tx *Tx) changeProvider(ctx context.Context, sql, account, url string, args pgx.StrictNamedArgs) error {
	args["account"], args["url"] = account, url
	if err := tx.execOne(ctx, sql, args); err != nil {
		return wrap(err, "change OIDC provider %s", url)
	}
	tx.touch(account, target{Kind: kindProvider, ID: url})
	return nil
}
