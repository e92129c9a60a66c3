package identity

import (
	"kmsgate/gateway/kmsapi"
	"kmsgate/policy"
)

// RootAssumesNothing refuses an account's root who asks for a role (STS API
// Reference, "AssumeRole").
func RootAssumesNothing() *kmsapi.Error {
	return &kmsapi.Error{Code: kmsapi.AccessDeniedException, Message: "Roles may not be assumed by root accounts."}
}

// NotTrusted refuses a caller whom a role does not trust, or who may not ask for it.
// It does not tell whether there is such a role.
func NotTrusted(c Caller, action, roleARN string) *kmsapi.Error {
	text := "User: " + c.ARN + " is not authorized to perform: " + action + " on resource: " + roleARN
	if c.Kind == policy.WebIdentity {
		text = "Not authorized to perform " + action
	}
	return &kmsapi.Error{Code: kmsapi.AccessDeniedException, Message: text}
}
