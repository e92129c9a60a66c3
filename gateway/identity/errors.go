package identity

import (
	"strconv"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
)

// Errors of IAM in AWS's words (IAM API Reference, "Common errors" and each
// operation's).

// NoSuchUser says that the account has no user of that name; the others below say
// the same of other things.
func NoSuchUser(name string) *kmsapi.Error {
	return noSuch("The user with name " + name + " cannot be found.")
}

func NoSuchGroup(name string) *kmsapi.Error {
	return noSuch("The group with name " + name + " cannot be found.")
}

func NoSuchRole(name string) *kmsapi.Error {
	return noSuch("The role with name " + name + " cannot be found.")
}

// NoSuchAccessKey says it of an access key, by id.
func NoSuchAccessKey(id string) *kmsapi.Error {
	return noSuch("The Access Key with id " + id + " cannot be found.")
}

// NoSuchPolicy says it of a managed policy.
func NoSuchPolicy(arn string) *kmsapi.Error { return noSuch("Policy " + arn + " was not found.") }

// NoSuchProvider says it of an OIDC provider.
func NoSuchProvider(arn string) *kmsapi.Error {
	return noSuch("OpenIDConnect Provider not found for arn " + arn)
}

func noSuch(text string) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.NoSuchEntity, Message: text}
}

func alreadyExists(text string) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.EntityAlreadyExists, Message: text}
}

// deleteConflict refuses to delete what still has something; first is what must go
// first, such as "delete access keys".
func deleteConflict(first string) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.DeleteConflict, Message: "Cannot delete entity, must " + first + " first."}
}

func limitExceeded(quota string, limit int) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.LimitExceeded, Message: "Cannot exceed quota for " + quota + ": " + strconv.Itoa(limit)}
}

func invalidInput(text string) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.InvalidInput, Message: text}
}

func malformedPolicy(text string) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.MalformedPolicyDocument, Message: text}
}
