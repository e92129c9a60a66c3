// Package awsquery is the AWS Query protocol, which STS and IAM speak: form
// parameters in, XML out. Like gateway/awsjson it stands between bytes and
// types, knows no HTTP beyond the status of an error, and is strict: a
// parameter that stands twice, that the action does not have, or that is
// written wrong is refused.
//
// Types have xml tags, and these serve both ways: `xml:"RoleArn"` is the
// parameter RoleArn and the element <RoleArn>, and `xml:"Tags>member"` on a
// slice is the parameters Tags.member.1, Tags.member.2 and the elements <member>
// in <Tags>. kmsapi.Validate takes the same types.
package awsquery

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"kmsgate/gateway/kmsapi"
)

// Bounds of a form, far above what any action needs: a policy document of
// 10,240 characters triples when all of it is escaped.
const (
	MaxBytes      = 128 << 10
	maxParameters = 1000
)

// Form is a request: what it asks for, and its parameters.
type Form struct {
	Action, Version string
	values          map[string]string // the other parameters
}

// signature are the parameters of a signed query string. They belong to
// SigV4, not to the action.
var signature = map[string]bool{
	"X-Amz-Algorithm": true, "X-Amz-Credential": true, "X-Amz-Date": true, "X-Amz-Expires": true,
	"X-Amz-Security-Token": true, "X-Amz-Signature": true, "X-Amz-SignedHeaders": true,
}

// Parse reads a form, which is the body of a POST or the query string of a GET.
// Errors: RequestEntityTooLargeException over MaxBytes, MalformedQueryString
// for what is no form (an escape that is none, bytes that are not UTF-8, a NUL, a
// parameter twice), MissingAction if there is no Action.
func Parse(form string) (Form, *kmsapi.Error) {
	if len(form) > MaxBytes {
		return Form{}, kmsapi.BodyTooLarge(MaxBytes)
	}
	f := Form{values: map[string]string{}}
	if form == "" {
		return Form{}, missingAction()
	}
	for parameter := range strings.SplitSeq(form, "&") {
		name, value, err := split(parameter)
		if err != nil {
			return Form{}, err
		}
		if _, twice := f.values[name]; twice || len(f.values) >= maxParameters {
			return Form{}, malformed()
		}
		f.values[name] = value
	}
	for name := range signature {
		delete(f.values, name)
	}
	f.Action, f.Version = f.values["Action"], f.values["Version"]
	delete(f.values, "Action")
	delete(f.values, "Version")
	if f.Action == "" {
		return Form{}, missingAction()
	}
	return f, nil
}

func split(parameter string) (name, value string, _ *kmsapi.Error) {
	rawName, rawValue, _ := strings.Cut(parameter, "=")
	name, err := url.QueryUnescape(rawName)
	if err != nil || name == "" || !utf8.ValidString(name) {
		return "", "", malformed()
	}
	value, err = url.QueryUnescape(rawValue)
	if err != nil || !utf8.ValidString(value) || strings.ContainsRune(value, 0) { // Postgres has no NUL
		return "", "", malformed()
	}
	return name, value, nil
}

// Codes that only this protocol has.
const (
	MalformedQueryString kmsapi.Code = "MalformedQueryString"
	MissingAction        kmsapi.Code = "MissingAction"
	InvalidAction        kmsapi.Code = "InvalidAction"
	ValidationError      kmsapi.Code = "ValidationError"
)

// Codes of IAM and STS (IAM API Reference and STS API Reference).
const (
	DeleteConflict          kmsapi.Code = "DeleteConflict"
	EntityAlreadyExists     kmsapi.Code = "EntityAlreadyExists"
	ExpiredIdentityToken    kmsapi.Code = "ExpiredIdentityToken" // on the wire ExpiredTokenException
	IDPCommunicationError   kmsapi.Code = "IDPCommunicationError"
	IDPRejectedClaim        kmsapi.Code = "IDPRejectedClaim"
	InvalidIdentityToken    kmsapi.Code = "InvalidIdentityToken"
	InvalidInput            kmsapi.Code = "InvalidInput"
	InvalidParameterValue   kmsapi.Code = "InvalidParameterValue"
	LimitExceeded           kmsapi.Code = "LimitExceeded"
	MalformedPolicyDocument kmsapi.Code = "MalformedPolicyDocument"
	NoSuchEntity            kmsapi.Code = "NoSuchEntity"
	PackedPolicyTooLarge    kmsapi.Code = "PackedPolicyTooLarge"
)

