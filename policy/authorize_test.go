package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/policy"
)

const (
	userARN    = "arn:aws:iam::" + account + ":user/alice"
	roleARN    = "arn:aws:iam::" + account + ":role/path/R"
	sessionARN = "arn:aws:sts::" + account + ":assumed-role/R/S"
	fedARN     = "arn:aws:sts::" + account + ":federated-user/bob"
	otherRoot  = "arn:aws:iam::" + other + ":root"
	otherUser  = "arn:aws:iam::" + other + ":user/eve"
	logs       = "logs.eu-west-1.amazonaws.com"
	provider   = "accounts.example.com"
)

var callers = map[string]policy.Principal{
	"root":       {Kind: policy.AccountRoot, Account: account, ARN: rootARN},
	"user":       {Kind: policy.User, Account: account, ARN: userARN},
	"session":    {Kind: policy.RoleSession, Account: account, ARN: sessionARN, RoleARN: roleARN},
	"federated":  {Kind: policy.FederatedUser, Account: account, ARN: fedARN},
	"other root": {Kind: policy.AccountRoot, Account: other, ARN: otherRoot},
	"other user": {Kind: policy.User, Account: other, ARN: otherUser},
	"service":    {Kind: policy.Service, ARN: logs},
	"web":        {Kind: policy.WebIdentity, ARN: provider},
}

func mustParseIdentity(tb testing.TB, document string) *policy.Policy {
	tb.Helper()
	p, err := policy.ParseIdentity(document)
	if err != nil {
		tb.Fatalf("ParseIdentity(%s) = %v", document, err)
	}
	return p
}

// userInput is a request of a user to encrypt with a key of its account.
func userInput(tb testing.TB, keyPolicy string, identities ...*policy.Policy) policy.Input {
	in := rootInput(tb, keyPolicy)
	in.Caller = callers["user"]
	in.Identity = identities
	return in
}

// naming is a key policy with one statement, whose Principal or NotPrincipal is given.
func naming(effect, principal string) string {
	return `{"Statement": [{"Effect": "` + effect + `", ` + principal + `, "Action": "kms:*", "Resource": "*"}]}`
}

func aws(names ...string) string { return `{"AWS": ["` + strings.Join(names, `", "`) + `"]}` }

func TestPrincipalElement(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, principal, allowed string }{ // allowed: names of callers, parted by commas
		{"anyone", `"Principal": "*"`, "root,user,session,federated,service,web"},
		{"anyone by AWS", `"Principal": {"AWS": "*"}`, "root,user,session,federated,service,web"},
		{"account", `"Principal": {"AWS": "` + account + `"}`, "root"},
		{"account by ARN", `"Principal": {"AWS": "` + rootARN + `"}`, "root"},
		{"user", `"Principal": ` + aws(userARN), "user"},
		{"user in other case", `"Principal": ` + aws("arn:aws:iam::"+account+":user/Alice"), ""},
		{"role", `"Principal": ` + aws(roleARN), "session"},
		{"session", `"Principal": ` + aws(sessionARN), "session"},
		{"other session", `"Principal": ` + aws("arn:aws:sts::"+account+":assumed-role/R/T"), ""},
		{"federated user", `"Principal": ` + aws(fedARN), "federated"},
		{"service", `"Principal": {"Service": "` + logs + `"}`, "service"},
		{"provider", `"Principal": {"Federated": "` + provider + `"}`, "web"},
		{"list", `"Principal": {"AWS": ["` + userARN + `", "` + roleARN + `"], "Service": "` + logs + `"}`, "user,session,service"},
		{"not the user", `"NotPrincipal": ` + aws(userARN), "root,session,federated,service,web"},
		{"not the account", `"NotPrincipal": ` + aws(account), "service,web"},
		{"not anyone", `"NotPrincipal": "*"`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := rootInput(t, naming("Allow", tt.principal))
			for name, caller := range callers {
				in.Caller = caller
				want := strings.Contains(","+tt.allowed+",", ","+name+",")
				if got := policy.Authorize(in).Allowed; got != want {
					t.Errorf("Authorize for %s = %t, want %t", name, got, want)
				}
			}
		})
	}
}

