package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/policy"
)

// document is a key policy with one statement that has the given members
// beside a principal, an effect, an action and a resource.
func document(members string) string {
	if members != "" {
		members = ", " + members
	}
	return `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"` + members + `}}`
}

// identity is the same as a document of an identity.
func identity(members string) string {
	return strings.Replace(document(members), `"Principal": "*", `, "", 1)
}

func TestParseTakesTheLanguage(t *testing.T) {
	t.Parallel()
	statement := `{"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "*", "Resource": "*"}`
	tests := map[string]string{
		"default":              policy.DefaultKeyPolicy(account),
		"no version":           `{"Statement": ` + statement + `}`,
		"old version":          `{"Version": "2008-10-17", "Id": "x", "Statement": [` + statement + `]}`,
		"Sid with spaces":      document(`"Sid": "any text, \u00e9"`),
		"same Sid twice":       `{"Statement": [` + strings.Replace(statement, "{", `{"Sid": "a", `, 1) + `,` + strings.Replace(statement, "{", `{"Sid": "a", `, 1) + `]}`,
		"no action":            `{"Statement": {"Effect": "Allow", "Principal": "*", "Resource": "*"}}`,
		"no resource":          `{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*"}}`,
		"odd resource":         strings.Replace(document(""), `"Resource": "*"`, `"Resource": ["1234abcd-12ab-34cd-56ef-1234567890ab", "arn:aws:kms"]`, 1),
		"actions":              strings.Replace(document(""), `"kms:*"`, `["KMS:Decrypt", "kms:Generate*", "kms:?ncrypt", "*:*", "s3:Get-Object_1"]`, 1),
		"Not elements":         `{"Statement": {"Effect": "Deny", "NotPrincipal": {"AWS": "` + account + `"}, "NotAction": "kms:*", "NotResource": "*"}}`,
		"empty condition":      document(`"Condition": {}`),
		"values not strings":   document(`"Condition": {"Bool": {"aws:SecureTransport": true}, "NumericLessThan": {"kms:RotationPeriodInDays": [90, "91.5", 1e2]}}`),
		"set operators":        document(`"Condition": {"ForAllValues:StringLikeIfExists": {"aws:TagKeys": "a*"}, "ForAnyValue:StringNotEquals": {"kms:EncryptionContextKeys": "a"}}`),
		"any value of context": document(`"Condition": {"ForAnyValue:StringEquals": {"kms:EncryptionContext:a": "b"}}`),
		"provider's key":       document(`"Condition": {"StringEquals": {"oidc.example.com/id/1:sub": "x"}}`),
		"variables":            document(`"Condition": {"StringLike": {"aws:userid": ["${aws:username}", "${aws:PrincipalTag/a b, 'd e'}", "${*}${?}${$}"]}}`),
		"variables, 2008":      strings.Replace(document(`"Condition": {"StringLike": {"aws:userid": ["${aws:username", "${}"]}}`), "2012", "2008", 1),
	}
	for name, doc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := policy.Parse(doc); err != nil {
				t.Errorf("Parse(%s) = %v, want no error", doc, err)
			}
		})
	}
}

