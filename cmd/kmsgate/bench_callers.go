package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/url"
	"strings"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/metadata"
)

// benchKey is an access key that signs calls in place of the account root's.
type benchKey struct {
	AccessKey string `json:"accessKey"`
	Secret    []byte `json:"secret"`
}

// callerKinds are the kinds of requests that are held against Encrypt of the
// account's root: what it costs to find out who may do what.
var callerKinds = []benchKind{
	{"Encrypt by identity policy", rawGCM, identityCalls},
	{"Encrypt by grant", rawGCM, grantCalls(1)},
	{"Encrypt by one of 50,000 grants", rawGCM, grantCalls(metadata.MaxGrants)},
}

// identityCalls are of a user with five policies, on a key whose policy has ten
// statements.
func identityCalls(ctx context.Context, e *benchEnvironment, _ []string) ([]benchCall, error) {
	user, err := e.newUser(ctx, "bench-identity")
	if err != nil {
		return nil, err
	}
	for n := range 5 {
		action := "s3:Get*"
		if n == 4 {
			action = "kms:Encrypt"
		}
		if err := e.form(ctx, "PutUserPolicy", url.Values{
			"UserName": {"bench-identity"}, "PolicyName": {fmt.Sprint("p", n)}, "PolicyDocument": {benchPolicy("", action, 1)},
		}, nil); err != nil {
			return nil, err
		}
	}
	key, err := e.keyOf(ctx, struct{ Policy string }{benchPolicy(arn.Root(benchAccount), "kms:*", 10)})
	if err != nil {
		return nil, err
	}
	return callsBy(user, []string{key})
}

// keyOf makes a key for one kind of request alone.
func (e *benchEnvironment) keyOf(ctx context.Context, in any) (string, error) {
	var made struct {
		KeyMetadata struct {
			KeyID string `json:"KeyId"`
		}
	}
	err := e.api(ctx, "CreateKey", in, &made)
	e.others = append(e.others, made.KeyMetadata.KeyID)
	return made.KeyMetadata.KeyID, err
}

// grantCalls are of a user who has nothing but a grant, on a key that has n.
func grantCalls(n int) func(context.Context, *benchEnvironment, []string) ([]benchCall, error) {
	return func(ctx context.Context, e *benchEnvironment, _ []string) ([]benchCall, error) {
		name := fmt.Sprint("bench-grant-", n)
		user, err := e.newUser(ctx, name)
		if err != nil {
			return nil, err
		}
		key, err := e.keyOf(ctx, struct{}{})
		if err != nil {
			return nil, err
		}
		if err := e.fillGrants(ctx, key, n-1); err != nil {
			return nil, err
		}
		grant := struct {
			KeyID            string `json:"KeyId"`
			GranteePrincipal string
			Operations       []string
		}{key, arn.User(benchAccount, "/", name), []string{"Encrypt"}}
		if err := e.api(ctx, "CreateGrant", grant, nil); err != nil {
			return nil, err
		}
		return callsBy(user, []string{key})
	}
}

// fillGrants gives a key grants to principals who never call.
func (e *benchEnvironment) fillGrants(ctx context.Context, key string, n int) error {
	const together = 500
	for from := 0; from < n; from += together {
		event := adminEvent("bench", "CreateGrant", benchAccount, benchRegion, time.Now(), nil)
		err := e.installed.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
			for i := from; i < min(from+together, n); i++ {
				sum := sha256.Sum256(fmt.Append(nil, key, i))
				_, err := tx.InsertGrant(ctx, metadata.Grant{
					Account: benchAccount, Region: benchRegion, KeyID: key, ID: hex.EncodeToString(sum[:]),
					Grantee: arn.Role(benchAccount, "/", fmt.Sprint("bench-", i)), IssuingAccount: benchAccount,
					Operations: []string{"Encrypt", "Decrypt"}, CreatedAt: time.Now(),
				}, sum, metadata.MaxGrants)
				if err != nil {
					return nil, err
				}
			}
			return event, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// callsBy encrypts with each key, signed by another than the root.
func callsBy(key *benchKey, keys []string) ([]benchCall, error) {
	calls, err := callsOn(keys, encryptCall)
	for i := range calls {
		calls[i].By = key
	}
	return calls, err
}

// benchPolicy is a document of n statements of which the last is not about
// others. It is a key policy if there is a principal.
func benchPolicy(principal, action string, n int) string {
	var statements []string
	for i := range n {
		who, what, where := "", action, ""
		if principal != "" {
			who = fmt.Sprintf(`"Principal":{"AWS":%q},`, principal)
		}
		if i < n-1 {
			what, where = "kms:Decrypt", fmt.Sprintf(`,"Condition":{"StringEquals":{"kms:EncryptionContext:purpose":"other-%d"}}`, i)
		}
		statements = append(statements, fmt.Sprintf(`{"Effect":"Allow",%s"Action":%q,"Resource":"*"%s}`, who, what, where))
	}
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

// newUser makes a user and an access key for it.
func (e *benchEnvironment) newUser(ctx context.Context, name string) (*benchKey, error) {
	if err := e.form(ctx, "CreateUser", url.Values{"UserName": {name}}, nil); err != nil {
		return nil, err
	}
	var made struct {
		ID     string `xml:"CreateAccessKeyResult>AccessKey>AccessKeyId"`
		Secret string `xml:"CreateAccessKeyResult>AccessKey>SecretAccessKey"`
	}
	if err := e.form(ctx, "CreateAccessKey", url.Values{"UserName": {name}}, &made); err != nil {
		return nil, err
	}
	return &benchKey{AccessKey: made.ID, Secret: []byte(made.Secret)}, nil
}

// form makes one request of the IAM API and reads its answer into out, if that is
// not nil.
func (e *benchEnvironment) form(ctx context.Context, action string, values url.Values, out any) error {
	values.Set("Action", action)
	values.Set("Version", "2010-05-08")
	body, err := e.roundTrip(ctx, action, benchCall{Service: "iam", Body: []byte(values.Encode())})
	if err != nil || out == nil {
		return err
	}
	return xml.Unmarshal(body, out)
}