func TestDenyWithPrincipals(t *testing.T) {
	t.Parallel()
	const all = "root,user,session,federated,service,web"
	tests := []struct{ name, principal, denied string }{
		{"anyone", `"Principal": "*"`, all},
		{"account", `"Principal": ` + aws(account), "root,user,session,federated"},
		{"role", `"Principal": ` + aws(roleARN), "session"},
		{"not the account", `"NotPrincipal": ` + aws(account), "user,session,federated,service,web"},
		{"not the user", `"NotPrincipal": ` + aws(userARN), all},
		{"not account and user", `"NotPrincipal": ` + aws(account, userARN), "session,federated,service,web"},
		{"not account and role", `"NotPrincipal": ` + aws(account, roleARN), "user,session,federated,service,web"},
		{"not account and session", `"NotPrincipal": ` + aws(account, sessionARN), "user,session,federated,service,web"},
		{"not all of the session", `"NotPrincipal": ` + aws(account, roleARN, sessionARN), "user,federated,service,web"},
		{"not the service", `"NotPrincipal": {"Service": "` + logs + `"}`, "root,user,session,federated,web"},
		{"not anyone", `"NotPrincipal": "*"`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := rootInput(t, naming("Deny", tt.principal))
			for _, name := range strings.Split(all, ",") {
				in.Caller = callers[name]
				want := strings.Contains(","+tt.denied+",", ","+name+",")
				if got := policy.Authorize(in).Reason == policy.KeyPolicyDenies; got != want {
					t.Errorf("Authorize denies %s = %t, want %t", name, got, want)
				}
			}
		})
	}
}

func TestDenyWithNotPrincipalAlwaysDeniesTheBounded(t *testing.T) {
	t.Parallel()
	in := userInput(t, naming("Deny", `"NotPrincipal": `+aws(account, userARN)))
	in.Boundary = mustParseIdentity(t, identity(""))
	if got := policy.Authorize(in).Reason; got != policy.KeyPolicyDenies {
		t.Errorf("Authorize = %v, want %v", got, policy.KeyPolicyDenies)
	}
}

