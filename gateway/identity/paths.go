package identity

import (
	"strings"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
)

// pathOf is the path that something is made with; nil is "/". Its parts must be
// such that a policy can name them (IAM User Guide, "IAM identifiers").
func pathOf(path *string) (string, error) {
	if path == nil || *path == "/" {
		return "/", nil
	}
	inner, ok := strings.CutPrefix(*path, "/")
	inner, closed := strings.CutSuffix(inner, "/")
	if !ok || !closed {
		return "", invalidPath()
	}
	for part := range strings.SplitSeq(inner, "/") {
		if part == "" || strings.Trim(part, nameCharacters) != "" {
			return "", invalidPath()
		}
	}
	return *path, nil
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+=,.@-"

func invalidPath() *kmsapi.Error {
	return &kmsapi.Error{
		Code:    awsquery.ValidationError,
		Message: "The specified value for path is invalid. It must begin and end with / and contain only alphanumeric characters and/or / characters.",
	}
}
