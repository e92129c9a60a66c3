package kmsapi

// GetKeyPolicyRequest asks for a key's policy.
type GetKeyPolicyRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// PolicyName is "default" if absent; there is no other.
	PolicyName *string `json:"PolicyName,omitzero" kms:"len=1..128,pattern=PolicyName"`
}

// GetKeyPolicyResponse has the policy.
type GetKeyPolicyResponse struct {
	Policy     string `json:"Policy"`
	PolicyName string `json:"PolicyName"`
}

// PutKeyPolicyRequest replaces a key's policy.
type PutKeyPolicyRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// PolicyName is "default" if absent; there is no other.
	PolicyName *string `json:"PolicyName,omitzero" kms:"len=1..128,pattern=PolicyName"`
	Policy     *string `json:"Policy,omitzero" kms:"required,len=1..131072,pattern=Policy"`
	// BypassPolicyLockoutSafetyCheck allows a policy that the caller can't change again.
	BypassPolicyLockoutSafetyCheck *bool `json:"BypassPolicyLockoutSafetyCheck,omitzero"`
}

// PutKeyPolicyResponse has no members.
type PutKeyPolicyResponse = Empty

// ListKeyPoliciesRequest asks for the names of a key's policies.
type ListKeyPoliciesRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// Limit is 100 if absent.
	Limit  *int32  `json:"Limit,omitzero" kms:"range=1..1000"`
	Marker *string `json:"Marker,omitzero" kms:"len=1..1024,pattern=Marker"`
}

// ListKeyPoliciesResponse is a page of policy names: always "default" alone.
type ListKeyPoliciesResponse struct {
	PolicyNames []string `json:"PolicyNames"`
	Page
}