func TestActionAndResourceElements(t *testing.T) {
	t.Parallel()
	const alias = "arn:aws:kms:us-east-1:" + account + ":alias/a"
	tests := []struct {
		name, elements string
		want           bool
	}{
		{"all", `"Action": "*", "Resource": "*"`, true},
		{"all services", `"Action": "*:*", "Resource": "*"`, true},
		{"exact", `"Action": "kms:Encrypt", "Resource": "*"`, true},
		{"case", `"Action": "KMS:eNCRYPT", "Resource": "*"`, true},
		{"other", `"Action": "kms:Decrypt", "Resource": "*"`, false},
		{"list", `"Action": ["kms:Decrypt", "kms:Encrypt"], "Resource": "*"`, true},
		{"prefix", `"Action": "kms:Enc*", "Resource": "*"`, true},
		{"suffix", `"Action": "kms:*CRYPT", "Resource": "*"`, true},
		{"wrong suffix", `"Action": "kms:*crypts", "Resource": "*"`, false},
		{"long suffix", `"Action": "kms:*` + strings.Repeat("x", 99) + `", "Resource": "*"`, false},
		{"middle", `"Action": "kms:*CRY*", "Resource": "*"`, true},
		{"no such middle", `"Action": "kms:*xyz*", "Resource": "*"`, false},
		{"one character", `"Action": "kms:?ncr??t", "Resource": "*"`, true},
		{"one at the end", `"Action": "kms:*p?", "Resource": "*"`, true},
		{"not action", `"NotAction": "kms:Decrypt", "Resource": "*"`, true},
		{"not this action", `"NotAction": "kms:E*", "Resource": "*"`, false},
		{"this key", `"Action": "*", "Resource": "` + keyARN + `"`, true},
		{"other key", `"Action": "*", "Resource": "` + keyARN + `0"`, false},
		{"key id alone", `"Action": "*", "Resource": "1234abcd-12ab-34cd-56ef-1234567890ab"`, false},
		{"alias", `"Action": "*", "Resource": "` + alias + `"`, false},
		{"regions", `"Action": "*", "Resource": "arn:aws:kms:*:` + account + `:key/*"`, true},
		{"character", `"Action": "*", "Resource": "arn:aws:kms:us-?ast-1:*:key/1234*"`, true},
		{"across fields", `"Action": "*", "Resource": "arn:aws:kms:*:key/*"`, false},
		{"stars across fields", `"Action": "*", "Resource": "arn:aws:*:*:*:KEY/*"`, false},
		{"almost all", `"Action": "*", "Resource": "**"`, false},
		{"not other keys", `"Action": "*", "NotResource": ["x", "arn:aws:kms:us-east-1:*:key/mrk-*"]`, true},
		{"not this key", `"Action": "*", "NotResource": "` + keyARN + `"`, false},
		{"variable", `"Action": "*", "Resource": "arn:aws:kms:*:*:key/${a:key}"`, true},
		{"unset variable", `"Action": "*", "Resource": "arn:aws:kms:*:*:key/*${a:none}"`, false},
		{"unset variable with a default", `"Action": "*", "Resource": "arn:aws:kms:*:*:key/${a:none, '1234abcd-12ab-34cd-56ef-1234567890ab'}"`, true},
		{"escaped star", `"Action": "*", "Resource": "arn:aws:kms:*:*:key/1234${*}"`, false},
		{"not another's key", `"Action": "*", "NotResource": ["arn:aws:s3:::x", "arn:aws:kms:*:*:key/${a:none, 'mrk-1'}"]`, true},
		{"no action", `"Resource": "*"`, false},
		{"no resource", `"Action": "*"`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, effect := range []string{"Allow", "Deny"} {
				in := rootInput(t, `{"Version": "2012-10-17", "Statement": {"Effect": "`+effect+`", "Principal": "*", `+tt.elements+`}}`)
				in.Context = policy.Facts{{"a:key", []string{"1234abcd-12ab-34cd-56ef-1234567890ab"}}}
				d := policy.Authorize(in)
				if got := d.Allowed || d.Reason == policy.KeyPolicyDenies; got != tt.want {
					t.Errorf("statement that says %s applies = %t, want %t", effect, got, tt.want)
				}
			}
		})
	}
}

// A variable without a value excludes nothing: a Deny of all others is for this
// key too, and an Allow of all others for none.
func TestNotResourceWithAnUnsetVariable(t *testing.T) {
	t.Parallel()
	for effect, want := range map[string]policy.Reason{"Allow": policy.NoKeyPolicyAllows, "Deny": policy.KeyPolicyDenies} {
		in := rootInput(t, `{"Version": "2012-10-17", "Statement": {"Effect": "`+effect+`", "Principal": "*", "Action": "*", "NotResource": "arn:aws:kms:*:*:key/${a:none}"}}`)
		if got := policy.Authorize(in).Reason; got != want {
			t.Errorf("Authorize with %s = %v, want %v", effect, got, want)
		}
	}
}

