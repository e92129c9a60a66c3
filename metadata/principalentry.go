package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/gateway/arn"
	"kmsgate/policy"
)

// Principal returns a user, a group or a role by its name. ErrNotFound if the
// account has none of that kind and name.
func (v *View) Principal(ctx context.Context, account string, kind PrincipalKind, name string) (*PrincipalEntry, error) {
	e, err := v.read(ctx, principalKey(account, kind, name))
	if err != nil {
		return nil, wrap(err, "%s %s of %s", kind, name, account)
	}
	return e.(*PrincipalEntry), nil
}

// heldPolicy is a policy of a principal or of one of a user's groups.
type heldPolicy struct {
	Kind     PrincipalKind // of whom it belongs to
	Name     string
	Path     string
	Policy   string  // its name
	Managed  *string // path of a managed policy; nil for an inline one
	Document string
}

// principalRow is a principal with all that hangs on it.
type principalRow struct {
	Principal
	accountVersion   int64
	held             []heldPolicy
	tags             []Tag
	boundaryDocument *string
}

// One statement, hence one snapshot: the row, its account's version, its own
// policies before those of its groups, its tags and its boundary.
const selectPrincipal = `
WITH holders AS (
	SELECT kind, name, path
	FROM principals
	WHERE account = @account AND kind = @kind AND name = @name
	UNION ALL
	SELECT g.kind, g.name, g.path
	FROM group_members m
	JOIN principals g ON g.account = m.account AND g.kind = 'group' AND g.name = m.name
	WHERE m.account = @account AND m.user_kind = @kind AND m.user_name = @name
), held AS (
	SELECT h.kind, h.name, h.path, i.policy_name AS policy, NULL AS managed, i.document
	FROM holders h
	JOIN principal_policies i ON i.account = @account AND i.kind = h.kind AND i.name = h.name
	UNION ALL
	SELECT h.kind, h.name, h.path, m.name, m.path, m.document
	FROM holders h
	JOIN policy_attachments t ON t.account = @account AND t.kind = h.kind AND t.name = h.name
	JOIN managed_policies m ON m.account = t.account AND m.name = t.policy_name
)
SELECT ` + principalColumns + `, a.version,
	(SELECT json_agg(held ORDER BY held.kind <> @kind, held.name, held.managed IS NOT NULL, held.policy) FROM held),
	(SELECT json_agg(json_build_object('key', t.key, 'value', t.value) ORDER BY t.key)
	 FROM principal_tags t WHERE t.account = p.account AND t.kind = p.kind AND t.name = p.name),
	(SELECT m.document FROM managed_policies m
	 WHERE m.account = p.account AND 'arn:aws:iam::' || m.account || ':policy' || m.path || m.name = p.boundary)
FROM principals p
JOIN accounts a ON a.id = p.account
WHERE p.account = @account AND p.kind = @kind AND p.name = @name`

func loadPrincipal(ctx context.Context, s *Store, key cacheKey) (loaded, error) {
	kind, name := splitPrincipalID(key.id)
	args := pgx.StrictNamedArgs{"account": key.account, "kind": kind, "name": name}
	rows, err := s.pool.Query(ctx, selectPrincipal, args)
	if err != nil {
		return loaded{}, err
	}
	row, err := pgx.CollectExactlyOneRow(rows, func(r pgx.CollectableRow) (*principalRow, error) {
		row := new(principalRow)
		err := scanPrincipal(r, &row.Principal, &row.accountVersion, &row.held, &row.tags, &row.boundaryDocument)
		return row, err
	})
	if err != nil {
		return loaded{}, wrap(err, "select")
	}
	entry, err := row.entry()
	if err != nil {
		return loaded{}, fmt.Errorf("%s %s of %s: %w", kind, name, key.account, err)
	}
	return loaded{value: entry, account: entry.Account, version: row.accountVersion, size: row.size()}, nil
}

// entry compiles all documents. One that does not compile is an error: without a
// policy more might be allowed than with it.
func (r *principalRow) entry() (*PrincipalEntry, error) {
	e := &PrincipalEntry{Principal: r.Principal, Tags: r.tags}
	for _, h := range r.held {
		compiled, err := policy.ParseIdentity(h.Document)
		if err != nil {
			return nil, fmt.Errorf("stored policy %s: %w", h.Policy, err)
		}
		holder := Principal{Account: r.Account, Kind: h.Kind, Name: h.Name, Path: h.Path}
		named := NamedPolicy{Name: h.Policy, Of: holder.ARN(), Policy: compiled}
		if h.Managed != nil {
			named.Name = arn.Policy(r.Account, *h.Managed, h.Policy)
		}
		e.Policies, e.Identity = append(e.Policies, named), append(e.Identity, compiled)
	}
	var err error
	if e.BoundaryPolicy, err = r.compileBoundary(); err != nil {
		return nil, err
	}
	if e.TrustPolicy, err = r.compileTrust(); err != nil {
		return nil, err
	}
	return e, nil
}

func (r *principalRow) compileBoundary() (*policy.Policy, error) {
	if r.Boundary == "" {
		return nil, nil
	}
	if r.boundaryDocument == nil {
		return nil, fmt.Errorf("permissions boundary %s is not there", r.Boundary)
	}
	boundary, err := policy.ParseIdentity(*r.boundaryDocument)
	if err != nil {
		return nil, fmt.Errorf("permissions boundary %s: %w", r.Boundary, err)
	}
	return boundary, nil
}

func (r *principalRow) compileTrust() (*policy.Policy, error) {
	if r.Kind != Role {
		return nil, nil
	}
	trust, err := policy.ParseTrust(r.Trust)
	if err != nil {
		return nil, fmt.Errorf("stored trust policy: %w", err)
	}
	return trust.Bind(r.TrustBindings), nil
}

// size estimates the bytes of the entry that is made of the row.
func (r *principalRow) size() int {
	size := 1024 + compiledFactor*(len(r.Trust)+len(orZero(r.boundaryDocument)))
	for _, h := range r.held {
		size += 256 + compiledFactor*len(h.Document)
	}
	for _, t := range r.tags {
		size += 64 + len(t.Key) + len(t.Value)
	}
	for a, id := range r.TrustBindings {
		size += 64 + len(a) + len(id)
	}
	return size
}

// principalColumns are the columns of principals p, for scanPrincipal.
const principalColumns = `p.account, p.kind, p.name, p.path, p.id, p.created_at, p.boundary, p.description, p.trust,
	p.trust_bindings, p.max_session, p.revoked_before`

// scanPrincipal scans principalColumns and what comes after them.
func scanPrincipal(row pgx.CollectableRow, p *Principal, more ...any) error {
	var boundary, trust *string
	var maxSession *int32
	var revokedBefore *time.Time
	err := row.Scan(append([]any{
		&p.Account, &p.Kind, &p.Name, &p.Path, &p.ID, &p.CreatedAt, &boundary, &p.Description, &trust,
		&p.TrustBindings, &maxSession, &revokedBefore,
	}, more...)...)
	p.Boundary, p.Trust, p.RevokedBefore = orZero(boundary), orZero(trust), orZero(revokedBefore)
	p.MaxSession = time.Duration(orZero(maxSession)) * time.Second
	return err
}
