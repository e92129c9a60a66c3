package gateway

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"kmsgate/gateway/kmsapi"
)

// sts is an STS client with credentials, which does not retry.
func (f *fixture) sts(c aws.Credentials) *awssts.Client {
	return awssts.New(awssts.Options{
		Region: testRegion, BaseEndpoint: &f.server.URL, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil }),
	})
}

// credentialsOf are an answer's, as clients use them.
func credentialsOf(c *types.Credentials) aws.Credentials {
	return aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}
}

// TestSessionOfTheRoot makes a session of an account's root and uses it until it is
// over.
func TestSessionOfTheRoot(t *testing.T) {
	f := newFixture(t, nil)
	out, err := f.sts(f.keys[account1]).GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{DurationSeconds: aws.Int32(3600)})
	if err != nil {
		t.Fatal(err)
	}
	f.keys["session"] = credentialsOf(out.Credentials)
	who, err := f.sts(f.keys["session"]).GetCallerIdentity(t.Context(), &awssts.GetCallerIdentityInput{})
	if err != nil || *who.Arn != "arn:aws:iam::"+account1+":root" {
		t.Errorf("GetCallerIdentity = %v, %v, want the root", who, err)
	}
	f.want(t, "session", "ListKeys", http.StatusOK, "")

	stolen := f.keys["session"]
	stolen.AccessKeyID = "ASIAAAAAAAAAAAAAAAAA"
	f.keys["another access key"] = stolen
	f.want(t, "another access key", "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)

	f.skew.Add(int64(time.Hour))
	f.want(t, "session", "ListKeys", http.StatusBadRequest, kmsapi.ExpiredTokenException)
}