func TestParseNamesThePlaceOfAnError(t *testing.T) {
	t.Parallel()
	condition := func(c string) string { return document(`"Condition": ` + c) }
	principal := func(p string) string { return strings.Replace(document(""), `"Principal": "*"`, p, 1) }
	action := func(a string) string { return strings.Replace(document(""), `"kms:*"`, a, 1) }
	resource := func(r string) string {
		return strings.Replace(document(""), `"Resource": "*"`, `"Resource": `+r, 1)
	}
	tests := []struct{ name, doc, want string }{
		{"empty", ``, "policy: invalid JSON at byte 0"},
		{"not JSON", `{"Version" "2012-10-17"}`, "policy: invalid JSON at byte 11"},
		{"cut off", `{"Statement": [`, "policy: invalid JSON at byte 15"},
		{"cut off in an object", `{"Statement": {`, "policy: invalid JSON at byte 15"},
		{"wrong bracket", `{"Id": ["a"}`, "policy: invalid JSON at byte 11"},
		{"member without name", `{"Id": "a", 1: 2}`, "policy: invalid JSON at byte 12"},
		{"comma at the end", `{"Id": "a",}`, "policy: invalid JSON at byte 11"},
		{"not an object", `["a"]`, "policy: must be a JSON object"},
		{"not UTF-8", "{\"Id\": \"\xff\"}", "policy: not UTF-8"},
		{"something behind", `{"Id": "a"} {}`, "policy: invalid JSON at byte 13"},
		{"too long", `{"Id": "` + strings.Repeat("a", policy.MaxDocumentBytes) + `"}`, "policy: longer than 32768 bytes"},
		{"too deep", `{"Id": ` + strings.Repeat("[", 9) + strings.Repeat("]", 9) + `}`, "policy: Id[0][0][0][0][0][0][0]: nested too deeply"},
		{"twice", `{"Id": "a", "Id": "a"}`, "policy: Id: given twice"},
		{"twice, deep", condition(`{"Bool": {"a:b": true, "\u0061:b": true}}`), "policy: Statement.Condition.Bool.a:b: given twice"},
		{"twice in other case", condition(`{"Bool": {"a:b": true, "A:b": true}}`), "policy: Statement.Condition.Bool.A:b: given twice in different letter case"},
		{"unknown", `{"Statements": []}`, "policy: Statements: is unknown"},
		{"other case", `{"version": "2012-10-17"}`, "policy: version: is unknown"},
		{"long name", `{"` + strings.Repeat("é", 40) + `": 1}`, "policy: " + strings.Repeat("é", 32) + "...: is unknown"},
		{"Id", `{"Id": 1}`, "policy: Id: must be a string"},
		{"version", `{"Version": "2012-10-18"}`, "policy: Version: must be 2012-10-17 or 2008-10-17"},
		{"version's type", `{"Version": 2012}`, "policy: Version: must be a string"},
		{"no statement", `{}`, "policy: Statement: is missing"},
		{"empty statement list", `{"Statement": []}`, "policy: Statement: must be a statement or a list of statements"},
		{"statement's type", `{"Statement": "a"}`, "policy: Statement: must be a statement or a list of statements"},
		{"statement's type in list", `{"Statement": [null]}`, "policy: Statement[0]: must be an object"},
		{"unknown in statement", document(`"Resources": "*"`), "policy: Statement.Resources: is unknown"},
		{"Sid", document(`"Sid": null`), "policy: Statement.Sid: must be a string"},
		{"no effect", `{"Statement": {"Principal": "*"}}`, "policy: Statement.Effect: must be Allow or Deny"},
		{"effect", `{"Statement": [{"Effect": "allow", "Principal": "*"}]}`, "policy: Statement[0].Effect: must be Allow or Deny"},
		{"no principal", `{"Statement": [{"Effect": "Allow"}]}`, "policy: Statement[0].Principal: is missing"},
		{"both principals", document(`"NotPrincipal": "*"`), "policy: Statement.NotPrincipal: can't be combined with Principal"},
		{"both actions", document(`"NotAction": "*"`), "policy: Statement.NotAction: can't be combined with Action"},
		{"both resources", document(`"NotResource": "*"`), "policy: Statement.NotResource: can't be combined with Resource"},
		{"bare principal", principal(`"Principal": "` + account + `"`), `policy: Statement.Principal: must be "*" or an object that names principals`},
		{"empty principal", principal(`"Principal": {}`), `policy: Statement.Principal: must be "*" or an object that names principals`},
		{"principal list", principal(`"Principal": ["*"]`), `policy: Statement.Principal: must be "*" or an object that names principals`},
		{"principal type", principal(`"NotPrincipal": {"Aws": "*"}`), "policy: Statement.NotPrincipal.Aws: is unknown"},
		{"principal's value", principal(`"Principal": {"AWS": ["*", 1]}`), "policy: Statement.Principal.AWS[1]: must be a string"},
		{"no action in list", action(`[]`), "policy: Statement.Action: must be a string or a list of strings"},
		{"action's type", action(`true`), "policy: Statement.Action: must be a string or a list of strings"},
		{"bare action", action(`"Decrypt"`), `policy: Statement.Action: "Decrypt" must be of the form service:name`},
		{"no service", action(`":Decrypt"`), `policy: Statement.Action: ":Decrypt" must be of the form service:name`},
		{"wildcard in service", action(`"k*:Decrypt"`), `policy: Statement.Action: "k*:Decrypt" must be of the form service:name`},
		{"letter in action", action(`"kms:Décrypt"`), `policy: Statement.Action: "kms:Décrypt" must be of the form service:name`},
		{"costly action", action(`"kms:*?` + strings.Repeat("a", 64) + `*"`), "policy: Statement.Action: more than 64 characters, ? among them, between two *"},
		{"resource's type", resource(`{}`), "policy: Statement.Resource: must be a string or a list of strings"},
		{"variable early", resource(`"arn:aws:kms:${aws:RequestedRegion}:1:key/a"`), "policy: Statement.Resource: a policy variable before the last field of an ARN"},
		{"open variable", resource(`"arn:aws:kms:*:1:key/${aws:a"`), "policy: Statement.Resource: a policy variable without its closing brace"},
		{"condition's type", condition(`[]`), "policy: Statement.Condition: must be an object"},
		{"operator", condition(`{"StringMatches": {"a:b": "c"}}`), "policy: Statement.Condition.StringMatches: is not a condition operator"},
		{"operator's case", condition(`{"stringequals": {"a:b": "c"}}`), "policy: Statement.Condition.stringequals: is not a condition operator"},
		{"Null with suffix", condition(`{"NullIfExists": {"a:b": "true"}}`), "policy: Statement.Condition.NullIfExists: is not a condition operator"},
		{"Null with prefix", condition(`{"ForAnyValue:Null": {"a:b": "true"}}`), "policy: Statement.Condition.ForAnyValue:Null: is not a condition operator"},
		{"both prefixes", condition(`{"ForAllValues:ForAnyValue:StringLike": {"a:b": "c"}}`), "policy: Statement.Condition.ForAllValues:ForAnyValue:StringLike: is not a condition operator"},
		{"no keys", condition(`{"StringLike": {}}`), "policy: Statement.Condition.StringLike: must be an object of condition keys"},
		{"keys' type", condition(`{"StringLike": "a:b"}`), "policy: Statement.Condition.StringLike: must be an object of condition keys"},
		{"key without service", condition(`{"StringLike": {"SourceIp": "c"}}`), "policy: Statement.Condition.StringLike.SourceIp: is a condition key not of the form service:name"},
		{"key with space", condition(`{"StringLike": {" aws:SourceIp": "c"}}`), "policy: Statement.Condition.StringLike. aws:SourceIp: is a condition key not of the form service:name"},
		{"no values", condition(`{"StringLike": {"a:b": []}}`), "policy: Statement.Condition.StringLike.a:b: must be a string or a list of strings"},
		{"null value", condition(`{"StringLike": {"a:b": [null]}}`), "policy: Statement.Condition.StringLike.a:b[0]: must be a string"},
		{"Null's value", condition(`{"Null": {"a:b": "yes"}}`), "policy: Statement.Condition.Null.a:b: must be true or false"},
		{"Bool's value", condition(`{"Bool": {"a:b": "yes"}}`), "policy: Statement.Condition.Bool.a:b: must be true or false"},
		{"number", condition(`{"NumericEquals": {"a:b": "0x10"}}`), "policy: Statement.Condition.NumericEquals.a:b: must be a decimal number"},
		{"number with variable", condition(`{"NumericEquals": {"a:b": "${a:b}"}}`), "policy: Statement.Condition.NumericEquals.a:b: must be a decimal number"},
		{"date", condition(`{"DateEquals": {"a:b": "yesterday"}}`), "policy: Statement.Condition.DateEquals.a:b: must be an ISO 8601 date or a number of seconds since 1970"},
		{"date out of range", condition(`{"DateEquals": {"a:b": "1e13"}}`), "policy: Statement.Condition.DateEquals.a:b: must be an ISO 8601 date or a number of seconds since 1970"},
		{"base64", condition(`{"BinaryEquals": {"a:b": "?"}}`), "policy: Statement.Condition.BinaryEquals.a:b: must be base64"},
		{"address", condition(`{"IpAddress": {"a:b": "10.0.0.0/33"}}`), "policy: Statement.Condition.IpAddress.a:b: must be an IP address or a range in CIDR notation"},
		{"address with zone", condition(`{"IpAddress": {"a:b": "fe80::1%eth0"}}`), "policy: Statement.Condition.IpAddress.a:b: must be an IP address or a range in CIDR notation"},
		{"mapped range", condition(`{"IpAddress": {"a:b": "::ffff:10.0.0.0/104"}}`), "policy: Statement.Condition.IpAddress.a:b: must be an IP address or a range in CIDR notation"},
		{"ARN", condition(`{"ArnLike": {"a:b": "arn:aws:iam"}}`), "policy: Statement.Condition.ArnLike.a:b: must be an ARN of six fields"},
		{"ARN with open variable", condition(`{"ArnLike": {"a:b": "arn:aws:iam::1:${"}}`), "policy: Statement.Condition.ArnLike.a:b: a policy variable without its closing brace"},
		{"open variable in value", condition(`{"StringLike": {"a:b": "x${y"}}`), "policy: Statement.Condition.StringLike.a:b: a policy variable without its closing brace"},
		{"variable without key", condition(`{"StringLike": {"a:b": "${}"}}`), "policy: Statement.Condition.StringLike.a:b: a policy variable whose key is not of the form service:name"},
		{"default without quotes", condition(`{"StringEquals": {"a:b": "${a:b, c}"}}`), "policy: Statement.Condition.StringEquals.a:b: a policy variable whose default is not in single quotes"},
		{"default of one quote", condition(`{"StringEqualsIgnoreCase": {"a:b": "${a:b, '}"}}`), "policy: Statement.Condition.StringEqualsIgnoreCase.a:b: a policy variable whose default is not in single quotes"},
		{"costly value", condition(`{"StringLike": {"a:b": "*?` + strings.Repeat("é", 64) + `*"}}`), "policy: Statement.Condition.StringLike.a:b: more than 64 characters, ? among them, between two *"},
		{"costly variable", condition(`{"StringLike": {"a:b": "*?${a:b}*"}}`), "policy: Statement.Condition.StringLike.a:b: a policy variable and a ? between the same two *"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := policy.Parse(tt.doc)
			syntax, ok := errors.AsType[*policy.SyntaxError](err)
			if p != nil || !ok || syntax.Error() != tt.want {
				t.Errorf("Parse(%.200s) = %v, %v, want *SyntaxError %q", tt.doc, p, err, tt.want)
			}
		})
	}
}

