package identity

import (
	"context"
	"errors"
	"strings"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// maxManagedPolicy is how many characters a managed policy can have, white space
// apart (IAM User Guide, "IAM and AWS STS quotas").
const maxManagedPolicy = 6144

// onlyVersion is the version of every managed policy: they never change.
const onlyVersion = "v1"

// ManagedPolicy is a managed policy as IAM shows it.
type ManagedPolicy struct {
	PolicyName                    string
	PolicyID                      string `xml:"PolicyId"`
	Arn                           string
	Path                          string
	DefaultVersionID              string `xml:"DefaultVersionId"`
	AttachmentCount               int32
	PermissionsBoundaryUsageCount int32
	IsAttachable                  bool
	Description                   string `xml:",omitempty"`
	CreateDate                    time.Time
	UpdateDate                    time.Time
}

func managedPolicyOf(p *metadata.CountedPolicy) ManagedPolicy {
	at := date(p.CreatedAt)
	return ManagedPolicy{
		PolicyName: p.Name, PolicyID: p.ID, Arn: p.ARN(), Path: p.Path, DefaultVersionID: onlyVersion,
		AttachmentCount: int32(p.Attachments), PermissionsBoundaryUsageCount: int32(p.Boundaries), IsAttachable: true,
		Description: p.Description, CreateDate: at, UpdateDate: at,
	}
}

// CreatePolicyRequest as in the IAM API Reference, CreatePolicy; managed policies
// have no tags here.
type CreatePolicyRequest struct {
	PolicyName     *string `kms:"required,len=1..128,pattern=IAMName"`
	Path           *string `kms:"len=1..512,pattern=IAMPath"`
	PolicyDocument *string `kms:"required,len=1..131072,pattern=Policy"`
	Description    *string `kms:"len=0..1000,pattern=Text"`
}

// CreatePolicyResponse has the policy that was made.
type CreatePolicyResponse struct{ Policy ManagedPolicy }

// CreatePolicy makes a managed policy.
func CreatePolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *CreatePolicyRequest) (*CreatePolicyResponse, error) {
	path, err := pathOf(in.Path)
	if err != nil {
		return nil, err
	}
	if documentSize(*in.PolicyDocument) > maxManagedPolicy {
		return nil, limitExceeded("PolicySize", maxManagedPolicy)
	}
	if err := checkDocument(*in.PolicyDocument); err != nil {
		return nil, err
	}
	p := metadata.ManagedPolicy{
		Account: r.Caller.Account, Name: *in.PolicyName, Path: path, ID: newID("ANPA"),
		Description: kmsapi.Or(in.Description, ""), Document: *in.PolicyDocument, CreatedAt: r.Now,
	}
	if err := tx.InsertManagedPolicy(ctx, p); err != nil {
		exists := alreadyExists("A policy called " + p.Name + " already exists. Duplicate names are not allowed.")
		return nil, overQuota(refusals{{metadata.ErrExists, exists}}.of(err), "PoliciesPerAccount")
	}
	return &CreatePolicyResponse{Policy: managedPolicyOf(&metadata.CountedPolicy{ManagedPolicy: p})}, nil
}

// PolicyRequest names a managed policy.
type PolicyRequest struct {
	PolicyArn *string `kms:"required,len=20..2048"`
}

// GetPolicyResponse has the policy that was asked for.
type GetPolicyResponse struct{ Policy ManagedPolicy }

// GetPolicy shows a managed policy, without its document (IAM API Reference,
// GetPolicy).
func GetPolicy(ctx context.Context, r *Request, in *PolicyRequest) (*GetPolicyResponse, error) {
	p, err := r.Store.CountedPolicy(ctx, r.Target.Account, r.Target.Name)
	if err != nil {
		return nil, missingPolicy(err, *in.PolicyArn)
	}
	return &GetPolicyResponse{Policy: managedPolicyOf(&p)}, nil
}

// missingPolicy says it of a managed policy that was deleted since it was looked up.
func missingPolicy(err error, arn string) error {
	return refusals{{metadata.ErrNotFound, NoSuchPolicy(arn)}}.of(err)
}

// PolicyVersion is a version of a managed policy as IAM shows it.
type PolicyVersion struct {
	VersionID        string `xml:"VersionId"`
	IsDefaultVersion bool
	CreateDate       time.Time
	Document         string `xml:",omitempty"` // percent-encoded; not in lists
}

// GetPolicyVersionRequest as in the IAM API Reference, GetPolicyVersion.
type GetPolicyVersionRequest struct {
	PolicyRequest
	VersionID *string `xml:"VersionId" kms:"required,len=1..64"`
}

// GetPolicyVersionResponse has the version that was asked for.
type GetPolicyVersionResponse struct{ PolicyVersion PolicyVersion }

