package identity

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// Limits of an OIDC provider (IAM User Guide, "IAM and AWS STS quotas").
const (
	maxClientIDs   = 100
	maxThumbprints = 5
)

// CreateOpenIDConnectProviderRequest as in the IAM API Reference,
// CreateOpenIDConnectProvider; providers have no tags here.
type CreateOpenIDConnectProviderRequest struct {
	URL            *string  `xml:"Url" kms:"required,len=1..255"`
	ClientIDList   []string `xml:"ClientIDList>member" kms:"each-len=1..255"`
	ThumbprintList []string `xml:"ThumbprintList>member" kms:"each-len=40..40"`
}

// CreateOpenIDConnectProviderResponse names the provider that was made.
type CreateOpenIDConnectProviderResponse struct{ OpenIDConnectProviderArn string }

// CreateOpenIDConnectProvider makes an issuer known whose tokens can be exchanged
// for sessions of roles that trust it.
func CreateOpenIDConnectProvider(ctx context.Context, tx *metadata.Tx, r *Request, in *CreateOpenIDConnectProviderRequest) (*CreateOpenIDConnectProviderResponse, error) {
	issuer, ok := IssuerOf(*in.URL)
	if !ok {
		return nil, invalidInput("Invalid Open ID Connect Provider URL")
	}
	p := metadata.Provider{Account: r.Caller.Account, URL: issuer, ClientIDs: unique(in.ClientIDList), CreatedAt: r.Now}
	if len(p.ClientIDs) > maxClientIDs {
		return nil, limitExceeded("ClientIdsPerOpenIdConnectProvider", maxClientIDs)
	}
	if len(in.ThumbprintList) > maxThumbprints {
		return nil, invalidInput("Thumbprint list must contain fewer than " + strconv.Itoa(maxThumbprints) + " entries.")
	}
	for _, t := range in.ThumbprintList {
		if strings.Trim(t, "0123456789abcdefABCDEF") != "" {
			return nil, invalidInput("Invalid thumbprint " + t)
		}
		p.Thumbprints = append(p.Thumbprints, strings.ToLower(t))
	}
	if err := tx.InsertProvider(ctx, p); err != nil {
		exists := alreadyExists("Provider with url " + *in.URL + " already exists.")
		return nil, overQuota(refusals{{metadata.ErrExists, exists}}.of(err), "OpenIdConnectProvidersPerAccount")
	}
	return &CreateOpenIDConnectProviderResponse{p.ARN()}, nil
}

// IssuerOf is the URL of an issuer as ARNs and condition keys have it: without its
// scheme. It must be HTTPS, but for issuers on this machine, and nothing may follow
// its path; ports are allowed. Its characters are those that a policy can name.
func IssuerOf(issuer string) (name string, ok bool) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) || u.Hostname() == "" {
		return "", false
	}
	name = u.Host + u.Path
	if issuer != u.Scheme+"://"+name { // a user, a query, escapes
		return "", false
	}
	return name, strings.Trim(name, issuerCharacters) == "" && !strings.Contains(name, "//")
}

