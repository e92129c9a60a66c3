package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
	"github.com/google/uuid"

	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/session"
	"kmsgate/metadata"
)

// sts is an STS client of a caller, which does not retry.
func (f *fixture) sts(caller string) *awssts.Client {
	return awssts.New(awssts.Options{
		Region: testRegion, BaseEndpoint: &f.server.URL, RetryMaxAttempts: 1, Credentials: f.credentials(caller),
	})
}

// credentials are a caller's.
func (f *fixture) credentials(caller string) aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return f.keys[caller], nil })
}

// listUsers calls IAM as a caller.
func (f *fixture) listUsers(t *testing.T, caller string) error {
	t.Helper()
	_, err := awsiam.New(awsiam.Options{
		Region: testRegion, BaseEndpoint: &f.server.URL, RetryMaxAttempts: 1, Credentials: f.credentials(caller),
	}).ListUsers(t.Context(), &awsiam.ListUsersInput{})
	return err
}

// auditText is the whole audit log.
func (f *fixture) auditText(t *testing.T) string {
	t.Helper()
	log := f.store.AuditLog()
	waiting, err := log.Outbox(t.Context(), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	records, _, err := log.Last(t.Context(), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, r := range append(waiting, records...) {
		text.Write(r.Event)
		text.WriteByte('\n')
	}
	return text.String()
}

// credentialsOf are an answer's, as clients use them.
func credentialsOf(c *types.Credentials) aws.Credentials {
	return aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}
}

// addRole makes a role of the first account with a trust policy and a policy. It
// returns its ARN.
func (f *fixture) addRole(t *testing.T, name, trust, document string) string {
	t.Helper()
	role := metadata.Principal{
		Account: account1, Kind: metadata.Role, Name: name, Path: "/", CreatedAt: f.now(), Trust: trust, MaxSession: 2 * time.Hour,
		ID: "AROA" + strings.ToUpper(strings.ReplaceAll(uuid.NewString(), "-", ""))[:17],
	}
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		if err := tx.InsertPrincipal(ctx, role, nil); err != nil {
			return err
		}
		return tx.PutPrincipalPolicy(ctx, account1, metadata.Role, name, "p", document)
	})
	return role.ARN()
}

// trustAccount is a trust policy for everybody of the first account whom their own
// policies allow to do these.
func trustAccount(actions ...string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + account1 + `"},"Action":["` + strings.Join(actions, `","`) + `"]}]}`
}

const (
	mayAssume = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:*","Resource":"*"}]}`
	mayList   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:ListKeys","kms:ListAliases","sts:*"],"Resource":"*"}]}`
)

// assume makes a session of a role, whose credentials f.keys has under its name.
func (f *fixture) assume(t *testing.T, caller, role, name string, more ...func(*awssts.AssumeRoleInput)) (*awssts.AssumeRoleOutput, error) {
	t.Helper()
	in := &awssts.AssumeRoleInput{RoleArn: &role, RoleSessionName: &name}
	for _, m := range more {
		m(in)
	}
	out, err := f.sts(caller).AssumeRole(t.Context(), in)
	if err == nil {
		f.keys[name] = credentialsOf(out.Credentials)
	}
	return out, err
}

// mustAssume is assume that succeeds.
func (f *fixture) mustAssume(t *testing.T, caller, role, name string, more ...func(*awssts.AssumeRoleInput)) *awssts.AssumeRoleOutput {
	t.Helper()
	out, err := f.assume(t, caller, role, name, more...)
	if err != nil {
		t.Fatalf("AssumeRole by %s: %v", caller, err)
	}
	return out
}

// wantCode checks an error's code.
func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	apiError, ok := errors.AsType[smithy.APIError](err)
	if !ok || apiError.ErrorCode() != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// TestSessionOfTheRoot makes a session of an account's root and uses it until it is
