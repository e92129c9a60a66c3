package policy_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kmsgate/policy"
)

func grants(g ...*policy.Grant) []*policy.Grant { return g }

// grantInput asks for an operation on a key whose policy allows nothing.
func grantInput(tb testing.TB, caller, action string) policy.Input {
	in := rootInput(tb, naming("Allow", `"Principal": `+aws(otherUser+"x")))
	in.Caller, in.Action, in.CrossAccount = callers[caller], action, true
	return in
}

func TestGrantsReachTheirGrantee(t *testing.T) {
	t.Parallel()
	var (
		all  = mustParseIdentity(t, identity(""))
		none = mustParseIdentity(t, `{"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}`)
		deny = mustParseIdentity(t, `{"Statement": {"Effect": "Deny", "Action": "kms:*", "Resource": "*"}}`)
		ids  = func(p ...*policy.Policy) []*policy.Policy { return p }
	)
	tests := []struct {
		name, caller, to  string // to: the caller, its role or its account
		identity, session []*policy.Policy
		boundary          *policy.Policy
		ownOnly           bool
		want              policy.Reason
	}{
		{name: "user", caller: "user", to: "caller", want: policy.GrantAllows},
		{name: "user beyond boundary and session", caller: "user", to: "caller", boundary: none, session: ids(none), want: policy.GrantAllows},
		{name: "user denied", caller: "user", to: "caller", identity: ids(deny), want: policy.IdentityDenies},
		{name: "user denied by boundary", caller: "user", to: "caller", boundary: deny, want: policy.BoundaryDenies},
		{name: "session", caller: "session", to: "caller", boundary: none, session: ids(none), want: policy.GrantAllows},
		{name: "session denied", caller: "session", to: "caller", session: ids(all, deny), want: policy.SessionDenies},
		{name: "role", caller: "session", to: "role", want: policy.GrantAllows},
		{name: "role within both", caller: "session", to: "role", boundary: all, session: ids(all), want: policy.GrantAllows},
		{name: "role beyond boundary", caller: "session", to: "role", boundary: none, want: policy.NoBoundaryAllows},
		{name: "role beyond session policy", caller: "session", to: "role", session: ids(none), want: policy.NoSessionAllows},
		{name: "account's user by IAM", caller: "user", to: "account", identity: ids(all), want: policy.GrantAllows},
		{name: "account's user without IAM", caller: "user", to: "account", want: policy.NoIdentityAllows},
		{name: "account's root", caller: "root", to: "account", want: policy.GrantAllows},
		{name: "service", caller: "service", to: "caller", want: policy.GrantAllows},

		{name: "other user", caller: "other user", to: "caller", identity: ids(all), want: policy.GrantAllows},
		{name: "other user without IAM", caller: "other user", to: "caller", want: policy.NoIdentityAllows},
		{name: "other user beyond boundary", caller: "other user", to: "caller", identity: ids(all), boundary: none, want: policy.NoBoundaryAllows},
		{name: "other user by account", caller: "other user", to: "account", identity: ids(all), want: policy.GrantAllows},
		{name: "other root", caller: "other root", to: "account", want: policy.GrantAllows},
		{name: "other root, own keys only", caller: "other root", to: "account", ownOnly: true, want: policy.Foreign},
		{name: "other user denied", caller: "other user", to: "caller", identity: ids(all, deny), want: policy.IdentityDenies},
		{name: "other user denied, no grant", caller: "other user", identity: ids(deny), want: policy.Foreign},
		{name: "other user, no grant", caller: "other user", identity: ids(all), want: policy.Foreign},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := grantInput(t, tt.caller, "kms:Encrypt")
			in.Identity, in.Session, in.Boundary, in.CrossAccount = tt.identity, tt.session, tt.boundary, !tt.ownOnly
			given := grants(policy.NewGrant("g1", []string{"Decrypt"}, policy.GrantConstraints{}), policy.NewGrant("g2", []string{"Encrypt"}, policy.GrantConstraints{}))
			switch tt.to {
			case "caller":
				in.Grants = given
			case "role":
				in.RoleGrants = given
			case "account":
				in.AccountGrants = given
			}
			d := policy.Authorize(in)
			if d.Reason != tt.want || d.Allowed != (tt.want == policy.GrantAllows) || d.Allowed != (d.Grant == "g2") {
				t.Errorf("Authorize = %+v, want %v", d, tt.want)
			}
		})
	}
}