func TestParseIdentityIsStricter(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, doc, want string }{
		{"good", identity(`"Sid": "A1"`), ""},
		{"good ARN", strings.Replace(identity(""), `"Resource": "*"`, `"Resource": "arn:aws:kms:*:*:key/${aws:PrincipalTag/key}"`, 1), ""},
		{"ForAllValues with a context", identity(`"Condition": {"ForAllValues:StringEquals": {"kms:EncryptionContext:a": "b"}}`), ""},
		{"principal", document(""), "policy: Statement.Principal: is not for policies of an identity"},
		{"no action", `{"Statement": {"Effect": "Allow", "Resource": "*"}}`, "policy: Statement.Action: is missing"},
		{"no resource", `{"Statement": {"Effect": "Allow", "Action": "*"}}`, "policy: Statement.Resource: is missing"},
		{"resource", strings.Replace(identity(""), `"Resource": "*"`, `"Resource": "arn:aws:kms"`, 1), `policy: Statement.Resource: must be "*" or an ARN of six fields`},
		{"Sid", identity(`"Sid": "a b"`), "policy: Statement.Sid: must be of letters and digits"},
		{"Sid twice", `{"Statement": [{"Sid": "a", "Effect": "Allow", "Action": "*", "Resource": "*"}, {"Sid": "a", "Effect": "Allow", "Action": "*", "Resource": "*"}]}`, "policy: Statement[1].Sid: given twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := policy.ParseIdentity(tt.doc)
			if got := text(err); got != tt.want {
				t.Errorf("ParseIdentity(%s) = %q, want %q", tt.doc, got, tt.want)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestParseRefusesOverlyPermissiveConditions(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"kms:EncryptionContext:a", "KMS:encryptioncontext:a", "aws:RequestTag/a"} {
		doc := document(`"Condition": {"ForAllValues:StringEqualsIfExists": {"` + key + `": "b", "` + key + `2": "b"}}`)
		_, err := policy.Parse(doc)
		got, ok := errors.AsType[*policy.ConditionError](err)
		if !ok {
			t.Fatalf("Parse(%s) = %v, want *ConditionError", doc, err)
		}
		want := &policy.ConditionError{Path: "Statement.Condition.ForAllValues:StringEqualsIfExists." + key, Key: key}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Parse(%s) (-want +got):\n%s", doc, diff)
		}
		if want := `ForAllValues with "` + key + `" matches requests that do not have it`; !strings.Contains(got.Error(), want) {
			t.Errorf("Error() = %q, want it to contain %q", got, want)
		}
	}
}

func TestParseReportsSyntaxBeforePrincipals(t *testing.T) {
	t.Parallel()
	doc := `{"Statement": [{"Effect": "Allow", "Principal": {"AWS": "nobody"}}, {"Effect": "Allow"}]}`
	_, err := policy.Parse(doc)
	if _, ok := errors.AsType[*policy.SyntaxError](err); !ok {
		t.Errorf("Parse(%s) = %v, want *SyntaxError", doc, err)
	}
}

func TestParseRefusesInvalidPrincipals(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ principal, want string }{
		"empty":             {`{"AWS": ""}`, "not an account id or the ARN of a principal"},
		"short account":     {`{"AWS": "11112222333"}`, "not an account id or the ARN of a principal"},
		"unique id":         {`{"AWS": "AIDAEXAMPLE"}`, "not an account id or the ARN of a principal"},
		"other partition":   {`{"AWS": "arn:aws-cn:iam::111122223333:root"}`, "not an account id or the ARN of a principal"},
		"region":            {`{"AWS": "arn:aws:iam:us-east-1:111122223333:root"}`, "not an account id or the ARN of a principal"},
		"no account":        {`{"AWS": "arn:aws:iam:::user/a"}`, "not an account id or the ARN of a principal"},
		"wildcard":          {`{"AWS": "arn:aws:iam::111122223333:user/*"}`, "wildcards are not allowed in a principal"},
		"session wildcard":  {`{"AWS": "arn:aws:sts::111122223333:assumed-role/R/?"}`, "wildcards are not allowed in a principal"},
		"group":             {`{"AWS": "arn:aws:iam::111122223333:group/g"}`, "not the ARN of an account, user, role, role session or federated user"},
		"user without name": {`{"AWS": "arn:aws:iam::111122223333:user/"}`, "not the ARN of an account, user, role, role session or federated user"},
		"user only":         {`{"AWS": "arn:aws:iam::111122223333:user"}`, "not the ARN of an account, user, role, role session or federated user"},
		"bad letters":       {`{"AWS": "arn:aws:iam::111122223333:user/a b"}`, "not the ARN of an account, user, role, role session or federated user"},
		"session of 1 name": {`{"AWS": "arn:aws:sts::111122223333:assumed-role/R"}`, "not the ARN of an account, user, role, role session or federated user"},
		"session of 3":      {`{"AWS": "arn:aws:sts::111122223333:assumed-role/p/R/S"}`, "not the ARN of an account, user, role, role session or federated user"},
		"root of sts":       {`{"AWS": "arn:aws:sts::111122223333:root"}`, "not the ARN of an account, user, role, role session or federated user"},
		"service":           {`{"Service": "*"}`, "not the name of a service"},
		"service's letters": {`{"Service": "logs.*.amazonaws.com"}`, "not the name of a service"},
		"provider":          {`{"Federated": "*"}`, "not the ARN or name of an identity provider"},
		"no provider":       {`{"Federated": ""}`, "not the ARN or name of an identity provider"},
		"canonical user":    {`{"CanonicalUser": "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be"}`, "canonical users are for S3 only"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc := strings.Replace(document(""), `"Principal": "*"`, `"Principal": `+tt.principal, 1)
			_, err := policy.Parse(doc)
			got, ok := errors.AsType[*policy.PrincipalError](err)
			if !ok || got.Problem != tt.want || !strings.HasPrefix(got.Error(), "policy: Statement.Principal.") {
				t.Errorf("Parse(%s) = %v, want *PrincipalError %q", doc, err, tt.want)
			}
		})
	}
}