// over.
func TestSessionOfTheRoot(t *testing.T) {
	f := newFixture(t, nil)
	out, err := f.sts(account1).GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{DurationSeconds: aws.Int32(7200)})
	if err != nil {
		t.Fatal(err)
	}
	if left := out.Credentials.Expiration.Sub(f.now()); left > time.Hour {
		t.Errorf("the root's session is %s, want an hour at most", left)
	}
	f.keys["session"] = credentialsOf(out.Credentials)
	who, err := f.sts("session").GetCallerIdentity(t.Context(), &awssts.GetCallerIdentityInput{})
	if err != nil || *who.Arn != "arn:aws:iam::"+account1+":root" {
		t.Errorf("GetCallerIdentity = %v, %v, want the root", who, err)
	}
	f.want(t, "session", "ListKeys", http.StatusOK, "")

	f.skew.Add(int64(time.Hour))
	f.want(t, "session", "ListKeys", http.StatusBadRequest, kmsapi.ExpiredTokenException)
}

// TestSessionTokensOfOthersAreRefused changes the token, the access key and the secret
// of a session in turn.
func TestSessionTokensOfOthersAreRefused(t *testing.T) {
	f := newFixture(t, nil)
	var sessions [2]aws.Credentials
	for i := range sessions {
		out, err := f.sts(account1).GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{})
		if err != nil {
			t.Fatal(err)
		}
		sessions[i] = credentialsOf(out.Credentials)
	}
	f.keys["good"] = sessions[0]
	f.want(t, "good", "ListKeys", http.StatusOK, "") // the token is remembered from here on
	for name, change := range map[string]func(*aws.Credentials){
		"token of another session": func(c *aws.Credentials) { c.SessionToken = sessions[1].SessionToken },
		"access key of another":    func(c *aws.Credentials) { c.AccessKeyID = sessions[1].AccessKeyID },
		"long-term access key":     func(c *aws.Credentials) { c.AccessKeyID = f.keys[account1].AccessKeyID },
		"token cut off":            func(c *aws.Credentials) { c.SessionToken = c.SessionToken[:len(c.SessionToken)-4] },
		"token changed":            func(c *aws.Credentials) { c.SessionToken = c.SessionToken[:100] + "AAAA" + c.SessionToken[104:] },
		"no token":                 func(c *aws.Credentials) { c.SessionToken = "" },
		"key id of the future":     func(c *aws.Credentials) { c.SessionToken = "AX////8" + c.SessionToken[7:] },
	} {
		c := sessions[0]
		change(&c)
		f.keys[name] = c
		f.want(t, name, "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)
	}
	c := sessions[0]
	c.SecretAccessKey = sessions[1].SecretAccessKey
	f.keys["secret"] = c
	f.want(t, "secret", "ListKeys", http.StatusBadRequest, kmsapi.InvalidSignatureException)
	f.want(t, "good", "ListKeys", http.StatusOK, "")
}

// TestUnknownSessionKeysAreAskedForSeldom sends many tokens under keys that there are
// not.
func TestUnknownSessionKeysAreAskedForSeldom(t *testing.T) {
	f := newFixture(t, nil)
	f.clock = f.standstill
	out, err := f.sts(account1).GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{})
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]int{}
	for i := range 2 * sessionKeyReads {
		c := credentialsOf(out.Credentials)
		c.SessionToken = "AX///" + string(rune('A'+i)) + "8" + c.SessionToken[7:]
		f.keys["unknown"] = c
		a, err := f.call(t.Context(), "unknown", "ListKeys", "{}")
		if err != nil {
			t.Fatal(err)
		}
		codes[a.code]++
	}
	if codes["UnrecognizedClientException"] != sessionKeyReads || codes["ThrottlingException"] != sessionKeyReads {
		t.Errorf("answers %v, want Postgres asked %d times and the others throttled", codes, sessionKeyReads)
	}
}