const issuerCharacters = nameCharacters + ":/"

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// unique is a list without what stands in it before.
func unique(texts []string) []string {
	var all []string
	for _, s := range texts {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// ProviderRequest names an OIDC provider.
type ProviderRequest struct {
	OpenIDConnectProviderArn *string `kms:"required,len=20..2048"`
}

// GetOpenIDConnectProviderResponse shows a provider; its URL has no scheme.
type GetOpenIDConnectProviderResponse struct {
	URL            string   `xml:"Url"`
	ClientIDList   []string `xml:"ClientIDList>member"`
	ThumbprintList []string `xml:"ThumbprintList>member"`
	CreateDate     time.Time
}

// GetOpenIDConnectProvider shows a provider.
func GetOpenIDConnectProvider(ctx context.Context, r *Request, in *ProviderRequest) (*GetOpenIDConnectProviderResponse, error) {
	p, err := r.View.Provider(ctx, r.Target.Account, r.Target.Name)
	if err != nil {
		return nil, refusals{{metadata.ErrNotFound, NoSuchProvider(*in.OpenIDConnectProviderArn)}}.of(err)
	}
	return &GetOpenIDConnectProviderResponse{
		URL: p.URL, ClientIDList: p.ClientIDs, ThumbprintList: p.Thumbprints, CreateDate: date(p.CreatedAt),
	}, nil
}

// ListOpenIDConnectProvidersRequest has no members (IAM API Reference,
// ListOpenIDConnectProviders).
type ListOpenIDConnectProvidersRequest struct{}

// ListedProvider is a provider as the list shows it.
type ListedProvider struct{ Arn string }

// ListOpenIDConnectProvidersResponse is the whole list: it has no pages.
type ListOpenIDConnectProvidersResponse struct {
	OpenIDConnectProviderList []ListedProvider `xml:"OpenIDConnectProviderList>member"`
}

// ListOpenIDConnectProviders lists the providers of the caller's account.
func ListOpenIDConnectProviders(ctx context.Context, r *Request, _ *ListOpenIDConnectProvidersRequest) (*ListOpenIDConnectProvidersResponse, error) {
	found, err := r.Store.ListProviders(ctx, r.Caller.Account)
	if err != nil {
		return nil, err
	}
	out := new(ListOpenIDConnectProvidersResponse)
	for _, p := range found {
		out.OpenIDConnectProviderList = append(out.OpenIDConnectProviderList, ListedProvider{arn.Provider(p.Account, p.URL)})
	}
	return out, nil
}

// DeleteOpenIDConnectProvider removes a provider: its tokens are not exchanged any
// more, whatever trusts it.
func DeleteOpenIDConnectProvider(ctx context.Context, tx *metadata.Tx, r *Request, in *ProviderRequest) (*kmsapi.Empty, error) {
	return done(tx.DeleteProvider(ctx, r.Target.Account, r.Target.Name), NoSuchProvider(*in.OpenIDConnectProviderArn))
}

// ClientIDRequest names a provider and a client id: an audience that its tokens may
// be for.
type ClientIDRequest struct {
	ProviderRequest
	ClientID *string `kms:"required,len=1..255"`
}

// AddClientIDToOpenIDConnectProvider adds a client id; one that is there stays.
func AddClientIDToOpenIDConnectProvider(ctx context.Context, tx *metadata.Tx, r *Request, in *ClientIDRequest) (*kmsapi.Empty, error) {
	return r.editClientIDs(ctx, tx, in, func(ids []string) ([]string, error) {
		ids = unique(append(ids, *in.ClientID))
		if len(ids) > maxClientIDs {
			return nil, limitExceeded("ClientIdsPerOpenIdConnectProvider", maxClientIDs)
		}
		return ids, nil
	})
}

// RemoveClientIDFromOpenIDConnectProvider removes a client id; one that is not
// there is no error.
func RemoveClientIDFromOpenIDConnectProvider(ctx context.Context, tx *metadata.Tx, r *Request, in *ClientIDRequest) (*kmsapi.Empty, error) {
	return r.editClientIDs(ctx, tx, in, func(ids []string) ([]string, error) {
		return slices.DeleteFunc(ids, func(id string) bool { return id == *in.ClientID }), nil
	})
}

func (r *Request) editClientIDs(ctx context.Context, tx *metadata.Tx, in *ClientIDRequest, edit func([]string) ([]string, error)) (*kmsapi.Empty, error) {
	err := tx.SetClientIDs(ctx, r.Target.Account, r.Target.Name, edit)
	if refusal, ok := errors.AsType[*kmsapi.Error](err); ok {
		return nil, refusal
	}
	return done(err, NoSuchProvider(*in.OpenIDConnectProviderArn))
}
