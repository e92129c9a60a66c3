package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/policy"
)

const (
	userID = "AIDAALICE"
	roleID = "AROAR"
)

func TestBoundPrincipalsMatchByTheirID(t *testing.T) {
	t.Parallel()
	ids := map[string]string{userARN: userID, roleARN: roleID, sessionARN: roleID, fedARN: "unused"}
	moved := "arn:aws:iam::" + account + ":user/new/alice"
	tests := []struct {
		name, principal string
		caller          policy.Principal
		want            bool
	}{
		{"user", userARN, policy.Principal{Kind: policy.User, ARN: userARN, ID: userID}, true},
		{"user of another path now", userARN, policy.Principal{Kind: policy.User, ARN: moved, ID: userID}, true},
		{"user made again", userARN, policy.Principal{Kind: policy.User, ARN: userARN, ID: "AIDAOTHER"}, false},
		{"user without id", userARN, policy.Principal{Kind: policy.User, ARN: userARN}, false},
		{"user that nobody bound", moved, policy.Principal{Kind: policy.User, ARN: moved, ID: userID}, false},
		{"user that nobody bound, without id", moved, policy.Principal{Kind: policy.User, ARN: moved}, false},
		{"user with the role's id", roleARN, policy.Principal{Kind: policy.User, ARN: userARN, ID: roleID}, false},
		{"role", roleARN, policy.Principal{Kind: policy.RoleSession, ARN: sessionARN, RoleARN: roleARN, ID: roleID}, true},
		{"role made again", roleARN, policy.Principal{Kind: policy.RoleSession, ARN: sessionARN, RoleARN: roleARN, ID: "AROAOTHER"}, false},
		{"session", sessionARN, policy.Principal{Kind: policy.RoleSession, ARN: sessionARN, RoleARN: roleARN, ID: roleID}, true},
		{"other session", sessionARN, policy.Principal{Kind: policy.RoleSession, ARN: sessionARN + "2", RoleARN: roleARN, ID: roleID}, false},
		{"session of a role made again", sessionARN, policy.Principal{Kind: policy.RoleSession, ARN: sessionARN, RoleARN: roleARN, ID: "AROAOTHER"}, false},
		{"federated user", fedARN, policy.Principal{Kind: policy.FederatedUser, ARN: fedARN}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := rootInput(t, naming("Allow", `"Principal": `+aws(tt.principal)))
			in.Caller = tt.caller
			in.Caller.Account = account
			in.KeyPolicy = in.KeyPolicy.Bind(ids)
			if got := policy.Authorize(in).Allowed; got != tt.want {
				t.Errorf("Authorize = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestBindLeavesAccountsAndServicesAlone(t *testing.T) {
	t.Parallel()
	const doc = `{"AWS": ["` + account + `", "` + userARN + `"], "Service": "` + logs + `"}`
	for name, want := range map[string]bool{"root": true, "user": false, "service": true} {
		in := rootInput(t, naming("Allow", `"Principal": `+doc))
		in.Caller = callers[name]
		in.KeyPolicy = in.KeyPolicy.Bind(nil)
		if got := policy.Authorize(in).Allowed; got != want {
			t.Errorf("Authorize for %s = %t, want %t", name, got, want)
		}
	}
	unbound := mustParse(t, policy.DefaultKeyPolicy(account))
	if got := unbound.Bind(nil); got != unbound {
		t.Error("a policy that names nobody with an id is copied")
	}
}

func TestBindLeavesThePolicyItself(t *testing.T) {
	t.Parallel()
	in := userInput(t, naming("Allow", `"Principal": `+aws(userARN)))
	bound := in.KeyPolicy.Bind(nil)
	if !policy.Authorize(in).Allowed {
		t.Error("the policy that was bound does not match by ARN any more")
	}
	if diff := cmp.Diff(in.KeyPolicy.Principals(), bound.Principals()); diff != "" {
		t.Errorf("Principals of the bound policy (-want +got):\n%s", diff)
	}
}

func TestBoundNotPrincipal(t *testing.T) {
	t.Parallel()
	tests := []struct {
		effect, id string
		want       policy.Reason
	}{
		{"Deny", userID, policy.NoKeyPolicyAllows},
		{"Deny", "AIDAOTHER", policy.KeyPolicyDenies},
		{"Allow", userID, policy.NoKeyPolicyAllows},
		{"Allow", "AIDAOTHER", policy.NoKeyPolicyAllows}, // an Allow spares the name too
	}
	for _, tt := range tests {
		in := userInput(t, naming(tt.effect, `"NotPrincipal": `+aws(account, userARN)))
		in.KeyPolicy = in.KeyPolicy.Bind(map[string]string{userARN: userID})
		in.Caller.ID = tt.id
		if got := policy.Authorize(in).Reason; got != tt.want {
			t.Errorf("%s with NotPrincipal for id %s = %v, want %v", tt.effect, tt.id, got, tt.want)
		}
	}
}

func TestShowPrincipalsPutsIDsForTheDeleted(t *testing.T) {
	t.Parallel()
	doc := `{"Statement": [
		{"Effect": "Allow", "Principal": {"AWS": ["` + account + `", "` + userARN + `"], "Service": "` + userARN + `"}, "Resource": "` + userARN + `"},
		{"NotPrincipal": {"AWS": "` + userARN + `"}}, "` + userARN + `"], "Id": "` + userARN + `"}`
	got, err := policy.ShowPrincipals(doc, map[string]string{userARN: userID})
	if err != nil {
		t.Fatalf("ShowPrincipals = %v", err)
	}
	want, _ := policy.Format(strings.NewReplacer(
		`"`+account+`", "`+userARN+`"`, `"`+account+`", "`+userID+`"`,
		`"NotPrincipal": {"AWS": "`+userARN+`"}`, `"NotPrincipal": {"AWS": "`+userID+`"}`).Replace(doc))
	if got != want {
		t.Errorf("ShowPrincipals = %s, want %s", got, want)
	}
	single := naming("Allow", `"Principal": {"AWS": "`+userARN+`"}`)
	shown, err := policy.ShowPrincipals(single, map[string]string{userARN: userID})
	if err != nil || !strings.Contains(shown, userID) || strings.Contains(shown, userARN) {
		t.Errorf("ShowPrincipals = %s, %v, want %s in it", shown, err, userID)
	}
	_, err = policy.Parse(shown)
	if _, ok := errors.AsType[*policy.PrincipalError](err); !ok {
		t.Errorf("Parse of what is shown = %v, want *PrincipalError", err)
	}
	if got, err := policy.ShowPrincipals("x", nil); got != "" || err == nil {
		t.Errorf("ShowPrincipals of no JSON = %q, %v, want an error", got, err)
	}
}
