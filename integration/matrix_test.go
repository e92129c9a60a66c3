package integration_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/go-cmp/cmp"
)

// A way is how a caller comes to a permission, or to none.
type way string

// The ways of the matrix: every operation is called in each of them.
const (
	nobody           way = "nobody"                                          // no signature
	noPermission     way = "right account without permission"                // a user without policies
	byIdentity       way = "identity policy only"                            // the key policy leaves it to IAM
	undelegated      way = "identity policy, key policy leaves nothing"      // the key policy names others only
	byKeyPolicy      way = "key policy only"                                 // it names the user
	byGrant          way = "grant"                                           // of all that the key's type allows
	explicitDeny     way = "explicit deny"                                   // beside policies that allow everything
	roleSession      way = "role session"                                    // of a role that may do everything
	sessionPolicy    way = "session policy"                                  // the same, with one that allows nothing of ours
	boundary         way = "permissions boundary"                            // a user who may do everything within nothing
	wrongAccount     way = "wrong account"                                   // a user of it who may do everything there
	invited          way = "another account, invited by the key policy"      // the same
	keyPolicyDenies  way = "explicit deny of the key policy"                 // a user who may do everything
	foreignKeyPolicy way = "another account, invited, without an own policy" // by the key policy alone
	deniedGrant      way = "grant against an explicit deny"                  // to the user of that way
	foreignGrant     way = "another account, by a grant"                     // to the user of the wrong account
	foreignGrantOnly way = "another account, by a grant, without an own policy"
)

var ways = []way{
	nobody, noPermission, byIdentity, undelegated, byKeyPolicy, byGrant, explicitDeny, roleSession, sessionPolicy, boundary,
	wrongAccount, invited, keyPolicyDenies, foreignKeyPolicy, deniedGrant, foreignGrant, foreignGrantOnly,
}

// An outcome is what the matrix tells apart.
type outcome string

const (
	unauthenticated outcome = "is not authenticated"
	refusedOutcome  outcome = "is denied"
	authorised      outcome = "is authorised"
)

// A scope is what decides about an operation.
type scope string

const (
	onKeyScope     scope = "key"     // key policy, IAM, grants
	onAccountScope scope = "account" // IAM alone, in the caller's own account
	onAliasScope   scope = "alias"   // IAM about the alias, and what decides about the key
	freeScope      scope = "free"    // no policy can refuse it
	retireScope    scope = "retire"  // the grant itself
	trustScope     scope = "trust"   // a role's trust policy
)

// expectations say what comes of an operation of each scope in each way. What is
// not here is denied.
var expectations = map[scope]map[way]outcome{
	onKeyScope: {
		byIdentity: authorised, byKeyPolicy: authorised, roleSession: authorised,
		invited: authorised,                           // of operations that work across accounts
		byGrant: authorised, foreignGrant: authorised, // of grant operations
	},
	onAccountScope: {
		byIdentity: authorised, undelegated: authorised, roleSession: authorised,
		wrongAccount: authorised, invited: authorised, foreignGrant: authorised, // there, it is their own
		keyPolicyDenies: authorised, // no key, no key policy
	},
	onAliasScope: {byIdentity: authorised, roleSession: authorised},
	freeScope: {
		noPermission: authorised, byIdentity: authorised, undelegated: authorised, byKeyPolicy: authorised, byGrant: authorised,
		explicitDeny: authorised, roleSession: authorised, sessionPolicy: authorised, boundary: authorised, wrongAccount: authorised,
		invited: authorised, keyPolicyDenies: authorised, foreignKeyPolicy: authorised, deniedGrant: authorised,
		foreignGrant: authorised, foreignGrantOnly: authorised,
	},
	retireScope: {},
	trustScope:  {},
}

// want is what must come of a row's operation in a way.
func (r *matrixRow) want(w way) outcome {
	if special, ok := r.special[w]; ok {
		return special
	}
	switch {
	case w == nobody:
		return unauthenticated
	case w == invited && r.scope == onKeyScope && !r.foreign, (w == byGrant || w == foreignGrant) && r.scope == onKeyScope && !r.grantable:
		return refusedOutcome
	}
	if o, ok := expectations[r.scope][w]; ok {
		return o
	}
	return refusedOutcome
}

