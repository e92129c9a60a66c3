package identity

import (
	"strings"

	"kmsgate/metadata"
)

// tagsOf are the tags of a request. Keys that differ in letter case alone are one
// key: conditions do not tell them apart.
func tagsOf(in []Tag) ([]metadata.Tag, error) {
	tags := make([]metadata.Tag, 0, len(in))
	for _, t := range in {
		tag := metadata.Tag{Key: *t.Key, Value: *t.Value}
		if len(tag.Key) >= len(reserved) && strings.EqualFold(tag.Key[:len(reserved)], reserved) {
			return nil, invalidInput("System tags cannot be added/updated by requester.")
		}
		for _, other := range tags {
			if strings.EqualFold(other.Key, tag.Key) {
				return nil, invalidInput("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
			}
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// reserved is what the keys of tags that nobody may set begin with.
const reserved = "aws:"

// tagsOut are tags as a response has them.
func tagsOut(tags []metadata.Tag) []Tag {
	out := make([]Tag, 0, len(tags))
	for _, t := range tags {
		out = append(out, Tag{Key: &t.Key, Value: &t.Value})
	}
	return out
}

// TagsResponse is a page of tags.
type TagsResponse struct {
	Tags []Tag `xml:"Tags>member"`
	Paged
}

// PageRequest is what every request for a list has (IAM API Reference,
// "ListUsers").
type PageRequest struct {
	Marker   *string `kms:"len=1..1024,pattern=Marker"` // AWS has 320, and shorter markers
	MaxItems *int32  `kms:"range=1..1000"`
}

// Boundary is the permissions boundary of a user or a role.
type Boundary struct {
	PermissionsBoundaryArn  string
	PermissionsBoundaryType string // always "Policy"
}

// boundaryOf is nil for an empty ARN.
func boundaryOf(policyARN string) *Boundary {
	if policyARN == "" {
		return nil
	}
	return &Boundary{PermissionsBoundaryArn: policyARN, PermissionsBoundaryType: "Policy"}
}