// GetPolicyVersion shows the document of a managed policy.
func GetPolicyVersion(ctx context.Context, r *Request, in *GetPolicyVersionRequest) (*GetPolicyVersionResponse, error) {
	e, err := r.View.ManagedPolicy(ctx, r.Target.Account, r.Target.Name)
	if err != nil {
		return nil, missingPolicy(err, *in.PolicyArn)
	}
	if *in.VersionID != onlyVersion {
		return nil, noSuch("Policy " + *in.PolicyArn + " version " + *in.VersionID + " does not exist or is not attachable.")
	}
	return &GetPolicyVersionResponse{PolicyVersion{
		VersionID: onlyVersion, IsDefaultVersion: true, CreateDate: date(e.CreatedAt), Document: encodeDocument(e.Document),
	}}, nil
}

// ListPolicyVersionsRequest as in the IAM API Reference, ListPolicyVersions.
type ListPolicyVersionsRequest struct {
	PolicyRequest
	PageRequest
}

// ListPolicyVersionsResponse has the one version that there is.
type ListPolicyVersionsResponse struct {
	Versions []PolicyVersion `xml:"Versions>member"`
	Paged
}

// ListPolicyVersions lists the versions of a managed policy.
func ListPolicyVersions(ctx context.Context, r *Request, in *ListPolicyVersionsRequest) (*ListPolicyVersionsResponse, error) {
	if _, _, err := in.start(); err != nil {
		return nil, err
	}
	e, err := r.View.ManagedPolicy(ctx, r.Target.Account, r.Target.Name)
	if err != nil {
		return nil, missingPolicy(err, *in.PolicyArn)
	}
	return &ListPolicyVersionsResponse{Versions: []PolicyVersion{
		{VersionID: onlyVersion, IsDefaultVersion: true, CreateDate: date(e.CreatedAt)},
	}}, nil
}

// ListPoliciesRequest as in the IAM API Reference, ListPolicies.
type ListPoliciesRequest struct {
	Scope             *string `kms:"enum=IAMPolicyScope"`
	OnlyAttached      bool
	PathPrefix        *string `kms:"len=1..512,pattern=IAMPathPrefix"`
	PolicyUsageFilter *string `kms:"enum=IAMPolicyUsage"`
	PageRequest
}

// ListPoliciesResponse is a page of managed policies.
type ListPoliciesResponse struct {
	Policies []ManagedPolicy `xml:"Policies>member"`
	Paged
}

// ListPolicies lists the managed policies of the caller's account by name. There
// are none of AWS's.
func ListPolicies(ctx context.Context, r *Request, in *ListPoliciesRequest) (*ListPoliciesResponse, error) {
	name := func(p metadata.CountedPolicy) string { return p.Name }
	found, paged, err := pageOf(&in.PageRequest, name, func(after string, limit int) ([]metadata.CountedPolicy, error) {
		if kmsapi.Or(in.Scope, "All") == "AWS" {
			return nil, nil
		}
		return r.Store.ListManagedPolicies(ctx, r.Caller.Account, metadata.PolicyFilter{
			PathPrefix: kmsapi.Or(in.PathPrefix, ""), Use: metadata.PolicyUse(kmsapi.Or(in.PolicyUsageFilter, "")), Used: in.OnlyAttached,
		}, after, limit)
	})
	if err != nil {
		return nil, err
	}
	out := &ListPoliciesResponse{Paged: paged}
	for i := range found {
		shown := managedPolicyOf(&found[i])
		shown.Description = "" // GetPolicy has it
		out.Policies = append(out.Policies, shown)
	}
	return out, nil
}

// DeletePolicy removes a managed policy that nobody has (IAM API Reference,
// DeletePolicy).
func DeletePolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *PolicyRequest) (*kmsapi.Empty, error) {
	attached := &kmsapi.Error{Code: awsquery.DeleteConflict, Message: "Cannot delete a policy attached to entities."}
	err := tx.DeleteManagedPolicy(ctx, r.Target.Account, r.Target.Name)
	return done(refusals{{metadata.ErrInUse, attached}}.of(err), NoSuchPolicy(*in.PolicyArn))
}

// attachable refuses an ARN that is not that of a managed policy of the caller's
// account. what is what the refusal calls it.
func (r *Request) attachable(ctx context.Context, what, policyARN string) error {
	a, ok := arn.ParseIAM(policyARN)
	if !ok && !strings.HasPrefix(policyARN, awsManaged) || ok && a.Kind != "policy" {
		return invalidInput("ARN " + policyARN + " is not valid.")
	}
	missing := noSuch(what + " " + policyARN + " does not exist or is not attachable.")
	if !ok || a.Account != r.Caller.Account {
		return missing
	}
	e, err := r.View.ManagedPolicy(ctx, a.Account, a.Name)
	if errors.Is(err, metadata.ErrNotFound) || err == nil && e.ARN() != policyARN {
		return missing
	}
	return err
}

// awsManaged is what ARNs of AWS's own policies begin with. There are none here.
const awsManaged = "arn:" + arn.Partition + ":iam::aws:policy/"