// TestSessionsOfUsersAreConfined: what GetSessionToken gives is not for IAM.
func TestSessionsOfUsersAreConfined(t *testing.T) {
	f := newFixture(t, nil)
	f.addUser(t, account1, "alice", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`)
	role := f.addRole(t, "lister", trustAccount("sts:AssumeRole"), mayList)
	out, err := f.sts("alice").GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{DurationSeconds: aws.Int32(129600)})
	if err != nil {
		t.Fatal(err)
	}
	f.keys["session"] = credentialsOf(out.Credentials)
	f.want(t, "session", "ListKeys", http.StatusOK, "")
	_, err = f.sts("session").GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{})
	wantCode(t, "GetSessionToken by a session", err, "AccessDenied")
	wantCode(t, "IAM by a session", f.listUsers(t, "session"), "InvalidClientTokenId")
	if err := f.listUsers(t, "alice"); err != nil {
		t.Errorf("IAM by the user: %v", err)
	}
	f.mustAssume(t, "session", role, "from-session", func(in *awssts.AssumeRoleInput) { in.DurationSeconds = aws.Int32(7200) })

	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		return tx.DeletePrincipalPolicy(ctx, account1, metadata.User, "alice", "p")
	})
	f.deleteUser(t, account1, "alice")
	f.want(t, "session", "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)
	f.addUser(t, account1, "alice", mayList)
	f.want(t, "session", "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)
}

// TestSessionsOutliveTheirAccessKey: what ends those of a user whose key was stolen is
// a policy about when they were issued.
func TestSessionsOutliveTheirAccessKey(t *testing.T) {
	f := newFixture(t, nil)
	f.addUser(t, account1, "alice", mayList)
	out, err := f.sts("alice").GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{})
	if err != nil {
		t.Fatal(err)
	}
	f.keys["session"] = credentialsOf(out.Credentials)
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		return tx.SetAccessKeyStatus(ctx, account1, "alice", f.keys["alice"].AccessKeyID, metadata.AccessKeyInactive)
	})
	f.want(t, "alice", "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)
	f.want(t, "session", "ListKeys", http.StatusOK, "")
	stop := func(before time.Time) {
		t.Helper()
		document := `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*",
			"Condition":{"DateLessThan":{"aws:TokenIssueTime":"` + before.UTC().Format(time.RFC3339) + `"}}}]}`
		f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.PutPrincipalPolicy(ctx, account1, metadata.User, "alice", "stop", document)
		})
	}
	stop(f.now().Add(-time.Hour))
	f.want(t, "session", "ListKeys", http.StatusOK, "")
	stop(f.now().Add(2 * time.Second))
	f.want(t, "session", "ListKeys", http.StatusBadRequest, denied)
}

func TestAssumedRoleActsAsTheRole(t *testing.T) {
	f := newFixture(t, nil)
	f.addUser(t, account1, "alice", mayAssume)
	role := f.addRole(t, "lister", trustAccount("sts:AssumeRole"), mayList)
	f.want(t, "alice", "ListKeys", http.StatusBadRequest, denied)
	out := f.mustAssume(t, "alice", role, "audit-1")
	if want := "arn:aws:sts::" + account1 + ":assumed-role/lister/audit-1"; *out.AssumedRoleUser.Arn != want {
		t.Errorf("AssumedRoleUser.Arn = %s, want %s", *out.AssumedRoleUser.Arn, want)
	}
	if len(*out.Credentials.SecretAccessKey) != 40 || len(*out.Credentials.AccessKeyId) != 20 || !strings.HasPrefix(*out.Credentials.AccessKeyId, "ASIA") {
		t.Errorf("access key %s with a secret of %d characters, want ASIA… and 40", *out.Credentials.AccessKeyId, len(*out.Credentials.SecretAccessKey))
	}
	who, err := f.sts("audit-1").GetCallerIdentity(t.Context(), &awssts.GetCallerIdentityInput{})
	if err != nil || *who.Arn != *out.AssumedRoleUser.Arn || *who.UserId != *out.AssumedRoleUser.AssumedRoleId || *who.Account != account1 {
		t.Errorf("GetCallerIdentity = %v, %v, want the session", who, err)
	}
	f.want(t, "audit-1", "ListKeys", http.StatusOK, "")
	f.ask(t, "audit-1", "GenerateRandom", object{"NumberOfBytes": 8}, denied)

	log := f.auditText(t)
	for what, secret := range map[string]string{"secret": *out.Credentials.SecretAccessKey, "token": *out.Credentials.SessionToken} {
		if strings.Contains(log, secret) || strings.Contains(f.log.String(), secret) {
			t.Errorf("the %s is in a log", what)
		}
	}
	if !strings.Contains(log, `"responseElements":{"credentials":{"accessKeyId":"`+*out.Credentials.AccessKeyId+`"`) {
		t.Error("the record of AssumeRole does not have the access key")
	}
}

func TestSessionsEndWithTheirRole(t *testing.T) {
	f := newFixture(t, nil)
	f.addUser(t, account1, "alice", mayAssume)
	role := f.addRole(t, "lister", trustAccount("sts:AssumeRole"), mayList)
	f.mustAssume(t, "alice", role, "before")
	f.want(t, "before", "ListKeys", http.StatusOK, "")
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		return tx.RevokeSessions(ctx, account1, "lister", f.now())
	})
	f.want(t, "before", "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)
	f.mustAssume(t, "alice", role, "after")
	f.want(t, "after", "ListKeys", http.StatusOK, "")

	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		return errors.Join(
			tx.DeletePrincipalPolicy(ctx, account1, metadata.Role, "lister", "p"),
			tx.DeletePrincipal(ctx, account1, metadata.Role, "lister"),
		)
	})
	f.want(t, "after", "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)
	f.addRole(t, "lister", trustAccount("sts:AssumeRole"), mayList)
	f.want(t, "after", "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)
}

func TestSessionPoliciesRestrict(t *testing.T) {
	f := newFixture(t, nil)
	f.addUser(t, account1, "alice", mayAssume)
	role := f.addRole(t, "lister", trustAccount("sts:AssumeRole"), mayList)
	const keys = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:ListKeys","Resource":"*"}]}`
	out := f.mustAssume(t, "alice", role, "inline", func(in *awssts.AssumeRoleInput) { in.Policy = aws.String(keys) })
	if size := aws.ToInt32(out.SessionTokenSize); int(size) != len(*out.Credentials.SessionToken) {
		t.Errorf("SessionTokenSize = %d, want %d", size, len(*out.Credentials.SessionToken))
	}
	managed := metadata.ManagedPolicy{Account: account1, Name: "keys", Path: "/", ID: "ANPAKEYS", Document: keys, CreatedAt: f.now()}
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error { return tx.InsertManagedPolicy(ctx, managed) })
	arns := []types.PolicyDescriptorType{{Arn: aws.String(managed.ARN())}}
	f.mustAssume(t, "alice", role, "managed", func(in *awssts.AssumeRoleInput) { in.PolicyArns = arns })
	for _, name := range []string{"inline", "managed"} {
		f.want(t, name, "ListKeys", http.StatusOK, "")
		f.want(t, name, "ListAliases", http.StatusBadRequest, denied)
	}
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		return tx.DeleteManagedPolicy(ctx, account1, "keys")
	})
	f.want(t, "managed", "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)

	_, err := f.assume(t, "alice", role, "gone", func(in *awssts.AssumeRoleInput) { in.PolicyArns = arns })
	wantCode(t, "a policy that is not there", err, "ValidationError")
	_, err = f.assume(t, "alice", role, "bad", func(in *awssts.AssumeRoleInput) { in.Policy = aws.String("{}") })
	wantCode(t, "no policy", err, "MalformedPolicyDocument")
	tags := make([]types.Tag, 50)
	for i := range tags {
		tags[i] = types.Tag{Key: aws.String(strings.Repeat("k", i+1)), Value: aws.String(strings.Repeat("v", 256))}
	}
	role = f.addRole(t, "tagged", trustAccount("sts:AssumeRole", "sts:TagSession"), mayList)
	_, err = f.assume(t, "alice", role, "large", func(in *awssts.AssumeRoleInput) { in.Tags = tags })
	wantCode(t, "tags that do not fit", err, "PackedPolicyTooLarge")
}

