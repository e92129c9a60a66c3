package integration_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
)

const thumbprint = "00112233445566778899aabbccddeeff00112233"

func TestOIDCProviderLife(t *testing.T) {
	t.Parallel()
	c := gateway(t).roleClient(own)
	made, err := c.CreateOpenIDConnectProvider(t.Context(), &iam.CreateOpenIDConnectProviderInput{
		Url: aws.String("https://life.example.com:8443/id/1"), ClientIDList: []string{"sts.amazonaws.com", "other", "other"},
		ThumbprintList: []string{strings.ToUpper(thumbprint)},
	})
	if err != nil {
		t.Fatal(err)
	}
	arn := made.OpenIDConnectProviderArn
	if want := "arn:aws:iam::" + own + ":oidc-provider/life.example.com:8443/id/1"; *arn != want {
		t.Errorf("ARN %s, want %s", *arn, want)
	}
	clients := func(want ...string) {
		t.Helper()
		got, err := c.GetOpenIDConnectProvider(t.Context(), &iam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: arn})
		if err != nil {
			t.Fatal(err)
		}
		if *got.Url != "life.example.com:8443/id/1" || !slices.Equal(got.ClientIDList, want) || !slices.Equal(got.ThumbprintList, []string{thumbprint}) || got.CreateDate == nil {
			t.Errorf("GetOpenIDConnectProvider: %+v, want clients %v", got, want)
		}
	}
	clients("sts.amazonaws.com", "other")
	for _, id := range []string{"third", "third"} {
		if _, err := c.AddClientIDToOpenIDConnectProvider(t.Context(), &iam.AddClientIDToOpenIDConnectProviderInput{OpenIDConnectProviderArn: arn, ClientID: &id}); err != nil {
			t.Error(err)
		}
	}
	clients("sts.amazonaws.com", "other", "third")
	for _, id := range []string{"other", "other"} {
		if _, err := c.RemoveClientIDFromOpenIDConnectProvider(t.Context(), &iam.RemoveClientIDFromOpenIDConnectProviderInput{OpenIDConnectProviderArn: arn, ClientID: &id}); err != nil {
			t.Error(err)
		}
	}
	clients("sts.amazonaws.com", "third")
	listed := func() bool {
		list, err := c.ListOpenIDConnectProviders(t.Context(), &iam.ListOpenIDConnectProvidersInput{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.OpenIDConnectProviderList, func(e types.OpenIDConnectProviderListEntry) bool { return *e.Arn == *arn })
	}
	if !listed() {
		t.Error("ListOpenIDConnectProviders does not have it")
	}
	if _, err := c.DeleteOpenIDConnectProvider(t.Context(), &iam.DeleteOpenIDConnectProviderInput{OpenIDConnectProviderArn: arn}); err != nil {
		t.Fatal(err)
	}
	if listed() {
		t.Error("ListOpenIDConnectProviders has it after it was deleted")
	}
	_, err1 := c.GetOpenIDConnectProvider(t.Context(), &iam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: arn})
	_, err2 := c.DeleteOpenIDConnectProvider(t.Context(), &iam.DeleteOpenIDConnectProviderInput{OpenIDConnectProviderArn: arn})
	_, err3 := c.AddClientIDToOpenIDConnectProvider(t.Context(), &iam.AddClientIDToOpenIDConnectProviderInput{OpenIDConnectProviderArn: arn, ClientID: aws.String("x")})
	for _, err := range []error{err1, err2, err3} {
		wantIAMRefusal(t, "after it was deleted", err, 404, "NoSuchEntity", "OpenIDConnect Provider not found for arn "+*arn)
	}
}

func TestOIDCProviderRefusals(t *testing.T) {
	t.Parallel()
	c := gateway(t).roleClient(own)
	create := func(url string, edit ...func(*iam.CreateOpenIDConnectProviderInput)) error {
		in := &iam.CreateOpenIDConnectProviderInput{Url: &url}
		for _, e := range edit {
			e(in)
		}
		_, err := c.CreateOpenIDConnectProvider(t.Context(), in)
		return err
	}
	// An issuer on this machine needs no TLS.
	if err := errors.Join(create("https://refused.example.com"), create("http://127.0.0.1:9/refused")); err != nil {
		t.Fatal(err)
	}
	wantIAMRefusal(t, "the same again", create("https://refused.example.com"), 409, "EntityAlreadyExists", "Provider with url https://refused.example.com already exists.")
	for _, url := range []string{
		"refused.example.com/x", "http://refused.example.com/x", "ftp://refused.example.com", "https://", "https://u@refused.example.com", "https://refused.example.com?a=b",
		"https://refused.example.com/#f", "https://refused.example.com/a%20b", "https://refused.example.com//a", "https://refused.example.com/*", "HTTPS://refused.example.com/x", "https://[::1]/x",
	} {
		wantIAMRefusal(t, url, create(url), 400, "InvalidInput", "Invalid Open ID Connect Provider URL")
	}
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint("client-", i)
	}
	const fresh = "https://refused.example.com/fresh"
	for what, r := range map[string]struct {
		edit          func(*iam.CreateOpenIDConnectProviderInput)
		status        int
		code, message string
	}{
		"many clients":       {func(in *iam.CreateOpenIDConnectProviderInput) { in.ClientIDList = many }, 409, "LimitExceeded", "Cannot exceed quota for ClientIdsPerOpenIdConnectProvider: 100"},
		"an empty client":    {func(in *iam.CreateOpenIDConnectProviderInput) { in.ClientIDList = []string{""} }, 400, "ValidationError", ""},
		"a short thumbprint": {func(in *iam.CreateOpenIDConnectProviderInput) { in.ThumbprintList = []string{"00"} }, 400, "ValidationError", ""},
		"a thumbprint of other letters": {func(in *iam.CreateOpenIDConnectProviderInput) {
			in.ThumbprintList = []string{strings.Replace(thumbprint, "0", "x", 1)}
		}, 400, "InvalidInput", ""},
		"many thumbprints": {func(in *iam.CreateOpenIDConnectProviderInput) {
			in.ThumbprintList = slices.Repeat([]string{thumbprint}, 6)
		}, 400, "InvalidInput", "Thumbprint list must contain fewer than 5 entries."},
		"tags": {func(in *iam.CreateOpenIDConnectProviderInput) {
			in.Tags = []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}
		}, 400, "ValidationError", ""},
	} {
		wantIAMRefusal(t, what, create(fresh, r.edit), r.status, r.code, r.message)
	}
	foreign := "arn:aws:iam::" + other + ":oidc-provider/refused.example.com"
	_, err := c.GetOpenIDConnectProvider(t.Context(), &iam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: &foreign})
	wantIAMRefusal(t, "another account's", err, 404, "NoSuchEntity", "OpenIDConnect Provider not found for arn "+foreign)
}
