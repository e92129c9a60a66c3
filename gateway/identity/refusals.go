package identity

import (
	"errors"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// refusals say what the caller hears of errors of metadata.
type refusals []struct {
	is  error
	say *kmsapi.Error
}

// of is the refusal of an error; an error without one stays, and so does nil.
func (r refusals) of(err error) error {
	for _, row := range r {
		if errors.Is(err, row.is) {
			return row.say
		}
	}
	return err
}

// firsts are what must be done before something is deleted that still has others
// hanging on it.
var firsts = map[metadata.Dependant]string{
	metadata.AccessKeys:       "delete access keys",
	metadata.Memberships:      "remove users from group",
	metadata.InlinePolicies:   "delete policies",
	metadata.AttachedPolicies: "detach all policies",
}

// stillInUse says what must go first if that is why something was not deleted.
func stillInUse(err error) error {
	if use, ok := errors.AsType[*metadata.InUseError](err); ok {
		return deleteConflict(firsts[use.By])
	}
	return err
}

// overQuota says which quota was passed if that is why something was not added.
func overQuota(err error, quota string) error {
	if limit, ok := errors.AsType[*metadata.LimitError](err); ok {
		return limitExceeded(quota, limit.Limit)
	}
	return err
}