func TestAKeyPolicysDenyBeatsGrants(t *testing.T) {
	t.Parallel()
	g := policy.NewGrant("g", []string{"Encrypt"}, policy.GrantConstraints{})
	for caller, want := range map[string]policy.Reason{"user": policy.KeyPolicyDenies, "other root": policy.Foreign} {
		in := grantInput(t, caller, "kms:Encrypt")
		in.KeyPolicy = mustParse(t, naming("Deny", `"Principal": "*"`))
		in.Grants, in.AccountGrants = grants(g), grants(g)
		if d := policy.Authorize(in); d.Allowed || d.Reason != want {
			t.Errorf("Authorize for %s = %+v, want %v", caller, d, want)
		}
	}
}

func TestThePolicyDecidesBeforeGrants(t *testing.T) {
	t.Parallel()
	in := grantInput(t, "user", "kms:Encrypt")
	in.KeyPolicy = mustParse(t, naming("Allow", `"Principal": `+aws(userARN)))
	in.Grants = grants(policy.NewGrant("g", []string{"Encrypt"}, policy.GrantConstraints{}))
	if d := policy.Authorize(in); d.Reason != policy.KeyPolicyAllows || d.Grant != "" {
		t.Errorf("Authorize = %+v, want KeyPolicyAllows", d)
	}
}

func TestGrantOperations(t *testing.T) {
	t.Parallel()
	tests := []struct {
		action     string
		operations []string
		want       bool
	}{
		{"kms:Decrypt", []string{"Encrypt", "Decrypt"}, true},
		{"kms:Decrypt", []string{"Encrypt"}, false},
		{"kms:Decrypt", []string{"decrypt"}, false},
		{"kms:decrypt", []string{"Decrypt"}, false},
		{"kms:Decrypt", nil, false},
		{"sts:Decrypt", []string{"Decrypt"}, false},
		{"kms:DisableKey", []string{"DisableKey"}, false},
		{"kms:GenerateDataKey", []string{"GenerateDataKeyPair", "GenerateDataKeyWithoutPlaintext"}, false},
		{"kms:ReEncryptFrom", []string{"ReEncryptTo"}, false},
		{"kms:RetireGrant", []string{"RetireGrant"}, true},
		{"kms:CreateGrant", []string{"CreateGrant"}, true},
	}
	for _, tt := range tests {
		in := grantInput(t, "user", tt.action)
		in.Grants = grants(policy.NewGrant("g", tt.operations, policy.GrantConstraints{}))
		if got := policy.Authorize(in).Allowed; got != tt.want {
			t.Errorf("grant of %v allows %s = %t, want %t", tt.operations, tt.action, got, tt.want)
		}
	}
}