func malformed() *kmsapi.Error {
	return &kmsapi.Error{Code: MalformedQueryString, Message: "The query string contains a syntax error."}
}

func missingAction() *kmsapi.Error {
	return &kmsapi.Error{Code: MissingAction, Message: "The request is missing an action or a required parameter."}
}

// UnknownAction refuses an action, or a version of it, that is not served.
func UnknownAction(f Form) *kmsapi.Error {
	return &kmsapi.Error{Code: InvalidAction, Message: "Could not find operation " + f.Action + " for version " + f.Version}
}

func unknownParameter(name string) *kmsapi.Error {
	return &kmsapi.Error{Code: ValidationError, Message: "The parameter " + name + " is not recognized"}
}

func wrongValue(name, want string) *kmsapi.Error {
	return &kmsapi.Error{Code: ValidationError, Message: "The value of parameter " + name + " is not " + want}
}

// codeRow is a code of this protocol and its status.
type codeRow struct {
	code   string
	status int
}

// codes are the names that this protocol has for codes, and their statuses
// (STS API Reference, "Common Errors": what concerns the caller's identity is
// 403, not 400).
var codes = map[kmsapi.Code]codeRow{
	kmsapi.InvalidSignatureException:           {"SignatureDoesNotMatch", http.StatusForbidden},
	kmsapi.UnrecognizedClientException:         {"InvalidClientTokenId", http.StatusForbidden},
	kmsapi.IncompleteSignatureException:        {"IncompleteSignature", http.StatusForbidden},
	kmsapi.MissingAuthenticationTokenException: {"MissingAuthenticationToken", http.StatusForbidden},
	kmsapi.ExpiredTokenException:               {"ExpiredToken", http.StatusForbidden},
	kmsapi.AccessDeniedException:               {"AccessDenied", http.StatusForbidden},
	kmsapi.UnknownOperationException:           {"InvalidAction", http.StatusBadRequest},
	kmsapi.ThrottlingException:                 {"Throttling", http.StatusBadRequest},
	kmsapi.ValidationException:                 {"ValidationError", http.StatusBadRequest},
	kmsapi.SerializationException:              {"MalformedQueryString", http.StatusBadRequest},
	kmsapi.KMSInternalException:                {"InternalFailure", http.StatusInternalServerError},
	kmsapi.DependencyTimeoutException:          {"InternalFailure", http.StatusInternalServerError},
	kmsapi.RequestEntityTooLargeException:      {"RequestEntityTooLarge", http.StatusRequestEntityTooLarge},
	MalformedQueryString:                       {"MalformedQueryString", http.StatusBadRequest},
	MissingAction:                              {"MissingAction", http.StatusBadRequest},
	InvalidAction:                              {"InvalidAction", http.StatusBadRequest},
	ValidationError:                            {"ValidationError", http.StatusBadRequest},
	DeleteConflict:                             {"DeleteConflict", http.StatusConflict},
	EntityAlreadyExists:                        {"EntityAlreadyExists", http.StatusConflict},
	ExpiredIdentityToken:                       {"ExpiredTokenException", http.StatusBadRequest},
	IDPCommunicationError:                      {"IDPCommunicationError", http.StatusBadRequest},
	IDPRejectedClaim:                           {"IDPRejectedClaim", http.StatusForbidden},
	InvalidIdentityToken:                       {"InvalidIdentityToken", http.StatusBadRequest},
	InvalidInput:                               {"InvalidInput", http.StatusBadRequest},
	InvalidParameterValue:                      {"InvalidParameterValue", http.StatusBadRequest},
	LimitExceeded:                              {"LimitExceeded", http.StatusConflict},
	MalformedPolicyDocument:                    {"MalformedPolicyDocument", http.StatusBadRequest},
	NoSuchEntity:                               {"NoSuchEntity", http.StatusNotFound},
	PackedPolicyTooLarge:                       {"PackedPolicyTooLarge", http.StatusBadRequest},
}

// Spell is the name that this protocol has for a code, and its status.
func Spell(c kmsapi.Code) (name string, status int) {
	row := rowOf(c)
	return row.code, row.status
}

// rowOf is the row of a code; those without one keep their status and lose the
// word Exception.
func rowOf(c kmsapi.Code) codeRow {
	if row, ok := codes[c]; ok {
		return row
	}
	return codeRow{strings.TrimSuffix(string(c), "Exception"), c.Row().HTTPStatus}
}
