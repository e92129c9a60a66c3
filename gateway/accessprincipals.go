package gateway

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"kmsgate/gateway/arn"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// subject is a principal whose access is looked at.
type subject struct {
	kind  string // as it is shown
	shown string
	// principal as policies see it; of a role a session of no name of its own.
	principal policy.Principal
	entry     *metadata.PrincipalEntry // nil for roots and services
}

// anySession stands for the name of a role's sessions.
const anySession = "-"

// eachSubject visits the principals whose access to the key is worth a look, each
// once: those of the key's account, those that its policy or a grant names, and
// everybody else.
func (s *survey) eachSubject(visit func(subject)) error {
	accounts, others := []string{s.key.Account}, []named{}
	seen := map[string]bool{s.key.Account: true}
	for _, n := range s.named() {
		switch {
		case n.kind == policy.AccountRoot && !seen[n.account]:
			accounts = append(accounts, n.account)
			seen[n.account] = true
		case n.kind != policy.AccountRoot:
			others = append(others, n)
		}
	}
	for _, account := range accounts {
		if err := s.eachOfAccount(account, visit); err != nil {
			return err
		}
	}
	for _, n := range others {
		if seen[n.arn] || seen[n.account] && n.kind != policy.RoleSession {
			continue // one of an account that was looked at as a whole
		}
		seen[n.arn] = true
		if err := s.visitNamed(n, visit); err != nil {
			return err
		}
	}
	visit(subject{
		kind: "everybody else", shown: "*",
		principal: policy.Principal{Kind: policy.AccountRoot, Account: nobody, ARN: arn.Root(nobody)},
	})
	return nil
}

// nobody is an account that there is not; what it may do everybody may.
const nobody = "000000000000"

// named is a principal that the key's policy or a grant names.
type named struct {
	kind         policy.Kind
	account, arn string
}

// named are the principals that are named, with repetitions.
func (s *survey) named() (all []named) {
	for _, m := range s.key.Policy.Principals() {
		all = append(all, named{m.Kind, m.Account, m.ARN})
	}
	for _, grantee := range slices.Sorted(maps.Keys(s.grants)) {
		if s.grants[grantee][0].GranteeIsService {
			all = append(all, named{policy.Service, "", grantee})
		} else if p, ok := arn.ParseIAM(grantee); ok {
			all = append(all, named{kindsByARN[p.Kind], p.Account, grantee})
		}
	}
	return all
}

// kindsByARN are the kinds of principals that ARNs name.
var kindsByARN = map[string]policy.Kind{
	"root": policy.AccountRoot, "user": policy.User, "role": policy.Role, "assumed-role": policy.RoleSession,
	"federated-user": policy.FederatedUser,
}

// principalPage is how many principals are read at once.
const principalPage = 500

// eachOfAccount visits an account's root, its users and its roles. Of an account
// that is not known here there is the root alone.
func (s *survey) eachOfAccount(account string, visit func(subject)) error {
	visit(subject{
		kind: kindNames[policy.AccountRoot], shown: arn.Root(account),
		principal: policy.Principal{Kind: policy.AccountRoot, Account: account, ARN: arn.Root(account)},
	})
	for _, kind := range []metadata.PrincipalKind{metadata.User, metadata.Role} {
		after := ""
		for {
			page, err := s.store.ListPrincipals(s.ctx, account, kind, "/", after, principalPage)
			if err != nil {
				return err
			}
			for i := range page {
				after = page[i].Name
				if err := s.visitEntry(account, kind, after, anySession, visit); err != nil {
					return err
				}
			}
			if len(page) < principalPage {
				break
			}
		}
	}
	return nil
}

// visitEntry visits a user, or a session of a role, if it is there.
func (s *survey) visitEntry(account string, kind metadata.PrincipalKind, name, session string, visit func(subject)) error {
	entry, err := s.view.Principal(s.ctx, account, kind, name)
	if errors.Is(err, metadata.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	who := subject{
		kind: kindNames[policy.User], shown: entry.ARN(), entry: entry,
		principal: policy.Principal{Kind: policy.User, Account: account, ARN: entry.ARN(), ID: entry.ID},
	}
	if kind == metadata.Role {
		who.kind = "role"
		who.principal.Kind, who.principal.RoleARN = policy.RoleSession, entry.ARN()
		who.principal.ARN = arn.RoleSession(account, name, session)
	}
	if session != anySession {
		who.kind, who.shown = kindNames[policy.RoleSession], who.principal.ARN
	}
	visit(who)
	return nil
}

// visitNamed visits a principal by its ARN, if it is known here.
func (s *survey) visitNamed(n named, visit func(subject)) error {
	p, _ := arn.ParseIAM(n.arn) // a service has none
	switch n.kind {
	case policy.User:
		return s.visitEntry(n.account, metadata.User, p.Name, anySession, visit)
	case policy.Role:
		return s.visitEntry(n.account, metadata.Role, p.Name, anySession, visit)
	case policy.RoleSession:
		role, session, _ := strings.Cut(p.Name, "/")
		return s.visitEntry(n.account, metadata.Role, role, session, visit)
	case policy.Service, policy.WebIdentity:
		visit(subject{kind: kindNames[n.kind], shown: n.arn, principal: policy.Principal{Kind: n.kind, ARN: n.arn}})
	default: // federated users cannot be: nobody makes such sessions
	}
	return nil
}
