package identity

import (
	"context"
	"strconv"
	"strings"
	"time"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/session"
	"kmsgate/policy"
)

// longestChained is how long a session can be that was made with another role's.
const longestChained = time.Hour

// AssumeRoleRequest asks for a session of a role (STS API Reference, "AssumeRole").
type AssumeRoleRequest struct {
	RoleArn         *string `kms:"required,len=20..2048"`
	RoleSessionName *string `kms:"required,len=2..64,pattern=IAMName"`
	SessionRequest
	Policy     *string            `kms:"len=1..2048,pattern=Policy"`
	PolicyArns []PolicyDescriptor `xml:"PolicyArns>member"`
	// ExternalID is for conditions of the trust policy: sts:ExternalId.
	ExternalID        *string  `xml:"ExternalId" kms:"len=2..1224,pattern=ExternalId"`
	Tags              []Tag    `xml:"Tags>member"`
	TransitiveTagKeys []string `xml:"TransitiveTagKeys>member" kms:"each-len=1..128"`
	SourceIdentity    *string  `kms:"len=2..64,pattern=IAMName"`

	// Not honoured, and refused.
	SerialNumber     *string           `kms:"len=9..256"`
	TokenCode        *string           `kms:"len=6..6,secret"`
	ProvidedContexts []ProvidedContext `xml:"ProvidedContexts>member"`
}

// ProvidedContext is a context of a trusted identity (STS API Reference,
// "ProvidedContext"); there is none here.
type ProvidedContext struct {
	ProviderArn      *string `kms:"len=20..2048"`
	ContextAssertion *string `kms:"len=4..2048,secret"`
}

// AssumeRoleResponse is the session.
type AssumeRoleResponse struct{ Assumed }

// AssumeRole makes a session of a role that trusts the caller.
func AssumeRole(ctx context.Context, r *Request, in *AssumeRoleRequest) (*AssumeRoleResponse, error) {
	role, err := roleOf(ctx, r)
	if err != nil {
		return nil, err
	}
	c := &session.Claims{SessionName: *in.RoleSessionName, Chained: r.Caller.Kind == policy.RoleSession}
	if err := label(c, r.Caller.Session, in); err != nil {
		return nil, err
	}
	if err := restrict(ctx, r, c, in.Policy, in.PolicyArns); err != nil {
		return nil, err
	}
	assumed, err := assume(ctx, r, role, c, &in.SessionRequest)
	return &AssumeRoleResponse{assumed}, err
}

// label puts source identity and tags into the claims: what the caller's own session
// passes on, and what the request adds. Nothing that is passed on can be changed.
func label(c, callers *session.Claims, in *AssumeRoleRequest) error {
	c.SourceIdentity = kmsapi.Or(in.SourceIdentity, "")
	tags, err := sessionTags(in.Tags)
	if err != nil {
		return err
	}
	c.TransitiveTags = in.TransitiveTagKeys
	if callers != nil {
		if err := inherit(c, callers, tags); err != nil {
			return err
		}
	}
	if len(tags) > maxSessionTags {
		return validation("A session can have up to " + strconv.Itoa(maxSessionTags) + " tags.")
	}
	for _, key := range c.TransitiveTags {
		if _, ok := tags[key]; !ok {
			return invalidParameter("The transitive tag key " + key + " is not the key of a tag of the session.")
		}
	}
	if len(tags) > 0 {
		c.Tags = tags
	}
	return nil
}

// inherit adds what the caller's session passes on.
func inherit(c, callers *session.Claims, tags map[string]string) error {
	if callers.SourceIdentity != "" {
		if c.SourceIdentity != "" && c.SourceIdentity != callers.SourceIdentity {
			return &kmsapi.Error{Code: kmsapi.AccessDeniedException, Message: "The source identity of the calling session cannot be changed."}
		}
		c.SourceIdentity = callers.SourceIdentity
	}
	own := c.TransitiveTags
	c.TransitiveTags = nil
	for _, key := range callers.TransitiveTags {
		if hasKey(tags, key) {
			return invalidParameter("One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session.")
		}
		c.TransitiveTags = append(c.TransitiveTags, key)
	}
	for _, key := range callers.TransitiveTags {
		tags[key] = callers.Tags[key]
	}
	for _, key := range own {
		if !containsFold(c.TransitiveTags, key) {
			c.TransitiveTags = append(c.TransitiveTags, key)
		}
	}
	return nil
}

// maxSessionTags is how many tags a session can have.
const maxSessionTags = 50

// sessionTags are the tags of a request, by key. Keys are compared regardless of case.
func sessionTags(list []Tag) (map[string]string, error) {
	tags := make(map[string]string, len(list))
	for _, t := range list {
		key := *t.Key
		switch {
		case hasKey(tags, key):
			return nil, invalidParameter("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			return nil, invalidParameter("Tag keys beginning with aws: are reserved.")
		}
		tags[key] = *t.Value
	}
	return tags, nil
}

func hasKey(tags map[string]string, key string) bool {
	for k := range tags {
		if strings.EqualFold(k, key) {
			return true
		}
	}
	return false
}

func containsFold(keys []string, key string) bool {
	for _, k := range keys {
		if strings.EqualFold(k, key) {
			return true
		}
	}
	return false
}

func invalidParameter(text string) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.InvalidParameterValue, Message: text}
}