// What refusals say of the rule that refused.
const (
	lacksIdentity = "because no identity-based policy allows the "
	lacksResource = "because no resource-based policy allows the "
	notVisible    = "on this resource because the resource does not exist in this Region"
)

// fromOutside are the ways of callers of another account.
var fromOutside = map[way]bool{wrongAccount: true, invited: true, foreignKeyPolicy: true, foreignGrant: true, foreignGrantOnly: true}

// refusedBy is the rule that must refuse in each way, lest a request is refused for
// another reason than the one that the way is about; where it is not here, there is
// no permission in a policy of the caller's.
var refusedBy = map[way]string{
	undelegated: lacksResource, wrongAccount: notVisible, invited: notVisible, foreignGrant: notVisible,
	explicitDeny:    "with an explicit deny in an identity-based policy",
	deniedGrant:     "with an explicit deny in an identity-based policy",
	keyPolicyDenies: "with an explicit deny in a resource-based policy",
	sessionPolicy:   "because no session policy allows the ",
	boundary:        "because no permissions boundary allows the ",
}

// because is what a refusal of a row in a way must say; empty for anything.
func (r *matrixRow) because(w way) string {
	switch {
	case r.scope == trustScope, r.scope == freeScope:
		return "" // AWS says nothing
	case r.scope == retireScope && fromOutside[w]:
		return lacksResource // the grant is the resource, and does not name them
	case r.scope == onKeyScope && (w == foreignKeyPolicy && !r.foreign || w == foreignGrantOnly && !r.grantable):
		return notVisible
	}
	if rule, ok := refusedBy[w]; ok {
		return rule
	}
	return lacksIdentity
}

// A matrixCase is one cell: what its request is made of.
type matrixCase struct {
	t    *testing.T
	g    *instance
	key  string // ARN of a key of the cell's own
	way  way
	cast *cast
}

// A cast is the callers of the matrix, by the policies that they have.
type cast struct {
	plain, all, none, bounded, stranger, guest aws.Credentials
	session, confined                          aws.Credentials
	plainARN                                   string
	role                                       string         // ARN
	grantees                                   map[way]string // ARNs, in ways with a grant
}

// caller is who calls in a way; ok is false for nobody.
func (c *cast) caller(w way) (who aws.Credentials, ok bool) {
	switch w {
	case nobody:
		return aws.Credentials{}, false
	case noPermission, byKeyPolicy, byGrant:
		return c.plain, true
	case byIdentity, undelegated, keyPolicyDenies:
		return c.all, true
	case explicitDeny, deniedGrant:
		return c.none, true
	case roleSession:
		return c.session, true
	case sessionPolicy:
		return c.confined, true
	case boundary:
		return c.bounded, true
	case wrongAccount, invited, foreignGrant:
		return c.stranger, true
	case foreignKeyPolicy, foreignGrantOnly:
		return c.guest, true
	}
	panic("no caller " + string(w))
}

