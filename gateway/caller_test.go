package gateway

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/session"
	"kmsgate/metadata/audit"
)

// TestRecordsSayWhoCalled holds what records say of each kind of caller.
func TestRecordsSayWhoCalled(t *testing.T) {
	t.Parallel()
	user, userSession := factUser, factUser
	userSession.Session = &session.Claims{IssuedAt: factTime, MFA: true}
	user.AccessKeyID = "AKIA2"
	for name, tc := range map[string]struct {
		caller identity.Caller
		want   audit.UserIdentity
	}{
		"root": {identity.Root(account1, "AKIA0"), audit.UserIdentity{
			Type: audit.Root, PrincipalID: account1, ARN: "arn:aws:iam::" + account1 + ":root", Account: account1, AccessKeyID: "AKIA0",
		}},
		"user": {user, audit.UserIdentity{
			Type: audit.IAMUser, PrincipalID: "AIDA1", ARN: factUser.ARN, Account: account1, AccessKeyID: "AKIA2", UserName: "u",
		}},
		"session of a user": {userSession, audit.UserIdentity{
			Type: audit.IAMUser, PrincipalID: "AIDA1", ARN: factUser.ARN, Account: account1, AccessKeyID: "AKIA1", UserName: "u",
			Session: &audit.Session{Created: factTime, MFA: true},
		}},
		"session of a role": {factSession, audit.UserIdentity{
			Type: audit.AssumedRole, PrincipalID: "AROA1:s", ARN: factSession.ARN, Account: account1,
			Session: &audit.Session{
				Created: factTime, FederatedProvider: factSession.Session.Provider,
				Issuer: audit.Issuer{PrincipalID: "AROA1", ARN: "arn:aws:iam::" + account1 + ":role/a/r", Account: account1, UserName: "r"},
			},
		}},
	} {
		if diff := cmp.Diff(tc.want, recorded(tc.caller)); diff != "" {
			t.Errorf("record of a %s (-want +got):\n%s", name, diff)
		}
	}
}