func TestEvaluation(t *testing.T) {
	t.Parallel()
	var (
		all      = mustParseIdentity(t, identity(""))
		none     = mustParseIdentity(t, strings.Replace(identity(""), "kms:*", "s3:*", 1))
		deny     = mustParseIdentity(t, strings.Replace(identity(`"Sid": "no"`), "Allow", "Deny", 1))
		accounts = policy.DefaultKeyPolicy(account)
		nobody   = naming("Allow", `"Principal": `+aws(otherUser+"x"))
		denies   = naming("Deny", `"Principal": "*"`)
		toUser   = naming("Allow", `"Principal": `+aws(userARN, sessionARN, fedARN))
		toRole   = naming("Allow", `"Principal": `+aws(roleARN))
		toAll    = naming("Allow", `"Principal": "*"`)
		toOther  = naming("Allow", `"Principal": `+aws(otherUser))
		toOthers = naming("Allow", `"Principal": `+aws(other))
	)
	ids := func(p ...*policy.Policy) []*policy.Policy { return p }
	tests := []struct {
		name, caller, keyPolicy string
		identity                []*policy.Policy
		boundary                *policy.Policy
		session                 []*policy.Policy
		ownOnly                 bool
		want                    policy.Reason
	}{
		{name: "root by default", caller: "root", keyPolicy: accounts, want: policy.AccountAllows},
		{name: "root shut out", caller: "root", keyPolicy: nobody, want: policy.NoKeyPolicyAllows},
		{name: "root denied", caller: "root", keyPolicy: denies, want: policy.KeyPolicyDenies},
		{name: "root by anyone", caller: "root", keyPolicy: toAll, want: policy.KeyPolicyAllows},
		{name: "root and its identity's deny", caller: "root", keyPolicy: accounts, identity: ids(deny), want: policy.IdentityDenies},
		{name: "root session limited", caller: "root", keyPolicy: accounts, session: ids(none), want: policy.NoSessionAllows},

		{name: "user without policies", caller: "user", keyPolicy: accounts, want: policy.NoIdentityAllows},
		{name: "user by IAM", caller: "user", keyPolicy: accounts, identity: ids(none, all), want: policy.AccountAllows},
		{name: "user by IAM alone", caller: "user", keyPolicy: nobody, identity: ids(all), want: policy.NoKeyPolicyAllows},
		{name: "user by name", caller: "user", keyPolicy: toUser, want: policy.KeyPolicyAllows},
		{name: "user by name, boundary and session", caller: "user", keyPolicy: toUser, boundary: none, session: ids(none), want: policy.KeyPolicyAllows},
		{name: "user by name, denied by IAM", caller: "user", keyPolicy: toUser, identity: ids(all, deny, all), want: policy.IdentityDenies},
		{name: "user by name, denied by boundary", caller: "user", keyPolicy: toUser, boundary: deny, want: policy.BoundaryDenies},
		{name: "user by name, denied by session", caller: "user", keyPolicy: toUser, session: ids(all, deny), want: policy.SessionDenies},
		{name: "user within boundary", caller: "user", keyPolicy: accounts, identity: ids(all), boundary: all, want: policy.AccountAllows},
		{name: "user beyond boundary", caller: "user", keyPolicy: accounts, identity: ids(all), boundary: none, want: policy.NoBoundaryAllows},
		{name: "user by boundary alone", caller: "user", keyPolicy: accounts, boundary: all, want: policy.NoIdentityAllows},
		{name: "user by anyone beyond boundary", caller: "user", keyPolicy: toAll, boundary: none, want: policy.NoBoundaryAllows},

		{name: "session by name", caller: "session", keyPolicy: toUser, boundary: none, session: ids(none), want: policy.KeyPolicyAllows},
		{name: "session by role", caller: "session", keyPolicy: toRole, want: policy.KeyPolicyAllows},
		{name: "session by role, session policy", caller: "session", keyPolicy: toRole, session: ids(none, all), want: policy.KeyPolicyAllows},
		{name: "session by role beyond boundary", caller: "session", keyPolicy: toRole, boundary: none, want: policy.NoBoundaryAllows},
		{name: "session by role beyond session policy", caller: "session", keyPolicy: toRole, session: ids(none), want: policy.NoSessionAllows},
		{name: "session by IAM beyond session policy", caller: "session", keyPolicy: accounts, identity: ids(all), session: ids(none), want: policy.NoSessionAllows},
		{name: "session by session policy alone", caller: "session", keyPolicy: accounts, session: ids(all), want: policy.NoIdentityAllows},

		{name: "federated user by name beyond session policy", caller: "federated", keyPolicy: toUser, session: ids(none), want: policy.KeyPolicyAllows},
		{name: "federated user by IAM", caller: "federated", keyPolicy: accounts, identity: ids(all), session: ids(all), want: policy.AccountAllows},
		{name: "federated user beyond session policy", caller: "federated", keyPolicy: accounts, identity: ids(all), session: ids(none), want: policy.NoSessionAllows},
		{name: "federated user by session policy alone", caller: "federated", keyPolicy: accounts, session: ids(all), want: policy.NoIdentityAllows},

		{name: "service by anyone", caller: "service", keyPolicy: toAll, want: policy.KeyPolicyAllows},
		{name: "service by default", caller: "service", keyPolicy: accounts, want: policy.NoKeyPolicyAllows},

		{name: "other root by default", caller: "other root", keyPolicy: accounts, want: policy.Foreign},
		{name: "other root by its account", caller: "other root", keyPolicy: toOthers, want: policy.BothSidesAllow},
		{name: "other root by anyone", caller: "other root", keyPolicy: toAll, want: policy.BothSidesAllow},
		{name: "other root, own keys only", caller: "other root", keyPolicy: toOthers, ownOnly: true, want: policy.Foreign},
		{name: "other root denied", caller: "other root", keyPolicy: denies, want: policy.Foreign},
		{name: "other user by name alone", caller: "other user", keyPolicy: toOther, want: policy.NoIdentityAllows},
		{name: "other user by both sides", caller: "other user", keyPolicy: toOther, identity: ids(all), want: policy.BothSidesAllow},
		{name: "other user by account and IAM", caller: "other user", keyPolicy: toOthers, identity: ids(all), want: policy.BothSidesAllow},
		{name: "other user by IAM alone", caller: "other user", keyPolicy: accounts, identity: ids(all), want: policy.Foreign},
		{name: "other user beyond boundary", caller: "other user", keyPolicy: toOther, identity: ids(all), boundary: none, want: policy.NoBoundaryAllows},
		{name: "other user denied at home", caller: "other user", keyPolicy: toOthers, identity: ids(all, deny), want: policy.IdentityDenies},
		{name: "other user denied by boundary", caller: "other user", keyPolicy: toOther, identity: ids(all), boundary: deny, want: policy.BoundaryDenies},
		{name: "other user denied by session", caller: "other user", keyPolicy: toOther, session: ids(deny), want: policy.SessionDenies},
		{name: "other user denied at home, not trusted", caller: "other user", keyPolicy: accounts, identity: ids(deny), want: policy.Foreign},
		{name: "other user denied by both", caller: "other user", keyPolicy: denies, identity: ids(deny), want: policy.Foreign},
	}
	allows := map[policy.Reason]bool{policy.KeyPolicyAllows: true, policy.AccountAllows: true, policy.BothSidesAllow: true}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := rootInput(t, tt.keyPolicy)
			in.Caller, in.Identity, in.Boundary, in.Session = callers[tt.caller], tt.identity, tt.boundary, tt.session
			in.CrossAccount = !tt.ownOnly
			if d := policy.Authorize(in); d.Reason != tt.want || d.Allowed != allows[tt.want] {
				t.Errorf("Authorize = %t by %v, want %t by %v", d.Allowed, d.Reason, allows[tt.want], tt.want)
			}
		})
	}
}

