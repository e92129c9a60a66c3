package gateway

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"kmsgate/metadata"
)

// TestWhoMayAssumeARole: both sides decide, and whoever may not cannot tell whether
// there is such a role.
func TestWhoMayAssumeARole(t *testing.T) {
	f := newFixture(t, nil)
	allow := identityPolicy("Allow", "sts:AssumeRole", "*")
	f.addUser(t, account1, "member", allow)
	poor := f.addUser(t, account1, "poor", "")
	f.addUser(t, account1, "denied", identityPolicy("Deny", "sts:*", "*"))
	friend := f.addUser(t, account2, "friend", allow)
	f.addUser(t, account2, "friendless", "")
	in := "arn:aws:iam::" + account1
	trusting := func(principal, condition string) string {
		return `{"Statement":{"Effect":"Allow","Principal":{"AWS":"` + principal + `"},"Action":"sts:AssumeRole","Condition":` + condition + `}}`
	}
	ours, theirs := f.addRole(t, "ours", trusting(account1, "{}"), allow), f.addRole(t, "theirs", trusting(account2, "{}"), allow)
	named := f.addRole(t, "named", trusting(poor, "{}"), allow)
	strict := f.addRole(t, "strict", trusting(account1, `{"StringEquals":{"sts:ExternalId":"secret","sts:RoleSessionName":"me"}}`), allow)
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		return tx.SetTrust(ctx, account1, "named", trusting(poor, "{}"), map[string]string{poor: f.idOf(t, "poor")})
	})
	missing := in + ":role/missing"
	for _, tc := range []struct {
		caller, role, more string
		allowed            bool
	}{
		{"member", ours, "", true},
		{"poor", ours, "", false},
		{"denied", ours, "", false},
		{"poor", named, "", true}, // by name, as a key policy would
		{"member", named, "", false},
		{"member", theirs, "", false},
		{"member", missing, "", false},
		{"member", in + ":role/path/ours", "", false},
		{"member", strict, "", false},
		{"member", strict, "&ExternalId=guess", false},
		{"member", strict, "&ExternalId=secret", true},
		{"friend", theirs, "", true},
		{"friend", ours, "", false},
		{"friend", missing, "", false},
		{"friendless", theirs, "", false},
	} {
		a := f.form(t, tc.caller, "sts", testRegion, stsForm+"AssumeRole&RoleSessionName=me&RoleArn="+tc.role+tc.more)
		account := account1
		if strings.HasPrefix(tc.caller, "friend") {
			account = account2
		}
		refusal := "<Code>AccessDenied</Code><Message>User: arn:aws:iam::" + account + ":user/" + tc.caller +
			" is not authorized to perform: sts:AssumeRole on resource: " + tc.role + "</Message>"
		if tc.allowed != a.has(200, "<SessionToken>") || !tc.allowed && !a.has(403, refusal) {
			t.Errorf("%s assumes %s%s: %d %s, want allowed %t", tc.caller, tc.role, tc.more, a.status, a.body, tc.allowed)
		}
		owner := map[string]bool{account: true}
		if tc.allowed {
			owner[account1] = true
		}
		if got, want := f.recipients(t, a), slices.Sorted(maps.Keys(owner)); !slices.Equal(got, want) {
			t.Errorf("%s assumes %s: recorded for %v, want %v", tc.caller, tc.role, got, want)
		}
	}
	for _, role := range []string{ours, missing} {
		a := f.form(t, account1, "sts", testRegion, stsForm+"AssumeRole&RoleSessionName=me&RoleArn="+role)
		if !a.has(403, "<Code>AccessDenied</Code><Message>Roles may not be assumed by root accounts.</Message>") {
			t.Errorf("the root assumes %s: %d %s", role, a.status, a.body)
		}
	}
	if a := f.form(t, "friend", "sts", testRegion, stsForm+"AssumeRole&RoleSessionName=me&RoleArn="+friend); !a.has(400, "<Code>ValidationError") {
		t.Errorf("a user is assumed: %d %s", a.status, a.body)
	}
}

// recipients are the accounts that a request is recorded for.
func (f *fixture) recipients(t *testing.T, a formAnswer) (accounts []string) {
	t.Helper()
	for _, e := range f.events(t) {
		if e.RequestID == a.requestID {
			accounts = append(accounts, e.RecipientAccountID)
		}
	}
	slices.Sort(accounts)
	return accounts
}