func pairs(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func TestGrantConstraints(t *testing.T) {
	t.Parallel()
	equals := policy.GrantConstraints{EncryptionContextEquals: pairs("dept", "pay", "app", "x")}
	subset := policy.GrantConstraints{EncryptionContextSubset: pairs("dept", "pay")}
	source := policy.GrantConstraints{SourceARN: "arn:aws:s3:::b"}
	tests := []struct {
		name, operation string
		constraints     policy.GrantConstraints
		context         map[string]string
		source          string
		want            bool
	}{
		{"equal", "Decrypt", equals, pairs("app", "x", "dept", "pay"), "", true},
		{"equal but one more", "Decrypt", equals, pairs("app", "x", "dept", "pay", "a", "b"), "", false},
		{"equal but one less", "Decrypt", equals, pairs("dept", "pay"), "", false},
		{"equal but a value's case", "Decrypt", equals, pairs("app", "X", "dept", "pay"), "", false},
		{"equal but a key's case", "Decrypt", equals, pairs("App", "x", "dept", "pay"), "", false},
		{"no context for equals", "Decrypt", equals, nil, "", false},
		{"empty equals and no context", "Decrypt", policy.GrantConstraints{EncryptionContextEquals: pairs()}, nil, "", true},
		{"empty equals and a context", "Decrypt", policy.GrantConstraints{EncryptionContextEquals: pairs()}, pairs("a", "b"), "", false},
		{"subset exactly", "GenerateDataKey", subset, pairs("dept", "pay"), "", true},
		{"subset and more", "ReEncryptTo", subset, pairs("dept", "pay", "a", "b"), "", true},
		{"subset missing", "Encrypt", subset, pairs("a", "b"), "", false},
		{"subset but a value", "Encrypt", subset, pairs("dept", "Pay"), "", false},
		{"subset but a key's case", "Encrypt", subset, pairs("Dept", "pay"), "", false},
		{"empty value is not an absent one", "Encrypt", policy.GrantConstraints{EncryptionContextSubset: pairs("dept", "")}, pairs("a", "b"), "", false},
		{"both, one fails", "Encrypt", policy.GrantConstraints{EncryptionContextSubset: pairs("a", "b"), EncryptionContextEquals: pairs("a", "c")}, pairs("a", "c"), "", false},
		{"ignored for DescribeKey", "DescribeKey", equals, nil, "", true},
		{"ignored for RetireGrant", "RetireGrant", subset, nil, "", true},
		{"ignored for GetPublicKey", "GetPublicKey", subset, pairs("a", "b"), "", true},
		{"source", "Decrypt", source, nil, "arn:aws:s3:::b", true},
		{"other source", "Decrypt", source, nil, "arn:aws:s3:::c", false},
		{"source in a direct call", "Decrypt", source, nil, "", false},
		{"source for DescribeKey", "DescribeKey", source, nil, "", false},
		{"source for RetireGrant", "RetireGrant", source, nil, "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := grantInput(t, "user", "kms:"+tt.operation)
			in.Grants = grants(policy.NewGrant("g", []string{"RetireGrant", tt.operation}, tt.constraints))
			in.Granted = policy.GrantContext{EncryptionContext: tt.context, SourceARN: tt.source}
			if d := policy.Authorize(in); d.Allowed != tt.want {
				t.Errorf("Authorize = %+v, want %t", d, tt.want)
			}
		})
	}
}

func TestAGrantKeepsItsConstraints(t *testing.T) {
	t.Parallel()
	constraint := pairs("dept", "pay")
	g := policy.NewGrant("g", []string{"Encrypt"}, policy.GrantConstraints{EncryptionContextEquals: constraint, EncryptionContextSubset: constraint})
	clear(constraint)
	in := grantInput(t, "user", "kms:Encrypt")
	in.Grants = grants(g)
	if d := policy.Authorize(in); d.Allowed {
		t.Errorf("Authorize = %+v, want refused", d)
	}
}

