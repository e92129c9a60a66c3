package identity

import (
	"net/url"
	"strings"

	"kmsgate/policy"
)

// checkDocument refuses what is no policy of an identity: a policy of a user, group
// or role, a managed policy, a session policy.
func checkDocument(document string) error {
	if _, err := policy.ParseIdentity(document); err != nil {
		return malformedDocument(err)
	}
	return nil
}

// malformedDocument says what is wrong with a policy, and where.
func malformedDocument(err error) error {
	return malformedPolicy(strings.TrimPrefix(err.Error(), "policy: "))
}

// encodeDocument is a document as IAM returns it: percent-encoded as RFC 3986 has
// it (IAM API Reference, GetRolePolicy).
func encodeDocument(document string) string {
	return strings.ReplaceAll(url.QueryEscape(document), "+", "%20")
}

// documentSize is how many characters of a document count against IAM's quotas:
// those that are no white space of JSON's.
func documentSize(document string) int {
	n := 0
	for _, c := range document {
		if !strings.ContainsRune(" \t\r\n", c) {
			n++
		}
	}
	return n
}