// TestSessionPoliciesAreKeptWithinABound: those of many sessions are one, and of many
// different ones not all are kept.
func TestSessionPoliciesAreKeptWithinABound(t *testing.T) {
	t.Parallel()
	var cache sessionPolicies
	document := func(n int) string {
		return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}` + strings.Repeat(" ", n)
	}
	first, err := cache.policy(document(0))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := cache.policy(document(0)); err != nil || again != first {
		t.Errorf("the same text is compiled twice: %v", err)
	}
	for n := 1; n <= 2000; n++ {
		if _, err := cache.policy(document(n)); err != nil {
			t.Fatal(err)
		}
		if cache.bytes > maxSessionPolicyBytes {
			t.Fatalf("%d bytes of text are kept, want %d at most", cache.bytes, maxSessionPolicyBytes)
		}
	}
	if _, err := cache.policy("{}"); err == nil {
		t.Error("what is no policy is taken as one")
	}
}

func TestDurationsAreBounded(t *testing.T) {
	f := newFixture(t, nil)
	f.addUser(t, account1, "alice", mayAssume)
	role := f.addRole(t, "lister", trustAccount("sts:AssumeRole"), mayList)
	lasting := func(seconds int32) func(*awssts.AssumeRoleInput) {
		return func(in *awssts.AssumeRoleInput) { in.DurationSeconds = &seconds }
	}
	out := f.mustAssume(t, "alice", role, "long", lasting(7200))
	if left := out.Credentials.Expiration.Sub(f.now()); left < 110*time.Minute {
		t.Errorf("the session is %s, want two hours", left)
	}
	for name, tc := range map[string]struct {
		caller  string
		seconds int32
	}{
		"longer than the role's": {"alice", 7201}, "too short": {"alice", 899}, "longer than any": {"alice", 43201},
		"chained": {"long", 3601},
	} {
		_, err := f.assume(t, tc.caller, role, "none", lasting(tc.seconds))
		wantCode(t, name, err, "ValidationError")
	}
	f.mustAssume(t, "long", role, "chained", lasting(3600))
	f.want(t, "chained", "ListKeys", http.StatusOK, "")
}

func TestMFAIsRefused(t *testing.T) {
	f := newFixture(t, nil)
	f.addUser(t, account1, "alice", mayAssume)
	role := f.addRole(t, "lister", trustAccount("sts:AssumeRole"), mayList)
	_, err := f.assume(t, "alice", role, "none", func(in *awssts.AssumeRoleInput) {
		in.SerialNumber, in.TokenCode = aws.String("arn:aws:iam::"+account1+":mfa/alice"), aws.String("123456")
	})
	wantCode(t, "AssumeRole with a code", err, "AccessDenied")
	_, err = f.sts("alice").GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{TokenCode: aws.String("123456")})
	wantCode(t, "GetSessionToken with a code", err, "AccessDenied")
}

// TestSessionKeysAreSharedAndReplaced has two gateways on one database make and open
// sessions, over days.
func TestSessionKeysAreSharedAndReplaced(t *testing.T) {
	f := newFixture(t, nil)
	other := newSessionKeys(f.store, f.tokens)
	ctx, now := t.Context(), f.now()
	mine, err := f.sessionKeys.current(ctx, now, testStore)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := other.current(ctx, now.Add(sessionKeyFor-time.Second), testStore)
	if err != nil || theirs.ID() != mine.ID() {
		t.Fatalf("the other gateway seals under key %v, %v, want %d", theirs, err, mine.ID())
	}
	next, err := other.current(ctx, now.Add(sessionKeyFor), testStore)
	if err != nil || next.ID() != mine.ID()+1 {
		t.Fatalf("the next day's key is %v, %v, want %d", next, err, mine.ID()+1)
	}
	c := &session.Claims{AccessKeyID: "ASIA", IssuedAt: now, ExpiresAt: now.Add(time.Hour)}
	token, err := session.Seal(next, c, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.openSession(ctx, now, token, "ASIA"); err != nil {
		t.Errorf("a token under a key that the other gateway has just made: %v", err)
	}
	if err := other.sweep(ctx, now.Add(sessionKeyFor+longestSession)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.find(ctx, now, mine.ID()); err != nil {
		t.Errorf("a key that sessions may be alive of is gone: %v", err)
	}
	if err := other.sweep(ctx, now.Add(sessionKeyFor+longestSession+2*sessionKeyMargin)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.find(ctx, now, mine.ID()); !errors.Is(err, session.ErrInvalid) {
		t.Errorf("find of a key that is over = %v, want ErrInvalid", err)
	}
	if _, err := other.find(ctx, now, next.ID()); err != nil {
		t.Errorf("the newest key: %v", err)
	}
}