func TestIdentityOnlyOperations(t *testing.T) {
	t.Parallel()
	const alias = "arn:aws:kms:us-east-1:" + account + ":alias/a"
	onAlias := mustParseIdentity(t, strings.Replace(identity(""), `"Resource": "*"`, `"Resource": "`+alias+`"`, 1))
	tests := []struct {
		name, caller, resource string
		identity               *policy.Policy
		want                   policy.Reason
	}{
		{"root", "root", "*", nil, policy.IdentityAllows},
		{"root on its alias", "root", alias, nil, policy.IdentityAllows},
		{"root of another account", "other root", alias, nil, policy.Foreign},
		{"service", "service", "*", nil, policy.Foreign},
		{"user on alias", "user", alias, onAlias, policy.IdentityAllows},
		{"user on no resource", "user", "*", onAlias, policy.NoIdentityAllows},
		{"user without policies", "user", "*", nil, policy.NoIdentityAllows},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := policy.Input{Caller: callers[tt.caller], Action: "kms:CreateAlias", Resource: tt.resource, Owner: account, IdentityOnly: true, CrossAccount: true}
			if tt.identity != nil {
				in.Identity = []*policy.Policy{tt.identity}
			}
			if d := policy.Authorize(in); d.Reason != tt.want || d.Allowed != (tt.want == policy.IdentityAllows) {
				t.Errorf("Authorize = %+v, want %v", d, tt.want)
			}
		})
	}
}

func TestAnIncompleteQuestionIsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*policy.Input){
		"no caller":            func(in *policy.Input) { in.Caller = policy.Principal{} },
		"unknown kind":         func(in *policy.Input) { in.Caller.Kind = 99 },
		"role without session": func(in *policy.Input) { in.Caller.Kind = policy.Role },
		"no ARN":               func(in *policy.Input) { in.Caller.ARN = "" },
		"no account":           func(in *policy.Input) { in.Caller.Account = "" },
		"user with role":       func(in *policy.Input) { in.Caller.RoleARN = roleARN },
		"session's role":       func(in *policy.Input) { in.Caller.Kind = policy.RoleSession },
		"service's account":    func(in *policy.Input) { in.Caller.Kind = policy.Service },
		"no action":            func(in *policy.Input) { in.Action = "" },
		"no resource":          func(in *policy.Input) { in.Resource = "" },
		"no owner":             func(in *policy.Input) { in.Owner = "" },
		"lost identity":        func(in *policy.Input) { in.Identity = []*policy.Policy{nil} },
		"lost session":         func(in *policy.Input) { in.Session = []*policy.Policy{nil} },
		"contradiction":        func(in *policy.Input) { in.IdentityOnly = true },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := rootInput(t, document(""))
			spoil(&in)
			if d := policy.Authorize(in); d != (policy.Decision{}) {
				t.Errorf("Authorize = %+v, want Undecided", d)
			}
		})
	}
}

func TestWithoutKeyPolicyNothingIsAllowed(t *testing.T) {
	t.Parallel()
	in := rootInput(t, document(""))
	in.KeyPolicy = nil
	if got := policy.Authorize(in).Reason; got != policy.NoKeyPolicyAllows {
		t.Errorf("Authorize = %v, want %v", got, policy.NoKeyPolicyAllows)
	}
	in.Caller, in.CrossAccount = callers["other root"], true
	if got := policy.Authorize(in).Reason; got != policy.Foreign {
		t.Errorf("Authorize for another account = %v, want %v", got, policy.Foreign)
	}
}

func TestKeyPoliciesDoNotDecideRetireGrant(t *testing.T) {
	t.Parallel()
	for _, effect := range []string{"Allow", "Deny"} {
		in := rootInput(t, naming(effect, `"Principal": "*"`))
		in.Action = "kms:retiregrant"
		if got := policy.Authorize(in).Reason; got != policy.NoKeyPolicyAllows {
			t.Errorf("Authorize with %s = %v, want %v", effect, got, policy.NoKeyPolicyAllows)
		}
	}
}

