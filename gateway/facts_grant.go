package gateway

import (
	"strconv"

	"kmsgate/gateway/kmsapi"
	"kmsgate/policy"
)

// grantFacts are about a grant that is made, or about operations on grants.
var grantFacts = map[string]func(*facts) []string{
	"kms:grantconstraintsourcearn": func(f *facts) []string { return one(f.constraints().SourceARN) },
	"kms:grantconstrainttype":      (*facts).grantConstraintType,
	"kms:granteeprincipal":         ofNewGrant("GranteePrincipal"),
	"kms:granteeserviceprincipal":  ofNewGrant("GranteeServicePrincipal"),
	"kms:grantisforawsresource":    (*facts).grantIsForAWSResource,
	"kms:grantoperations":          func(f *facts) []string { return f.list("Operations") },
	"kms:retiringprincipal":        ofNewGrant("RetiringPrincipal"),
	"kms:retiringserviceprincipal": ofNewGrant("RetiringServicePrincipal"),
}

// ofNewGrant is a principal of the grant that is made. Lists have members of the same
// names.
func ofNewGrant(member string) func(*facts) []string {
	return func(f *facts) []string {
		if f.call.op.name != "CreateGrant" {
			return nil
		}
		return f.text(member)
	}
}

// constraints are those of the grant that is made, or of the one that is retired.
func (f *facts) constraints() policy.GrantConstraints {
	if v, ok := f.value("Constraints"); ok {
		sent, _ := v.Interface().(kmsapi.GrantConstraints)
		return policy.GrantConstraints{
			EncryptionContextEquals: sent.EncryptionContextEquals, EncryptionContextSubset: sent.EncryptionContextSubset,
			SourceARN: kmsapi.Or(sent.SourceARN, ""),
		}
	}
	if f.resource != nil && f.resource.grant != nil {
		return f.resource.grant.Constraints
	}
	return policy.GrantConstraints{}
}

func (f *facts) grantConstraintType() (types []string) {
	c := f.constraints()
	if c.EncryptionContextEquals != nil {
		types = append(types, "EncryptionContextEquals")
	}
	if c.EncryptionContextSubset != nil {
		types = append(types, "EncryptionContextSubset")
	}
	return types
}

// managesGrants are the operations that tell whether a service acts on a grant for
// its user.
var managesGrants = map[string]bool{"CreateGrant": true, "ListGrants": true, "RevokeGrant": true}

func (f *facts) grantIsForAWSResource() []string {
	if !managesGrants[f.call.op.name] {
		return nil
	}
	return one(strconv.FormatBool(f.call.viaService(f.resource) != ""))
}