func TestGrantCovers(t *testing.T) {
	t.Parallel()
	type c = policy.GrantConstraints
	var (
		ab   = pairs("a", "b")
		abc  = pairs("a", "b", "c", "d")
		both = []string{"Encrypt", "CreateGrant"}
	)
	tests := []struct {
		name          string
		parent, child []string
		of, its       c
		want          bool
	}{
		{"same", both, both, c{}, c{}, true},
		{"fewer operations", both, both[:1], c{}, c{}, true},
		{"other operations", both, []string{"Encrypt", "Decrypt"}, c{}, c{}, false},
		{"unknown operation", []string{"Frobnicate"}, []string{"Frobnicate"}, c{}, c{}, false},
		{"more constraints", both, both, c{}, c{EncryptionContextEquals: ab, SourceARN: "x"}, true},
		{"no constraint under equals", both, both, c{EncryptionContextEquals: ab}, c{}, false},
		{"no constraint under empty equals", both, both, c{EncryptionContextEquals: pairs()}, c{}, false},
		{"same equals", both, both, c{EncryptionContextEquals: ab}, c{EncryptionContextEquals: ab}, true},
		{"larger equals", both, both, c{EncryptionContextEquals: ab}, c{EncryptionContextEquals: abc}, false},
		{"subset under equals", both, both, c{EncryptionContextEquals: ab}, c{EncryptionContextSubset: ab}, false},
		{"no constraint under subset", both, both, c{EncryptionContextSubset: ab}, c{}, false},
		{"same subset", both, both, c{EncryptionContextSubset: ab}, c{EncryptionContextSubset: ab}, true},
		{"larger subset", both, both, c{EncryptionContextSubset: ab}, c{EncryptionContextSubset: abc}, true},
		{"smaller subset", both, both, c{EncryptionContextSubset: abc}, c{EncryptionContextSubset: ab}, false},
		{"equals under subset", both, both, c{EncryptionContextSubset: ab}, c{EncryptionContextEquals: abc}, true},
		{"other equals under subset", both, both, c{EncryptionContextSubset: ab}, c{EncryptionContextEquals: pairs("a", "B")}, false},
		{"same source", both, both, c{SourceARN: "x"}, c{SourceARN: "x"}, true},
		{"no source", both, both, c{SourceARN: "x"}, c{}, false},
	}
	for _, tt := range tests {
		parent, child := policy.NewGrant("p", tt.parent, tt.of), policy.NewGrant("c", tt.child, tt.its)
		if got := parent.Covers(child); got != tt.want {
			t.Errorf("%s: Covers = %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestExplainTellsWhyGrantsDoNotCover(t *testing.T) {
	t.Parallel()
	in := grantInput(t, "session", "kms:Encrypt")
	in.Granted.EncryptionContext = pairs("a", "b", "c", "d")
	value := func(s string) *string { return &s }
	equals := func(kv ...string) policy.GrantConstraints {
		return policy.GrantConstraints{EncryptionContextEquals: pairs(kv...)}
	}
	in.Grants = grants(
		policy.NewGrant("operation", []string{"Decrypt"}, policy.GrantConstraints{}),
		policy.NewGrant("value", []string{"Encrypt"}, policy.GrantConstraints{EncryptionContextSubset: pairs("a", "b", "c", "D")}),
		policy.NewGrant("missing", []string{"Encrypt"}, policy.GrantConstraints{EncryptionContextSubset: pairs("a", "b", "e", "f")}),
		policy.NewGrant("too many", []string{"Encrypt"}, equals("a", "b")),
		policy.NewGrant("one less", []string{"Encrypt"}, equals("a", "b", "c", "d", "e", "f")),
		policy.NewGrant("source", []string{"Encrypt"}, policy.GrantConstraints{SourceARN: "x"}),
	)
	in.RoleGrants = slices.Clone(in.Grants[:1])
	in.AccountGrants = grants(policy.NewGrant("account", []string{"Encrypt"}, policy.GrantConstraints{}), in.Grants[0])
	d, trace := policy.Explain(in)
	if d.Allowed {
		t.Errorf("Explain = %+v, want refused", d)
	}
	session, pair := policy.RoleSession, policy.EncryptionContextElement
	want := []policy.GrantTrace{
		{ID: "operation", Grantee: session, Failed: policy.ActionElement},
		{ID: "value", Grantee: session, Failed: pair, Pair: &policy.PairTrace{Key: "c", Wanted: value("D"), Got: value("d")}},
		{ID: "missing", Grantee: session, Failed: pair, Pair: &policy.PairTrace{Key: "e", Wanted: value("f")}},
		{ID: "too many", Grantee: session, Failed: pair, Pair: &policy.PairTrace{Key: "c", Got: value("d")}},
		{ID: "one less", Grantee: session, Failed: pair, Pair: &policy.PairTrace{Key: "e", Wanted: value("f")}},
		{ID: "source", Grantee: session, Failed: policy.SourceARNElement},
		{ID: "operation", Grantee: policy.Role, Failed: policy.ActionElement},
		{ID: "account", Grantee: policy.AccountRoot},
		{ID: "operation", Grantee: policy.AccountRoot, Failed: policy.ActionElement},
	}
	if diff := cmp.Diff(want, trace.Grants); diff != "" {
		t.Errorf("grants of Explain (-want +got):\n%s", diff)
	}
}

// checkGrant holds that a grant allows an operation only if it names it and the
// request is within its constraints, and that one that covers a child allows
// whatever the child allows.
func checkGrant(tb rapid.TB, operation string, operations []string, c policy.GrantConstraints, itsOperations []string, its policy.GrantConstraints, context map[string]string, source string) {
	in := policy.Input{Caller: callers["user"], Action: "kms:" + operation, Resource: keyARN, Owner: account}
	in.Granted = policy.GrantContext{EncryptionContext: context, SourceARN: source}
	allowed := func(g *policy.Grant) bool {
		in.Grants = grants(g)
		return policy.Authorize(in).Allowed
	}
	g, child := policy.NewGrant("g", operations, c), policy.NewGrant("child", itsOperations, its)
	named := slices.Contains(operations, operation)
	contextless := slices.Contains([]string{
		"Sign", "Verify", "GenerateMac", "VerifyMac", "DeriveSharedSecret", "Encapsulate", "Decapsulate",
		"GetPublicKey", "DescribeKey", "CreateGrant", "RetireGrant",
	}, operation)
	within := c.EncryptionContextEquals == nil || maps.Equal(c.EncryptionContextEquals, context)
	for k, v := range c.EncryptionContextSubset {
		got, ok := context[k]
		within = within && ok && got == v
	}
	from := c.SourceARN == "" || c.SourceARN == source || operation == "RetireGrant"
	if allowed(g) && !(named && (contextless || within) && from) {
		tb.Fatalf("grant of %v under %+v allows %s with context %v from %q", operations, c, operation, context, source)
	}
	if g.Covers(child) && allowed(child) && !allowed(g) {
		tb.Fatalf("grant of %v under %+v covers %v under %+v, which allows %s with context %v from %q alone", operations, c, itsOperations, its, operation, context, source)
	}
}

func TestAGrantNeverGivesMoreThanItsConstraints(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"Encrypt", "Decrypt", "Sign", "DescribeKey", "CreateGrant", "RetireGrant", "DisableKey"}
		some := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 4, rapid.ID)
		context := rapid.MapOfN(rapid.SampledFrom([]string{"a", "A", "b"}), rapid.SampledFrom([]string{"x", "X", ""}), 0, 2)
		source := rapid.SampledFrom([]string{"", "", "s", "t"})
		constraints := rapid.Custom(func(t *rapid.T) policy.GrantConstraints {
			c := policy.GrantConstraints{SourceARN: source.Draw(t, "source")}
			switch rapid.IntRange(0, 2).Draw(t, "constraint") {
			case 1:
				c.EncryptionContextEquals = context.Draw(t, "equals")
			case 2:
				c.EncryptionContextSubset = context.Draw(t, "subset")
			}
			return c
		})
		checkGrant(t, rapid.SampledFrom(names).Draw(t, "operation"), some.Draw(t, "operations"), constraints.Draw(t, "constraints"),
			some.Draw(t, "child's operations"), constraints.Draw(t, "child's constraints"), context.Draw(t, "context"), source.Draw(t, "from"))
	})
}