func TestDecisionNamesTheStatement(t *testing.T) {
	t.Parallel()
	statement := func(sid, effect, principal, action string) string {
		return `{"Sid": "` + sid + `", "Effect": "` + effect + `", "Principal": ` + principal + `, "Action": "` + action + `", "Resource": "*"}`
	}
	keyPolicy := `{"Statement": [` + strings.Join([]string{
		statement("account", "Allow", aws(account), "kms:*"),
		statement("first by name", "Allow", aws(userARN), "kms:*crypt"),
		statement("second by name", "Allow", aws(userARN), "kms:*"),
		statement("first deny", "Deny", `"*"`, "kms:D*"),
		statement("second deny", "Deny", `"*"`, "kms:De*"),
		statement("late", "Allow", aws(userARN), "*"),
	}, ",") + `]}`
	denyIdentity := mustParseIdentity(t, `{"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}, {"Sid": "no", "Effect": "Deny", "Action": "kms:Sign", "Resource": "*"}]}`)
	tests := []struct {
		action string
		want   policy.Decision
	}{
		{"kms:Encrypt", policy.Decision{Allowed: true, Reason: policy.KeyPolicyAllows, Source: policy.KeyPolicySource, Statement: 1, Sid: "first by name"}},
		{"kms:Decrypt", policy.Decision{Reason: policy.KeyPolicyDenies, Source: policy.KeyPolicySource, Statement: 3, Sid: "first deny"}},
		{"kms:Sign", policy.Decision{Reason: policy.IdentityDenies, Source: policy.IdentitySource, Document: 1, Statement: 1, Sid: "no"}},
	}
	for _, tt := range tests {
		in := userInput(t, keyPolicy, mustParseIdentity(t, identity("")), denyIdentity)
		in.Action = tt.action
		if diff := cmp.Diff(tt.want, policy.Authorize(in)); diff != "" {
			t.Errorf("Authorize of %s (-want +got):\n%s", tt.action, diff)
		}
	}
	in := rootInput(t, keyPolicy)
	want := policy.Decision{Allowed: true, Reason: policy.AccountAllows, Source: policy.KeyPolicySource, Sid: "account"}
	if diff := cmp.Diff(want, policy.Authorize(in)); diff != "" {
		t.Errorf("Authorize of root (-want +got):\n%s", diff)
	}
}

func TestAllowsAlone(t *testing.T) {
	t.Parallel()
	put := func(effect, principal string) string {
		return naming(effect, `"Principal": `+principal)
	}
	tests := []struct {
		name, caller, doc string
		want              bool
	}{
		{"root by default", "root", policy.DefaultKeyPolicy(account), true},
		{"user by the account", "user", policy.DefaultKeyPolicy(account), true},
		{"session by role", "session", put("Allow", aws(roleARN)), true},
		{"other session", "session", put("Allow", aws("arn:aws:sts::"+account+":assumed-role/R/T")), false},
		{"root when a user is named", "root", put("Allow", aws(userARN)), false},
		{"other account", "other root", policy.DefaultKeyPolicy(account), false},
		{"anyone", "user", put("Allow", `"*"`), true},
		{"deny", "user", strings.Replace(put("Allow", `"*"`), "]}", `, {"Effect": "Deny", "Principal": "*", "Action": "kms:Put*", "Resource": "*"}]}`, 1), false},
		{"condition that does not hold", "user", document(`"Condition": {"StringEquals": {"a:k": "y"}}`), false},
		{"condition that holds", "user", document(`"Condition": {"StringEquals": {"a:k": "x"}}`), true},
		{"without the action", "user", strings.Replace(document(""), "kms:*", "kms:Get*", 1), false},
		{"nobody", "", document(""), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := policy.Input{
				Caller: callers[tt.caller], Action: "kms:PutKeyPolicy", Resource: keyARN,
				Context: policy.Facts{{"a:k", []string{"x"}}},
			}
			if got := mustParse(t, tt.doc).AllowsAlone(in); got != tt.want {
				t.Errorf("AllowsAlone = %t, want %t", got, tt.want)
			}
		})
	}
}