func TestPrincipalsListsWhoIsNamed(t *testing.T) {
	t.Parallel()
	p := mustParse(t, `{"Statement": [
		{"Effect": "Allow", "Principal": {"AWS": ["*", "`+account+`", "`+rootARN+`", "arn:aws:iam::444455556666:user/a/b"],
			"Service": "logs.eu-west-1.amazonaws.com"}},
		{"Effect": "Deny", "NotPrincipal": {"AWS": ["arn:aws:iam::444455556666:role/R", "arn:aws:sts::444455556666:assumed-role/R/S",
			"arn:aws:sts::444455556666:federated-user/u"], "Federated": ["accounts.example.com", "arn:aws:iam::111122223333:oidc-provider/x/y"]}},
		{"Effect": "Deny", "Principal": "*"}]}`)
	want := []policy.Mention{
		{Path: "Statement[0].Principal.AWS[1]", Kind: policy.AccountRoot, Account: account, ARN: rootARN},
		{Path: "Statement[0].Principal.AWS[2]", Kind: policy.AccountRoot, Account: account, ARN: rootARN},
		{Path: "Statement[0].Principal.AWS[3]", Kind: policy.User, Account: other, ARN: "arn:aws:iam::444455556666:user/a/b"},
		{Path: "Statement[0].Principal.Service", Kind: policy.Service, ARN: "logs.eu-west-1.amazonaws.com"},
		{Path: "Statement[1].NotPrincipal.AWS[0]", Kind: policy.Role, Account: other, ARN: "arn:aws:iam::444455556666:role/R"},
		{Path: "Statement[1].NotPrincipal.AWS[1]", Kind: policy.RoleSession, Account: other, ARN: "arn:aws:sts::444455556666:assumed-role/R/S"},
		{Path: "Statement[1].NotPrincipal.AWS[2]", Kind: policy.FederatedUser, Account: other, ARN: "arn:aws:sts::444455556666:federated-user/u"},
		{Path: "Statement[1].NotPrincipal.Federated[0]", Kind: policy.WebIdentity, ARN: "accounts.example.com"},
		{Path: "Statement[1].NotPrincipal.Federated[1]", Kind: policy.WebIdentity, Account: account, ARN: "arn:aws:iam::111122223333:oidc-provider/x/y"},
	}
	if diff := cmp.Diff(want, p.Principals()); diff != "" {
		t.Errorf("Principals() (-want +got):\n%s", diff)
	}
}