// Policies of the cast.
var (
	everything = m{"Effect": "Allow", "Action": "*", "Resource": "*"}
	nothing    = m{"Effect": "Deny", "Action": "*", "Resource": "*"}
	elsewhere  = m{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
)

// newCast makes the callers, with names of their own.
func newCast(t *testing.T, g *instance) *cast {
	t.Helper()
	c := &cast{grantees: map[way]string{}}
	c.plain, c.plainARN = g.newUser(t, own, "matrix-plain")
	c.grantees[byGrant] = c.plainARN
	c.all, _ = g.newUser(t, own, "matrix-all", everything)
	c.none, c.grantees[deniedGrant] = g.newUser(t, own, "matrix-none", everything, nothing)
	c.bounded, _ = g.newUser(t, own, "matrix-bounded", everything)
	c.stranger, c.grantees[foreignGrant] = g.newUser(t, other, "matrix-stranger", everything)
	c.guest, c.grantees[foreignGrantOnly] = g.newUser(t, other, "matrix-guest")
	limit := g.form(t, g.root(own), "iam", "CreatePolicy", m{"PolicyName": "matrix-limit", "PolicyDocument": document(t, elsewhere)})
	g.form(t, g.root(own), "iam", "PutUserPermissionsBoundary", m{"UserName": "matrix-bounded", "PermissionsBoundary": limit.text("Arn")})
	trust := document(t, m{"Effect": "Allow", "Principal": m{"AWS": own}, "Action": "sts:AssumeRole"})
	role := g.form(t, g.root(own), "iam", "CreateRole", m{"RoleName": "matrix-role", "AssumeRolePolicyDocument": trust})
	c.role = role.text("Arn")
	g.form(t, g.root(own), "iam", "PutRolePolicy", m{"RoleName": "matrix-role", "PolicyName": "all", "PolicyDocument": document(t, everything)})
	c.session = g.assume(t, c.all, c.role, m{"RoleSessionName": "matrix"})
	c.confined = g.assume(t, c.all, c.role, m{"RoleSessionName": "matrix", "Policy": document(t, elsewhere)})
	return c
}

// keyPolicy are the statements of the key of a way, beside those that let the
// account's root manage it.
func (c *cast) keyPolicy(w way) []m {
	delegation := statement("Allow", own, "kms:*")
	to := func(effect string, principal any) m {
		return m{"Effect": effect, "Principal": m{"AWS": principal}, "Action": "kms:*", "Resource": "*"}
	}
	switch w {
	case undelegated: // the root alone, by a condition that no other caller meets
		delegation["Condition"] = m{"ArnEquals": m{"aws:PrincipalArn": rootOf(own)}}
		return []m{delegation}
	case byKeyPolicy:
		return []m{delegation, to("Allow", c.plainARN)}
	case invited, foreignKeyPolicy:
		return []m{delegation, to("Allow", other)}
	case keyPolicyDenies:
		denial := to("Deny", "*")
		denial["Condition"] = m{"ArnNotEquals": m{"aws:PrincipalArn": rootOf(own)}}
		return []m{delegation, denial}
	default:
		return []m{delegation}
	}
}

// TestAuthorisationMatrix calls every operation that is served in every way.
func TestAuthorisationMatrix(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := newCast(t, g)
	for i := range matrix {
		r := &matrix[i]
		t.Run(r.service+":"+r.operation, func(t *testing.T) {
			t.Parallel()
			for _, w := range ways {
				mc := &matrixCase{t: t, g: g, way: w, cast: c}
				switch got, said := mc.try(r); {
				case got != r.want(w):
					t.Errorf("%s: %s (%s), want that it %s", w, got, said, r.want(w))
				case got == refusedOutcome && !strings.Contains(said, r.because(w)):
					t.Errorf("%s: %s, want that it is denied %s", w, said, r.because(w))
				}
			}
		})
	}
}

// try makes the cell's key and calls the operation.
func (c *matrixCase) try(r *matrixRow) (outcome, string) {
	c.t.Helper()
	if r.keySpec != nil {
		made := maps.Clone(r.keySpec)
		made["Policy"] = document(c.t, c.cast.keyPolicy(c.way)...)
		c.key = c.g.mustCall(c.t, own, "CreateKey", made)["KeyMetadata"].(m)["Arn"].(string)
	}
	if grantee, ok := c.cast.grantees[c.way]; ok && r.keySpec != nil {
		c.grant(grantee, grantable[usageOf(r.keySpec)]...)
	}
	in := m{}
	if r.in != nil {
		in = r.in(c)
	}
	who, signs := c.cast.caller(c.way)
	a := c.g.do(c.t, who, signs, r.service, r.operation, in)
	switch code := a.code(c.t); {
	case code == "AccessDenied" || code == "AccessDeniedException":
		return refusedOutcome, string(a.body)
	case strings.HasPrefix(code, "MissingAuthenticationToken"):
		return unauthenticated, code
	case code != "" && code != r.then:
		c.t.Errorf("%s: %d %s, want a success or %q", c.way, a.status, a.body, r.then)
		return authorised, code
	default:
		return authorised, code
	}
}

// grant gives a principal a grant on the cell's key and returns its id.
func (c *matrixCase) grant(grantee string, operations ...string) string {
	c.t.Helper()
	return c.g.mustCall(c.t, own, "CreateGrant", m{"KeyId": c.key, "GranteePrincipal": grantee, "Operations": operations})["GrantId"].(string)
}

// root are the credentials of an account's root.
func (i *instance) root(account string) aws.Credentials { return i.keys[account].aws() }

// newUser makes a user with inline policies of one statement each, and an access
// key for it.
func (i *instance) newUser(t *testing.T, account, name string, statements ...m) (aws.Credentials, string) {
	t.Helper()
	user := i.form(t, i.root(account), "iam", "CreateUser", m{"UserName": name})
	for n, s := range statements {
		i.form(t, i.root(account), "iam", "PutUserPolicy", m{"UserName": name, "PolicyName": fmt.Sprintf("p%d", n), "PolicyDocument": document(t, s)})
	}
	key := i.form(t, i.root(account), "iam", "CreateAccessKey", m{"UserName": name})
	return aws.Credentials{AccessKeyID: key.text("AccessKeyId"), SecretAccessKey: hideText(key.text("SecretAccessKey"))}, user.text("Arn")
}

// assume makes a session of a role.
func (i *instance) assume(t *testing.T, who aws.Credentials, role string, in m) aws.Credentials {
	t.Helper()
	in["RoleArn"] = role
	a := i.form(t, who, "sts", "AssumeRole", in)
	return aws.Credentials{AccessKeyID: a.text("AccessKeyId"), SecretAccessKey: hideText(a.text("SecretAccessKey")), SessionToken: hideText(a.text("SessionToken"))}
}

// form calls IAM or STS for a success.
func (i *instance) form(t *testing.T, who aws.Credentials, service, action string, in m) answer {
	t.Helper()
	a := i.do(t, who, true, service, action, in)
	if a.status != http.StatusOK {
		t.Fatalf("%s %v: %d %s", action, in, a.status, a.body)
	}
	return a
}

// versions of the services that take forms.
var versions = map[string]string{"iam": "2010-05-08", "sts": "2011-06-15"}

// do calls an operation of a service, signed or not. Members of a form are
// strings.
func (i *instance) do(t *testing.T, who aws.Credentials, signs bool, service, operation string, in m) answer {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	media := mediaJSON
	if version, ok := versions[service]; ok {
		values := url.Values{"Action": {operation}, "Version": {version}}
		for name, value := range in {
			values.Set(name, value.(string))
		}
		media, body = "application/x-www-form-urlencoded", []byte(values.Encode())
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, i.endpoint+"/", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", media)
	if service == "kms" {
		r.Header.Set("X-Amz-Target", "TrentService."+operation)
	}
	if !signs {
		return stranger(t, r)
	}
	if err := v4.NewSigner().SignHTTP(t.Context(), who, r, hashOf(body), service, region, time.Now()); err != nil {
		t.Fatal(err)
	}
	return send(t, r)
}

// code is the code of an error, in either protocol; empty for a success.
func (a answer) code(t testing.TB) string {
	t.Helper()
	if a.status == http.StatusOK {
		return ""
	}
	var e struct {
		Type string `json:"__type"`
		Code string `xml:"Error>Code" json:"-"`
	}
	if json.Unmarshal(a.body, &e) == nil && e.Type != "" {
		return e.Type
	}
	if err := xml.Unmarshal(a.body, &e); err != nil || e.Code == "" {
		t.Fatalf("no code in %d %s", a.status, a.body)
	}
	return e.Code
}

// text is the text of the first XML element of a name.
func (a answer) text(element string) string {
	_, rest, _ := strings.Cut(string(a.body), "<"+element+">")
	text, _, _ := strings.Cut(rest, "</"+element+">")
	return text
}

// TestMatrixIsWhole holds the matrix against what is served: every operation has
// its row, and every row its operation.
func TestMatrixIsWhole(t *testing.T) {
	t.Parallel()
	var rows []string
	for _, r := range matrix {
		rows = append(rows, r.service+":"+r.operation)
	}
	slices.Sort(rows)
	if twice := len(rows) - len(slices.Compact(slices.Clone(rows))); twice != 0 {
		t.Errorf("%d operations have more than one row", twice)
	}
	if diff := cmp.Diff(servedEverywhere(t, gateway(t)), rows); diff != "" {
		t.Errorf("what is served, and what the matrix has rows for (-served +matrix):\n%s", diff)
	}
}
