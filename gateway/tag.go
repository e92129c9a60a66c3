package gateway

import (
	"context"
	"errors"
	"slices"
	"strings"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// maxTags is how many tags a key can have.
const maxTags = 50

func (c *call) tagResource(in *kmsapi.TagResourceRequest) (work[kmsapi.Empty], error) {
	key := c.key(0)
	if err := checkTags(in.Tags); err != nil {
		return work[kmsapi.Empty]{}, err
	}
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		err := tx.UpsertTags(ctx, key.Region, key.Account, key.ID, tagsOf(in.Tags))
		if errors.Is(err, metadata.ErrLimit) {
			return nil, kmsapi.TooManyTags()
		}
		return nil, err
	}}, nil
}

func (c *call) untagResource(in *kmsapi.UntagResourceRequest) (work[kmsapi.Empty], error) {
	key := c.key(0)
	if slices.ContainsFunc(in.TagKeys, reservedTag) {
		return work[kmsapi.Empty]{}, kmsapi.ReservedTag()
	}
	// No tag has a NUL in its key, and Postgres takes none.
	names := slices.DeleteFunc(slices.Clone(in.TagKeys), func(name string) bool { return strings.ContainsRune(name, 0) })
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		return nil, tx.DeleteTags(ctx, key.Region, key.Account, key.ID, names)
	}}, nil
}

func (c *call) listResourceTags(in *kmsapi.ListResourceTagsRequest) (work[kmsapi.ListResourceTagsResponse], error) {
	key := c.key(0)
	page, err := c.page(in.Limit, in.Marker, 50, key.ID)
	if err != nil {
		return work[kmsapi.ListResourceTagsResponse]{}, err
	}
	return work[kmsapi.ListResourceTagsResponse]{do: func(ctx context.Context) (*kmsapi.ListResourceTagsResponse, error) {
		tags, err := c.gateway.store.ListTags(ctx, key.Region, key.Account, key.ID, page.after, page.limit+1)
		if err != nil {
			return nil, err
		}
		tags, truncated := cut(tags, page)
		out := &kmsapi.ListResourceTagsResponse{Tags: make([]kmsapi.Tag, 0, len(tags)), Page: kmsapi.Page{Truncated: truncated}}
		for _, t := range tags {
			out.Tags = append(out.Tags, kmsapi.Tag{TagKey: &t.Key, TagValue: &t.Value})
		}
		if truncated {
			out.NextMarker = page.next(tags[len(tags)-1].Key)
		}
		return out, nil
	}}, nil
}

// checkTags refuses what a set of tags may not have, in AWS's order.
func checkTags(tags []kmsapi.Tag) error {
	if len(tags) > maxTags {
		return kmsapi.TooManyTags()
	}
	seen := make(map[string]bool, len(tags))
	for _, t := range tags {
		if reservedTag(*t.TagKey) {
			return kmsapi.ReservedTag()
		}
		if seen[*t.TagKey] {
			return kmsapi.DuplicateTagKeys()
		}
		seen[*t.TagKey] = true
	}
	return nil
}

func reservedTag(key string) bool { return strings.HasPrefix(strings.ToLower(key), "aws:") }

func tagsOf(tags []kmsapi.Tag) []metadata.Tag {
	rows := make([]metadata.Tag, 0, len(tags))
	for _, t := range tags {
		rows = append(rows, metadata.Tag{Key: *t.TagKey, Value: *t.TagValue})
	}
	return rows
}
